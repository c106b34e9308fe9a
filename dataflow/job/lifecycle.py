"""The course of a run: what is executed, from where, with which flows, and what the state keeps of it.

Everything here goes through `World`, so the real job and a simulated one, in which anything may crash at any moment,
follow the same course.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from connectors.file_source import is_as_read
from connectors.sinks import Ends, Sink
from dataflow.errors import UsageError
from dataflow.flows import Loaded
from dataflow.job.plan import Plan, topics_of
from dataflow.keep.decidedby import DecidedBy, decided_by
from dataflow.keep.files import Folder
from dataflow.keep.recovery import Cut
from dataflow.keep.statedir import (
    RESTORE,
    STATE_FILE,
    STATE_FORMAT,
    DeployedFlow,
    RunNote,
    StateFile,
    read_state_file,
    write_state_file,
)
from dataflow.logs import Log
from dataflow.read.discovery import PartitionPlan
from dataflow.read.progress import has_progress, read_progress
from dataflow.settings import SHARDS, Settings
from operators.ids import of_label
from operators.language.schedule import Now
from operators.machine.planning import BY_THE_FIRST_RECORD
from operators.machine.totals import Totals, add_totals, read_totals
from operators.program.flows import left_out, refuse_reused_versions
from operators.program.program import Program
from state.backend import Backend
from state.errors import Refused, StateRefused
from state.registerfile import RegisterFile
from state.shards import owner_of
from state.store import ShardStore

RECEIPTS: Final = "receipts"  # The topic that has nothing else.
USERS_IN_MEMORY_MIN: Final = 100  # Per shard: fewer would be written and read again all the time.


@dataclass(slots=True, kw_only=True)
class Job(Settings):
    """What `nudge run` was asked to do: its settings, the flows, and what Kafka's clients are told besides.

    `accept_version` lets this version finish what another one had begun, `accept_difference` lets users go on of whom
    something else was written than is decided now. Both are for a person who has read the message, so neither is a
    setting that could stay behind.
    """

    loaded: Loaded
    kafka: dict[str, Any] = field(default_factory=dict)
    accept_version: bool = False
    accept_difference: bool = False
    decided_by: DecidedBy = field(default_factory=decided_by)

    @property
    def keeps_sent(self) -> bool:
        """Whether it is kept what is sent. Of itself that is done where a flow asks for receipts, or a source is there
        for them; and where files are read, which are as likely to have some as what `simulate` reads."""
        if self.receipts is not None:
            return self.receipts
        return self.loaded.deployment.asks_for_receipts or any(
            source.kind == "file" or source.name == RECEIPTS for source in self.sources
        )


class Change(NamedTuple):
    """What a run goes on with after an exchange of its processes: its flows, and its source partitions."""

    job: Job
    partitions: list[PartitionPlan]


class World(Protocol):
    """Where a run takes place: its state directory, its topics, its processes."""

    place: str
    """The state directory, for messages."""
    files: Folder
    """What is in the state directory itself."""
    progress: Folder
    """The progress logs."""

    def open_sink(self) -> Sink: ...

    def partitions(self) -> list[PartitionPlan]:
        """Return all partitions of all sources as they are now, in order of topic and partition."""
        ...

    def offsets_at(self, partitions: Sequence[PartitionPlan], at_ms: int) -> list[int]:
        """Return, for each of these partitions of topics, the offset of its first record at or after *at_ms*."""
        ...

    def last_cut(self) -> Cut:
        """Return what the engine will go on from, and see to it that there is nothing behind it."""
        ...

    def backend(self, shard: int) -> Backend | None:
        """Open the store of a shard, None when there is none yet."""
        ...

    def register(self, job: str, *, make: bool) -> RegisterFile | None:
        """Open the register of *job*; where there is none yet, make it or return None."""
        ...

    def drop_register(self) -> None:
        """Remove a register that a start has left behind which died before it had a state."""
        ...

    def execute(self, plan: Plan) -> bool:
        """Run *plan* in its processes until all have ended by themselves; tell whether they left undone what is due."""
        ...

    def now_ms(self) -> int:
        """Return the time of day in ms since 1970 UTC."""
        ...

    def new_job_id(self) -> str:
        """Return the identity of a new job: it tells its records on a topic from those of other jobs."""
        ...

    def is_stopping(self) -> bool:
        """Tell whether the run has been asked to stop."""
        ...

    def change(self) -> Change | None:
        """Return with what the run goes on after an execution that ended, None when it is over."""
        ...

    def accept(self, job: Job) -> None:
        """Take note that *job* takes over."""
        ...

    def refuse(self, error: Refused) -> None:
        """Take note that the change cannot be made after all, and the run goes on as before."""
        ...


class Course:
    """One run of a job, from its start to its end."""

    def __init__(self, job: Job, log: Log, world: World) -> None:
        self.job = job
        self.log = log
        self._world = world
        self._before: Job | None = None  # What to go back to, should the flows that are to take over be refused.

    def run(self) -> None:
        """Run until the end of the sources, or until the world asks to stop.

        Raises:
            UsageError: the state, a source or the flows do not fit; nothing was changed.
        """
        world = self._world
        file = read_state_file(world.files)
        sink = world.open_sink()
        try:
            cut = world.last_cut()
            partitions = world.partitions()
            if file is None:
                if cut.sources or cut.shards:
                    raise StateRefused(f"--state {world.place}: {STATE_FILE} is missing: {RESTORE}")
                file = self._new_state(partitions)
                world.drop_register()
            self._check_state(file, cut)
            self._check_partitions(file, cut, partitions)
            while self._execute(file, cut, partitions, sink):
                change = world.change()
                if change is None:
                    return
                cut, partitions = world.last_cut(), change.partitions
                self._before, self.job = self.job, change.job
                self._check_flows(file, cut)
        finally:
            sink.close()

    def _execute(self, file: StateFile, cut: Cut, partitions: list[PartitionPlan], sink: Sink) -> bool:
        """Let the job go on from *cut* until its processes have ended.

        Returns whether it did; if not, the run was asked to stop before.
        """
        world = self._world
        self._note_sink(file, sink)
        partitions = _begun(file, partitions)
        if not file.run.is_clean:
            self.log.warning("the last run was interrupted; going on from its last checkpoint", epoch=cut.epoch)
            if self._finish_the_last_run(file, cut, partitions, sink):
                if world.is_stopping():
                    return False
                cut = world.last_cut()
                self._check_flows(file, cut)  # The old ones may have let somebody in.
                self._note_sink(file, sink)
        if world.is_stopping():
            return False  # Before anything is noted that a start with other sources would be refused for.
        job = self.job
        # Also after a clean stop, and cheap then: the state may come from a backup.
        starts = self._read_back_from(file, cut, sink, topics_of(job.loaded.deployment))
        self._begin_what_was_added(file, cut, partitions)
        self._begin_runs(file, cut)
        partitions = _begun(file, partitions)
        if self._before is not None:
            world.accept(job)
            self._before = None
        self._prepare_register(file, cut)
        self._deploy(file)
        file.sources = sorted(source.identity for source in job.sources)
        file.partitions = [one.key for one in partitions]
        file.topic_ids = {one.key: one.topic_id for one in partitions if one.topic_id}
        was_clean = file.run.is_clean
        if was_clean:
            # Else who was interrupted stays on record, whoever goes on with it: that one may have to come back.
            file.decided_by = job.decided_by
        file.run = RunNote(False, _ends_of(partitions), job.until_ms, job.keeps_sent)
        file.format = STATE_FORMAT
        write_state_file(world.files, file)
        self.log.info(
            "starting",
            flows=[f"{program!r} {program.state}" for program in job.loaded.checked.programs],
            partitions=len(partitions),
            processes=job.processes,
            workspace=job.loaded.workspace_file or "none",
            job=file.job,
        )
        flows = [(text.file, text.text) for text in job.loaded.checked.texts.values()]
        left = world.execute(self._plan(file, cut, partitions, flows, job.loaded.workspace_text, starts, file.run))
        # Of what an interrupted run had begun to wake, nothing may be left to other flows.
        file.run.is_clean = self._has_caught_up(file) and (was_clean or not left)
        if file.run.is_clean:
            file.decided_by = job.decided_by
        write_state_file(world.files, file)
        return True

    # ---- the state and what is asked of it ---------------------------------------------------------------------

    def _new_state(self, partitions: list[PartitionPlan]) -> StateFile:
        job = self.job
        return StateFile(
            format=STATE_FORMAT,
            job=self._world.new_job_id(),
            shards=job.shards or SHARDS,
            sources=sorted(source.identity for source in job.sources),
            partitions=[one.key for one in partitions],
            sink=job.sink.identity,
            sink_number=1,
            sink_starts={},
            flows=[],
            workspace="",
            run=RunNote(True),
            shard_keys="even",
        )

    def _check_state(self, file: StateFile, cut: Cut) -> None:
        job, place = self.job, self._world.place
        sources = sorted(source.identity for source in job.sources)
        gone = [one for one in file.sources if one not in sources]
        if gone:
            raise UsageError(
                f"--state {place}: this state belongs to {', '.join(file.sources)}, and {', '.join(gone)} is not among "
                "the sources: use all of those, and others besides if you like, or another directory"
            )
        if job.shards is not None and job.shards != file.shards:
            raise UsageError(
                f"--shards {job.shards}: this state was made with {file.shards}, and their number cannot change: "
                "leave the setting out, or begin a new state"
            )
        if job.processes > file.shards:
            raise UsageError(f"--processes {job.processes}: at most one per shard, and there are {file.shards}")
        if job.sink.identity != file.sink:
            if not file.run.is_clean:
                raise UsageError(
                    f"--state {place}: the last run was interrupted while writing to {file.sink}: "
                    "start the job once with that sink, stop it, and then change --sink"
                )
            file.sink, file.sink_starts, file.sink_number = job.sink.identity, {}, file.sink_number + 1
        numbers = file.keys.numbers
        beyond = [key for key in cut.shards if key not in numbers]
        if beyond:
            raise StateRefused(
                f"--state {place}: recovery/ knows shard {beyond[0]}, but there are {file.shards}: "
                f"the directory is put together from parts; {RESTORE}"
            )
        if not file.run.is_clean:
            self._check_version(file)
            for key in cut.sources:
                if not has_progress(self._world.progress, key):
                    raise StateRefused(
                        f"--state {place}: progress/ lacks the log of {key}, which the interrupted run needs: {RESTORE}"
                    )
        self._check_register(file, cut)
        self._check_flows(file, cut)

    def _check_register(self, file: StateFile, cut: Cut) -> None:
        """Refuse a register that lacks answers which something has followed from: they would be given once more."""
        needed = max(file.register, cut.register)
        if not needed:
            return
        register = self._world.register(file.job, make=False)
        found = 0
        if register is not None:
            found = register.confirm()
            register.close()
        if found < needed:
            what = "is missing" if register is None else f"is older than the rest ({found} of {needed} confirmations)"
            raise StateRefused(
                f"--state {self._world.place}: the register {what}; what it gave would be given again: {RESTORE}"
            )

    def _check_version(self, file: StateFile) -> None:
        """Refuse to finish what another version has begun to decide: it could decide otherwise."""
        before, now = file.decided_by, self.job.decided_by
        if before is None or before.parts == now.parts:
            # A state of format 1 does not say who decided. Whoever it was could not be named here, so to refuse would
            # help nobody; and what it has written is compared in any case.
            return
        differences = "; ".join(now.differences(before))
        if self.job.accept_version:
            self.log.warning("another version finishes the interrupted run", differences=differences)
            return
        raise UsageError(
            f"--state {self._world.place}: the interrupted run decided with Nudge {before.software} ({before}), and "
            f"this is Nudge {now.software}, with {differences}: start that version once, and stop it with SIGTERM; it "
            "finishes what it had begun. Or let this version finish with --accept-version: it stops where it decides "
            "anything else than what was written"
        )

    def _check_partitions(self, file: StateFile, cut: Cut, partitions: list[PartitionPlan]) -> None:
        """Refuse sources that have less than what has been read of them: they are not those that they were."""
        there = {one.key: one for one in partitions}
        for key in dict.fromkeys([*file.partitions, *cut.sources]):
            position, _, *mark = cut.sources.get(key, [0, -1])
            known = file.topic_ids.get(key, "")
            if key not in there:
                what = "is gone"
            elif known and there[key].topic_id and known != there[key].topic_id:
                what = "belongs to a topic that was deleted and created again: other records are at the same offsets"
            elif there[key].kind == "file" and position > (there[key].end or 0):
                what = f"was read up to line {position - 1}, and has only {(there[key].end or 1) - 1} now"
            elif there[key].kind == "file" and not is_as_read(Path(there[key].topic), tuple(mark)):
                what = f"was read up to line {position - 1}, and what was read is not in it any more"
            else:
                continue
            raise UsageError(
                f"--source: {key} {what}: put it back as it was, or begin with a new state; the open journeys in "
                f"{self._world.place} are then lost"
            )

    def _check_flows(self, file: StateFile, cut: Cut) -> None:
        """Refuse flows that cannot take over from those in force; in an exchange the job goes on with the latter.

        Raises:
            UsageError, FlowError: they cannot, and there is nothing to go on with.
        """
        try:
            reread = check_flows(self.job.loaded, file, lambda: self._totals(file, cut))
            if reread:
                self.log.warning(
                    "moments without an offset are local times in the flow's timezone now; deployed here they were UTC",
                    flows=[repr(program) for program in reread],
                )
        except Refused as error:
            if self._before is None or isinstance(error, StateRefused):
                raise
            self.job, self._before = self._before, None
            self._world.refuse(error)

    def _totals(self, file: StateFile, cut: Cut) -> Totals:
        """Return the counts of all shards as of *cut*."""
        found: Totals = {}
        for store in self._stores(file, cut):
            add_totals(found, store.totals)
        return found

    def _stores(self, file: StateFile, cut: Cut) -> Iterator[ShardStore]:
        """Yield the store of every shard that has one, as of *cut*."""
        for number, key in enumerate(file.keys.names):
            backend = self._world.backend(number)
            if backend is None:
                continue
            try:
                store = ShardStore(backend, owner=owner_of(file.job, number, file.shards))
                store.roll_back(cut.shards.get(key, [0])[0])
                yield store
            finally:
                backend.close()

    def _begin_what_was_added(self, file: StateFile, cut: Cut, partitions: list[PartitionPlan]) -> None:
        """Settle where partitions begin that the state does not know yet, and at which stream time.

        That is the time that the job has reached: no shard has to raise their records then, which a replay from an
        older cut would not do; and no record that was handled, of a user who is in another partition now, is later.
        """
        added = [one for one in partitions if one.key not in file.partitions]
        if not added:
            return
        time_ms, newest_ms = self._reached(file, cut)
        at_ms = max(time_ms, newest_ms)
        file.begins.update({one.key: (one.start, at_ms) for one in added})
        from_start = {source.identity for source in self.job.sources if source.from_start}
        of_new_topics = [
            one
            for one in added
            if one.kind == "kafka" and one.source not in file.sources and one.source not in from_start
        ]
        if of_new_topics and time_ms >= 0:
            offsets = self._world.offsets_at(of_new_topics, time_ms)
            file.begins.update({one.key: (at, at_ms) for one, at in zip(of_new_topics, offsets, strict=True)})
        self.log.info("partitions were added", partitions=[one.key for one in added], stream_time_ms=at_ms)

    def _reached(self, file: StateFile, cut: Cut) -> tuple[int, int]:
        """Return the greatest time of a shard as of *cut*, and of the newest record that any has taken."""
        # A shard in which nothing has changed does not write down its time.
        time_ms, newest_ms = _time_of_sources(file, cut), -1
        for store in self._stores(file, cut):
            time_ms, newest_ms = max(time_ms, store.meta.time_ms), max(newest_ms, store.meta.newest_ms)
        return time_ms, newest_ms

    def _begin_runs(self, file: StateFile, cut: Cut) -> None:
        """Settle when the flow versions begin whose runs over audiences are planned and that were not in force before.

        Live that is where the job goes on, and for `now` this moment. With sources that end, and where nothing has been
        read yet, it is the first record, which only the processes will see.
        """
        job = self.job
        scheduled = {program.label: program for program in job.loaded.deployment.scheduled}
        begins = {label: at for label, at in file.flow_begins.items() if label in scheduled}
        new = [program for label, program in scheduled.items() if label not in begins]
        is_live = not job.stop_at_end and any(source.kind == "kafka" for source in job.sources)
        reached_ms = self._reached(file, cut)[0] if new and is_live else BY_THE_FIRST_RECORD
        for program in new:
            is_now = is_live and program.runs is not None and isinstance(program.runs.schedule, Now)
            begins[program.label] = self._world.now_ms() - 1 if is_now else reached_ms
        file.flow_begins = begins

    def _note_sink(self, file: StateFile, sink: Sink) -> None:
        """Note where the sink's topics end before the first record of this state is written to them."""
        topics = topics_of(self.job.loaded.deployment)
        self._open_topics(sink, topics)
        missing = [topic for topic in topics if topic not in file.sink_starts]
        if missing:
            file.sink_starts.update(sink.ends(missing))

    def _open_topics(self, sink: Sink, topics: Sequence[str]) -> None:
        sink.open_topics(topics)
        if self.job.sink.kind == "file":
            from connectors.file_sink import FileSink

            assert isinstance(sink, FileSink)
            sink.cut_torn_lines(topics)

    def _deploy(self, file: StateFile) -> None:
        """Put the flows in force: what was there before stays known."""
        kept = {(one.flow, one.version): one for one in file.flows}
        for one in kept.values():
            one.in_force = False
        for program in self.job.loaded.checked.programs:
            text = self.job.loaded.checked.texts[program.label]
            kept[(program.name, program.version)] = DeployedFlow(
                program.name, program.version, program.content, program.state, text.file, text.text
            )
        file.flows = list(kept.values())
        file.workspace = self.job.loaded.workspace_text

    def _prepare_register(self, file: StateFile, cut: Cut) -> None:
        """See to it that there is a register if flows ask one, and that new limits count the entries that there are."""
        deployment = self.job.loaded.deployment
        if not deployment.asks:
            return
        register = self._world.register(file.job, make=True)
        assert register is not None
        try:
            limited = {program.name for program in deployment.entering if program.entry_rules.limit is not None}
            # Where the same versions were in force, every entry has asked.
            known, before, now = register.questions(), _in_force(file), what_is_deployed(self.job.loaded)[0]
            new = [
                flow
                for flow in sorted(limited)
                if flow not in known or any(one[0] == flow for one in before.symmetric_difference(now))
            ]
            if new:
                entries = dict.fromkeys(new, 0)
                for label, counts in read_totals(self._totals(file, cut)).items():
                    flow, _ = of_label(label)
                    if flow in entries:
                        entries[flow] += counts.entered
                register.count_from(entries)
            file.register = register.confirm()
        finally:
            register.close()

    # ---- after an unclean stop ---------------------------------------------------------------------------------

    def _finish_the_last_run(self, file: StateFile, cut: Cut, partitions: list[PartitionPlan], sink: Sink) -> bool:
        """Replay what the run that died may have decided, with its flows and its end, up to where it had come.

        Only then may other flows or another end take over; else somebody would get the old message and the new one.
        Returns whether that was necessary.
        """
        old = [one for one in file.flows if one.in_force]
        if not old:
            return False  # It died before anything was in force.
        job = self.job
        same_flows = (_in_force(file), file.workspace) == what_is_deployed(job.loaded)
        same_end = file.run.ends == _ends_of(partitions) and file.run.until_ms == job.until_ms
        # What is in a partition that was added since, the run that died did not know when it decided.
        same_partitions = file.partitions == [one.key for one in partitions]
        if same_flows and same_end and same_partitions and file.run.keeps_sent == job.keeps_sent:
            return False  # The new run does what the old one did; its own replay is all that is needed.
        by_key = {one.key: one for one in partitions}
        plans = []
        for key in file.partitions:
            end, closes = self._end_of_the_last_run(file, cut, by_key[key])
            plans.append(msgspec.structs.replace(by_key[key], end=end, closes=closes))
        self.log.info("replaying what the interrupted run had begun", partitions=len(plans))
        flows = [(one.file, one.text) for one in old]
        plan = self._plan(file, cut, plans, flows, file.workspace, None, file.run)
        plan.finishes_a_run = True
        topics = topics_of(plan.deployment())  # Those that the new flows may no longer have.
        self._open_topics(sink, topics)
        plan.read_back = self._read_back_from(file, cut, sink, topics)
        self._world.execute(plan)
        return True

    def _end_of_the_last_run(self, file: StateFile, cut: Cut, partition: PartitionPlan) -> tuple[int, bool]:
        """Return up to where the last run is replayed, and whether that is all there was for it."""
        key = partition.key
        if key in file.run.ends:
            return file.run.ends[key], True
        noted = read_progress(self._world.progress, key)
        resumed = cut.sources.get(key, [partition.start, -1])[0]
        return max([resumed, *(offset for offset, _ in noted)]), False

    def _has_caught_up(self, file: StateFile) -> bool:
        """Tell whether everything that an interrupted run had begun to decide has been decided again.

        A run that was asked to stop soon after its start may not have come so far; then the next one goes on with it.
        """
        sources = self._world.last_cut().sources
        return all(
            key in sources and offset <= sources[key][0]
            for key in file.partitions
            for offset, _ in read_progress(self._world.progress, key)
        )

    def _read_back_from(self, file: StateFile, cut: Cut, sink: Sink, topics: Sequence[str]) -> Ends | None:
        """Return the offsets from which *topics* may hold what will be decided again."""
        if not sink.remembers:
            return None
        cuts = [ends for _, ends, sink_number, *_ in cut.shards.values() if sink_number == file.sink_number]
        if len(cuts) == file.shards:
            # A topic that no flow uses any more is in no later cut. So what this cut says is kept, also for a topic
            # that goes out of use now: were it read back from its first offset when it returns, that could be months.
            # Where it ended then, and not where it ends by that time: the state may be put back from a backup.
            for topic in file.sink_starts:
                known = [ends[topic] for ends in cuts if topic in ends]
                if len(known) == len(cuts):
                    width = max(map(len, known))
                    padded = [[*offsets, *[0] * (width - len(offsets))] for offsets in known]
                    file.sink_starts[topic] = [min(column) for column in zip(*padded, strict=True)]
        starts = {topic: file.sink_starts[topic] for topic in topics}
        if not file.run.is_clean:
            sink.ends(list(starts), settled=True)
        return starts

    # ---- processes ---------------------------------------------------------------------------------------------

    def _plan(
        self,
        file: StateFile,
        cut: Cut,
        partitions: list[PartitionPlan],
        flows: list[tuple[str, str]],
        workspace: str,
        read_back: Ends | None,
        run: RunNote,
    ) -> Plan:
        job = self.job
        return Plan(
            state=self._world.place,
            job=file.job,
            shards=file.shards,
            shard_keys=file.shard_keys,
            processes=job.processes,
            addresses=[],
            partitions=partitions,
            ordered=len({one.topic for one in partitions}) == 1,
            until_ms=run.until_ms,
            sink_kind=job.sink.kind,
            sink_bootstrap=job.sink.bootstrap,
            sink_folder=job.sink.folder,
            sink_options=job.sink.options,
            sink_number=file.sink_number,
            create_topics=job.create_topics,
            kafka=job.kafka,
            flows=flows,
            workspace=workspace,
            read_back=read_back,
            positions={key: source[0] for key, source in cut.sources.items()},
            epoch_s=job.epoch_ms / 1000,
            users_in_memory=max(USERS_IN_MEMORY_MIN, job.cached_users * job.processes // file.shards),
            log_level=job.log_level,
            log_format=job.log_format,
            accept_difference=job.accept_difference,
            keeps_sent=run.keeps_sent,
            begins=file.flow_begins,
        )


def _in_force(file: StateFile) -> frozenset[tuple[str, int, str, str]]:
    """Return what `what_is_deployed` says of the flows that are, or were, in force."""
    return frozenset((one.flow, one.version, one.content, one.state) for one in file.flows if one.in_force)


def what_is_deployed(loaded: Loaded) -> tuple[frozenset[tuple[str, int, str, str]], str]:
    """Return what tells flows and workspace from others that do something else."""
    programs = loaded.checked.programs
    return frozenset((one.name, one.version, one.content, one.state) for one in programs), loaded.workspace_text


def check_flows(loaded: Loaded, file: StateFile, totals: Callable[[], Totals]) -> list[Program]:
    """Refuse flows that cannot take over from those that *file* says are, or were, in force.

    Returns those that are the same as before, but for moments without an offset, which are read as local times now.

    Args:
        totals: what has been counted of each version.

    Raises:
        FlowError: a version was deployed before with other content.
        UsageError: they lack a version, or make it a draft, while users are in it.
    """
    reread = refuse_reused_versions(loaded.checked, {one.label: one.content for one in file.flows})
    gone = left_out(loaded.checked, [one.label for one in file.flows if one.in_force])
    if not gone:
        return reread
    counts = read_totals(totals(), gone)
    stuck = [(label, counts[label].inside) for label in gone]
    listed = [f"{' v'.join(of_label(label))}: {number} inside" for label, number in stuck if number > 0]
    if listed:
        raise UsageError(
            "users are still in versions that these flows lack: " + "; ".join(listed) + ": "
            "keep the file, with 'state: ended' if nobody should enter any more"
        )
    return reread


def _time_of_sources(file: StateFile, cut: Cut) -> int:
    """Return up to where the sources have let time come at *cut*: one that was read to its end holds nobody back."""
    known = [(key, *cut.sources.get(key, (0, -1))[:2]) for key in file.partitions]
    still_read = [at_ms for key, offset, at_ms in known if key not in file.run.ends or offset < file.run.ends[key]]
    return min(still_read) if still_read else max((at_ms for _, _, at_ms in known), default=-1)


def _begun(file: StateFile, partitions: list[PartitionPlan]) -> list[PartitionPlan]:
    """Return *partitions* with the place and time at which those begin that came later."""
    found = []
    for one in partitions:
        start, at_ms = file.begins.get(one.key, (one.start, -1))
        found.append(msgspec.structs.replace(one, start=start, begin_ms=at_ms))
    return found


def _ends_of(partitions: list[PartitionPlan]) -> dict[str, int]:
    return {one.key: one.end for one in partitions if one.end is not None}
