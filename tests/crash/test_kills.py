"""A job that is killed again and again emits what `simulate` computes, each record exactly once."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from dataflow.demo import FLOWS
from dataflow.demo.shop import Shop
from tests.jobs import Emitted, RunningJob, on_kafka, run_with_kills, simulated
from tests.kafka.broker import KafkaTopics
from tests.test_run import UNTIL, fill

KILLS = 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(FLOWS, folder / "flows")
    Shop(seed=5, users=1500).write_jsonl(folder / "events.jsonl", 30_000)
    return folder


@pytest.mark.kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("processes", "seed"), [("1", 11), ("2", 12)])
def test_every_action_is_on_the_sink_exactly_once_after_kills(
    broker: KafkaTopics, topic_prefix: str, shop: Path, tmp_path: Path, processes: str, seed: int
) -> None:
    expected = simulated(shop / "flows", shop / "events.jsonl", tmp_path, until=UNTIL)
    assert len(expected.actions) > 100, "nothing can be lost where nothing is expected"
    fill(broker, f"{topic_prefix}events", shop / "events.jsonl", 4)
    command: list[str | Path] = [
        shop / "flows",
        "--source", f"kafka://{broker.bootstrap}/{topic_prefix}events",
        "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}",
        "--state", tmp_path / "state", "--stop-at-end", "--until", UNTIL, "--processes", processes, "--epoch", "1s",
    ]  # fmt: skip
    chance = random.Random(seed)
    killed = run_with_kills(command, tmp_path / "log", chance, kills=KILLS, within_s=(1.5, 6.0))
    found = on_kafka(broker, topic_prefix)
    differences = Emitted(found.actions, found.journal, []).differences(Emitted(expected.actions, expected.journal, []))
    assert differences == [], f"seed {seed}, {killed} kills: {differences}"
    assert killed > 0


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_flows_that_change_after_a_crash_take_over_only_behind_what_the_dead_run_had_decided(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    """Nobody gets the old message and the new one for the same event."""
    flows = tmp_path / "flows"
    flows.mkdir()
    text = "flow: hello\nversion: {0}\ntrigger: {{event: hello}}\nsteps: [{{send: webhook, template: v{0}}}]\n"
    (flows / "v1.yaml").write_text(text.format(1))
    users = [f"u{number}" for number in range(4000)]
    broker.create_topic(f"{topic_prefix}events", 2)
    broker.produce(
        f"{topic_prefix}events",
        [(user.encode(), b'{"user_id": "%s", "event": "hello"}' % user.encode(), 1_795_435_200_000) for user in users],
    )
    command: list[str | Path] = [
        flows, "--source", f"kafka://{broker.bootstrap}/{topic_prefix}events",
        "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}",
        "--state", tmp_path / "state", "--epoch", "60s",
    ]  # fmt: skip
    job = RunningJob(command, tmp_path / "log")
    topic = f"{topic_prefix}actions.webhook"
    from tests.test_run import wait_until

    wait_until(lambda: topic in broker.topics(topic_prefix) and sum(broker.end_offsets(topic).values()) > 0)
    job.kill()
    (flows / "v2.yaml").write_text(text.format(2))
    RunningJob([*command, "--stop-at-end"], tmp_path / "log").wait()
    found = on_kafka(broker, topic_prefix)
    assert sorted(action["user_id"] for action in found.actions) == sorted(users)
    entered = {record["user_id"]: record["version"] for record in found.journal if record["kind"] == "entered"}
    assert {action["user_id"]: action["version"] for action in found.actions} == entered
