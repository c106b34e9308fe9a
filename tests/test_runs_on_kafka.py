"""Runs over audiences on a real Kafka: several partitions and processes, kills, and `now` on a job that goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from state.iso import format_ms
from tests.jobs import Emitted, RunningJob, audited, on_kafka, run_with_kills, simulated
from tests.kafka.broker import KafkaTopics
from tests.test_run import wait_until

START = 1_795_435_200_000  # 2026-11-23T12:00:00Z
MINUTE = 60_000
PARTITIONS = 3
UNTIL = "2026-11-24T00:00:00Z"
FLOWS = """
flow: plain
priority: 1
trigger: {audience: [vip, gold], schedule: {every: 20m, from: 2026-11-23T00:00:00, runs: 5}}
entry: {concurrent: 3}
steps: [{wait: 15m}, {send: webhook, template: plain, vars: {n: "{{ entry.n }}"}}, {wait: 30m}]
---
flow: picky
trigger: {audience: [vip, gold], schedule: {cron: "*/10 * * * *"}, skip_unchanged: true}
entry: {concurrent: 2}
steps: [{send: sms, template: picky, to: "1"}, {wait: 5m}]
---
flow: once
trigger: {audience: gold, schedule: {now: true}}
steps: [{send: webhook, template: once}]
---
flow: event
trigger: {event: view}
steps: [{wait: 10m}, {audience: {add: [gold], remove: [vip]}}]
"""


def write_flows(folder: Path, text: str) -> Path:
    flows = folder / "flows"
    flows.mkdir()
    for number, one in enumerate(text.split("---\n")):
        (flows / f"{number}.yaml").write_text(one)
    return flows


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_runs_of_two_processes_are_those_of_a_simulation_through_kills(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    chance = random.Random(7)
    flows = write_flows(tmp_path, FLOWS)
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, PARTITIONS)
    now = START
    lines = []
    by_partition: dict[int, list[tuple[bytes, bytes, int]]] = {}
    for number in range(1500):
        now += chance.choice([0, 0, 1, 1000, chance.randint(0, MINUTE // 4)])
        user = chance.randrange(300)
        kind = chance.choices(["join", "leave", "view", "updated"], [10, 2, 4, 0.2])[0]
        record: dict[str, object] = {"user_id": f"u{user}", "message_id": f"m{number}", "timestamp": format_ms(now)}
        if kind == "view":
            record["event"] = "view"
        elif kind == "updated":
            record = {"audience": chance.choice(["vip", "gold"]), "updated": True, "timestamp": format_ms(now)}
        else:
            record |= {"audience": chance.choice(["vip", "gold"]), "member": kind == "join", "row": {"n": number}}
        text = json.dumps(record)
        lines.append(text)
        by_partition.setdefault(user % PARTITIONS, []).append((b"u%d" % user, text.encode(), now))
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    for partition, records in by_partition.items():
        broker.produce(topic, records, partition=partition)
    expected = simulated(flows, tmp_path / "events.jsonl", tmp_path, until=UNTIL)
    assert len(expected.actions) > 1000
    command: list[str | Path] = [
        flows, "--source", f"kafka://{broker.bootstrap}/{topic}",
        "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}",
        "--state", tmp_path / "state", "--stop-at-end", "--until", UNTIL, "--processes", "2", "--epoch", "1s",
    ]  # fmt: skip
    run_with_kills(command, tmp_path / "log", chance, kills=3, within_s=(2.0, 6.0))
    found = on_kafka(broker, topic_prefix)
    assert Emitted(found.actions, found.journal, []).differences(Emitted(expected.actions, expected.journal, [])) == []


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_now_on_a_job_that_goes_on_is_the_moment_of_the_deployment_once(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    flows = write_flows(tmp_path, "flow: once\ntrigger: {audience: vip, schedule: {now: true}}\nsteps: [{end: x}]\n")
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2)

    def join(user: str) -> None:
        text = json.dumps({"user_id": user, "audience": "vip", "member": True})
        broker.produce(topic, [(user.encode(), text.encode(), None)])

    def entered() -> list[str]:
        return sorted(one["user_id"] for one in on_kafka(broker, topic_prefix).journal if one["kind"] == "entered")

    for number in range(20):
        join(f"u{number}")
    command: list[str | Path] = [
        flows, "--source", f"kafka://{broker.bootstrap}/{topic}", "--epoch", "1s",
        "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--state", tmp_path / "state",
    ]  # fmt: skip
    job = RunningJob(command, tmp_path / "log")
    wait_until(lambda: len(entered()) >= 20)
    join("late")
    job.kill()
    join("later")
    RunningJob([*command, "--stop-at-end"], tmp_path / "log").wait()
    audited(tmp_path / "state")
    assert entered() == sorted(f"u{number}" for number in range(20))
