"""A world in virtual time: a broker, a clock that can be set, and a job that reads, lags, crashes and goes on.

The job's partitions, shards, stores, progress logs, clock and knowledge of ends are the real ones; the broker is a list
per partition, and time passes when a test says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from connectors.kafka_source import KnownEnds
from connectors.sources import Batch, Mark, Reached
from dataflow.keep.files import DiskFolder
from dataflow.read.clock import SteadyClock
from dataflow.read.intake import Intake
from dataflow.read.partition import Partition
from dataflow.read.progress import ProgressLog, read_progress
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from dataflow.shard import Delivery, Shard
from operators.machine.deployment import Deployment
from state.backend import MemoryBackend
from state.iso import format_ms
from state.records import unpacked
from state.store import ShardStore
from tests.outgoing import actions_of, journal_of

START = 1_795_435_200_000  # Monday 2026-11-23T12:00:00Z.
SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
TICK = SECOND
SHARDS = 2
SLACK = SECOND


class Broker:
    """Partitions as lists of (stamp, value); `away` answers nothing, `unreadable` partitions give no records."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[tuple[int, bytes]]] = [[] for _ in range(partitions)]
        self.away = False
        self.unreadable: set[int] = set()

    def partition_of(self, user: str) -> int:
        return crc32(user.encode()) % len(self.partitions)


class Reader:
    """Reads one partition of a `Broker`."""

    def __init__(self, broker: Broker, partition: int, position: int, ends: KnownEnds) -> None:
        self.position = position
        self._broker, self._partition, self._ends = broker, partition, ends

    def poll(self, records_max: int) -> Batch:
        if self._broker.away or self._partition in self._broker.unreadable:
            return Batch([], [], [])
        found = self._broker.partitions[self._partition][self.position :][:records_max]
        offsets = range(self.position, self.position + len(found))
        self.position += len(found)
        return Batch([value for _, value in found], [stamp for stamp, _ in found], offsets)

    def reached_end(self) -> Reached | None:
        return self._ends.reached("events", self._partition, self.position)

    def mark(self, position: int) -> Mark:
        return ()

    def lag(self) -> int | None:
        end = self._ends.end("events", self._partition)
        return None if end is None else max(0, end.offset - self.position)

    def close(self) -> None:
        pass


