"""Ways to run that may be regretted are told at the start, in the words of the documentation."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataflow.job import risks
from dataflow.job.plan import Plan
from dataflow.job.processes import RISKS_PAGE
from dataflow.job.risks import risks_of, settings_by
from dataflow.read.discovery import PartitionPlan
from dataflow.settings import Settings
from dataflow.urls import parse_sink, parse_source
from tests.jobs import REPO, RunningJob
from tests.kafka.broker import KafkaTopics
from tests.test_run import wait_until

FLOW = '{"flow": "f", "trigger": {"event": "a"}, "steps": [{"send": "sms", "template": "t"}]}'
GOOD = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "604800000"}


def told(
    topics: Mapping[str, Mapping[str, str]],
    *,
    source: str = "kafka://k:9092/events",
    sink: str = "kafka://k:9092?prefix=crm.",
    partitions: int = 2,
    settings_of: Any = None,
    **settings: Any,
) -> list[str]:
    """Return the warnings of a job with these settings; topics that are not given are good ones."""
    settings = {"state": Path("state"), "processes": 2, **settings}
    job = Settings(sources=[parse_source(source)], sink=parse_sink(sink), **settings)
    one = job.sources[0]
    plan = Plan(
        state="state", job="j", shards=64, shard_keys="even", processes=job.processes, addresses=[],
        partitions=[
            PartitionPlan(f"{one.name}-{number}", one.kind, one.bootstrap, one.name, number, 0)
            for number in range(partitions)
        ],
        ordered=True, until_ms=None, sink_kind="kafka", sink_bootstrap="", sink_folder="", sink_options={},
        sink_number=1, create_topics=True, kafka={}, flows=[("f.json", FLOW)], workspace="", read_back=None,
        positions={}, epoch_s=10, users_in_memory=100, log_level="info", log_format="json",
    )  # fmt: skip

    def looked_up(bootstrap: str, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        assert bootstrap == "k:9092"
        return {name: {**GOOD, **topics.get(name, {})} for name in names}

    return list(risks_of(job, plan, settings_of or looked_up))


def test_a_job_that_does_as_the_documentation_says_gets_no_warning() -> None:
    assert told({}) == []


@pytest.mark.parametrize("settings", [{"stop_at_end": True}, {"source": "file:events.jsonl"}])
def test_a_job_that_ends_by_itself_gets_no_warning(settings: dict[str, Any]) -> None:
    assert told({"events": {"cleanup.policy": "compact"}}, state=None, partitions=1, **settings) == []


def test_without_a_state_somebody_is_told() -> None:
    assert told({}, state=None) == [risks.NO_STATE]


def test_more_processes_than_source_partitions_are_told() -> None:
    assert told({}, partitions=1) == [risks.FEW_PARTITIONS.format(processes=2, partitions=1)]


@pytest.mark.parametrize(
    ("topic", "bad", "risk"),
    [
        ("events", {"message.timestamp.type": "CreateTime"}, risks.STAMPED_BY_SENDERS),
        ("events", {"cleanup.policy": "compact,delete"}, risks.COMPACTED_SOURCE),
        ("crm.actions.sms", {"cleanup.policy": "compact"}, risks.COMPACTED_SINK),
        ("crm.journal", {"cleanup.policy": "compact"}, risks.COMPACTED_SINK),
        ("events", {"retention.ms": "9999"}, risks.SHORT_SOURCE),
        ("crm.actions.sms", {"retention.ms": "9999"}, risks.SHORT_SINK),
    ],
)
def test_each_risk_of_a_topic_is_told_with_the_topic(topic: str, bad: dict[str, str], risk: str) -> None:
    assert told({topic: bad}) == [risk.format(topics=topic)]


def test_a_topic_that_keeps_records_for_ever_or_as_long_as_an_epoch_is_no_risk() -> None:
    assert told({"events": {"retention.ms": "-1"}, "crm.journal": {"retention.ms": "10000"}}) == []


@pytest.mark.parametrize("settings", [{"source": "kafka://k:9092/events?slack=5s"}, {"slack_ms": 5_000}])
def test_who_has_set_the_slack_knows_of_createtime(settings: dict[str, Any]) -> None:
    assert told({"events": {"message.timestamp.type": "CreateTime"}}, **settings) == []


def test_topics_of_which_nothing_may_be_known_are_no_risk() -> None:
    assert told({}, settings_of=lambda bootstrap, topics: {}) == []


def test_the_documentation_has_each_warning_word_for_word() -> None:
    page, _, anchor = RISKS_PAGE.partition("#")
    text = (REPO / page).read_text()
    assert f"## {anchor.replace('-', ' ').capitalize()}" in text
    for name, risk in vars(risks).items():
        if name.isupper():
            assert f"`{re.sub(r'{[a-z]+}', '..', risk)}`" in text, name


@pytest.mark.kafka
def test_the_risks_of_real_topics_are_seen(broker: KafkaTopics, topic_prefix: str) -> None:
    risky = {"message.timestamp.type": "CreateTime", "cleanup.policy": "compact,delete", "retention.ms": "9000"}
    for topic in ("events", "actions.sms", "journal", "dead-letters"):
        broker.create_topic(topic_prefix + topic, 1, risky)
    where = f"kafka://{broker.bootstrap}"
    found = told(
        {},
        source=f"{where}/{topic_prefix}events",
        sink=f"{where}?prefix={topic_prefix}",
        settings_of=settings_by({}),
    )
    source = f"{topic_prefix}events"
    sink = ", ".join(topic_prefix + topic for topic in ("actions.sms", "journal", "dead-letters"))
    assert found == [
        risks.STAMPED_BY_SENDERS.format(topics=source),
        risks.COMPACTED_SOURCE.format(topics=source),
        risks.SHORT_SOURCE.format(topics=source),
        risks.COMPACTED_SINK.format(topics=sink),
        risks.SHORT_SINK.format(topics=sink),
    ]


@pytest.mark.kafka
def test_a_job_logs_its_risks_once_at_its_start(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> None:
    broker.create_topic(f"{topic_prefix}events", 1, {"message.timestamp.type": "LogAppendTime"})
    flow = tmp_path / "f.json"
    flow.write_text(FLOW)
    source, sink = (
        f"kafka://{broker.bootstrap}/{topic_prefix}events",
        f"kafka://{broker.bootstrap}?prefix={topic_prefix}",
    )
    job = RunningJob([flow, "--source", source, "--sink", sink, "--processes", "2"], tmp_path / "log")
    wait_until(lambda: '"running"' in job.log.read_text())
    flow.write_text(FLOW.replace('"f"', '"g"'))
    job.process.send_signal(signal.SIGHUP)
    wait_until(lambda: job.log.read_text().count('"starting"') == 2)
    job.terminate()
    assert job.status() == 0, job.tail()
    lines = [json.loads(line) for line in job.log.read_text().splitlines() if line.startswith("{")]
    assert [(line["event"], line["level"]) for line in lines if line.get("see") == RISKS_PAGE] == [
        (risks.NO_STATE, "warning"),
        (risks.FEW_PARTITIONS.format(processes=2, partitions=1), "warning"),
    ]
