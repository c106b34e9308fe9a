"""The parent of the job: starts its processes, and sees that they stop and fail together.

What they are to do is decided in `dataflow/job/lifecycle.py`; this is the world in which that takes place.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from connectors.sinks import Sink
from dataflow.job.launch import Launched, launch
from dataflow.job.lifecycle import Course, Job
from dataflow.job.outside import Throttled, open_sink
from dataflow.job.plan import Plan
from dataflow.job.status import Running, load_report
from dataflow.keep.recovery import Cut, forget_unfinished, last_cut, prepare_recovery
from dataflow.keep.statedir import RESTORE, STATE_FILE, StateDir
from dataflow.logs import Log
from dataflow.read.discovery import PartitionPlan, partitions_of
from state.backend import Backend
from state.errors import Failed, StateRefused
from state.rocks import RocksBackend

LAST_WORDS_S: Final = 1.0
STOP_PATIENCE_S: Final = 60.0  # So long may an epoch take to finish before a process is killed.


class JobFailed(Failed):
    """A process of the job died, or did not stop in time."""


class ProcessState(NamedTuple):
    """One process of the job, as the system knows it: `exit_status` is None while it runs."""

    pid: int
    exit_status: int | None


class JobRunner:
    """Runs a job from its start to its end.

    Args:
        on_status: called when a process has reported.
        launched: a process that was started before the job was known.
    """

    def __init__(
        self,
        job: Job,
        log: Log,
        on_status: Callable[[Running], None] = lambda _: None,
        *,
        launched: Launched | None = None,
    ) -> None:
        self.job = job
        self.log = log
        self.running = Running()
        self.stopping = threading.Event()
        self.is_ready = False
        self._on_status = on_status
        self._launched = launched
        self._processes = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._ready: list[tuple[subprocess.Popen[bytes], int]] = []  # Started, and waiting for a plan.
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
            for child, reading in self._ready:  # They have not been told anything, so they have done nothing.
                child.kill()
                child.wait()
                os.close(reading)
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

    def process_states(self) -> list[ProcessState]:
        """Return the processes of this execution, as of a moment ago, in their order; for any thread."""
        return [ProcessState(child.pid, child.returncode) for child in list(self._children)]

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
        for key, (commit, *_) in cut.shards.items():
            if commit and not state.shard(int(key)).is_dir():
                raise StateRefused(f"{state.shard(int(key))} is missing: {RESTORE}")
        return cut

    def backend(self, shard: int) -> Backend | None:
        path = self._state.shard(shard)
        return RocksBackend(path) if path.exists() else None

    def is_stopping(self) -> bool:
        return self.stopping.is_set()

    def partitions(self) -> list[PartitionPlan]:
        job = self.job
        return partitions_of(
            job.sources, job.kafka, up_to_now=job.stop_at_end, slack_ms=job.slack_ms, log=self.log.warning
        )

    # ---- processes ---------------------------------------------------------------------------------------------

    def execute(self, plan: Plan) -> bool:
        """Run *plan* in its processes until all have ended; tell whether they left undone what is due.

        Raises:
            JobFailed: one died; then all are ended.
            StateRefused: one found the state to be none to go on from.
        """
        self.running.end_execution()
        self._processes = plan.processes
        plan.addresses = _free_addresses(plan.processes)
        data = plan.dump()
        self._children = []
        readers = []
        for index in range(plan.processes):
            child, reading = self._ready.pop(0) if self._ready else self._start(index)
            _send(child, data)
            self._children.append(child)
            reader = threading.Thread(target=self._listen, args=(reading,), daemon=True)
            reader.start()
            readers.append(reader)
        if self.stopping.is_set():
            self.stop()
        try:
            self._wait(plan)
        finally:
            for reader in readers:
                reader.join(timeout=5)
            refusals = [status.refusal for status in self.running.statuses if status.refusal]
            if refusals:
                raise StateRefused(f"--state {self.place}: {refusals[0]}")
        return any(status.due_left for status in self.running.statuses)

    def _start(self, index: int) -> tuple[subprocess.Popen[bytes], int]:
        """Start a process, which waits for its plan; return it with the pipe on which it will report."""
        child, self._launched = self._launched or launch(index), None
        return child.process, child.lend_lock(self._state.lock_file)

    def _listen(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # It was killed while it wrote.
                self.running.take(load_report(line))
                if not self.is_ready and len(self.running.reports) == self._processes:
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
        """End what has not ended: they fail together. The one that knows why may be a moment behind the others."""
        deadline = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < deadline and any(child.poll() is None for child in self._children):
            time.sleep(0.02)
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
