"""The parent of the job: decides what to run, starts the processes, and sees that they stop and fail together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from connectors.sinks import Ends, Sink
from dataflow.flows import Loaded, UsageError
from dataflow.plan import PartitionPlan, Plan, channel_topics
from dataflow.progress import read_progress
from dataflow.recovery import Cut, last_cut
from dataflow.statedir import STATE_FORMAT, DeployedFlow, RunNote, StateDir, StateFile, new_job_id
from dataflow.urls import SinkUrl, SourceUrl
from dataflow.worker import Throttled, open_sink
from operators.outbox import inside
from operators.problems import FlowError, Problem

SHARDS: Final = 64  # The most processes a job can have; more cost a little more per batch and checkpoint.
STOP_PATIENCE_S: Final = 60.0  # So long may an epoch take to finish before a process is killed.

Log = structlog.stdlib.BoundLogger


@dataclass(slots=True)
class Job:
    """What `nudge run` was asked to do."""

    loaded: Loaded
    sources: list[SourceUrl]
    sink: SinkUrl
    state: Path | None
    processes: int = 1
    stop_at_end: bool = False
    until_ms: int | None = None
    epoch_s: float = 10.0
    slack_ms: int = 1000
    shards: int | None = None
    cached_users: int = 200_000
    create_topics: bool = True
    kafka: dict[str, Any] = field(default_factory=dict)
    log_level: str = "info"
    log_format: str = "auto"
    metrics_port: int | None = None


class JobFailed(Exception):
    """A process of the job died, or did not stop in time. Exit status 1."""


class Running:
    """The statuses of all processes, added up."""

    def __init__(self) -> None:
        self.by_process: dict[int, dict[str, Any]] = {}
        self.before: dict[str, Any] = {}
        self.began = time.monotonic()

    def total(self, name: str) -> int:
        """Return a count over all processes, and over earlier executions of this run."""
        return int(self.before.get(name, 0)) + sum(int(status[name]) for status in list(self.by_process.values()))

    def merged(self, name: str) -> dict[str, Any]:
        """Return the union of a mapping over all processes, numbers added."""
        found: dict[str, Any] = {}
        for status in list(self.by_process.values()):
            for key, value in status[name].items():
                if isinstance(value, dict):
                    kept = found.setdefault(key, {})
                    for inner, number in value.items():
                        kept[inner] = kept.get(inner, 0) + number
                elif isinstance(value, int):
                    found[key] = found.get(key, 0) + value
                else:
                    found[key] = value
        return found

    def end_execution(self) -> None:
        """Keep the counts of an execution that is over."""
        for name in ("records", "relevant", "actions", "journal", "dead_letters", "duplicates", "unsupported"):
            self.before[name] = self.total(name)
        self.by_process = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def summary(self) -> dict[str, Any]:
        """Return what the last line of a run says."""
        records, seconds = self.total("records"), self.seconds
        return {
            "events": records,
            "relevant": self.total("relevant"),
            "actions": self.total("actions"),
            "dead_letters": self.total("dead_letters"),
            "duplicates": self.total("duplicates"),
            "unsupported": self.total("unsupported"),
            "seconds": round(seconds, 3),
            "events_per_second": round(records / seconds) if seconds > 0 else 0,
        }


class JobRunner:
    """Runs a job from its start to its end.

    Args:
        on_status: called when a process has reported.
    """

    def __init__(self, job: Job, log: Log, on_status: Callable[[Running], None] = lambda _: None) -> None:
        self.job = job
        self.log = log
        self.running = Running()
        self.stopping = threading.Event()
        self.is_ready = False
        self._on_status = on_status
        self._children: list[subprocess.Popen[bytes]] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    # ---- from the start to the end -----------------------------------------------------------------------------

    def run(self) -> Running:
        """Run until the end of the sources, or until `stop`.

        Raises:
            UsageError: the state, a source or the flows do not fit; nothing was changed.
            JobFailed: a process died.
        """
        if self.job.state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="nudge-state-")
            root = Path(self._temporary.name)
        else:
            root = self.job.state
        state = StateDir(root)
        state.create_folders()
        state.acquire()
        try:
            self._run(state)
        finally:
            state.release()
            if self._temporary is not None:
                self._temporary.cleanup()
        return self.running

    def stop(self) -> None:
        """Ask all processes to finish their epoch and stop."""
        self.stopping.set()
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    def _run(self, state: StateDir) -> None:
        from dataflow.engine import prepare_recovery

        job = self.job
        file = state.read()
        sink = open_sink(job.sink, job.kafka, create=job.create_topics, log=Throttled(self.log.warning))
        try:
            prepare_recovery(str(state.recovery))
            cut = last_cut(state.recovery)
            partitions = self._partitions()
            if file is None:
                file = self._new_state(partitions)
            self._check_state(file, state, cut)
            self._note_sink(file, sink)
            # Also after a clean stop, and cheap then: the state may come from a backup.
            starts = self._read_back_from(file, cut, sink)
            if not file.run.is_clean:
                self.log.warning("the last run was interrupted; going on from its last checkpoint", epoch=cut.epoch)
                if self._finish_the_last_run(file, state, cut, partitions, starts):
                    if self.stopping.is_set():
                        return
                    cut = last_cut(state.recovery)
                    starts = self._read_back_from(file, cut, sink)
            self._deploy(file)
            file.partitions = [one.key for one in partitions]
            file.run = RunNote(False, _ends_of(partitions), job.until_ms)
            state.write(file)
            self.log.info(
                "starting",
                flows=[f"{program!r} {program.state}" for program in job.loaded.checked.programs],
                partitions=len(partitions),
                processes=job.processes,
                job=file.job,
            )
            flows = [(text.file, text.text) for text in job.loaded.checked.texts.values()]
            self._execute(
                self._plan(file, state, partitions, flows, job.loaded.workspace_text, starts, job.until_ms), state
            )
            file.run.is_clean = True
            state.write(file)
        finally:
            sink.close()

    # ---- the state and what is asked of it ---------------------------------------------------------------------

    def _new_state(self, partitions: list[PartitionPlan]) -> StateFile:
        job = self.job
        return StateFile(
            format=STATE_FORMAT,
            job=new_job_id(),
            shards=job.shards or SHARDS,
            sources=sorted(source.identity for source in job.sources),
            partitions=[one.key for one in partitions],
            sink=job.sink.identity,
            sink_number=1,
            sink_starts={},
            flows=[],
            workspace="",
            run=RunNote(True),
        )

    def _check_state(self, file: StateFile, state: StateDir, cut: Cut) -> None:
        job = self.job
        sources = sorted(source.identity for source in job.sources)
        if sources != file.sources:
            raise UsageError(
                f"--state {state.root}: this state belongs to {', '.join(file.sources)}, not to {', '.join(sources)}: "
                "use those sources, or another directory"
            )
        if job.shards is not None and job.shards != file.shards:
            raise UsageError(
                f"--shards {job.shards}: this state was made with {file.shards}, which is fixed as long as it lives: "
                "leave the setting out, or begin a new state"
            )
        if job.processes > file.shards:
            raise UsageError(f"--processes {job.processes}: at most one per shard, and there are {file.shards}")
        if job.sink.identity != file.sink:
            if not file.run.is_clean:
                raise UsageError(
                    f"--state {state.root}: the last run was interrupted while writing to {file.sink}: "
                    "let it finish there before you write elsewhere"
                )
            file.sink, file.sink_starts, file.sink_number = job.sink.identity, {}, file.sink_number + 1
        by_label = {f"{one.flow}\x1f{one.version}": one for one in file.flows}
        problems = []
        for program in job.loaded.checked.programs:
            known = by_label.get(program.label)
            if known is not None and known.content != program.content:
                where = job.loaded.checked.texts[program.label].file
                message = f"{program} was deployed in this state with other content"
                problems.append(
                    Problem(where, 1, 1, "version", "version-reused", message, "give the new content a new version")
                )
        if problems:
            raise FlowError(problems, job.loaded.checked.titles)
        self._check_users_inside(file, state, cut)

    def _check_users_inside(self, file: StateFile, state: StateDir, cut: Cut) -> None:
        """Refuse flows that lack a version, or make it a draft, while users are in it."""
        running = {program.label for program in self.job.loaded.checked.programs if program.state != "draft"}
        gone = [one for one in file.flows if one.in_force and f"{one.flow}\x1f{one.version}" not in running]
        if not gone:
            return
        totals = self._totals(file, state, cut)
        stuck = [(one, inside(totals.get(f"{one.flow}\x1f{one.version}", {}))) for one in gone]
        listed = [f"{one.flow} v{one.version}: {number} inside" for one, number in stuck if number > 0]
        if listed:
            raise UsageError(
                "users are still in versions that these flows lack: " + "; ".join(listed) + ": "
                "keep the file, with 'state: ended' if nobody should enter any more"
            )

    def _totals(self, file: StateFile, state: StateDir, cut: Cut) -> dict[str, dict[str, int]]:
        """Return the counts of all shards as of *cut*."""
        from state.store import RocksBackend, ShardStore

        found: dict[str, dict[str, int]] = {}
        for number in range(file.shards):
            if not state.shard(number).exists():
                continue
            backend = RocksBackend(state.shard(number))
            try:
                store = ShardStore(backend)
                store.roll_back(cut.shards.get(str(number), [0])[0])
                for flow, counts in store.meta.totals.items():
                    kept = found.setdefault(flow, {})
                    for what, count in counts.items():
                        kept[what] = kept.get(what, 0) + count
            finally:
                backend.close()
        return found

    def _note_sink(self, file: StateFile, sink: Sink) -> None:
        """Note where the sink's topics end before the first record of this state is written to them."""
        topics = sorted({*channel_topics(self.job.loaded.deployment, self.job.loaded.workspace).values()})
        topics = [*topics, "journal", "dead-letters"]
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

    # ---- sources -----------------------------------------------------------------------------------------------

    def _partitions(self) -> list[PartitionPlan]:
        """Return all partitions of all sources, in order of topic and partition."""
        found: list[PartitionPlan] = []
        for source in self.job.sources:
            if source.kind == "file":
                if not Path(source.name).is_file():
                    raise UsageError(f"--source file:{source.name}: no such file")
                # A file is all there is: what is appended later is for a later run.
                end = _lines_of(Path(source.name)) + 1
                found.append(PartitionPlan(f"file:{source.name}", "file", "", source.name, 0, 1, end))
                continue
            from connectors.kafka import KafkaTopics

            topics = KafkaTopics(source.bootstrap, self.job.kafka, self.log.warning)
            try:
                numbers = topics.partitions(source.name)
                if not numbers:
                    raise UsageError(
                        f"--source: there is no topic {source.name} at {source.bootstrap}: create it first"
                    )
                ends: list[int | None] = [None] * len(numbers)
                if self.job.stop_at_end:
                    ends = [*topics.end_offsets(source.name, numbers)]
                starts = topics.start_offsets(source.name, numbers)
                for number, start, last in zip(numbers, starts, ends, strict=True):
                    key = f"{source.name}-{number}"
                    found.append(PartitionPlan(key, "kafka", source.bootstrap, source.name, number, start, last))
            finally:
                topics.close()
        return sorted(found, key=lambda one: (one.topic, one.partition))

    # ---- after an unclean stop ---------------------------------------------------------------------------------

    def _finish_the_last_run(
        self, file: StateFile, state: StateDir, cut: Cut, partitions: list[PartitionPlan], starts: Ends | None
    ) -> bool:
        """Replay what the run that died may have decided, with its flows and its end, up to where it had come.

        Only then may other flows or another end take over; else somebody would get the old message and the new one.
        Returns whether that was necessary.
        """
        old = [one for one in file.flows if one.in_force]
        if not old:
            return False  # It died before anything was in force.
        job = self.job
        same_flows = {(one.flow, one.version, one.content, one.state) for one in old} == {
            (program.name, program.version, program.content, program.state) for program in job.loaded.checked.programs
        } and file.workspace == job.loaded.workspace_text
        same_end = file.run.ends == _ends_of(partitions) and file.run.until_ms == job.until_ms
        if same_flows and same_end:
            return False  # The new run does what the old one did; its own replay is all that is needed.
        by_key = {one.key: one for one in partitions}
        plans = []
        for key in file.partitions:
            if key not in by_key:
                raise UsageError(f"partition {key} is gone, but the interrupted run still has to read it")
            end, closes = self._end_of_the_last_run(file, state, cut, key)
            plans.append(msgspec.structs.replace(by_key[key], end=end, closes=closes))
        self.log.info("replaying what the interrupted run had begun", partitions=len(plans))
        flows = [(one.file, one.text) for one in old]
        plan = self._plan(file, state, plans, flows, file.workspace, starts, file.run.until_ms)
        self._execute(plan, state)
        self.running.end_execution()
        return True

    def _end_of_the_last_run(self, file: StateFile, state: StateDir, cut: Cut, key: str) -> tuple[int, bool]:
        """Return up to where the last run is replayed, and whether that is all there was for it."""
        if key in file.run.ends:
            return file.run.ends[key], True
        noted = read_progress(state.progress, key)
        resumed = cut.sources.get(key, [0, -1])[0]
        return max([resumed, *(offset for offset, _ in noted)]), False

    def _read_back_from(self, file: StateFile, cut: Cut, sink: Sink) -> Ends | None:
        """Return the offsets from which the sink's topics may hold what will be decided again."""
        if not sink.remembers:
            return None
        starts = {topic: list(offsets) for topic, offsets in file.sink_starts.items()}
        cuts = [ends for _, ends, sink_number in cut.shards.values() if sink_number == file.sink_number]
        if len(cuts) == file.shards:
            for topic, least in starts.items():
                known = [ends[topic] for ends in cuts if topic in ends]
                if len(known) == len(cuts):
                    width = max(map(len, known))
                    padded = [[*offsets, *[0] * (width - len(offsets))] for offsets in known]
                    starts[topic] = [min(column) for column in zip(*padded, strict=True)]
                else:
                    starts[topic] = least
        if not file.run.is_clean:
            sink.ends(list(starts), settled=True)
        return starts

    # ---- processes ---------------------------------------------------------------------------------------------

    def _plan(
        self,
        file: StateFile,
        state: StateDir,
        partitions: list[PartitionPlan],
        flows: list[tuple[str, str]],
        workspace: str,
        read_back: Ends | None,
        until_ms: int | None,
    ) -> Plan:
        job = self.job
        return Plan(
            state=str(state.root),
            job=file.job,
            shards=file.shards,
            processes=job.processes,
            addresses=_free_addresses(job.processes),
            partitions=partitions,
            ordered=len({one.topic for one in partitions}) == 1,
            until_ms=until_ms,
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
            epoch_s=job.epoch_s,
            slack_ms=job.slack_ms,
            cached_users=job.cached_users,
            log_level=job.log_level,
            log_format=job.log_format,
        )

    def _execute(self, plan: Plan, state: StateDir) -> None:
        """Run *plan* in its processes until all have ended.

        Raises:
            JobFailed: one died; then all are ended.
        """
        data = plan.dump()
        self._children = []
        readers = []
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for index in range(plan.processes):
            reading, writing = os.pipe()
            command = [sys.executable, "-m", "dataflow.worker", str(index), str(writing), str(os.getpid())]
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and module.
                command,
                stdin=subprocess.PIPE,
                pass_fds=(writing, state.lock_file),
                env=environment,
                start_new_session=True,
            )
            os.close(writing)
            _send(child, data)
            self._children.append(child)
            reader = threading.Thread(target=self._listen, args=(index, reading), daemon=True)
            reader.start()
            readers.append(reader)
        if self.stopping.is_set():
            self.stop()
        self._wait(plan)
        for reader in readers:
            reader.join(timeout=5)

    def _listen(self, index: int, pipe: int) -> None:
        decode = msgspec.json.Decoder().decode
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                self.running.by_process[index] = decode(line)
                if not self.is_ready and len(self.running.by_process) == len(self._children):
                    self.is_ready = True
                    self.log.info("running")
                self._on_status(self.running)

    def _wait(self, plan: Plan) -> None:
        stopping_since: float | None = None
        while True:
            states = [child.poll() for child in self._children]
            if any(state not in (None, 0) for state in states):
                self._end_all()
                failed = [f"process {index} ended with {_status(state)}" for index, state in enumerate(states) if state]
                raise JobFailed("; ".join(failed) + "; start it again to go on from the last checkpoint")
            if all(state == 0 for state in states):
                return
            if self.stopping.is_set() or any(state == 0 for state in states):
                stopping_since = stopping_since or time.monotonic()
                if time.monotonic() - stopping_since > max(STOP_PATIENCE_S, 2 * plan.epoch_s):
                    self._end_all()
                    raise JobFailed("the job did not stop in time and was ended; start it again to go on")
            time.sleep(0.02)

    def _end_all(self) -> None:
        """End what has not ended: they fail together."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.wait()


def _send(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(data)
        child.stdin.close()
    except BrokenPipeError:
        pass  # It died at once; `_wait` says how.


def _status(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"


def _free_addresses(processes: int) -> list[str]:
    """Return an address on this machine for each process; none for a single one."""
    if processes == 1:
        return []
    sockets = [socket.socket() for _ in range(processes)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def _lines_of(path: Path) -> int:
    """Return how many lines *path* has; a last one without its end counts."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _ends_of(partitions: list[PartitionPlan]) -> dict[str, int]:
    return {one.key: one.end for one in partitions if one.end is not None}
