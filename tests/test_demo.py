"""The demo in one piece: actions are delivered, receipts come back, flows go on, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from dataflow.demo import FLOWS
from dataflow.demo.run import Demo, start_of_shop
from operators.language.values import DAY, HOUR
from tests.jobs import NUDGE, REPO

Json = dict[str, Any]
PATIENCE_S = 150  # A demo on a busy machine takes its time.


def until(is_so: Callable[[], object], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


def children(pid: int) -> dict[str, int]:
    """Return the demo's processes by what they are: the job's, those of delivery, and the providers."""
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    found = {}
    for line in listed.stdout.splitlines():
        number, _, command = line.strip().partition(" ")
        for name in ("dataflow.job.process", "dataflow.cli deliver", "dataflow.cli gateway", "demo.providers"):
            if name in command:
                found[name.rpartition(" ")[2]] = int(number)
    return found


def is_there(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- what is delivered ---------------------------------------------------------------------------------------------


class Reader:
    """What is on topics of the demo's broker."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "log_level": 0})
        self._partitions: list[TopicPartition] = []

    def assign(self, *topics: str) -> None:
        there = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in topics for number in there[topic].partitions]
        )

    def read(self) -> Iterator[tuple[str, Json]]:
        for message in self._consumer.consume(5_000, 0.5):
            if message.error() is None:
                with suppress(ValueError):
                    value = json.loads(message.value())
                    if isinstance(value, dict):
                        yield message.topic(), value

    def close(self) -> None:
        self._consumer.close()


@pytest.mark.timeout(300)
def test_receipts_come_back_flows_go_on_and_another_channel_is_taken_where_one_fails() -> None:
    demo = Demo(30, [FLOWS], 4.0)  # Slow, so that a busy machine keeps up.
    actions: dict[str, Json] = {}
    receipts: dict[str, set[str]] = {}
    journal: dict[tuple[str, int], Json] = {}
    moved: dict[str, Json] = {}
    instead: dict[str, Json] = {}

    def has_all() -> bool:
        assert demo.failure == ""
        for topic, one in reader.read():
            if topic.startswith("actions."):
                actions[one["action_id"]] = one
                if one["cause"]["event"] == "$push_failed":
                    instead[one["user_id"]] = one
            elif topic == "journal":
                journal[one["user_id"], one["seq"]] = one
                if (one["kind"], one.get("reason")) == ("moved", "delivered") and one["flow"] != "after-purchase":
                    moved[one["user_id"]] = one
            elif "action_id" in one:
                receipts.setdefault(one["action_id"], set()).add(one["status"])
        statuses = set().union(*receipts.values())
        return bool(moved) and bool(instead) and {"accepted", "rejected", "delivered", "failed"} <= statuses

    demo.start()
    reader = Reader(demo.bootstrap)
    try:
        reader.assign("events", "journal", *(f"actions.{channel}" for channel in ("sms", "email", "push")))
        until(has_all, lambda: (len(actions), {one: tally.statuses for one, tally in demo.tallies.items()}))
        until(
            lambda: demo.tallies["push"].moved and demo.tallies["email"].instead, lambda: "the picture has not seen it"
        )
    finally:
        reader.close()
        demo.stop()
    assert demo.failure == ""
    for one in instead.values():
        failed = [
            other for other in actions.values() if other["user_id"] == one["user_id"] and other["channel"] == "push"
        ]
        assert one["channel"] == "email"
        assert any("failed" in receipts.get(other["action_id"], ()) for other in failed), (
            "it follows a push that failed"
        )
    for one in moved.values():
        before = journal[one["user_id"], one["seq"] - 1]
        assert (before["kind"], before["reason"]) == ("receipt", "delivered")
        assert before["journey_id"] == one["journey_id"]
    tallies = demo.tallies
    assert {"accepted", "delivered", "failed"} <= tallies["push"].statuses.keys()
    assert {"accepted", "rejected", "delivered"} <= tallies["email"].statuses.keys(), "reported through the gateway"


@pytest.mark.parametrize("now_ms", [0, 1, 11 * HOUR, 12 * HOUR, 23 * HOUR, DAY - 1, 20_700 * DAY + 13 * HOUR])
def test_the_time_of_the_shop_is_ahead_of_the_day_and_begins_at_the_same_hour(now_ms: int) -> None:
    start_ms = start_of_shop(now_ms)
    assert now_ms + 12 * HOUR < start_ms <= now_ms + 36 * HOUR
    assert start_ms % DAY == 12 * HOUR


# ---- how it ends ---------------------------------------------------------------------------------------------------


class Running:
    """A `nudge demo` with its processes."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.folders = folder / "tmp"
        self.folders.mkdir()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*NUDGE, "demo"], cwd=REPO, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(self.folders)}
            )
        until(lambda: len(children(self.process.pid)) == 4 or self.process.poll() is not None, self.log.read_text)
        self.children = children(self.process.pid)
        assert len(self.children) == 4, self.log.read_text()

    def left(self) -> list[str]:
        return [name for name, pid in self.children.items() if is_there(pid)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    one.process.kill()
    one.process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_leaves_nothing_behind(running: Running, how: signal.Signals) -> None:
    running.process.send_signal(how)
    assert running.process.wait(timeout=60) == 0, running.log.read_text()
    assert running.left() == []
    assert list(running.folders.iterdir()) == []
    said = running.log.read_text()
    assert said.splitlines()[-5].startswith("channel  "), said
    assert "Traceback" not in said


@pytest.mark.timeout(300)
def test_killed_it_leaves_no_process_behind(running: Running) -> None:
    running.process.kill()
    until(lambda: not running.left(), running.left)


@pytest.mark.timeout(300)
def test_where_a_part_of_it_dies_it_ends_and_says_so(running: Running) -> None:
    os.kill(running.children["deliver"], signal.SIGKILL)
    assert running.process.wait(timeout=60) == 1
    assert "nudge demo: `nudge deliver` has ended with status -9" in running.log.read_text()
    assert running.left() == []
