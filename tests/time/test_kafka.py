"""With a real broker: downtime, idle partitions and stamps by arrival, the same actions as on time."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests.jobs import Emitted, RunningJob, on_kafka
from tests.kafka.broker import Broker, KafkaTopics
from tests.test_run import wait_until
from tests.time.test_on_time import FLOWS

SOON = """\
flow: soon
trigger: {event: cart}
exit: [{event: buy, goal: true}]
steps: [{wait: 4s}, {send: webhook, template: t}]
"""
HOUR = 3_600_000


def command(broker: KafkaTopics, prefix: str, folder: Path, source: str, *more: str) -> list[str | Path]:
    return [
        folder / "flows", "--source", f"kafka://{broker.bootstrap}/{source}",
        "--sink", f"kafka://{broker.bootstrap}?prefix={prefix}", "--state", folder / f"state-{prefix}",
        "--epoch", "1s", *more,
    ]  # fmt: skip


def flows(folder: Path, text: str) -> None:
    (folder / "flows").mkdir()
    for number, flow in enumerate(text.split("---\n")):
        (folder / "flows" / f"{number}.yaml").write_text(flow)


def event(user: str, name: str, number: int) -> bytes:
    return json.dumps({"user_id": user, "event": name, "message_id": f"m{number}"}).encode()


@pytest.mark.kafka
def test_a_job_that_was_down_for_an_hour_of_stream_time_does_the_same_as_one_that_kept_up(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    """Stamps lie ahead of the clock, so that hours pass in seconds and time moves by records alone."""
    flows(tmp_path, FLOWS)
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2, {"message.timestamp.type": "CreateTime"})
    chance, at, number = random.Random(7), (int(time.time()) + 86_400) * 1000, 0

    def an_hour() -> None:
        nonlocal at, number
        records = []
        for _ in range(60):
            user, name = f"u{chance.randrange(9)}", chance.choice(["cart", "view", "view", "buy"])
            records.append((user, event(user, name, number), at))
            at, number = at + HOUR // 60, number + 1
        broker.produce(topic, records)

    def start(prefix: str) -> RunningJob:
        job = RunningJob(command(broker, prefix, tmp_path, topic), tmp_path / f"log-{prefix}")
        wait_until(lambda: '"running"' in job.log.read_text())
        return job

    def has_read(prefix: str) -> bool:
        """The last trigger of the hour just produced has come out."""
        found = on_kafka(broker, prefix).journal
        return any(record["cause"]["message_id"] == marker for record in found if record.get("cause"))

    kept_up, was_down = f"{topic_prefix}up.", f"{topic_prefix}down."
    up, down = start(kept_up), start(was_down)
    for hour in range(4):
        an_hour()
        marker = f"m{number}"
        broker.produce(topic, [("marker", event("marker", "cart", number), at)])
        number += 1
        wait_until(lambda: has_read(kept_up))
        if hour == 0:
            wait_until(lambda: has_read(was_down))
            down.kill()
        if hour == 2:
            down = start(was_down)
    for job in (up, down):
        wait_until(lambda: has_read(kept_up) and has_read(was_down))
        job.terminate()
        assert job.status() == 0, job.tail()
    for prefix in (kept_up, was_down):
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at // 1000 + 86_400))
        RunningJob(
            command(broker, prefix, tmp_path, topic, "--stop-at-end", "--until", until), tmp_path / f"log-{prefix}"
        ).wait()
    expected, found = on_kafka(broker, kept_up), on_kafka(broker, was_down)
    assert {action["template"] for action in expected.actions} >= {"reminder", "thanks", "still-there"}
    assert Emitted(found.actions, found.journal, []).differences(expected) == []


@pytest.mark.kafka
def test_waits_end_on_a_topic_where_nobody_does_anything_and_by_the_brokers_stamps(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    """One partition is empty, the other idle, and the sender's clock is wrong by years: arrival counts."""
    flows(tmp_path, SOON)
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2, {"message.timestamp.type": "LogAppendTime"})
    job = RunningJob(command(broker, topic_prefix, tmp_path, topic), tmp_path / "log")
    wait_until(lambda: '"running"' in job.log.read_text())
    sent = time.time()
    broker.produce(topic, [("a", event("a", "cart", 1), 1_000), ("a", event("a", "noise", 2), 9_000_000_000_000)])
    wait_until(lambda: len(on_kafka(broker, topic_prefix).actions) == 1)
    job.terminate()
    assert job.status() == 0, job.tail()
    (action,) = on_kafka(broker, topic_prefix).actions
    from state.iso import parse_iso_ms

    at = parse_iso_ms(action["at"])
    assert at is not None
    assert -0.5 < at / 1000 - 4 - sent < 10, "four seconds after its arrival"
    assert "stamped" not in job.log.read_text()


IN_TIME = """\
flow: in-time
trigger: {event: cart}
exit: [{event: buy, goal: true}]
steps: [{wait: 12s}, {send: webhook, template: reminder}]
"""


@pytest.mark.kafka
@pytest.mark.parametrize("how", ["killed", "paused"])
def test_nobody_who_bought_is_reminded_though_the_broker_was_away_when_the_waits_fell_due(
    breakable_broker: Broker, topic_prefix: str, tmp_path: Path, how: str
) -> None:
    """What trackers keep through an outage comes after it, with the stamps of before."""
    broker = breakable_broker
    flows(tmp_path, IN_TIME)
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2, {"message.timestamp.type": "CreateTime"})
    job = RunningJob(command(broker, topic_prefix, tmp_path, topic), tmp_path / "log")
    wait_until(lambda: '"running"' in job.log.read_text())
    users = [f"u{number}" for number in range(20)]
    began = time.time()
    at = int(began * 1000)
    broker.produce(topic, [(user, event(user, "cart", number), at) for number, user in enumerate(users)])

    def journal(what: str) -> set[str]:
        return {record["user_id"] for record in on_kafka(broker, topic_prefix).journal if record["kind"] == what}

    wait_until(lambda: journal("entered") == set(users))
    assert time.time() < began + 11, "the outage comes before the waits fall due, or this shows nothing"
    broker.kill() if how == "killed" else broker.pause()
    wait_until(lambda: time.time() > began + 16)
    broker.start() if how == "killed" else broker.resume()
    bought = [(user, event(user, "buy", 100 + number), at + 4000) for number, user in enumerate(users[::2])]
    broker.produce(topic, bought)
    # Who entered after it all gets the reminder last.
    broker.produce(topic, [("late", event("late", "cart", 200), None)])
    wait_until(lambda: any(action["user_id"] == "late" for action in on_kafka(broker, topic_prefix).actions))
    job.terminate()
    assert job.status() == 0, job.tail()
    reminded = [action["user_id"] for action in on_kafka(broker, topic_prefix).actions]
    assert sorted(reminded) == sorted([*users[1::2], "late"])
    assert journal("converted") == set(users[::2])
