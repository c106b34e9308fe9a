"""What the engine calls, without the engine: the step of a source partition, and that of a shard.

Both take and return plain values, so another engine, or a simulation of one, can drive the same code.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dataflow.intake import DeadLetter
from dataflow.shard import CLOSED, HALTED, OPEN, Delivery, Shard
from dataflow.worker import Worker
from state.records import Input

RECORDS_AT_ONCE: Final = 10_000
MARK_EVERY_S: Final = 0.05  # How often all shards hear of time that moves on without records for them.
BIG_BATCH: Final = 1_000

# What goes from a source partition to a shard: the shard's number, then the partition's number, watermark, phase,
# records and dead letters. Between processes the records travel as one piece of bytes, since the engine pickles item
# by item.
Parcel = tuple[int, int, int, int, list[Input] | bytes, list[DeadLetter]]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Input]).decode


def shard_key(number: int) -> str:
    """Return the engine's key of a shard."""
    return str(number)


class PartitionStep:
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

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to read, and may be later."""
        return self._idle and not self._finished

    def next_batch(self) -> list[tuple[str, Parcel]]:
        """Return what is to go to the shards.

        Raises:
            StopIteration: nothing more will.
        """
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
        now = self.worker.outside.monotonic_s()
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

    def snapshot(self) -> list[int]:
        """Return where to go on, `[next offset, stream time]`, at the end of an epoch."""
        self._progress.roll(self._position)
        return [self._position, self._intake.stream_ms]

    def close(self) -> None:
        self._reader.close()
        self._progress.close()


class ShardStep:
    """One shard of the users: translates, decides nothing.

    The engine does not say which key it builds a step for; the first parcel does.

    Args:
        resumed: what `snapshot` returned at the cut to go on from, None for a shard that has none.
    """

    def __init__(self, worker: Worker, resumed: list[Any] | None) -> None:
        self.worker = worker
        self._resumed = resumed
        self._number = -1
        self._shard: Shard | None = None

    def on_batch(self, values: list[Parcel]) -> None:
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

    def snapshot(self) -> list[Any]:
        """Return what to go on from, at the end of an epoch; see `Worker.commit`."""
        if self._shard is None:
            return self._resumed or [0, {}]
        return self.worker.commit(self._number)
