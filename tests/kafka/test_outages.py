"""What our clients know again after a broker was away, each on its own."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from connectors.kafka import KafkaTopics as Topics
from connectors.kafka_source import EndProbe, KafkaPartition
from connectors.sources import SourceError
from tests.kafka.broker import Broker, KafkaTopics
from tests.test_run import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


def now_ms() -> int:
    return int(time.time() * 1000)


def away(broker: Broker, how: str) -> None:
    """Have the broker away for longer than a question may take."""
    broker.kill() if how == "killed" else broker.pause()
    time.sleep(6)
    broker.start() if how == "killed" else broker.resume()


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_the_end_of_a_partition_is_known_again_after_an_outage(
    breakable_broker: Broker, topic_prefix: str, how: str
) -> None:
    topic = f"{topic_prefix}events"
    breakable_broker.create_topic(topic)
    breakable_broker.produce(topic, [("u", b"1", None), ("u", b"2", None)])
    probe = EndProbe(breakable_broker.bootstrap, {}, [(topic, 0)], now_ms)
    try:
        wait_until(lambda: probe.ends.end(topic, 0) is not None)
        for _ in range(2):
            away(breakable_broker, how)
            returned_ms = now_ms()

            def known_since() -> int:
                end = probe.ends.end(topic, 0)
                assert end is not None
                assert end.offset == 2, "what the client makes up is no answer"
                return end.at_ms

            assert known_since() < returned_ms + 1000
            wait_until(lambda: known_since() > returned_ms, timeout_s=15)  # noqa: B023
    finally:
        probe.close()


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_offsets_are_told_again_after_an_outage_to_old_clients_and_new_ones(
    breakable_broker: Broker, topic_prefix: str, how: str
) -> None:
    topic = f"{topic_prefix}events"
    breakable_broker.create_topic(topic)
    old = Topics(breakable_broker.bootstrap, {})
    assert old.end_offsets(topic, [0]) == [0]
    for _ in range(2):
        away(breakable_broker, how)
        new = Topics(breakable_broker.bootstrap, {})
        assert new.end_offsets(topic, [0]) == [0]
        assert old.end_offsets(topic, [0]) == [0]
        new.close()
    old.close()


def partition(broker: KafkaTopics, topic: str, log: list[str]) -> KafkaPartition:
    probe: Any = SimpleNamespace(ends=SimpleNamespace(end=lambda *_: None))
    return KafkaPartition(broker.bootstrap, {}, topic, 0, 0, probe, log.append)


def values(source: KafkaPartition, count: int) -> list[bytes]:
    found: list[bytes] = []
    wait_until(lambda: len(found) >= count or found.extend(source.poll(10).values))
    return found


def test_a_partition_that_is_denied_for_a_moment_is_read_on_where_it_was(
    broker: KafkaTopics, topic_prefix: str
) -> None:
    topic, log = f"{topic_prefix}events", list[str]()
    broker.create_topic(topic)
    broker.produce(topic, [("u", b"1", None), ("u", b"2", None)])
    source = partition(broker, topic, log)
    assert values(source, 2) == [b"1", b"2"]
    for denial in (KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART):
        source._heed(SimpleNamespace(error=lambda: KafkaError(denial), offset=lambda: -1001))  # type: ignore[arg-type] # noqa: B023
        broker.produce(topic, [("u", str(denial).encode(), None)])
        assert values(source, 1) == [str(denial).encode()]
    assert sum("was denied for a moment" in line for line in log) == 3
    source.close()


def test_a_topic_that_was_deleted_is_named(broker: KafkaTopics, topic_prefix: str) -> None:
    topic = f"{topic_prefix}events"
    broker.create_topic(topic)
    source = partition(broker, topic, [])
    broker.delete_topics([topic])
    source._heed(SimpleNamespace(error=lambda: KafkaError(KafkaError._UNKNOWN_TOPIC)))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"events\[0\] at .*: there is no such topic or partition any more"):
        source.poll(10)
    source.close()


def test_topics_that_are_missing_are_looked_for_as_long_as_asked(broker: KafkaTopics, topic_prefix: str) -> None:
    topics = Topics(broker.bootstrap, {})
    began = time.monotonic()
    assert topics.partitions(f"{topic_prefix}nothing", awaited_s=1) == []
    assert time.monotonic() - began >= 1
    topics.close()
