"""How long after its stamp a record may still appear: by topic, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from connectors.kafka_source import KnownEnds
from dataflow.job.outside import Machine
from dataflow.job.plan import Plan
from dataflow.job.ports import PartitionPort
from dataflow.job.worker import Worker
from dataflow.read.clock import SteadyClock
from dataflow.read.discovery import PartitionPlan, _slack_of, partitions_of
from dataflow.urls import parse_source
from tests.kafka.broker import KafkaTopics
from tests.time.world import START, Broker, Reader

FLOW = '{"flow": "f", "trigger": {"event": "a"}, "steps": [{"send": "webhook", "template": "t"}]}'


@pytest.mark.parametrize(("stamps", "slack_ms"), [("LogAppendTime", 200), ("CreateTime", 1_000)])
def test_slack_follows_from_who_stamps_the_records(stamps: str, slack_ms: int) -> None:
    topics: Any = SimpleNamespace(setting=lambda topic, name: stamps)
    log: list[str] = []
    assert _slack_of(topics, "events", log.append) == slack_ms
    assert log == []


def test_where_the_topic_may_not_be_asked_slack_is_the_careful_one_and_somebody_is_told() -> None:
    topics: Any = SimpleNamespace(setting=lambda topic, name: None)
    log: list[str] = []
    assert _slack_of(topics, "events", log.append) == 1_000
    assert log == [
        "how topic events stamps its records may not be read: its slack is 1s; allow the job to describe the topic's "
        "configuration, or say ?slack= behind its --source"
    ]


def test_time_at_the_end_of_each_partition_keeps_the_slack_of_its_own_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = KnownEnds()
    partitions = [
        PartitionPlan(f"{topic}-0", "kafka", "b:9", topic, 0, 0, slack_ms=slack_ms)
        for topic, slack_ms in (("fast", 200), ("slow", 1_000))
    ]
    (tmp_path / "state" / "progress").mkdir(parents=True)
    plan = Plan(
        state=str(tmp_path / "state"), job="j", shards=1, shard_keys="even", processes=1, addresses=[],
        partitions=partitions, ordered=False, until_ms=None, sink_kind="file", sink_bootstrap="",
        sink_folder=str(tmp_path / "out"),
        sink_options={}, sink_number=1, create_topics=True, kafka={}, flows=[("f.json", FLOW)], workspace="",
        read_back=None, positions={}, epoch_s=1.0, users_in_memory=100, log_level="error", log_format="text",
    )  # fmt: skip
    log = structlog.get_logger()
    machine = Machine(plan, log.warning, 1)
    monkeypatch.setattr(machine, "clock", SteadyClock(lambda: START, lambda: START))
    monkeypatch.setattr(machine, "reader", lambda partition, position, mark: Reader(Broker(1), 0, position, ends))
    worker = Worker(plan, 0, log, machine)
    try:
        ports = [PartitionPort(worker, number, None) for number in range(2)]
        ends.note("events", 0, 0, START)  # As the reader calls its topic.
        for port in ports:
            port.next_batch()
        assert {key: one.time.now_ms - START for key, one in worker.partitions.items()} == {
            "fast-0": -200,
            "slow-0": -1_000,
        }
    finally:
        worker.close()


@pytest.mark.kafka
def test_slack_is_read_from_a_real_topic_unless_somebody_says_one(broker: KafkaTopics, topic_prefix: str) -> None:
    sources = []
    for stamps in ("LogAppendTime", "CreateTime"):
        broker.create_topic(f"{topic_prefix}{stamps}", 2, {"message.timestamp.type": stamps})
        sources.append(parse_source(f"kafka://{broker.bootstrap}/{topic_prefix}{stamps}"))
    sources.append(parse_source(f"kafka://{broker.bootstrap}/{topic_prefix}said?slack=70ms"))
    broker.create_topic(f"{topic_prefix}said", 1)
    log: list[str] = []

    def slack(slack_ms: int | None) -> dict[str, int]:
        found = partitions_of(sources, {}, up_to_now=False, slack_ms=slack_ms, log=log.append)
        return {one.key.removeprefix(topic_prefix): one.slack_ms for one in found}

    by_stamps = {"CreateTime-0": 1_000, "CreateTime-1": 1_000, "LogAppendTime-0": 200, "LogAppendTime-1": 200}
    assert slack(None) == {**by_stamps, "said-0": 70}
    assert slack(400) == {**dict.fromkeys(by_stamps, 400), "said-0": 70}
    assert log == []
