"""What every source partition offers to whoever reads it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

Raw = tuple[int, int | None, bytes]
"""One record as it was read: its offset, its arrival time in ms if the transport knows one, and its bytes."""


class SourceError(Exception):
    """A source cannot be read; the message says what to look at."""


class Reached(NamedTuple):
    """That nothing lay beyond `offset` at the moment `at_ms` of the wall clock."""

    offset: int
    at_ms: int


class SourcePartition(Protocol):
    """One partition of one source, read from an offset on.

    `position` is the offset of the next record to be read.
    """

    position: int

    def poll(self, records_max: int) -> list[Raw]:
        """Return what is there, at most *records_max* records, without waiting; `position` moves behind it."""
        ...

    def reached_end(self) -> Reached | None:
        """Return when the partition was last known to end where we are, None when it goes on or nobody knows."""
        ...

    def lag(self) -> int | None:
        """Return how many records lie ahead, None when nobody knows."""
        ...

    def close(self) -> None: ...
