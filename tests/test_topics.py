"""Topics that people have to create: the documentation lists them, and who misses one says the command."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Producer
from structlog.testing import capture_logs

import dataflow.deliver.start
from connectors.kafka import KEPT_TWO_DAYS, STAMPED_BY_BROKER, how_to_create
from connectors.kafka_writer import KafkaWriter
from dataflow.cli import main
from dataflow.gateway.start import Start
from dataflow.logs import get_logger
from tests.gateway.doors import Door
from tests.jobs import REPO

SECTION = (REPO / "docs" / "operations.md").read_text().partition("\n## Topics\n")[2].partition("\n## ")[0]


class Cluster:
    """A broker inside this process, with the topics that it is asked for and no others."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": 0, "partitioner": "murmur2_random"})
        broker = next(iter(self._producer.list_topics("other", timeout=10).brokers.values()))
        self.bootstrap = f"{broker.host}:{broker.port}"

    def create(self, *topics: str) -> None:
        for topic in topics:
            self._producer.list_topics(topic, timeout=10)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(dataflow.deliver.start, "MISSING_S", 0.0)
    return Cluster()


@pytest.fixture
def deliver(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a `nudge deliver` of one channel, to the end."""
    (tmp_path / "nudge.yaml").write_text(
        "channels:\n  push: {deliver: {provider: webhook, url: 'http://127.0.0.1:1', private: true}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return ["deliver", "--source", f"kafka://{cluster.bootstrap}", "--config", "nudge.yaml", "--stop-at-end"]


def test_the_documentation_has_every_topic_and_the_commands() -> None:
    listed = re.findall(r"^\| `([\w.<>-]+)`", SECTION, re.M)
    assert listed[:2] == ["events", "receipts.unmatched"]
    assert set(listed) >= {"actions.<channel>", "dead-letters", "journal"}
    assert SECTION.partition("```sh\n")[2].partition("```")[0].splitlines() == [
        how_to_create("localhost:9092", "events", STAMPED_BY_BROKER),
        how_to_create("localhost:9092", "receipts.unmatched", KEPT_TWO_DAYS),
    ]


def test_deliver_without_a_topic_for_receipts_or_dead_letters_says_the_command_and_begins_nothing(
    cluster: Cluster, deliver: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.create("actions.push")
    assert main(deliver) == 2
    assert f"create it: {how_to_create(cluster.bootstrap, 'events', STAMPED_BY_BROKER)}\n" in capsys.readouterr().err
    cluster.create("events")
    assert main(deliver) == 2
    assert f"create it: {how_to_create(cluster.bootstrap, 'dead-letters')}\n" in capsys.readouterr().err
    assert not Path("nudge-ledger.db").exists()


def test_a_job_without_its_source_says_the_command(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("connectors.kafka.MISSING_S", 0.0)
    (tmp_path / "f.yaml").write_text("flow: f\ntrigger: {event: a}\nsteps: [{send: webhook, template: t}]\n")
    kafka = f"kafka://{cluster.bootstrap}"
    assert main(["run", str(tmp_path / "f.yaml"), "--source", f"{kafka}/gone", "--sink", kafka]) == 2
    assert f"create it first: {how_to_create(cluster.bootstrap, 'gone', STAMPED_BY_BROKER)}" in capfd.readouterr().err


def test_a_gateway_that_misses_topics_says_the_commands_in_its_log_and_when_asked(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nudge.yaml").write_text(
        "channels: {push: {deliver: {provider: webhook, url: 'https://a.example'}}}\n"
        "gateway: {keys: {web: {key: {env: WRITE_KEY}}}, receipts: {push: {secret: {env: WRITE_KEY}}}}\n"
    )
    door = Door(monkeypatch, tmp_path)
    start = Start(f"kafka://{cluster.bootstrap}", "127.0.0.1", 0, tmp_path / "nudge.yaml", "sqlite:ledger.db", "group")
    commands = {
        "events": how_to_create(cluster.bootstrap, "events", STAMPED_BY_BROKER),
        "receipts.unmatched": how_to_create(cluster.bootstrap, "receipts.unmatched", KEPT_TWO_DAYS),
    }

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        writer = KafkaWriter(cluster.bootstrap, {})
        await start._say_what_is_missing(writer, set(commands), get_logger())
        return await client.get("/readyz")

    door.create = start._command
    door.broker.gone = ["events"]
    with capture_logs() as said:
        answer = door.ask(ask)
    assert {one["topic"]: one["create"] for one in said} == commands
    assert (answer.status_code, answer.text) == (503, f"there is no topic events; create it: {commands['events']}\n")
