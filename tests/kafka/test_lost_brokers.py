"""A client that has lost its brokers for good is replaced, and nobody notices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors import kafka
from connectors.kafka import KafkaTopics as Topics
from connectors.kafka import Renewed
from connectors.kafka_source import STUCK_S, KafkaPartition
from tests.kafka.broker import KafkaTopics
from tests.test_run import wait_until


class FakeClient:
    """Finds so many brokers, or fails."""

    def __init__(self, brokers: int | None) -> None:
        self.brokers = brokers

    def list_topics(self, timeout: float) -> Any:
        if self.brokers is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(brokers=dict.fromkeys(range(self.brokers)))

    def poll(self, timeout: float) -> None:
        pass


@pytest.mark.parametrize(("brokers", "is_replaced"), [(None, True), (0, True), (1, False), (3, False)])
def test_a_client_is_replaced_if_it_finds_no_broker(brokers: int | None, is_replaced: bool) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(FakeClient(brokers))
        return made[-1]

    client: Renewed[Any] = Renewed(make)
    client.learn_anew()
    assert client.now is made[-1]
    assert len(made) == 1 + is_replaced


class DeadConsumer:
    """As one that has lost its brokers: it has nothing, and says nothing."""

    closed = False

    def consume(self, records_max: int, timeout: float) -> list[Any]:
        return []

    def list_topics(self, *_: Any, **__: Any) -> Any:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def poll(self, timeout: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.kafka
def test_a_reader_without_brokers_is_replaced_and_nothing_is_lost_or_read_twice(
    broker: KafkaTopics, topic_prefix: str
) -> None:
    topic, log, clock_s = f"{topic_prefix}events", list[str](), [0.0]
    broker.create_topic(topic)
    broker.produce(topic, [("u", b"1", None), ("u", b"2", None)])
    end = SimpleNamespace(offset=2)
    probe: Any = SimpleNamespace(ends=SimpleNamespace(end=lambda *_: end))
    source = KafkaPartition(broker.bootstrap, {}, topic, 0, 0, probe, log.append, monotonic_s=lambda: clock_s[0])
    found: list[bytes] = []
    wait_until(lambda: len(found) >= 2 or found.extend(source.poll(10).values))
    source._consumer.close()
    dead: Any = DeadConsumer()
    source._consumer = dead

    clock_s[0] = STUCK_S + 1
    assert not source.poll(10).values
    assert source._consumer is dead, "where there is no more, nothing is missed"

    broker.produce(topic, [("u", b"3", None)])
    end.offset = 3
    assert not source.poll(10).values
    assert source._consumer is dead, "a moment without an answer says nothing"

    clock_s[0] += STUCK_S + 1
    source.poll(10)
    assert dead.closed
    assert [line for line in log if "connecting anew" in line]
    wait_until(lambda: len(found) >= 3 or found.extend(source.poll(10).values))
    assert found == [b"1", b"2", b"3"]
    source.close()


@pytest.mark.kafka
def test_questions_about_topics_are_answered_though_the_client_has_lost_its_brokers(
    broker: KafkaTopics, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2)
    monkeypatch.setattr(kafka, "WAIT_MAX_S", 0.01)

    def lost() -> Topics:
        topics, dead = Topics(broker.bootstrap, {}), DeadConsumer()
        topics._consumer.close()
        anything: Any = dead
        topics._consumer._client = anything
        return topics

    assert lost().partitions(topic) == [0, 1]
    assert lost().partitions_of_all([topic]) == {topic: [0, 1]}
