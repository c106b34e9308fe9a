"""Partitions and sources that come later: read from where they should be, at no time that has passed, and each once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from dataflow.keep.files import DiskFolder
from dataflow.keep.statedir import StateFile, read_state_file
from tests.jobs import RunningJob, audited, in_folder, on_kafka
from tests.kafka.broker import KafkaTopics
from tests.test_run import refused, wait_until

HELLO = "flow: hello\ntrigger: {event: hello}\nentry: {concurrent: 1000}\nsteps: [{send: webhook, template: t}]\n"
MORNING, NOON = "2026-11-23T08:00:00Z", "2026-11-23T12:00:00Z"


def line(user: str, at: str) -> str:
    return json.dumps({"user_id": user, "event": "hello", "timestamp": at}) + "\n"


def state_file(state: Path) -> StateFile:
    file = read_state_file(DiskFolder(state))
    assert file is not None
    return file


def test_a_file_that_is_added_begins_at_the_time_that_the_job_has_reached(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(HELLO)
    (tmp_path / "a.jsonl").write_text(line("ann", NOON))
    (tmp_path / "b.jsonl").write_text(line("bob", MORNING))
    a, b = (["--source", f"file:{tmp_path / name}.jsonl"] for name in "ab")
    common: list[str | Path] = [
        tmp_path / "hello.yaml", "--sink", f"file:{tmp_path / 'out'}", "--state", tmp_path / "state", "--stop-at-end"
    ]  # fmt: skip
    RunningJob([*common, *a], tmp_path / "log").wait()
    RunningJob([*common, *a, *b], tmp_path / "log").wait()
    at = {action["user_id"]: action["at"] for action in in_folder(tmp_path / "out").actions}
    assert at == {"ann": "2026-11-23T12:00:00.000Z", "bob": "2026-11-23T12:00:00.000Z"}
    file = state_file(tmp_path / "state")
    assert len(file.sources) == 2
    assert list(file.begins) == [f"file:{tmp_path / 'b.jsonl'}"]
    said = refused([*common, *b])
    assert f"file:{tmp_path / 'a.jsonl'} is not among the sources" in said


class Hellos:
    """A job on topics of a real broker that makes an action of every event."""

    def __init__(self, broker: KafkaTopics, prefix: str, folder: Path) -> None:
        self.broker, self.prefix, self.folder = broker, prefix, folder
        (folder / "hello.yaml").write_text(HELLO)
        self.users: list[str] = []
        self.job: RunningJob | None = None

    def start(self, *sources: str, epoch: str = "60s") -> None:
        named = [
            part for one in sources for part in ("--source", f"kafka://{self.broker.bootstrap}/{self.prefix}{one}")
        ]
        self.job = RunningJob(
            [
                self.folder / "hello.yaml", *named, "--sink", f"kafka://{self.broker.bootstrap}?prefix={self.prefix}",
                "--state", self.folder / "state", "--processes", "2", "--epoch", epoch,
            ],
            self.folder / "log",
        )  # fmt: skip

    def create(self, topic: str, partitions: int) -> None:
        self.broker.create_topic(self.prefix + topic, partitions, {"message.timestamp.type": "LogAppendTime"})

    def grow(self, topic: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        (done,) = admin.create_partitions([NewPartitions(self.prefix + topic, partitions)]).values()
        done.result(30)
        wait_until(lambda: self.broker.topics(self.prefix).get(self.prefix + topic) == partitions)
        self.broker._producer = None  # The one that it has knows of no more partitions for minutes.

    def send(self, topic: str, partition: int, count: int = 20, *, matters: bool = True) -> None:
        users = [f"{topic}-{partition}-{len(self.users)}-{number}" for number in range(count)]
        value = b'{"user_id": "%s", "event": "hello"}'
        records = [(user.encode(), value % user.encode(), int(time.time() * 1000)) for user in users]
        self.broker.produce(self.prefix + topic, records, partition=partition)
        if matters:
            self.users += users

    def done(self) -> list[str]:
        return sorted(action["user_id"] for action in on_kafka(self.broker, self.prefix).actions)

    def until_done(self) -> None:
        def all_acted() -> bool:
            assert self.job is not None
            assert self.job.process.poll() is None, self.job.tail()
            return len(self.done()) >= len(self.users)

        wait_until(all_acted)
        assert self.done() == sorted(self.users)

    def begins(self) -> dict[str, tuple[int, int]]:
        return {key.removeprefix(self.prefix): at for key, at in state_file(self.folder / "state").begins.items()}

    def stop(self) -> None:
        assert self.job is not None
        self.job.terminate()
        self.job.wait()
        audited(self.folder / "state")

    def kill(self) -> None:
        assert self.job is not None
        self.job.kill()


@pytest.fixture
def hellos(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> Iterator[Hellos]:
    one = Hellos(broker, topic_prefix, tmp_path)
    yield one
    if one.job is not None:
        one.job.kill()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_partitions_that_come_while_the_job_runs_are_read_from_their_start(hellos: Hellos) -> None:
    """Killed before it has noted how far it read them, it does the same again."""
    hellos.create("events", 2)
    hellos.start("events")
    hellos.send("events", 0)
    hellos.until_done()
    hellos.grow("events", 4)
    began_s = time.monotonic()
    for partition in range(4):
        hellos.send("events", partition)
    hellos.until_done()
    assert time.monotonic() - began_s < 45, "half a minute, and what this machine needs"
    begins = hellos.begins()
    assert set(begins) == {"events-2", "events-3"}
    assert all(offset == 0 and at_ms > 1_700_000_000_000 for offset, at_ms in begins.values())
    hellos.kill()
    hellos.start("events")
    hellos.send("events", 3)
    hellos.until_done()
    assert hellos.begins() == begins
    hellos.stop()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_topic_that_is_added_is_read_from_the_time_that_the_job_has_reached(hellos: Hellos) -> None:
    """After a kill the run that was interrupted is finished without it; and killed again, it begins where it did."""
    chance = random.Random(1)
    hellos.create("events", 2)
    hellos.create("more", 2)
    hellos.send("more", 0, matters=False)
    time.sleep(1.5)
    hellos.start("events", epoch="1s")
    hellos.send("events", 0)
    hellos.send("events", 1)
    hellos.until_done()
    time.sleep(2)
    hellos.kill()
    hellos.send("more", 0)
    hellos.send("more", 1)
    hellos.start("events", "more")
    hellos.until_done()
    begins = hellos.begins()
    assert begins["more-0"][0] == 20
    for _ in range(2):
        hellos.kill()
        hellos.start("events", "more")
        hellos.send("more", 0)
        time.sleep(chance.uniform(0, 2))
    hellos.until_done()
    assert hellos.begins() == begins
    hellos.stop()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_topic_that_is_added_from_its_start_is_read_from_there(hellos: Hellos) -> None:
    hellos.create("events", 1)
    hellos.create("more", 1)
    hellos.send("more", 0)
    hellos.start("events")
    hellos.send("events", 0, matters=False)
    wait_until(lambda: len(hellos.done()) == 20)
    hellos.stop()
    hellos.users += hellos.done()
    hellos.start("events", "more?from=start")
    hellos.until_done()
    assert hellos.begins()["more-0"][0] == 0
    hellos.stop()


def test_what_stands_behind_a_source_is_read() -> None:
    from dataflow.errors import UsageError
    from dataflow.urls import parse_source

    assert parse_source("kafka://host/events?from=start&format=native").from_start
    assert not parse_source("kafka://host/events").from_start
    for url, said in (("kafka://h/e?from=end", "there is from=start"), ("kafka://h/e?form=x", "is not a parameter")):
        with pytest.raises(UsageError, match=said):
            parse_source(url)
