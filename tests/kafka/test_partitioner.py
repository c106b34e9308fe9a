"""Whatever writes a user's records, Kafka's Java client or one of ours, puts them into the same partition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from connectors.kafka_sink import KafkaSink

REPO = Path(__file__).parents[2]
PARTITIONS: Final = 4  # Of a topic of librdkafka's test cluster.

# From the tests of Kafka's Java client (org.apache.kafka.common.utils.UtilsTest).
MURMUR2: Final = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def test_a_user_of_ours_is_in_the_partition_where_the_java_client_puts_them() -> None:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    topic = "actions.sms"
    broker = next(iter(cluster.list_topics(topic, timeout=10).brokers.values()))  # Makes the topic.
    sink = KafkaSink(f"{broker.host}:{broker.port}", {"log_level": 0}, create=None)
    sink.open_topics([topic])
    for key in MURMUR2:
        sink.write(topic, key, b"{}")
    sink.confirm()
    sink.close()
    consumer = Consumer({"bootstrap.servers": f"{broker.host}:{broker.port}", "group.id": "g", "log_level": 0})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    found: dict[str, int | None] = {}
    while len(found) < len(MURMUR2):
        for message in consumer.consume(10, timeout=1):
            if message.error() is None:
                found[(message.key() or b"").decode()] = message.partition()
    consumer.close()
    assert found == {key: (hashed & 0x7FFFFFFF) % PARTITIONS for key, hashed in MURMUR2.items()}
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("room", ["dataflow", "connectors", "benchmarks", "tests", "docs", "examples"])
def test_no_producer_of_ours_is_left_to_the_default_of_its_library(room: str) -> None:
    left = []
    for path in [*(REPO / room).rglob("*.py"), *(REPO / room).rglob("*.md")]:
        text = path.read_text("utf-8")
        for call in re.finditer(r"\bProducer\((?!\))", text):
            said = text[call.start() : call.start() + 300]
            if path != Path(__file__) and "murmur2_random" not in said and "producer_options" not in said:
                left.append(f"{path.relative_to(REPO)}: {said.splitlines()[0]}")
    assert left == []