class World:
    """A broker, clocks and a job.

    Args:
        stamps_by: "arrival" (LogAppendTime) or "sender" (CreateTime).
        skew_ms: how far the job's clock is ahead of the broker's at the start.
    """

    def __init__(
        self,
        folder: Path,
        deployment: Deployment,
        *,
        partitions: int = 2,
        stamps_by: str = "arrival",
        skew_ms: int = 0,
    ) -> None:
        self.broker = Broker(partitions)
        self.now = START
        self.skew_ms = skew_ms
        self.warnings: list[str] = []
        self.emitted: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.seen_at: dict[tuple[str, str, int], int] = {}
        self.partitions: list[Partition] = []
        self.shards: list[Shard] = []
        self.is_frozen = False
        self._deployment = deployment
        (folder / "progress").mkdir(parents=True)
        self._folder = DiskFolder(folder / "progress")
        self._stamps_by = stamps_by
        self._kept: list[tuple[str, int, bytes]] = []  # What producers hold while the broker is away.
        self._sent = 0
        self._backends = [MemoryBackend() for _ in range(SHARDS)]
        self._cut: tuple[list[list[int] | None], list[int]] = ([None] * partitions, [0] * SHARDS)
        self.ends = KnownEnds()

    # ---- what happens outside -----------------------------------------------------------------------------------

    def send(self, user: str, event: str, *, stamp: int | None = None, own: int | None = None) -> None:
        """Let a producer send an event now, stamped as the topic has it; it is kept while the broker is away.

        *stamp* is the sender's clock, *own* the event's `timestamp`.
        """
        fields = {"user_id": user, "event": event, "message_id": f"m{self._sent}"}
        if own is not None:
            fields["timestamp"] = format_ms(own)
        self._sent += 1
        self._kept.append((user, self.now if stamp is None else stamp, json.dumps(fields).encode()))
        if not self.broker.away:
            self.deliver()

    def deliver(self) -> None:
        """Let producers deliver what they have kept."""
        for user, stamp, value in self._kept:
            partition = self.broker.partitions[self.broker.partition_of(user)]
            partition.append((self.now if self._stamps_by == "arrival" else stamp, value))
        self._kept.clear()

    # ---- the job ------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return bool(self.partitions)

    def start(self) -> None:
        """Start the job at the last checkpoint."""
        self.ends = KnownEnds()
        self.clock = SteadyClock(lambda: self.now + self.skew_ms, lambda: self.now)
        sources, commits = self._cut
        for number, resumed in enumerate(sources):
            position, stream_ms = resumed or [0, -1]
            key = f"events-{number}"
            noted = [pair for pair in read_progress(self._folder, key) if pair[0] >= position]
            intake = Intake(
                self._deployment.index, NativeFormat(self._deployment.index.table()), topic="events",
                partition=number, source=number, shards=SHARDS, time=StreamTime(stream_ms, noted),
            )  # fmt: skip
            intake.time.reach_at(position)
            self.partitions.append(
                Partition(
                    number, Reader(self.broker, number, position, self.ends), intake,
                    ProgressLog(self._folder, key, position), shards=SHARDS, end=None, closes=False,
                    clock=self.clock, slack_ms=SLACK, name=key, warn=self.warnings.append,
                    monotonic_s=lambda: self.now / 1000,
                )
            )  # fmt: skip
        for backend, commit in zip(self._backends, commits, strict=True):
            store = ShardStore(backend, due_of=self._deployment.due_of)
            store.roll_back(commit)
            self.shards.append(Shard(store, self._deployment, sources=len(sources)))

    def checkpoint(self) -> None:
        for shard in self.shards:
            shard.settle()
        self._cut = ([one.snapshot() for one in self.partitions], [one.store.commit() for one in self.shards])

    def crash(self) -> None:
        """Kill the job: all since the last checkpoint is gone, except what was emitted and noted."""
        for partition in self.partitions:
            partition.close()
        self.partitions, self.shards = [], []

    def stop(self) -> None:
        self.checkpoint()
        self.crash()

    def advance(self, by_ms: int, *, at_tick: Callable[[], None] = lambda: None, tick: int = TICK) -> None:
        """Let time pass; the job, if it runs, does what it does."""
        until = self.now + by_ms
        while self.now < until:
            self.now = min(self.now + tick, until)
            at_tick()
            self.work()

    def work(self) -> None:
        """Let the job ask for the ends, read all there is, and emit."""
        if not self.is_running or self.is_frozen:
            return
        if not self.broker.away:
            for number, records in enumerate(self.broker.partitions):
                if number not in self.broker.unreadable:
                    self.ends.note("events", number, len(records), self.clock.tick_ms())
        for partition in self.partitions:
            for one in partition.step():
                inputs = unpacked(one.records)
                delivery = Delivery(one.source, one.mark_ms, one.phase, inputs, one.first_ms, one.updates)
                self.shards[one.shard].take([delivery])
        for shard in self.shards:
            for record in [*actions_of(shard), *journal_of(shard)]:
                key = (record["user_id"], record.get("channel", "journal"), record["seq"])
                assert self.emitted.setdefault(key, record) == record, "a replay decided otherwise"
                self.seen_at.setdefault(key, self.now)
            shard.out.actions, shard.out.journal = [], []

    # ---- what came of it ----------------------------------------------------------------------------------------

    @property
    def actions(self) -> list[tuple[str, str, str]]:
        """What was sent, as (user, template, hour:minute:second), in order of user and number."""
        return [
            (one["user_id"], one["template"], one["at"][11:19])
            for key, one in sorted(self.emitted.items())
            if key[1] != "journal"
        ]

    @property
    def all_emitted(self) -> list[dict[str, Any]]:
        return [one for _, one in sorted(self.emitted.items())]
