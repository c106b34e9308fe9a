"""What every source partition offers to whoever reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from state.errors import Failed

Headers = Sequence[tuple[str, bytes | None]]
"""The headers of a record: names, of which some may be the same, and values."""


class Batch(NamedTuple):
    """Records as they were read, in order.

    `arrived_ms` are their arrival times, None where the transport knows none. `offsets` may be any sequence: it is
    asked only for the few that matter. `tombstones` are the offsets of what was read between and behind them and has no
    value: no record, and in none of the other fields. `headers` are those of each record, () where the transport has
    none; they are read off only where somebody asks.
    """

    values: list[bytes]
    arrived_ms: list[int] | None
    offsets: Sequence[int]
    tombstones: Sequence[int] = ()
    headers: Sequence[Headers] = ()

    def before(self, offset: int) -> Batch:
        """Return the records whose offset is below *offset*."""
        keep = len(self.values)
        while keep and self.offsets[keep - 1] >= offset:
            keep -= 1
        arrived_ms = None if self.arrived_ms is None else self.arrived_ms[:keep]
        tombstones = [one for one in self.tombstones if one < offset]
        return Batch(self.values[:keep], arrived_ms, self.offsets[:keep], tombstones, self.headers[:keep])


class SourceError(Failed):
    """A source cannot be read; the message says what to look at."""


class Reached(NamedTuple):
    """That nothing lay beyond `offset` at the moment `at_ms` of the wall clock."""

    offset: int
    at_ms: int


Mark = tuple[int, str] | tuple[()]
"""Where a file goes on, as a byte offset, and what was read of it, as a fingerprint; nothing for other sources."""


class SourcePartition(Protocol):
    """One partition of one source, read from an offset on.

    `position` is the offset of the next record to be read.
    """

    position: int

    def poll(self, records_max: int) -> Batch:
        """Return what is there, at most *records_max* records, without waiting; `position` moves behind it."""
        ...

    def reached_end(self) -> Reached | None:
        """Return when the partition was last known to end where we are, None when it goes on or nobody knows."""
        ...

    def lag(self) -> int | None:
        """Return how many records lie ahead, None when nobody knows."""
        ...

    def mark(self, position: int) -> Mark:
        """Return what is needed beside *position*, one of those of the last poll or the next, to go on there."""
        ...

    def close(self) -> None: ...
