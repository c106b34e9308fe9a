"""A live job, stamps by arrival, waits of seconds, kills and a broker that is away: what `simulate` says of its topic.

Nothing is replayed here from a topic that was full before: events arrive while the job runs, so where its time stands
when they do is left to chance, and must not show.
"""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from state.iso import format_ms
from tests.jobs import RunningJob, on_kafka, simulated
from tests.kafka.broker import Broker
from tests.test_run import wait_until

FLOWS = {
    "reminder": """\
flow: reminder
trigger: {event: cart}
entry: {reentry: always}
exit: [{event: buy, goal: true}]
steps: [{wait: 2s}, {send: webhook, template: reminder}]
""",
    "visitor": """\
flow: visitor
trigger: {event: view, count: {at_least: 3, within: 5s}}
entry: {reentry: {after: 4s}}
steps:
  - wait_for: {bought: {event: buy}, again: {event: view, at_least: 2}}
    timeout: 3s
    then:
      bought: [{send: webhook, template: thanks}]
      again: [{wait: 1s}, {send: webhook, template: still-there}]
      timeout:
        - branch:
            - when: {did: {event: cart, within: 4s}}
              steps: [{send: webhook, template: your-cart}]
            - else: [{send: webhook, template: come-back}]
""",
}
USERS = 80
RATE_PER_S = 60


class Visitors:
    """People who look, fill carts and buy, now, until they are told to stop."""

    def __init__(self, broker: Broker, topic: str, seed: int) -> None:
        self._broker, self._topic, self._chance = broker, topic, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._act)
        self.sent = 0

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _act(self) -> None:
        producer = self._broker._new_producer()  # Keeps what it cannot send, as a tracker does.
        while not self._stop.wait(1 / RATE_PER_S):
            user = f"u{self._chance.randrange(USERS)}"
            name = self._chance.choices(["view", "cart", "buy"], [6, 2, 1])[0]
            self.sent += 1
            event = {"user_id": user, "event": name, "message_id": f"m{self.sent}"}
            producer.produce(self._topic, json.dumps(event).encode(), user)
            producer.poll(0)
        assert producer.flush(60) == 0


def exported(broker: Broker, topic: str, file: Path) -> int:
    """Write the topic as a file for `simulate`, and return the last stamp."""
    records = sorted(broker.read_all(topic), key=lambda record: (record.timestamp_ms, record.partition, record.offset))
    with file.open("w") as lines:
        for record in records:
            event = json.loads(record.value or b"")
            lines.write(json.dumps({**event, "received_at": format_ms(record.timestamp_ms)}) + "\n")
    return records[-1].timestamp_ms


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_what_happens_live_is_what_simulate_says_of_the_topic(
    breakable_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    broker, topic, chance = breakable_broker, f"{topic_prefix}events", random.Random(2)
    broker.create_topic(topic, 3, {"message.timestamp.type": "LogAppendTime"})
    flows = tmp_path / "flows"
    flows.mkdir()
    for name, text in FLOWS.items():
        (flows / f"{name}.yaml").write_text(text)
    command: list[str | Path] = [
        flows, "--source", f"kafka://{broker.bootstrap}/{topic}", "--sink",
        f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--state", tmp_path / "state", "--epoch", "1s",
        "--shards", "8", "--processes", "2",
    ]  # fmt: skip

    def start() -> RunningJob:
        job = RunningJob(command, tmp_path / "log")
        written = sum(broker.end_offsets(f"{topic_prefix}journal").values())
        wait_until(lambda: sum(broker.end_offsets(f"{topic_prefix}journal").values()) > written)
        return job

    with Visitors(broker, topic, seed=2) as visitors:
        for _ in range(3):
            job = start()
            time.sleep(chance.uniform(0.5, 4))
            job.kill()
        job = start()
        broker.pause()
        time.sleep(5)
        broker.resume()
        time.sleep(3)
        broker.kill()
        broker.start()
        time.sleep(3)
        assert job.process.poll() is None, f"a broker that was away for some seconds ends no job\n{job.tail()}"
    job.terminate()
    assert job.status() == 0, job.tail()

    until = format_ms(exported(broker, topic, tmp_path / "events.jsonl") + 60_000)
    RunningJob([*command, "--stop-at-end", "--until", until], tmp_path / "log").wait()
    expected = simulated(flows, tmp_path / "events.jsonl", tmp_path / "simulated", until=until)
    assert on_kafka(broker, topic_prefix).differences(expected) == []
    sent = {action["template"] for action in expected.actions}
    assert sent == {"reminder", "thanks", "still-there", "your-cart", "come-back"}, "each way was gone by somebody"
    assert visitors.sent > 500
