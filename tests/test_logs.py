"""Logs are lines, whoever else writes to the same place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
import structlog
from structlog.testing import CapturingLogger

from dataflow.commands.run import _Heartbeat
from dataflow.job.status import PartitionStatus, Report, Running, Status, Work
from dataflow.logs import configure_logs


class Writes(io.StringIO):
    """Remembers each write on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def write(self, text: str) -> int:
        self.all.append(text)
        return len(text)


@pytest.fixture
def written() -> Iterator[list[str]]:
    """Say what is written on standard error, write by write, after a call of `logging_to`."""
    yield []
    structlog.reset_defaults()


def logging_to(written: list[str], level: str) -> structlog.stdlib.BoundLogger:
    stream = Writes()
    stream.all = written
    with redirect_stderr(stream):
        configure_logs(level, "json")
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


def test_a_line_is_written_at_once_so_that_those_of_several_processes_do_not_mix(written: list[str]) -> None:
    log = logging_to(written, "info")
    log.info("one", process=0)
    log.warning("two", error="a\nb")
    assert len(written) == 2
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in written)
    assert [json.loads(line)["event"] for line in written] == ["one", "two"]


def test_what_is_below_the_level_is_not_said(written: list[str]) -> None:
    logging_to(written, "warning").info("quiet")
    assert written == []


def test_an_idle_job_says_nothing_and_one_with_lag_does() -> None:
    now_s = 0.0
    log = CapturingLogger()
    heartbeat = _Heartbeat(log, lambda: now_s)
    running = Running()

    def said_after_10_s(**work: int) -> dict[str, object] | None:
        nonlocal now_s
        now_s += 10
        lag = work.pop("lag", 0)
        partitions = {"e-0": PartitionStatus(1, lag, 0, 0.0), "e-1": PartitionStatus(1, None, 0, 0.0)}
        running.take(Report(0.0, Status(0, 0.0, work=Work(**work), partitions=partitions)))
        before = len(log.calls)
        heartbeat(running)
        return log.calls[-1].kwargs if len(log.calls) > before else None

    assert said_after_10_s() is None
    said = said_after_10_s(records=50, actions=3)
    assert said == {"events": 50, "events_per_second": 5, "actions": 3, "dead_letters": 0, "lag": 0}
    assert said_after_10_s(records=50, actions=3) is None
    assert said_after_10_s(records=50, actions=4) is not None, "a wait has ended"
    assert said_after_10_s(records=50, actions=4, lag=7) is not None, "it stands still with work ahead"
    said = said_after_10_s(records=60, actions=4)
    assert said is not None
    assert said["events_per_second"] == 1, "the idle time before does not count"
