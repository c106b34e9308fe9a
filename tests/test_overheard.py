"""What libraries write past the log becomes lines of it, and a job that fails says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from dataflow.job.overheard import Overheard
from dataflow.job.processes import JobRunner
from dataflow.job.status import Report, Status

PANIC = b"\nthread '<unnamed>' panicked at src/worker.rs:1:\nSend thread panic\nnote: run with `RUST_BACKTRACE=1`\n"


def heard(*written: bytes, exit_status: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Return what is logged of a process that writes that and ends."""
    reading, writing = os.pipe()
    log = CapturingLogger()
    overheard = Overheard(3, os.fdopen(reading, "rb"), log)  # type: ignore[arg-type]
    for one in written:
        os.write(writing, one)
    os.close(writing)
    overheard.end(exit_status)
    return [(call.method_name, call.kwargs) for call in log.calls]


def test_a_traceback_is_one_line_of_the_log() -> None:
    text = b'Traceback (most recent call last):\n  File "a", line 1\nValueError: x\n'
    assert heard(text[:20], text[20:]) == [("warning", {"process": 3, "text": text.decode().strip()})]


def test_that_processes_wait_for_one_another_is_nothing_to_hear_of() -> None:
    line = b"worker 1:\terror connecting to worker 0: Connection refused (os error 111); retrying\n"
    assert [level for level, _ in heard(line * 9)] == ["debug"]
    assert [level for level, _ in heard(line + b"something else\n" + line)] == ["debug", "warning"]


@pytest.mark.parametrize(("exit_status", "level"), [(1, "debug"), (-6, "error")])
def test_a_panic_is_said_if_the_process_could_not_say_why_it_ended(exit_status: int, level: str) -> None:
    assert [one for one, _ in heard(PANIC, exit_status=exit_status)] == [level]


def test_what_is_no_text_and_has_no_end_is_heard_too() -> None:
    ((level, said),) = heard(b"\xff\xfe half a line")
    assert (level, said["text"]) == ("warning", "\ufffd\ufffd half a line")
    assert heard(b"\n \n") == []


def test_what_a_process_writes_past_the_log_does_not_fill_its_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stderr.write('x' * 1_000_000)"], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    log = CapturingLogger()
    overheard = Overheard(0, process.stderr, log)  # type: ignore[arg-type]
    assert process.wait(timeout=60) == 0
    overheard.end(0)
    assert sum(len(call.kwargs["text"]) for call in log.calls) == 1_000_000


# ---- why a job failed ----------------------------------------------------------------------------------------------


@pytest.fixture
def why() -> Callable[..., str]:
    """Give what says why a job failed, of its exit statuses and what the processes have said before."""

    def say(*states: int | None, **said: Status) -> str:
        runner = JobRunner(SimpleNamespace(processes=len(states)), structlog.get_logger())  # type: ignore[arg-type]
        for status in said.values():
            runner.running.take(Report(1.0, status))
        return str(runner._failed(list(states)))

    return say


AGAIN = "start it again to go on from the last checkpoint"


def test_the_process_that_knows_why_is_heard_and_not_those_that_it_took_with_it(why: Callable[..., str]) -> None:
    knows = Status(1, 1.0, why="SinkError: Kafka at k:9092 did not acknowledge 3 records within 60 s")
    assert why(1, 1, None, one=Status(0, 1.0), two=knows) == f"process 1: {knows.why}; {AGAIN}"


def test_a_process_that_was_killed_is_named_and_not_those_that_it_took_with_it(why: Callable[..., str]) -> None:
    assert why(1, -9, 1) == f"process 1 ended with signal SIGKILL, as a limit on memory does; {AGAIN}"
    assert why(None, -11) == f"process 1 ended with signal SIGSEGV; {AGAIN}"


def test_where_nobody_knows_why_each_is_named(why: Callable[..., str]) -> None:
    assert why(1, 0, 1) == f"process 0 ended with status 1; process 2 ended with status 1; {AGAIN}"


def test_a_start_that_would_not_help_yet_is_not_asked_for(why: Callable[..., str]) -> None:
    full = [Status(n, 1.0, why="the disk of /st is full", first="make room on the disk") for n in (0, 1)]
    assert why(1, 1, one=full[0], two=full[1]) == (
        f"process 0: the disk of /st is full; process 1: the disk of /st is full; make room on the disk, then {AGAIN}"
    )
