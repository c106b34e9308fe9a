"""What a real job measures: every metric that is declared has a value that a run makes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from dataflow.errors import UsageError
from dataflow.flows import load
from dataflow.job.lifecycle import Job
from dataflow.job.lookout import Reread
from dataflow.job.processes import JobFailed, JobRunner
from dataflow.serve.http import Server, serve
from dataflow.serve.metrics import METRICS
from dataflow.urls import SinkUrl, SourceUrl
from tests.jobs import REPO

HOUR = 3_600_000
TOPIC = "events"
SEGMENT_TOPIC = "segment"

FLOWS = {
    "cart": {
        "trigger": {"event": "add_to_cart"},
        "exit": [{"event": "buy", "goal": True}],
        "steps": [{"send": "webhook", "template": "t"}, {"send": "sms", "template": "t"}, {"wait": "30d"}],
    },
    "brief": {"trigger": {"event": "add_to_cart"}, "steps": [{"end": "done"}]},
    "short": {"trigger": {"event": "ping"}, "steps": [{"wait": "1s"}]},
    "held": {"trigger": {"event": "add_to_cart"}, "steps": [{"send": "coupon", "template": "t"}]},
    "weekly": {
        "trigger": {"audience": "vip", "schedule": {"at": "2099-01-01T00:00:00"}},
        "steps": [{"send": "webhook", "template": "t"}],
    },
    "broken": {"trigger": {"event": "break"}, "steps": [{"set": {"x": 1}}]},
}

RULES = "channels: {coupon: {quiet: {holidays: [{from: 2000-01-01, until: 2999-12-31}]}}}"

# Python imports this by itself in every process of the job: mistakes and jumps of a clock cannot be had from outside,
# and a limit of 51 200 ids is too much to fill.
IN_EACH_PROCESS = """
import os, sys, time
if "dataflow.job.process" in sys.orig_argv:
    import operators.machine.memory as memory
    from operators.steps.set import SetStep
    memory.IDS_MAX = 64
    def enter(self, visit):
        raise RuntimeError("a mistake of ours")
    SetStep.enter = enter
    real = time.time_ns
    time.time_ns = lambda: real() + (3600 * 10**9 if os.path.exists({jump!r}) else 0)
"""

# What is nothing in a job that is well.
MAY_BE_ZERO = {
    "nudge_conservation_difference",
    "nudge_runs_under_way",
    "nudge_shards_overdue",
    "nudge_source_lag_records",
}


class Broker:
    """The test cluster of librdkafka: records keep the stamps that they were given."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "partitioner": "murmur2_random", "log_level": 0})
        self._producer.list_topics(SEGMENT_TOPIC, timeout=10)  # Makes the topic, with four partitions.
        found = self._producer.list_topics(TOPIC, timeout=10)
        broker = next(iter(found.brokers.values()))
        self.bootstrap = f"{broker.host}:{broker.port}"
        self.partitions = len(found.topics[TOPIC].partitions)

    def send(self, value: bytes | None, *, partition: int = 0, at_ms: int | None = None, topic: str = TOPIC) -> None:
        at_ms = int(time.time() * 1000) if at_ms is None else at_ms
        self._producer.produce(topic, value, partition=partition, timestamp=at_ms)
        assert self._producer.flush(10) == 0


def record(user: str, event: str, **more: Any) -> bytes:
    return json.dumps({"user_id": user, "event": event, **more}).encode()


def _nothing_good(_: Job) -> Job:
    raise UsageError("these flows are no good")


