from collections.abc import Callable, Sequence
from typing import Any

from state.records import Input

class Table:
    def __new__(cls, table: dict[str, Any], loads: Callable[[bytes], Any]) -> Table: ...

class Scanner:
    def __new__(
        cls, table: Table, make: type[Input], prefix: str, source: int, shards: int, head_ms: int
    ) -> Scanner: ...
    def take(
        self,
        values: list[bytes],
        arrived_ms: list[int] | None,
        offsets: Sequence[int],
        stream_ms: int,
        slowly: Callable[[int, int], int],
        by_shard: dict[int, list[Input]],
    ) -> tuple[int, int]: ...
