"""Logs are lines, whoever else writes to the same place."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

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
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    stream = Writes()
    monkeypatch.setattr(sys, "stderr", stream)
    yield stream.all
    structlog.reset_defaults()


def test_a_line_is_written_at_once_so_that_those_of_several_processes_do_not_mix(written: list[str]) -> None:
    configure_logs("info", "json")
    log = structlog.get_logger()
    log.info("one", process=0)
    log.warning("two", error="a\nb")
    assert len(written) == 2
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in written)
    assert [json.loads(line)["event"] for line in written] == ["one", "two"]


def test_what_is_below_the_level_is_not_said(written: list[str]) -> None:
    configure_logs("warning", "json")
    structlog.get_logger().info("quiet")
    assert written == []
