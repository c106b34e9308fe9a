"""What our clients know again after a broker was away, each on its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from connectors.kafka import KafkaTopics as Topics
from connectors.kafka_outage import Outage
from connectors.kafka_sink import KafkaSink
from connectors.kafka_source import EndProbe, KafkaPartition
from connectors.sinks import SinkError
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


def test_somebody_is_told_when_the_end_of_a_partition_stays_unknown(broker: KafkaTopics, topic_prefix: str) -> None:
    """As when the right to ask is taken away: nothing else would tell why no wait ends."""
    topic, log, now = f"{topic_prefix}events", list[str](), [0]
    probe = EndProbe(broker.bootstrap, {}, [(topic, 0)], lambda: now[0], log.append)
    try:
        wait_until(lambda: not probe._stop.wait(0.5))
        assert log == []
        now[0] = 11_000
        wait_until(lambda: bool(log))
        assert f"it does not tell where {topic}[0] ends, so no wait ends: " in log[0]
        assert "KafkaError{" not in log[0]
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
    assert old.ends({topic: [0]}) == {topic: [0]}
    for _ in range(2):
        away(breakable_broker, how)
        new = Topics(breakable_broker.bootstrap, {})
        for one in (new, old):
            assert one.end_offsets(topic, [0]) == [0]
            assert one.ends({topic: [0]}) == {topic: [0]}
        new.close()
    old.close()


def test_an_outage_is_a_line_in_the_log_and_its_end_is_one_whoever_notices_them(
    breakable_broker: Broker, topic_prefix: str
) -> None:
    topic, log = f"{topic_prefix}events", list[str]()
    breakable_broker.create_topic(topic)
    bootstrap = breakable_broker.bootstrap
    outage = Outage(bootstrap, log.append)
    probe = EndProbe(bootstrap, {}, [(topic, 0)], now_ms, log.append, outage)
    source = KafkaPartition(bootstrap, {}, topic, 0, 0, probe, log.append, outage=outage)
    sink = KafkaSink(bootstrap, {}, prefix=topic_prefix, log=log.append, outage=outage)
    try:
        sink.open_topics(["out"])
        sink.write("out", "u", b"1")
        sink.confirm()
        wait_until(lambda: probe.ends.end(topic, 0) is not None)

        def work() -> bool:
            sink.deliver()
            source.poll(10)
            return True

        breakable_broker.kill()
        wait_until(lambda: work() and bool(log))
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            work()
            time.sleep(0.05)
        assert len(log) == 1, log
        breakable_broker.start()
        wait_until(lambda: work() and len(log) > 1)
        assert log[0].startswith(f"Kafka at {bootstrap}: ")
        assert log[1].startswith(f"Kafka at {bootstrap} is back, ")
        assert len(log) == 2, log
    finally:
        source.close()
        probe.close()
        sink.close()


def test_topics_that_were_made_a_moment_ago_are_told_of_without_a_warning(
    broker: KafkaTopics, topic_prefix: str
) -> None:
    log: list[str] = []
    for number in range(3):
        sink = KafkaSink(broker.bootstrap, {}, prefix=f"{topic_prefix}{number}.", log=log.append)
        names = ["actions.sms", "actions.email", "journal", "dead-letters"]
        sink.open_topics(names)
        assert sink.ends(names, settled=True) == {name: [0] * 4 for name in names}
        sink.close()
    assert log == []


def partition(broker: KafkaTopics, topic: str, log: list[str], topic_id: str = "") -> KafkaPartition:
    probe: Any = SimpleNamespace(ends=SimpleNamespace(end=lambda *_: None))
    return KafkaPartition(broker.bootstrap, {}, topic, 0, 0, probe, log.append, topic_id)


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


def test_a_topic_that_was_made_anew_is_not_taken_for_the_old_one(broker: KafkaTopics, topic_prefix: str) -> None:
    topic, looking = f"{topic_prefix}events", Topics(broker.bootstrap, {})
    broker.create_topic(topic)
    made = looking.topic_id(topic)
    assert made
    assert looking.topic_id(topic) == made
    source = partition(broker, topic, [], topic_id=made)
    broker.produce(topic, [("u", b"1", None)])
    assert values(source, 1) == [b"1"]
    broker.delete_topics([topic])
    wait_until(lambda: topic not in broker.topics(topic_prefix))
    broker.create_topic(topic)
    assert looking.topic_id(topic) not in ("", made)
    source._note_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(SourceError, match="the topic was made anew"):
        source.poll(10)
    source.close()
    looking.close()


def test_topics_that_are_missing_are_looked_for_as_long_as_asked(broker: KafkaTopics, topic_prefix: str) -> None:
    topics = Topics(broker.bootstrap, {})
    began = time.monotonic()
    assert topics.partitions(f"{topic_prefix}nothing", awaited_s=1) == []
    assert time.monotonic() - began >= 1
    topics.close()


def test_a_sink_that_gives_up_waiting_leaves_no_gap_behind(breakable_broker: Broker, topic_prefix: str) -> None:
    """A record given up alone, with the next one written, would look as if both were there."""
    topic = f"{topic_prefix}actions"
    breakable_broker.create_topic(topic)
    sink = KafkaSink(breakable_broker.bootstrap, {}, confirm_timeout_s=3)
    sink.open_topics([topic])
    sink.write(topic, "u", b"1")
    sink.confirm()
    breakable_broker.kill()
    sink.write(topic, "u", b"2")
    time.sleep(2)
    sink.write(topic, "u", b"3")
    with pytest.raises(SinkError, match="did not acknowledge 2 records within 3 s"):
        sink.confirm()
    breakable_broker.start()
    wait_until(lambda: len(breakable_broker.read_all(topic)) == 3)
    assert [record.value for record in breakable_broker.read_all(topic)] == [b"1", b"2", b"3"]
    sink.close()


@contextmanager
def an_open_transaction(broker: KafkaTopics, topic: str) -> Iterator[None]:
    """Have a record of a transaction in *topic* that is committed only at the end."""
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": topic, "partitioner": "murmur2_random"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"in a transaction", "t")
    assert producer.flush(30) == 0
    yield
    producer.commit_transaction(30)


def test_time_waits_for_what_an_open_transaction_hides(broker: KafkaTopics, topic_prefix: str) -> None:
    """Records of anybody behind it are in the topic, stamped, and cannot be read yet."""
    topic = f"{topic_prefix}events"
    broker.create_topic(topic)
    probe = EndProbe(broker.bootstrap, {}, [(topic, 0)], now_ms)
    source = KafkaPartition(broker.bootstrap, {}, topic, 0, 0, probe)
    broker.produce(topic, [("u", b"before", None)])
    assert values(source, 1) == [b"before"]
    wait_until(lambda: source.reached_end() is not None)
    with an_open_transaction(broker, topic):
        broker.produce(topic, [("u", b"behind", None)])
        asked_ms = now_ms()

        def asked_again() -> bool:
            assert source.poll(10).values == []
            end = probe.ends.end(topic, 0)
            return end is not None and end.at_ms > asked_ms

        wait_until(asked_again)
        assert source.reached_end() is None
    assert values(source, 2) == [b"in a transaction", b"behind"]

    def at_the_end() -> bool:
        assert source.poll(10).values == []
        return source.reached_end() is not None

    wait_until(at_the_end)
    source.close()
    probe.close()


@pytest.mark.parametrize("partitions", [1, 2])
def test_of_a_sink_topic_that_was_made_anew_all_is_read_back(
    broker: KafkaTopics, topic_prefix: str, partitions: int
) -> None:
    """Offsets of the old one say nothing there."""
    topic = f"{topic_prefix}actions"
    broker.create_topic(topic, partitions)
    broker.produce(topic, [("u", b"since then", None)])
    sink = KafkaSink(broker.bootstrap, {})
    sink.open_topics([topic])
    assert [one.value for one in sink.read_back({topic: [7, 7]})] == [b"since then"]
    sink.close()


def test_what_was_written_behind_an_open_transaction_is_read_back(broker: KafkaTopics, topic_prefix: str) -> None:
    topic = f"{topic_prefix}actions"
    broker.create_topic(topic)
    with an_open_transaction(broker, topic):
        sink = KafkaSink(broker.bootstrap, {})
        sink.open_topics([topic])
        sink.write(topic, "u", b"ours")
        sink.confirm()
        assert sink.ends([topic]) == {topic: [2]}
        assert [one.value for one in sink.read_back({topic: [0]})] == [b"in a transaction", b"ours"]
        sink.close()
