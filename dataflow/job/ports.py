"""The ports of the engine: what it calls for a source partition, and for a shard, without knowing more of either.

Both take and return plain values, so another engine, or a simulation of one, can drive the same code.
"""

from __future__ import annotations

from typing import Any, Final

from dataflow.job.worker import Worker
from dataflow.read.partition import Parcel
from dataflow.shard import OPEN, Delivery, Shard
from state.records import packed, unpacked
from state.shards import ShardKeys

GOADED_AT_ONCE: Final = 8  # Shards: the allowance of a turn is spent on fewer, and each costs time even so.


class PartitionPort:
    """One source partition: brings what it says to the shards."""

    def __init__(self, worker: Worker, number: int, resumed: list[Any] | None) -> None:
        self.worker = worker
        self._partition = worker.open_partition(number, resumed)
        self._keys = ShardKeys(worker.plan.shard_keys, worker.plan.shards).names
        self._packs = worker.plan.processes > 1
        self._number = number
        self._goads = False

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to read, and may be later, and nobody has more to do that is due."""
        return self._partition.is_idle and not self._partition.is_finished and not self._goads

    def next_batch(self) -> list[tuple[str, Parcel]]:
        """Return what is to go to the shards.

        Raises:
            StopIteration: nothing more will.
        """
        partition, keys = self._partition, self._keys
        if partition.is_finished or self.worker.stopping.is_set():
            raise StopIteration
        self.worker.turns.begin()
        out = partition.wait() if self.worker.holds_too_much(partition) else partition.step()
        if not partition.is_finished:
            out += self._goad({one.shard for one in out})
        self.worker.emitter.go_on()
        self.worker.end_turn()
        if self._packs:
            # Between processes the records travel as one piece of bytes, since the engine pickles item by item.
            return [(keys[one.shard], one._replace(records=packed(one.records))) for one in out]
        return [(keys[one.shard], one) for one in out]

    def _goad(self, addressed: set[int]) -> list[Parcel]:
        """Return parcels for the shards that have more to do that is due: nothing else might come for them."""
        if self.worker.sink_is_behind:
            self._goads = False
            return []
        behind = self.worker.take_behind(GOADED_AT_ONCE)
        self._goads = bool(behind)
        return [Parcel(shard, self._number, -1, OPEN, [], []) for shard in behind if shard not in addressed]

    def snapshot(self) -> list[Any]:
        """Return where to go on, `[next offset, stream time]`, at the end of an epoch."""
        return self._partition.snapshot()

    def close(self) -> None:
        self._partition.close()


class ShardPort:
    """One shard of the users: translates, decides nothing.

    The engine does not say which key it builds a port for; the first parcel does.

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
            self._number = values[0].shard
            shard = self._shard = self.worker.open_shard(self._number, self._resumed[0] if self._resumed else 0)
        deliveries: list[Delivery] = []
        for one in values:
            deliveries.append(
                Delivery(one.source, one.mark_ms, one.phase, unpacked(one.records), one.first_ms, one.updates)
            )
            if one.dead:
                self.worker.emitter.emit_dead(one.dead)
        self.worker.take(self._number, shard, deliveries)

    def snapshot(self) -> list[Any]:
        """Return what to go on from, at the end of an epoch; see `Worker.commit`."""
        if self._shard is None:
            return self._resumed or [0, {}, 0]
        return self.worker.commit(self._number)
