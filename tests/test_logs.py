"""Logs are lines, whoever else writes to the same place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
import structlog

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
