"""Records through the intake, scanner and all, without a job around it."""

from __future__ import annotations

from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.read.scanner import NativeFormat
from operators.conditions.index import MatchIndex
from state.outgoing import DeadLetter
from state.records import Input, unpacked


def taken(
    index: MatchIndex, values: list[bytes], arrived_ms: list[int] | None = None
) -> tuple[list[DeadLetter], list[Input]]:
    """Return the dead letters and the inputs that come of *values*, at the offsets from 0 on."""
    intake = Intake(index, NativeFormat(index.table()), topic="t", partition=0, source=0, shards=1)
    by_shard, letters = intake.take(Batch(values, arrived_ms, range(len(values))))
    return letters, unpacked(by_shard.get(0, []))
