from collections.abc import Callable, Sequence
from typing import Any

CONTRACT: int

class Table:
    def __new__(cls, table: dict[str, Any], loads: Callable[[bytes], Any]) -> Table: ...

class Scanner:
    def __new__(cls, table: Table, prefix: str, source: int, shards: int, head_ms: int) -> Scanner: ...
    def take(
        self,
        values: list[bytes],
        arrived_ms: list[int] | None,
        offsets: Sequence[int],
        stream_ms: int,
        slowly: Callable[[int, int], tuple[int, bytes, int]],
    ) -> tuple[dict[int, bytes], int, int]: ...

def items(body: bytes, most: int) -> tuple[list[Any], list[int]] | None: ...
def lines(body: bytes) -> tuple[list[Any], list[int]]: ...