class LiveJob:
    """A job that reads *broker* in a thread, with its metrics."""

    def __init__(self, broker: Broker, folder: Path, *, epoch_s: float) -> None:
        flows = folder / "flows"
        flows.mkdir(exist_ok=True)
        for name, flow in FLOWS.items():
            (flows / f"{name}.json").write_text(json.dumps({"flow": name, **flow}))
        (flows / "nudge.yaml").write_text(RULES)
        job = Job(
            loaded=load([flows], None),
            sources=[
                SourceUrl("kafka", broker.bootstrap, TOPIC),
                SourceUrl("kafka", broker.bootstrap, SEGMENT_TOPIC, format="segment"),
            ],
            sink=SinkUrl("file", folder=str(folder / "out")),
            state=folder / "state",
            processes=2,
            shards=4,
            epoch_ms=int(1000 * epoch_s),
            log_level="critical",
        )
        self.runner = JobRunner(job, structlog.get_logger(), reread=Reread(_nothing_good))
        self.failure: Exception | None = None
        self._server: Server = serve(0, self.runner, host="127.0.0.1")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.runner.run()
        except JobFailed as error:
            self.failure = error

    def values(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return what is measured now: by the name of the metric, then by its labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found

    def wait_for(self, name: str, more_than: float = 0.0) -> float:
        """Wait until a series of the metric is more than that, and return it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._thread.is_alive(), self.failure
            most = max(self.values().get(name, {}).values(), default=0.0)
            if most > more_than:
                return most
            time.sleep(0.1)
        pytest.fail(f"{name} was never more than {more_than}")

    def kill(self) -> None:
        """End it as a crash does, and wait for that."""
        for state in self.runner.process_states():
            os.kill(state.pid, signal.SIGKILL)
        self.close()
        assert self.failure is not None

    def close(self) -> None:
        self.runner.stop()
        self._thread.join(timeout=60)
        self._server.close()


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give what starts a job; whatever still runs at the end is stopped."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "sitecustomize.py").write_text(IN_EACH_PROCESS.format(jump=str(tmp_path / "jump")))
    monkeypatch.setenv("PYTHONPATH", f"{inside}:{REPO}")
    started: list[LiveJob] = []

    def start(broker: Broker, *, epoch_s: float) -> LiveJob:
        started.append(LiveJob(broker, tmp_path, epoch_s=epoch_s))
        return started[-1]

    yield start
    for job in started:
        job.close()


def test_every_metric_that_is_declared_has_a_value_that_a_run_makes(jobs: Any, tmp_path: Path) -> None:
    broker = Broker()
    broker.send(b"no json")
    broker.send(None)
    broker.send(b'{"user_id": "ann", "action_id": "a", "status": "delivered"}')
    large = json.dumps({"audience": "vip", "user_id": "ann", "member": True, "row": {"text": "x" * 20_000}}).encode()
    broker.send(large)
    broker.send(b'{"audience": "vip", "updated": true}')
    broker.send(b'{"type": "group", "userId": "ann", "groupId": "friends"}', topic=SEGMENT_TOPIC)
    broker.send(record("ann", "add_to_cart", message_id="m1"))
    broker.send(record("ann", "add_to_cart", message_id="m1"))
    broker.send(record("ann", "add_to_cart", message_id="m2"))
    broker.send(record("bob", "add_to_cart"))
    broker.send(record("bob", "buy"))
    broker.send(record("cat", "break"))
    broker.send(record("dan", "noise", traits={"x": "y" * 300_000}))
    for number in range(100):
        broker.send(record("eve", "add_to_cart", message_id=f"e{number}"))
    job = jobs(broker, epoch_s=3600.0)
    job.wait_for("nudge_internal_errors_total")
    job.wait_for("nudge_early_forgotten_ids_total")
    job.kill()

    job = jobs(broker, epoch_s=0.2)  # It decides again what it has not written down.
    job.wait_for("nudge_skipped_replayed_records_total", 100)
    job.wait_for("nudge_checkpoints_total")
    now_ms = int(time.time() * 1000)
    broker.send(record("fay", "add_to_cart"), partition=1, at_ms=now_ms + 3 * HOUR)
    broker.send(record("gus", "add_to_cart"), partition=2, at_ms=now_ms - 3 * HOUR)
    assert 2 * 3600 < job.wait_for("nudge_source_ahead_seconds", 5) <= 3 * 3600
    assert 2 * 3600 < job.wait_for("nudge_source_late_seconds", 5) <= 3 * 3600
    (tmp_path / "jump").touch()
    assert 3000 < job.wait_for("nudge_clock_held_back_seconds", 5) < 3700
    job.runner.reload()
    job.wait_for("nudge_flows_refused")

    job.wait_for("nudge_event_to_action_seconds_count")
    seen: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while missing := {
        family.name
        for family in METRICS
        if family.name not in seen or (not seen[family.name] and family.name not in MAY_BE_ZERO)
    }:
        assert time.monotonic() < deadline, missing
        broker.send(record("hal", "ping"))  # Who waits is woken a little late: by the slack.
        for name, values in job.values().items():
            seen[name] = max(seen.get(name, 0.0), *values.values())
        time.sleep(0.1)


def test_a_stamp_ahead_of_the_clock_is_told_of_its_partition(jobs: Any) -> None:
    broker = Broker()
    job = jobs(broker, epoch_s=1.0)
    broker.send(record("ann", "add_to_cart"), partition=2, at_ms=int(time.time() * 1000) + HOUR)
    assert 3500 < job.wait_for("nudge_source_ahead_seconds") <= 3600
    told = job.values()["nudge_source_ahead_seconds"]
    assert {labels for labels, ahead_s in told.items() if ahead_s > 5} == {(f"{TOPIC}-2",)}
