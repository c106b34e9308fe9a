"""The parent of the job: starts its processes, sees that they stop and fail together, and exchanges them.

What they are to do is decided in `dataflow/job/lifecycle.py`; this is the world in which that takes place. An exchange
is how other flows, or more partitions, are taken in: the new processes load and compile while the old ones work; these
finish their epoch and stop, and the new ones are told to go on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import msgspec

from connectors.sinks import Sink
from dataflow.job.launch import Launched, launch
from dataflow.job.lifecycle import Change, Course, Job, check_flows
from dataflow.job.lookout import Lookout, Reread
from dataflow.job.outside import Throttled, open_sink
from dataflow.job.overheard import Overheard
from dataflow.job.plan import Plan, topics_of
from dataflow.job.risks import risks_of, settings_by
from dataflow.job.silence import ProcessState, SilenceLog
from dataflow.job.status import PREPARED, STARTING, Running, load_report
from dataflow.job.stopping import NOT_BEGUN_STATUS
from dataflow.keep.recovery import Cut, forget_unfinished, last_cut, prepare_recovery
from dataflow.keep.statedir import RESTORE, STATE_FILE, StateDir, read_state_file
from dataflow.logs import Log
from dataflow.read.clock import wall_clock_ms
from dataflow.read.discovery import PartitionPlan, TopicWatch, offsets_at, partitions_of
from operators.machine.totals import Totals, add_totals
from state.backend import Backend
from state.errors import Failed, Refused, StateRefused
from state.registerfile import RegisterFile, open_register, remove_register
from state.rocks import RocksBackend

RISKS_PAGE: Final = "docs/operations.md#risky-ways-to-run"
LAST_WORDS_S: Final = 1.0
STOP_PATIENCE_S: Final = 60.0  # So long may an epoch take to finish before a process is killed.
PREPARE_PATIENCE_S: Final = 120.0  # So long may new processes take to load, beside the old ones, before we give up.


class JobFailed(Failed):
    """A process of the job died, or did not stop in time."""


class _Child(NamedTuple):
    """A process that was started, the pipe on which it will report, and what it says besides."""

    process: subprocess.Popen[bytes]
    reading: int
    overheard: Overheard


class JobRunner:
    """Runs a job from its start to its end.

    Args:
        on_status: called when a process has reported.
        reread: reads the flows of the job anew, for when they change while it runs; None: they do not.
        launched: a process that was started before the job was known.
    """

    def __init__(
        self,
        job: Job,
        log: Log,
        on_status: Callable[[Running], None] = lambda _: None,
        reread: Reread | None = None,
        *,
        launched: Launched | None = None,
    ) -> None:
        self.job = job
        self.log = log
        self.running = Running()
        self.stopping = threading.Event()
        self.has_begun = False
        self._begins = threading.Lock()
        self.is_ready = False
        self._has_said_running = False
        self._on_status = on_status
        self._launched = launched
        self._processes = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._started_s = 0.0
        self._silence = SilenceLog(log)
        self._shards_to_open = 0
        self._ready: list[_Child] = []  # Started, and waiting for a plan.
        self._lookout = Lookout(log, reread, self._check, self._added)
        self._topic_watch: TopicWatch | None = None
        self._change: Change | None = None  # What is being prepared, or waits for the old processes to stop.
        self._awaited: list[_Child] = []  # Those that are to be ready before it is made.
        self._prepared_by_s = 0.0
        self._is_exchanging = False  # The processes were asked to stop, and others are to take over.
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._has_warned = False

    # ---- from the start to the end -----------------------------------------------------------------------------

    def run(self) -> Running:
        """Run until the end of the sources, or until `stop`.

        Raises:
            UsageError: the state, a source or the flows do not fit; nothing was changed.
            JobFailed: a process died.
        """
        if self.stopping.is_set():
            return self.running
        if self.job.state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="nudge-state-")
            root = Path(self._temporary.name)
        else:
            root = self.job.state
        state = self._state = StateDir(root)
        state.create_folders()
        self.place, self.files, self.progress = str(root), state.files, state.progress
        state.acquire()
        try:
            # They take a while to load, and so does what has to be found out before they can be told what to do. More
            # than the cores can load at once are no use, and what was asked for has not been looked at yet.
            for index in range(min(self.job.processes, os.cpu_count() or 1)):
                self._ready.append(self._start(index))
            Course(self.job, self.log, self).run()
        finally:
            self._lookout.close()
            if self._topic_watch is not None:
                self._topic_watch.close()
            self._drop_ready()
            state.release()
            if self._temporary is not None:
                self._temporary.cleanup()
        return self.running

    def stop(self) -> None:
        """Ask all processes to finish their epoch and stop; from then on nothing begins. For any thread."""
        with self._begins:
            if self.has_begun and not self.stopping.is_set():
                self.log.info("stopping: the epoch is being finished")
            self.stopping.set()
        self._stop_children()

    def _stop_children(self) -> None:
        for child in list(self._children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    def abandon(self) -> None:
        """End all processes at once, as a crash would; for any thread. Ours is to end next."""
        for child in [*self._children, *(child.process for child in self._ready)]:
            child.kill()
            child.wait()
        if self._launched is not None:
            self._launched.abandon()
        if self._temporary is not None:
            self._temporary.cleanup()

    def reload(self) -> None:
        """Ask for the flows to be read anew, and put in force if they are good. May be called by a signal."""
        self._lookout.ask()

    @property
    def reloads(self) -> dict[str, int]:
        """How often changed flows were put in force, and how often refused, since the start."""
        return self._lookout.results.copy()

    @property
    def is_refusing(self) -> bool:
        """Whether the flows that were read last could not be put in force."""
        return self._lookout.is_refusing

    def process_states(self) -> list[ProcessState]:
        """Return the processes of this execution, as of a moment ago, in their order; for any thread."""
        started_s, heard_s = self._started_s, self.running.heard_s
        return [
            ProcessState(child.pid, child.returncode, started_s, max(started_s, heard_s(index)))
            for index, child in enumerate(list(self._children))
        ]

    # ---- the world in which the course of a run takes place: see `World` in `dataflow/job/lifecycle.py` ------------

    def open_sink(self) -> Sink:
        job = self.job
        return open_sink(job.sink, job.kafka, create=job.create_topics, log=Throttled(self.log.warning))

    def last_cut(self) -> Cut:
        state = self._state
        if (state.root / STATE_FILE).exists() and not any(state.recovery.glob("*.sqlite3")):
            raise StateRefused(f"{state.recovery} is empty: {RESTORE}")
        prepare_recovery(state.recovery)
        forget_unfinished(state.recovery)
        cut = last_cut(state.recovery)
        file = read_state_file(state.files)
        for number, key in enumerate(file.keys.names if file is not None else ()):
            commit, *_ = cut.shards.get(key, [0])
            if commit and not state.shard(number).is_dir():
                raise StateRefused(f"{state.shard(number)} is missing: {RESTORE}")
        return cut

    def backend(self, shard: int) -> Backend | None:
        path = self._state.shard(shard)
        return RocksBackend(path) if path.exists() else None

    def register(self, job: str, *, make: bool) -> RegisterFile | None:
        path = self._state.register
        return open_register(path, job) if make or path.exists() else None

    def drop_register(self) -> None:
        remove_register(self._state.register)

    def now_ms(self) -> int:
        return wall_clock_ms()

    def new_job_id(self) -> str:
        return uuid4().hex

    def is_stopping(self) -> bool:
        return self.stopping.is_set()

    def partitions(self) -> list[PartitionPlan]:
        job = self.job
        return partitions_of(
            job.sources, job.kafka, up_to_now=job.stop_at_end, slack_ms=job.slack_ms, log=self.log.warning
        )

    def offsets_at(self, partitions: Sequence[PartitionPlan], at_ms: int) -> list[int]:
        return offsets_at(partitions, at_ms, self.job.kafka, self.log.warning)

    def change(self) -> Change | None:
        if self.stopping.is_set() or not self._is_exchanging:
            return None
        return self._change

    def accept(self, job: Job) -> None:
        self._lookout.settle()
        self.job = job

    def refuse(self, error: Refused) -> None:
        self._lookout.settle(error)

    # ---- processes ---------------------------------------------------------------------------------------------

    def execute(self, plan: Plan) -> bool:
        """Run *plan* in its processes until all have ended; tell whether they left undone what is due.

        Does nothing if the run was asked to stop before.

        Raises:
            JobFailed: one died; then all are ended.
            StateRefused: one found the state to be none to go on from.
        """
        with self._begins:
            if self.stopping.is_set():
                return True
            self.has_begun = True
        self.running.end_execution(goes_on=self._is_exchanging)
        self._change, self._is_exchanging = None, False
        self._processes = plan.processes
        self._shards_to_open = 0 if plan.finishes_a_run else plan.shards  # Where a dead run is finished, none counts.
        plan.addresses = _free_addresses(plan.processes)
        data = plan.dump()
        self._children, self._started_s = [], time.monotonic()
        self._readers = []
        overheard = []
        for index in range(plan.processes):
            child = self._ready.pop(0) if self._ready else self._start(index)
            _send(child.process, data)
            self._children.append(child.process)
            overheard.append(child.overheard)
            reader = threading.Thread(target=self._listen, args=(index, child.reading), daemon=True)
            reader.start()
            self._readers.append(reader)
        if self.stopping.is_set():
            self.stop()
        if not plan.finishes_a_run:  # That one has to come to its end.
            self._lookout.watch(self.job, plan)
            self._warn(plan)
        try:
            self._wait(plan)
        finally:
            self._hear_out()
            for process, heard in zip(self._children, overheard, strict=True):
                heard.end(process.returncode or 0)
            refusals = [status.refusal for status in self.running.statuses if status.refusal]
            if refusals:
                raise StateRefused(f"--state {self.place}: {refusals[0]}")
        statuses = self.running.statuses
        return len(statuses) < plan.processes or any(status.due_left for status in statuses)

    def _warn(self, plan: Plan) -> None:
        """Say once, while the processes begin, which ways to run this job has that somebody may regret."""
        if not self._has_warned:
            self._has_warned = True
            for risk in risks_of(self.job, plan, settings_by(self.job.kafka)):
                self.log.warning(risk, see=RISKS_PAGE)

    def _start(self, index: int) -> _Child:
        """Start a process, which waits for its plan."""
        child, self._launched = self._launched or launch(index), None
        assert child.process.stderr is not None
        overheard = Overheard(index, child.process.stderr, self.log)
        return _Child(child.process, child.lend_lock(self._state.lock_file), overheard)

    def _drop_ready(self) -> None:
        for child in self._ready:  # They have not been told to do anything, so they have done nothing.
            child.process.kill()
            child.process.wait()
            with suppress(OSError):
                child.process.stdin.close()  # type: ignore[union-attr]
            os.close(child.reading)
        self._ready = []

    def _listen(self, index: int, pipe: int) -> None:
        # Of a process that was killed before it read what it was sent, the channel says that it was reset.
        with os.fdopen(pipe, "rb") as lines, suppress(ConnectionResetError):
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # It was killed while it wrote.
                if line == PREPARED:
                    continue  # By now nobody waits for that.
                if line == STARTING:
                    self.running.hear(index, time.monotonic())
                    continue
                self.running.take(load_report(line))
                self.is_ready = self.is_ready or len(self.running.reports) == self._processes
                if not self._has_said_running and 0 < self._shards_to_open <= self.running.open_shards:
                    self._has_said_running = True
                    self.log.info("running")
                self._on_status(self.running)

    def _wait(self, plan: Plan) -> None:
        stopping_since: float | None = None
        while True:
            states = [child.poll() for child in self._children]
            if NOT_BEGUN_STATUS in states:  # The others wait for it, so they have not begun either.
                self._end_all()
                self.has_begun = False
                return
            if any(state not in (None, 0) for state in states):
                raise self._failed(self._end_all())
            if all(state == 0 for state in states):
                return
            self._silence.look(self.process_states(), time.monotonic())
            if self.stopping.is_set() or self._is_exchanging or any(state == 0 for state in states):
                stopping_since = stopping_since or time.monotonic()
                if time.monotonic() - stopping_since > max(STOP_PATIENCE_S, 2 * plan.epoch_s):
                    self._end_all()
                    raise JobFailed("the job did not stop in time and was ended; start it again to go on")
            elif self._change is not None or (change := self._lookout.take()) is None:
                self._await_prepared(plan)
            else:
                self._prepare(change, plan)
            time.sleep(0.02)

    # ---- exchange ----------------------------------------------------------------------------------------------

    def _prepare(self, change: Change, plan: Plan) -> None:
        """Start new processes, which load and compile beside those that work."""
        self._change = change
        self.log.info("preparing an exchange of the processes", processes=plan.processes)
        loaded = change.job.loaded
        flows = [(text.file, text.text) for text in loaded.checked.texts.values()]
        draft = msgspec.structs.replace(plan, flows=flows, workspace=loaded.workspace_text, is_draft=True)
        data = draft.dump()
        self._drop_ready()  # Loaded, perhaps, with other flows.
        for index in range(plan.processes):
            child = self._start(index)
            self._ready.append(child)
            # It takes a while until it reads, and a pipe does not hold much.
            threading.Thread(target=_send, args=(child.process, data), kwargs={"more": True}, daemon=True).start()
        self._awaited = list(self._ready)
        self._prepared_by_s = time.monotonic() + PREPARE_PATIENCE_S

    def _await_prepared(self, plan: Plan) -> None:
        """Ask the old processes to stop once the new ones are prepared; give up if one of these does not get there."""
        if self._change is None:
            return
        for child in list(self._awaited):
            if select.select([child.reading], [], [], 0)[0]:
                if not _is_prepared(child.reading):
                    status = _status(child.process.wait())
                    self._give_up(plan, f"a new process ended with {status} before it could take over")
                    return
                self._awaited.remove(child)
        if not self._awaited:
            self.log.info("the new processes are prepared; the old ones finish their epoch")
            self._is_exchanging = True
            self._stop_children()
        elif time.monotonic() > self._prepared_by_s:
            self._give_up(plan, f"the new processes were not prepared within {PREPARE_PATIENCE_S:.0f} s")

    def _give_up(self, plan: Plan, reason: str) -> None:
        self._change = None
        self._drop_ready()
        self._lookout.settle(JobFailed(reason))
        self._lookout.watch(self.job, plan)

    # ---- for the lookout, in its thread ------------------------------------------------------------------------

    def _check(self, job: Job) -> None:
        """Raise what speaks against putting the flows of *job* in force, as far as it can be told while others run."""
        file = read_state_file(self.files)
        assert file is not None
        check_flows(job.loaded, file, self._totals)
        sink = self.open_sink()
        try:
            sink.open_topics(topics_of(job.loaded.deployment))
        finally:
            sink.close()

    def _totals(self) -> Totals:
        found: Totals = {}
        for status in self.running.statuses:
            add_totals(found, status.totals)
        return found

    def _added(self, known: list[PartitionPlan]) -> list[PartitionPlan]:
        """Return the partitions that the source topics have gained."""
        if self._topic_watch is None:
            self._topic_watch = TopicWatch(self.job.sources, self.job.kafka)
        keys = {one.key for one in known}
        if not self._topic_watch.has_more_than(keys):
            return []
        return [one for one in self.partitions() if one.key not in keys]

    def _failed(self, states: list[int | None]) -> JobFailed:
        """Return why the job failed, whose processes ended with *states*; None for one that had to be ended.

        The first to fail takes the others with it, and these can only say that they have ended.
        """
        self._hear_out()
        said = {status.process: status for status in self.running.statuses if status.why}
        whys = [f"process {index}: {status.why}" for index, status in said.items()]
        ended = {index: _status(state) for index, state in enumerate(states) if state and index not in said}
        by_signal = {index: text for index, text in ended.items() if (states[index] or 0) < 0}
        if by_signal or not whys:
            whys += [f"process {index} ended with {text}" for index, text in (by_signal or ended).items()]
        first = "".join(f"{one}, then " for one in dict.fromkeys(one.first for one in said.values() if one.first))
        return JobFailed(f"{'; '.join(whys)}; {first}start it again to go on from the last checkpoint")

    def _hear_out(self) -> None:
        """Wait for the last words of processes that have ended."""
        for reader in self._readers:
            reader.join(timeout=5)

    def _end_all(self) -> list[int | None]:
        """End what has not ended: they fail together. The one that knows why may be a moment behind the others.

        Returns the exit status of each process, None for one that we had to end.
        """
        deadline = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < deadline and any(child.poll() is None for child in self._children):
            time.sleep(0.02)
        states = [child.poll() for child in self._children]
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.wait()
        return states


def _is_prepared(reading: int) -> bool:
    """Read what a new process says, and tell whether that is that it is prepared: else it has died."""
    try:
        return os.read(reading, len(PREPARED)) == PREPARED
    except ConnectionResetError:  # It was killed before it read what it was sent.
        return False


def _send(child: subprocess.Popen[bytes], data: bytes, *, more: bool = False) -> None:
    """Give a process a plan; *more* tells whether another one will follow."""
    assert child.stdin is not None
    try:
        child.stdin.write(data)
        child.stdin.flush()
        if not more:
            child.stdin.close()
    except BrokenPipeError:
        pass  # It died at once; `_wait` says how.


def _status(code: int | None) -> str:
    if code is not None and code < 0:
        hint = ", as a limit on memory does" if -code == signal.SIGKILL else ""
        return f"signal {signal.Signals(-code).name}{hint}"
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
