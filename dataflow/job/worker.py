"""What one process of the job has open: its shards, its source partitions and its sink.

The engine asks it for them and commits through it; `dataflow/job/process.py` is the process around it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from dataflow.emit import Emitter
from dataflow.job.mistakes import ErrorReport
from dataflow.job.outside import Outside
from dataflow.job.plan import PartitionPlan, Plan, channel_topics
from dataflow.read.intake import Counts, Intake, head_time
from dataflow.read.partition import Partition
from dataflow.read.progress import ProgressLog, read_progress
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from dataflow.shard import Shard
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.outbox import Totals
from state.shards import dead_shard, owner_of
from state.store import ShardStore

HELD_MAX: Final = 50_000  # Records that wait in the shards of this process for what belongs before them.

Log = structlog.stdlib.BoundLogger


class Worker:
    """What one process has open: its shards, its sink, its source partitions."""

    def __init__(self, plan: Plan, index: int, log: Log, outside: Outside) -> None:
        self.plan = plan
        self.index = index
        self.log = log
        self.outside = outside
        self.deployment, workspace = plan.deployment()
        self._format = NativeFormat(self.deployment.index.table())
        self.stopping = threading.Event()
        self.has_said_why = False  # Whether what stops the job is in the log.
        self.shards: dict[int, Shard] = {}
        self.held_max = HELD_MAX
        self._replays = any(one.end is not None and not one.closes for one in plan.partitions)
        self.opened_with: dict[int, Totals] = {}
        self.counts: dict[str, Counts] = {}
        self.positions: dict[str, tuple[int, int | None, int]] = {}
        self.disagreements: dict[str, tuple[int, int]] = {}
        self.refusal = ""
        """Why the state is not one to go on from; starting again does not help then."""
        self.checkpoints = 0
        self.checkpoint_s = 0.0
        self.differences: dict[int, int] = {}
        self._checkpointed_at: float | None = None
        self._moved: dict[str, tuple[int, float]] = {}
        self._uncommitted = False
        topics = channel_topics(self.deployment, workspace)
        dead_shards = {
            (_topic_of(partition), partition.partition): dead_shard(number, plan.shards)
            for number, partition in enumerate(plan.partitions)
        }
        positions = {
            (_topic_of(partition), partition.partition): plan.positions.get(partition.key, partition.start)
            for partition in plan.partitions
        }
        self.emitter = Emitter(
            outside.sink, topics, plan.job, shards=plan.shards, dead_shards=dead_shards, positions=positions
        )
        self.errors = ErrorReport(log.error, [one.key for one in plan.partitions])
        outside.sink.open_topics(sorted({*topics.values(), JOURNAL, DEAD_LETTERS}))
        if plan.read_back is not None:
            self.emitter.read_back(plan.read_back)

    # ---- shards ------------------------------------------------------------------------------------------------

    def open_shard(self, number: int, commit: int) -> Shard:
        """Return shard *number* as of *commit*."""
        backend = self.outside.backend(number)
        each = self.plan.users_in_memory
        owner = owner_of(self.plan.job, number, self.plan.shards)
        store = ShardStore(backend, cached_users=each, changed_users=each, due_of=self.deployment.due_of, owner=owner)
        store.roll_back(commit)
        if users := self.emitter.users_read_back(number):
            store.prefetch(users)
            self.emitter.in_the_books({user_id: store.slot(user_id).user.seq for user_id in users})
        self.opened_with[number] = {flow: dict(counts) for flow, counts in store.meta.totals.items()}
        shard = Shard(
            store,
            self.deployment,
            sources=len(self.plan.partitions),
            ordered=self.plan.ordered,
            until_ms=self.plan.until_ms,
        )
        self.shards[number] = shard
        self._check_conservation(number, shard)
        return shard

    def emit(self, shard: Shard) -> None:
        """Send what *shard* has decided on its way."""
        self._uncommitted = True
        out = shard.out
        if out.errors:
            self.errors.take(out.errors)
        if out.actions or out.journal:
            self.emitter.emit(out)
            self.emitter.deliver()

    def commit(self, number: int) -> list[Any]:
        """Return `[commit, ends of the sink's topics, number of the sink]` of shard *number*.

        Everything that the shard has emitted is confirmed by then.

        The engine notes what this returns, so only then does the state count: a crash before takes the commit back.
        All shards of the process are committed at the first call of an epoch, in parallel.
        """
        if self._uncommitted:
            began = time.monotonic()
            self.emitter.confirm()
            prepared = []
            for shard_number, shard in self.shards.items():
                shard.settle()
                changes = shard.store.prepare()
                if changes is not None:
                    prepared.append((shard.store, changes))
                    self._check_conservation(shard_number, shard)
            self.outside.all_at_once([partial(store.write, changes) for store, changes in prepared])
            for store, _ in prepared:
                store.finish()
            self._uncommitted = False
            self.checkpoints += 1
            self.checkpoint_s = time.monotonic() - began
        self._checkpointed_at = time.monotonic()
        return [self.shards[number].store.commit_number, self.emitter.ends(number), self.plan.sink_number]

    def _check_conservation(self, number: int, shard: Shard) -> None:
        """Note whether everybody who entered is accounted for, and say so when it changes."""
        difference = shard.difference()
        if difference != self.differences.get(number, 0):
            self.log.error(
                "journeys are not accounted for: run nudge audit",
                shard=number,
                difference=difference,
                state=self.plan.state,
            )
        self.differences[number] = difference

    # ---- sources -----------------------------------------------------------------------------------------------

    def open_partition(self, number: int, resumed: list[int] | None) -> Partition:
        """Return source partition *number*, to go on from its snapshot *resumed*."""
        plan = self.plan.partitions[number]
        position, stream_ms = resumed if resumed is not None else (plan.start, -1)
        noted = [pair for pair in read_progress(self.outside.progress, plan.key) if pair[0] >= position]
        is_file = plan.kind == "file"
        intake = Intake(
            self.deployment.index,
            self._format,
            topic=_topic_of(plan),
            partition=plan.partition,
            source=number,
            shards=self.plan.shards,
            time=StreamTime(stream_ms, noted),
            is_file=is_file,
            head_ms=head_time(Path(plan.topic), self._format) if is_file and stream_ms <= 0 else 0,
        )
        intake.time.reach_at(position)
        self.counts[plan.key] = intake.counts
        return Partition(
            number,
            self.outside.reader(plan, position),
            intake,
            ProgressLog(self.outside.progress, plan.key, position),
            shards=self.plan.shards,
            end=plan.end,
            closes=plan.closes,
            clock=self.outside.clock,
            slack_ms=self.plan.slack_ms,
            monotonic_s=self.outside.monotonic_s,
            name=plan.key,
            warn=self.log.warning,
        )

    def holds_too_much(self, partition: Partition) -> bool:
        """Tell whether *partition* has to wait, since it is ahead of the others and shards hold many records already.

        With several topics records wait in the shards for what belongs before them, so somebody who is far ahead would
        fill the memory. Who is furthest behind never waits, and moves time; except in a replay, where partitions halt
        at once where the dead run had come to, and what was held there is held again.
        """
        if self.plan.ordered or self._replays or sum(shard.held for shard in self.shards.values()) < self.held_max:
            return False
        return partition.time.now_ms > min(shard.time_ms for shard in self.shards.values())

    def note_position(self, name: str, partition: Partition) -> None:
        """Note how far *partition* has come, for the next report."""
        self.positions[name] = (partition.position, partition.lag, partition.time.now_ms)
        self.disagreements[name] = (partition.ahead_ms, partition.late_ms)

    # ---- telling the parent ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what the parent adds up and shows."""
        totals: Totals = {}
        counted: Totals = {}  # Totals go back with the state after a crash; this is since the process started.
        duplicates = too_large = ids_forgotten = 0
        for number, shard in list(self.shards.items()):
            duplicates += shard.out.duplicates
            too_large += shard.out.too_large
            ids_forgotten += shard.out.ids_forgotten
            for flow, counts in list(shard.out.totals.items()):
                kept, new = totals.setdefault(flow, {}), counted.setdefault(flow, {})
                before = self.opened_with[number].get(flow, {})
                for what, count in list(counts.items()):
                    kept[what] = kept.get(what, 0) + count
                    new[what] = new.get(what, 0) + count - before.get(what, 0)
        now = time.monotonic()
        for partition, (_, _, stream_ms) in list(self.positions.items()):
            if self._moved.get(partition, (None, 0.0))[0] != stream_ms:
                self._moved[partition] = (stream_ms, now)
        dead: dict[str, int] = {}
        for read in list(self.counts.values()):
            for reason, number in list(read.dead.items()):
                dead[reason] = dead.get(reason, 0) + number
        return {
            "process": self.index,
            "refusal": self.refusal,
            "records": sum(counts.records for counts in self.counts.values()),
            "relevant": sum(counts.relevant for counts in self.counts.values()),
            "unsupported": sum(counts.unsupported for counts in self.counts.values()),
            "dead": dead,
            "duplicates": duplicates,
            "too_large": too_large,
            "ids_forgotten": ids_forgotten,
            "errors": dict(self.errors.counts),
            "actions": self.emitter.actions,
            "journal": self.emitter.journal,
            "dead_letters": self.emitter.dead_letters,
            "skipped": self.emitter.skipped,
            "shards_at": {
                str(number): [shard.time_ms, shard.store.earliest_due] for number, shard in list(self.shards.items())
            },
            "positions": self.positions,
            "stands_s": {partition: now - since for partition, (_, since) in self._moved.items()},
            "disagreements": self.disagreements,
            "clock_held_back_ms": self.outside.clock.held_back_ms(),
            "totals": totals,
            "counted": counted,
            "checkpoints": self.checkpoints,
            "checkpoint_s": self.checkpoint_s,
            "checkpoint_age_s": None if self._checkpointed_at is None else now - self._checkpointed_at,
            "difference": sum(map(abs, list(self.differences.values()))),
            "shards": len(self.shards),
        }

    def close(self) -> None:
        """Close everything, after the engine has stopped."""
        for shard in self.shards.values():
            shard.store.close()
        self.outside.close()


def _topic_of(partition: PartitionPlan) -> str:
    """Return the topic as records say it: of a file only the name."""
    return Path(partition.topic).name if partition.kind == "file" else partition.topic
