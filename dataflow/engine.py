"""The engine: everything that knows bytewax, and nothing else.

bytewax spreads source partitions and shards over the processes, brings what a partition reads to the shard it is for,
and marks epochs: at the end of each it asks every partition and every shard for a snapshot, before anything of the next
epoch reaches a shard. The snapshots of the last complete epoch are where a restart goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Final, TypeVar

import bytewax.operators as op
import msgspec
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir

from dataflow.intake import DeadLetter
from dataflow.recovery import FLOW_ID, SHARD_STEP, SOURCE_STEP
from dataflow.shard import CLOSED, HALTED, OPEN, Delivery, Shard
from dataflow.worker import Worker, is_unexpected
from state.records import Input

RECORDS_AT_ONCE: Final = 10_000
IDLE_MS: Final = 5  # How long to leave a partition alone that had nothing: a part of the latency of every action.
MARK_EVERY_S: Final = 0.05  # How often all shards hear of time that moves on without records for them.
BIG_BATCH: Final = 1_000

# What goes from a source partition to a shard: the shard's number, then the partition's number, watermark, phase,
# records and dead letters. Between processes the records travel as one piece of bytes, since the engine pickles item
# by item.
Parcel = tuple[int, int, int, int, list[Input] | bytes, list[DeadLetter]]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Input]).decode

F = TypeVar("F", bound=Callable[..., Any])


def _logged(method: F) -> F:
    """Log what *method* raises: the engine only knows that something did."""

    @wraps(method)
    def run(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except StopIteration:
            raise
        except Exception as error:
            worker: Worker = self.worker
            worker.log.error("the job stops", error=f"{type(error).__name__}: {error}", exc_info=is_unexpected(error))
            raise

    return run  # type: ignore[return-value]


class _Partition(StatefulSourcePartition[tuple[str, Parcel], list[int]]):
    """One source partition: reads, moves time, and notes how far it has come before it says so."""

    def __init__(self, worker: Worker, number: int, resumed: list[int] | None) -> None:
        self.worker = worker
        self._number = number
        self._plan = worker.plan.partitions[number]
        self._reader, self._intake, self._progress = worker.open_partition(number, resumed)
        self._shards = worker.plan.shards
        self._keys = [shard_key(shard) for shard in range(self._shards)]
        self._packs = worker.plan.processes > 1
        self._noted = (-1, -1)
        self._told_at = 0.0
        self._told_ms = -1
        self._idle = False
        self._finished = False
        self._position = self._reader.position

    @_logged
    def next_batch(self) -> list[tuple[str, Parcel]]:
        worker, reader, intake, end = self.worker, self._reader, self._intake, self._plan.end
        if self._finished or worker.stopping.is_set():
            raise StopIteration
        batch = reader.poll(RECORDS_AT_ONCE)
        position = reader.position
        if end is not None and position >= end:
            batch = batch.before(end)
            position, self._finished = end, True
        by_shard: dict[int, list[Input]] = {}
        read = len(batch.values)
        dead = intake.take(batch, by_shard) if read else []
        if end is None and not read:
            self._follow_the_clock()
        intake.raise_at(position)
        self._idle = not read
        self._position = position
        worker.positions[self._plan.key] = (position, reader.lag(), intake.stream_ms)
        return self._parcels(by_shard, dead, position, read)

    def _follow_the_clock(self) -> None:
        """At the end of the partition time goes with the wall clock, less the slack for records on their way."""
        reached = self._reader.reached_end()
        if reached is not None:
            self._intake.stream_ms = max(self._intake.stream_ms, reached.at_ms - self.worker.plan.slack_ms)

    def _parcels(
        self, by_shard: dict[int, list[Input]], dead: list[DeadLetter], position: int, read: int
    ) -> list[tuple[str, Parcel]]:
        mark = self._intake.stream_ms
        phase = OPEN if not self._finished else CLOSED if self._plan.closes else HALTED
        now = time.monotonic()
        to_all = self._finished or (mark > self._told_ms and (read >= BIG_BATCH or now - self._told_at >= MARK_EVERY_S))
        if not (to_all or by_shard or dead):
            return []
        if (position, mark) != self._noted:
            self._progress.note(position, mark)
            self._noted = (position, mark)
        dead_shard = -1
        if dead:
            # One shard for all dead letters of a partition, so that they stay in order.
            dead_shard = self._number % self._shards
            by_shard.setdefault(dead_shard, [])
        if to_all:
            self._told_at, self._told_ms = now, mark
            shards: Any = range(self._shards)
        else:
            shards = by_shard
        parcels: list[tuple[str, Parcel]] = []
        for shard in shards:
            records: Any = by_shard.get(shard, [])
            if self._packs and records:
                records = _pack(records)
            parcel = (shard, self._number, mark, phase, records, dead if shard == dead_shard else [])
            parcels.append((self._keys[shard], parcel))
        return parcels

    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + timedelta(milliseconds=IDLE_MS) if self._idle and not self._finished else None

    @_logged
    def snapshot(self) -> list[int]:
        self._progress.roll(self._position)
        return [self._position, self._intake.stream_ms]

    def close(self) -> None:
        self._reader.close()
        self._progress.close()


class _Source(FixedPartitionedSource[tuple[str, Parcel], list[int]]):
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def list_parts(self) -> list[str]:
        return [one.key for one in self.worker.plan.partitions]

    @_logged
    def build_part(self, step_id: str, for_part: str, resume_state: list[int] | None) -> _Partition:
        number = next(i for i, one in enumerate(self.worker.plan.partitions) if one.key == for_part)
        return _Partition(self.worker, number, resume_state)


class _ShardLogic(StatefulBatchLogic[Parcel, None, list[Any]]):
    """One shard of the users as a keyed step: translates, decides nothing.

    The engine does not say which key it builds a step for; the first parcel does.
    """

    def __init__(self, worker: Worker, resumed: list[Any] | None) -> None:
        self.worker = worker
        self._resumed = resumed
        self._number = -1
        self._shard: Shard | None = None

    @_logged
    def on_batch(self, values: list[Parcel]) -> tuple[list[None], bool]:
        shard = self._shard
        if shard is None:
            self._number = values[0][0]
            shard = self._shard = self.worker.open_shard(self._number, self._resumed[0] if self._resumed else 0)
        deliveries: list[Delivery] = []
        for _, source, mark, phase, records, dead in values:
            deliveries.append((source, mark, phase, records if isinstance(records, list) else _unpack(records)))
            if dead:
                self.worker.emitter.emit_dead(dead)
        shard.take(deliveries)
        self.worker.emit(shard)
        return [], self.RETAIN

    @_logged
    def snapshot(self) -> list[Any]:
        if self._shard is None:
            return self._resumed or [0, {}]
        return self.worker.commit(self._number)


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class _NoSink(DynamicSink[Any]):
    """The engine wants an output; ours is inside the shard's step, where its snapshot covers it."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        return _Nothing()


def shard_key(number: int) -> str:
    """Return the engine's key of a shard."""
    return str(number)


def execute(worker: Worker) -> None:
    """Run this process's part of the job until its sources end or it is asked to stop."""
    flow = Dataflow(FLOW_ID)
    parcels = op.input(SOURCE_STEP, flow, _Source(worker))
    done = op.stateful_batch(SHARD_STEP, parcels, lambda resumed: _ShardLogic(worker, resumed))
    op.output("nothing", done, _NoSink())
    cluster_main(
        flow,
        worker.plan.addresses,
        worker.index,
        epoch_interval=timedelta(seconds=worker.plan.epoch_s),
        recovery_config=RecoveryConfig(str(worker.state.recovery)) if worker.plan.durable else None,
        worker_count_per_proc=1,
    )


def prepare_recovery(folder: str) -> None:
    """Make the engine's recovery files, once per state."""
    from pathlib import Path

    if not any(Path(folder).iterdir()):
        init_db_dir(Path(folder), 1)
