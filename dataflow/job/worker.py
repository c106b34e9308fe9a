"""What one process of the job has open: its shards, its source partitions and its sink.

The engine asks it for them and commits through it; `dataflow/job/process.py` is the process around it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dataflow.allowance import Turns
from dataflow.delays import Delays
from dataflow.emit import Emitter
from dataflow.job.mistakes import MistakeLog
from dataflow.job.outside import Outside
from dataflow.job.plan import Plan
from dataflow.job.status import STATUS_EVERY_S, PartitionStatus, ShardStatus, Status, Work
from dataflow.keep.differences import DifferenceFiles
from dataflow.logs import Log
from dataflow.read.discovery import PartitionPlan
from dataflow.read.intake import Intake, head_time
from dataflow.read.partition import Partition, mark_every_s
from dataflow.read.progress import ProgressLog, read_progress
from dataflow.read.scanner import format_of
from dataflow.read.streamtime import StreamTime
from dataflow.shard import Delivery, Shard
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.deployment import Deployment
from operators.machine.totals import Totals, add_totals
from state.shards import dead_shard, owner_of
from state.store import ShardStore

SPILLS: Final = 4  # Of each shard between two checkpoints, so that a checkpoint has little left to write.
SPILL_EVERY_S: Final = 0.01
HELD_MAX: Final = 50_000  # Records that wait in the shards of this process for what belongs before them.


class Worker:
    """What one process has open: its shards, its sink, its source partitions.

    Args:
        deployment: the flows of *plan*, where they are compiled already.
    """

    def __init__(
        self, plan: Plan, index: int, log: Log, outside: Outside, deployment: Deployment | None = None
    ) -> None:
        self.plan = plan
        self.index = index
        self.log = log
        self.outside = outside
        self.deployment = deployment or plan.deployment()
        table = self.deployment.index.table()
        kinds = {(one.format, one.settings) for one in plan.partitions}
        self._formats = {(name, settings): format_of(name, table, settings) for name, settings in kinds}
        self.stopping = threading.Event()
        self.has_said_why = False  # Whether what stops the job is in the log.
        self.shards: dict[int, Shard] = {}
        self.held_max = HELD_MAX
        self._held = 0  # By all shards together.
        self._replays = any(one.end is not None and not one.closes for one in plan.partitions)
        self._opened_with: Totals = {}
        self._counted: Totals = {}  # Since the start, in all shards together.
        self.turns = Turns(outside.monotonic_s, is_behind=lambda: self.sink_is_behind)
        self._behind: set[int] = set()
        self._wait_until = [-1] * plan.shards  # Of a shard of another process nobody here knows.
        self.partitions: dict[str, Partition] = {}
        self.refusal = ""
        """Why the state is not one to go on from; starting again does not help then."""
        self.why = ""
        """Why the job stops, where this process knows it."""
        self.first = ""
        """What is to be done before it can be started again."""
        self.differences: dict[int, int] = {}
        self._checkpoints = 0
        self._checkpoint_s = 0.0
        self._checkpointed_s: float | None = None
        self._uncommitted = False
        self._before_the_epoch_counts: list[Callable[[], None]] = []
        topics = self.deployment.topics
        dead_shards = {
            (_topic_of(partition), partition.partition): dead_shard(number, plan.shards)
            for number, partition in enumerate(plan.partitions)
        }
        positions = {
            (_topic_of(partition), partition.partition): plan.positions.get(partition.key, partition.start)
            for partition in plan.partitions
        }
        self._difference_files = DifferenceFiles(outside.files)
        self._accepted = 0
        self._has_told_of_receipts = False
        self._delays = Delays(outside.clock.wall_ms)
        self.emitter = Emitter(
            outside.sink,
            topics,
            plan.job,
            self._difference_files,
            accepts=plan.accept_difference,
            shards=plan.shards,
            dead_shards=dead_shards,
            positions=positions,
            delays=self._delays,
        )
        self.register = outside.register() if self.deployment.asks else None
        self.mistakes = MistakeLog(log.error, [one.key for one in plan.partitions])
        outside.sink.open_topics(sorted({*topics.values(), JOURNAL, DEAD_LETTERS}))
        if plan.read_back is not None:
            self.emitter.read_back(plan.read_back)
        self.status = Status(index, outside.monotonic_s())
        """How things stood a moment ago. It never changes: in its place comes another one."""
        self._next_status_s = self.status.taken_s
        self._spill_every_s = max(SPILL_EVERY_S, plan.epoch_s / (SPILLS * plan.shards))
        self._next_spill_s = self.status.taken_s
        self._to_spill: list[Shard] = []

    # ---- shards ------------------------------------------------------------------------------------------------

    def open_shard(self, number: int, commit: int) -> Shard:
        """Return shard *number* as of *commit*."""
        backend = self.outside.backend(number)
        each = self.plan.users_in_memory
        owner = owner_of(self.plan.job, number, self.plan.shards)
        store = ShardStore(backend, cached_users=each, changed_users=each, due_of=self.deployment.due_of, owner=owner)
        store.roll_back(commit)
        if users := self.emitter.back.users_of(number):
            store.prefetch(users)
            self.emitter.back.in_the_books({user_id: store.slot(user_id).user.seq for user_id in users})
        shard = Shard(
            store,
            self.deployment,
            sources=len(self.plan.partitions),
            ordered=self.plan.ordered,
            until_ms=self.plan.until_ms,
            keys=[one.key for one in self.plan.partitions],
            news=self._counted,
            keeps_sent=self.plan.keeps_sent,
            begins=self.plan.begins,
            register=None if self.register is None else self.register.of_shard(number, lambda: store.commit_number + 1),
        )
        add_totals(self._opened_with, store.totals)
        self.shards[number] = shard
        self._held += shard.held
        self._check_conservation(number, shard)
        return shard

    def take(self, number: int, shard: Shard, deliveries: list[Delivery]) -> None:
        """Let *shard* take in what the sources have sent, and emit what it decides.

        Of what falls due it does as much as there is time for in this turn; at the end of the sources, and where a
        replay halts, all of it, unless the job is asked to stop.
        """
        held = shard.held
        shard.take(deliveries, self.turns)
        self._held += shard.held - held
        self.emit(shard)
        while shard.is_behind and shard.is_over and not self.stopping.is_set():
            self.turns.begin(hurries=True)
            shard.drain(self.turns)
            self.emit(shard)
        if shard.is_behind:
            self._behind.add(number)
        self._wait_until[number] = shard.waits_until_ms

    def shards_that_wait_for(self, time_ms: int) -> list[int]:
        """Return the shards that may have something to do once time has come to *time_ms*."""
        return [number for number, until_ms in enumerate(self._wait_until) if until_ms <= time_ms]

    def take_behind(self, most: int) -> list[int]:
        """Return the first *most* shards that have more to do that is due, and forget them: they say so again."""
        behind = sorted(self._behind)[:most]
        self._behind.difference_update(behind)
        return behind

    @property
    def sink_is_behind(self) -> bool:
        """Whether mass work has to wait for the sink."""
        return self.outside.sink.is_behind

    @property
    def has_due(self) -> bool:
        """Whether something is left undone that was due, or that an earlier attempt found to be due."""
        return any(shard.is_behind for shard in self.shards.values()) or not all(
            partition.has_caught_up for partition in self.partitions.values()
        )

    def emit(self, shard: Shard) -> None:
        """Send what *shard* has decided on its way."""
        self._uncommitted = True
        if self.register is not None:
            self.register.confirm()  # Before anything that follows from its answers goes out.
        out = shard.out
        if out.mistakes:
            self.mistakes.take(out.mistakes)
        if out.actions or out.journal:
            for user_id, seq in self.emitter.emit(out).items():
                slot = shard.store.slot(user_id)
                slot.user.seq = seq
                shard.store.touch(user_id, slot, slot.due)
            # Where no source is read there are no turns, and the next call may be long in coming.
            self.emitter.deliver(at_once=not self.partitions)
        self.end_turn()

    def commit(self, number: int) -> list[Any]:
        """Return `[commit, ends of the sink's topics, number of the sink]` of shard *number*.

        Everything that the shard has emitted is confirmed by then. Where flows ask the register, a fourth number says
        how often that was confirmed.

        The engine notes what this returns, so only then does the state count: a crash before takes the commit back.
        All shards of the process are committed at the first call of an epoch, in parallel.
        """
        has_news = self._uncommitted
        tasks, self._before_the_epoch_counts = self._before_the_epoch_counts, []
        if not has_news:
            self.outside.all_at_once(tasks)
        else:
            began_s = self.outside.monotonic_s()
            self.emitter.confirm()
            written = []
            for shard_number, shard in self.shards.items():
                shard.settle()
                if shard.store.write():
                    written.append(shard.store)
                    self._check_conservation(shard_number, shard)
            if self.register is not None:
                self.register.forget({number: shard.store.commit_number for number, shard in self.shards.items()})
            self.outside.all_at_once([*tasks, *(store.sync for store in written)])
            self._uncommitted = False
            self._checkpoints += 1
            self._checkpoint_s = self.outside.monotonic_s() - began_s
        self._checkpointed_s = self.outside.monotonic_s()
        if has_news:
            self._say_what_was_accepted()
            self.take_stock()  # It may be long until there is something to do again.
        snapshot = [self.shards[number].store.commit_number, self.emitter.ends(number), self.plan.sink_number]
        return snapshot if self.register is None else [*snapshot, self.register.confirm()]

    def _say_what_was_accepted(self) -> None:
        accepted = self.emitter.back.accepted
        if accepted != self._accepted:
            self._accepted = accepted
            self.log.warning(
                "differences were accepted: those concerned go on behind what an interrupted run has written",
                users_and_dead_letters=accepted,
                file=self._difference_files.place,
            )

    def _by_the_end_of_the_epoch(self, task: Callable[[], None]) -> None:
        """Do *task* beside others of its kind at the commit that ends the epoch; at once where none is sure to come."""
        if self._uncommitted:  # A shard was awake in this epoch: it is asked for its snapshot after all partitions.
            self._before_the_epoch_counts.append(task)
        else:
            task()

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

    def open_partition(self, number: int, resumed: list[Any] | None) -> Partition:
        """Return source partition *number*, to go on from its snapshot *resumed*."""
        plan = self.plan.partitions[number]
        position, stream_ms, *mark = resumed if resumed is not None else (plan.start, plan.begin_ms)
        noted = [pair for pair in read_progress(self.outside.progress, plan.key) if pair[0] >= position]
        is_file, records = plan.kind == "file", self._formats[plan.format, plan.settings]
        intake = Intake(
            self.deployment.index,
            records,
            topic=_topic_of(plan),
            partition=plan.partition,
            source=number,
            shards=self.plan.shards,
            time=StreamTime(stream_ms, noted),
            is_file=is_file,
            head_ms=head_time(Path(plan.topic), records) if is_file and stream_ms <= 0 else 0,
            notes_first=bool(self.deployment.scheduled),
            watched=self.deployment.watched,
        )
        intake.time.reach_at(position)
        intake.first_ms = min((at for offset, at in noted if offset == position and at > stream_ms), default=-1)
        partition = Partition(
            number,
            self.outside.reader(plan, position, tuple(mark)),
            intake,
            ProgressLog(self.outside.progress, plan.key, position, self._by_the_end_of_the_epoch),
            shards=self.plan.shards,
            end=plan.end,
            closes=plan.closes,
            clock=self.outside.clock,
            slack_ms=plan.slack_ms,
            monotonic_s=self.outside.monotonic_s,
            wait_for=self.shards_that_wait_for,
            tells_first=bool(self.deployment.scheduled),
            noted_ms=max((stream_ms for _, stream_ms in noted), default=-1),
            mark_every_s=mark_every_s(len(self.plan.partitions) * self.plan.shards // self.plan.processes),
            name=plan.key,
            warn=self.log.warning,
        )
        self.partitions[plan.key] = partition
        return partition

    def holds_too_much(self, partition: Partition) -> bool:
        """Tell whether *partition* has to wait, since it is ahead of the others and shards hold many records already.

        With several topics records wait in the shards for what belongs before them, as they do with one for a run over
        audiences that cannot be decided yet. So somebody who is far ahead would fill the memory. Who is furthest behind
        never waits, and moves time; except in a replay, where partitions halt at once where the dead run had come to,
        and what was held there is held again.
        """
        if self._replays or self._held < self.held_max:
            return False
        return partition.time.now_ms > min(shard.time_ms for shard in self.shards.values())

    # ---- how things stand --------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """Do what is due now and then; called by the thread that works, whenever it has done something."""
        now_s = self.outside.monotonic_s()
        if now_s >= self._next_spill_s:
            self._next_spill_s = now_s + self._spill_every_s
            self._spill_one()
        if now_s >= self._next_status_s:
            self.take_stock()

    def _spill_one(self) -> None:
        """Let the shard whose turn it is write what has changed there."""
        if not self._to_spill:
            self._to_spill = list(self.shards.values())
        if self._to_spill:
            self._to_spill.pop().spill()

    def take_stock(self) -> None:
        """Write down how things stand, for whoever reports it; never while the thread that works is at something."""
        self.status = self._status(self.outside.monotonic_s())
        if self.status.work.unknown_receipts and not (self.plan.keeps_sent or self._has_told_of_receipts):
            self._has_told_of_receipts = True
            self.log.warning(
                "receipts come, and nothing is kept of what is sent: say receipts: true, or send none here"
            )
        self._next_status_s = self.status.taken_s + STATUS_EVERY_S

    def _status(self, now_s: float) -> Status:
        counted = {label: counts.copy() for label, counts in self._counted.items()}
        totals = {label: counts.copy() for label, counts in self._opened_with.items()}
        add_totals(totals, counted)
        read = [partition.intake.counts for partition in self.partitions.values()]
        dead: Counter[str] = Counter()
        for one in read:
            dead.update(one.dead)
        outboxes = [shard.out for shard in self.shards.values()]
        return Status(
            process=self.index,
            taken_s=now_s,
            refusal=self.refusal,
            why=self.why,
            first=self.first,
            work=Work(
                records=sum(one.records for one in read),
                tombstones=sum(one.tombstones for one in read),
                relevant=sum(one.relevant for one in read),
                receipts=sum(one.receipts for one in read),
                unknown_receipts=sum(out.unknown_receipts for out in outboxes),
                memberships=sum(one.memberships for one in read),
                updates=sum(one.updates for one in read),
                ignored=sum(one.ignored for one in read),
                duplicates=sum(out.duplicates for out in outboxes),
                too_large=sum(out.too_large for out in outboxes),
                memberships_cut=sum(out.memberships_cut for out in outboxes),
                ids_forgotten=sum(out.ids_forgotten for out in outboxes),
                actions=self.emitter.actions,
                journal=self.emitter.journal,
                dead_letters=self.emitter.dead_letters,
                skipped=self.emitter.skipped,
            ),
            delayed=self._delays.so_far(),
            dead=dead,
            mistakes=dict(self.mistakes.counts),
            partitions={key: self._partition_status(key, one, now_s) for key, one in self.partitions.items()},
            shards={
                number: ShardStatus(shard.time_ms, shard.store.earliest_due) for number, shard in self.shards.items()
            },
            clock_held_back_ms=self.outside.clock.held_back_ms(),
            totals=totals,
            counted=counted,
            runs=Counter(flow for shard in self.shards.values() for flow in shard.runs_under_way),
            due_left=self.has_due,
            difference=sum(map(abs, self.differences.values())),
            checkpoints=self._checkpoints,
            checkpoint_s=self._checkpoint_s,
            checkpointed_s=self._checkpointed_s,
        )

    def _partition_status(self, key: str, partition: Partition, now_s: float) -> PartitionStatus:
        stream_ms = partition.time.now_ms
        before = self.status.partitions.get(key)
        moved_s = before.moved_s if before is not None and before.stream_ms == stream_ms else now_s
        return PartitionStatus(
            position=partition.position,
            lag=partition.lag,
            stream_ms=stream_ms,
            moved_s=moved_s,
            ahead_ms=partition.ahead_ms,
            late_ms=partition.late_ms,
        )

    def close(self) -> None:
        """Close everything, after the engine has stopped."""
        self.outside.all_at_once([shard.store.close for shard in self.shards.values()])
        if self.register is not None:
            self.register.close()
        self.outside.close()


def _topic_of(partition: PartitionPlan) -> str:
    """Return the topic as records say it: of a file only the name."""
    return Path(partition.topic).name if partition.kind == "file" else partition.topic
