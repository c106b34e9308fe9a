"""Records through the intake, scanner and all, without a job around it."""

from __future__ import annotations

from itertools import chain
from typing import Any

from connectors.sources import Batch, Headers
from dataflow.read.intake import Intake
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from operators.conditions.index import MatchIndex
from state.outgoing import DeadLetter
from state.records import Input, Record, Reject, unpacked


def taken(
    index: MatchIndex, values: list[bytes], arrived_ms: list[int] | None = None
) -> tuple[list[DeadLetter], list[Input]]:
    """Return the dead letters and the inputs that come of *values*, at the offsets from 0 on."""
    intake = Intake(index, NativeFormat(index.table()), topic="t", partition=0, source=0, shards=1)
    by_shard, letters = intake.take(Batch(values, arrived_ms, range(len(values))))
    return letters, unpacked(by_shard.get(0, []))


class Watched(NativeFormat):
    """Notes what the scanner left to `decode`."""

    def __init__(self, table: dict[str, Any] | None) -> None:
        super().__init__(table)
        self.looked_at: list[bytes] = []

    def decode(self, raw: bytes, headers: Headers = ()) -> Record | Reject:
        self.looked_at.append(raw)
        return super().decode(raw)


def everything(
    index: MatchIndex, records: NativeFormat, values: list[bytes], arrived_ms: list[int] | None
) -> list[Any]:
    """Return everything that comes of *values*, as text, to the type of every number."""
    intake = Intake(index, records, topic="t", partition=3, source=7, shards=4, time=StreamTime(5), head_ms=9)
    found: list[Any] = []
    half = len(values) // 2
    for part in (slice(half), slice(half, None)):  # What is remembered between batches counts, too.
        stamps = None if arrived_ms is None else arrived_ms[part]
        by_shard, dead = intake.take(Batch(values[part], stamps, range(100, 100 + len(values))[part]))
        inputs = {shard: unpacked(some) for shard, some in sorted(by_shard.items())}
        for one in chain.from_iterable(inputs.values()):
            one.parse_properties()
        found += [repr(dead), intake.time.now_ms, repr(intake.counts), repr(inputs)]
    return found


def agree(index: MatchIndex, values: list[bytes], arrived_ms: list[int] | None = None) -> None:
    """Assert that with and without the scanner everything is the same."""
    quick, slow = NativeFormat(index.table()), NativeFormat()
    assert everything(index, quick, values, arrived_ms) == everything(index, slow, values, arrived_ms)
