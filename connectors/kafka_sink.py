"""Publish records to Kafka topics, keyed by user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from operator import gt
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from connectors.kafka import MISSING_S, KafkaTopics, Options, client_options
from connectors.sinks import Ends, SinkError, Written

PROMPT_LINGER_MS: Final = 5  # A part of the latency of every action.
PATIENT_LINGER_MS: Final = 100
SETTLED_S: Final = 0.5
CONFIRM_TIMEOUT_S: Final = 60.0


def producer_options(options: Options, linger_ms: int = PROMPT_LINGER_MS) -> dict[str, Any]:
    """Return the configuration of a producer: what may be overridden, then *options*, then what may not."""
    return {
        "linger.ms": linger_ms,
        "partitioner": "murmur2_random",  # As the Java client: consumers can join on the key.
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 256 * 1024,
        "batch.size": 1_000_000,
        **options,
        "enable.idempotence": True,
        "acks": "all",
        "delivery.report.only.error": True,
        # A record that is given up alone would leave a gap before those behind it. `confirm` gives up all or nothing.
        "delivery.timeout.ms": 0,
    }


class KafkaSink:
    """Publish records, one topic per channel.

    `write` queues and returns; `confirm` returns once the broker has acknowledged everything queued. The producer is
    idempotent: within a partition nothing is repeated or overtaken. What was written after the last `confirm` of a
    process that died may be in the topic or not: `read_back` tells.

    Args:
        create: partitions of a topic that is missing; None: a missing topic is an error.
        prefix: put before every topic's name.
        patient: topics that nobody waits for: their records go out in larger batches, which costs the broker less.
    """

    remembers = True
    marks_job = True

    def __init__(
        self,
        bootstrap: str,
        options: Options,
        *,
        create: int | None = 4,
        prefix: str = "",
        patient: Sequence[str] = (),
        confirm_timeout_s: float = CONFIRM_TIMEOUT_S,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bootstrap = bootstrap
        self._options = dict(options)
        self._create = create
        self._prefix = prefix
        self._confirm_timeout_s = confirm_timeout_s
        self._topics = KafkaTopics(bootstrap, options, log, patience_s=confirm_timeout_s)
        self._partitions: dict[str, list[int]] = {}
        self._ways: dict[str, tuple[Any, str]] = {}
        self._refused: list[str] = []
        self._log = log
        self._patient = frozenset(patient)
        self._prompt_producer = self._new_producer(PROMPT_LINGER_MS)
        self._patient_producer = self._new_producer(PATIENT_LINGER_MS) if patient else self._prompt_producer
        self._producers = list({id(one): one for one in (self._prompt_producer, self._patient_producer)}.values())

    def _new_producer(self, linger_ms: int) -> Producer:
        return Producer(
            {
                **producer_options(client_options(self._bootstrap, self._options), linger_ms),
                "on_delivery": self._report,
                "error_cb": self._note_error,
            }
        )

    def _note_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refused.append(error.str())
        else:
            self._log(f"Kafka sink at {self._bootstrap}: {error.str()}")

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(f"{error.str()} ({message.topic()})")

    def open_topics(self, topics: Sequence[str]) -> None:
        missing = []
        for topic in topics:
            name = self._prefix + topic
            found = self._topics.partitions(name, awaited_s=MISSING_S if self._create is None else 0)
            if found:
                self._partitions[topic] = found
            else:
                missing.append(topic)
        if not missing:
            return
        names = [self._prefix + topic for topic in missing]
        if self._create is None:
            raise SinkError(f"missing topics: {', '.join(names)}; create them, or leave out --no-create-topics")
        self._topics.create(names, partitions=self._create)
        for topic, name in zip(missing, names, strict=True):
            self._partitions[topic] = self._topics.partitions(name)

    def ends(self, topics: Sequence[str], *, settled: bool = False) -> Ends:
        found = self._ends(topics)
        since = time.monotonic()
        while settled and time.monotonic() - since < SETTLED_S:
            time.sleep(SETTLED_S / 5)
            again = self._ends(topics)
            if again != found:
                found, since = again, time.monotonic()
        return found

    def _ends(self, topics: Sequence[str]) -> Ends:
        found = self._topics.ends({self._prefix + topic: self._partitions[topic] for topic in topics})
        return {topic: found[self._prefix + topic] for topic in topics}

    def read_back(self, starts: Ends) -> Iterator[Written]:
        ends = self.ends(list(starts))
        names = {self._prefix + topic: topic for topic in starts}
        left: dict[tuple[str, int], int] = {}
        assigned = []
        for topic, offsets in starts.items():
            padded = [*offsets, *[0] * (len(ends[topic]) - len(offsets))]  # Partitions added since begin at 0.
            # A topic that was made anew has other offsets, and may have fewer partitions: then all of it is looked at.
            is_new = len(offsets) > len(ends[topic]) or any(map(gt, padded, ends[topic]))
            for partition, (known, end) in enumerate(zip(padded, ends[topic], strict=False)):
                start = 0 if is_new else known
                if start < end:
                    left[(self._prefix + topic, partition)] = end
                    assigned.append(TopicPartition(self._prefix + topic, partition, start))
        if not assigned:
            return
        consumer = Consumer(
            {
                **client_options(self._bootstrap, self._options),
                "group.id": "nudge-reads-back",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",  # What retention has taken cannot come again either.
                "isolation.level": "read_uncommitted",
            }
        )
        try:
            consumer.assign(assigned)
            deadline = time.monotonic() + self._confirm_timeout_s
            while left:
                for message in consumer.consume(10_000, timeout=0.2):
                    place = (str(message.topic()), int(message.partition() or 0))
                    error = message.error()
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            left.pop(place, None)
                        continue
                    deadline = time.monotonic() + self._confirm_timeout_s
                    offset: Any = message.offset()
                    yield Written(names[place[0]], message.value() or b"", dict(message.headers() or ()))
                    if offset + 1 >= left.get(place, 0):
                        left.pop(place, None)
                if time.monotonic() > deadline:
                    raise SinkError(f"Kafka at {self._bootstrap} does not let us read back {sorted(left)}")
        finally:
            consumer.close()

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        produce, name = self._ways.get(topic) or self._way(topic)
        try:
            if headers:
                produce(name, value, key, headers=list(headers))
            else:
                produce(name, value, key)
        except BufferError:
            self._write_when_there_is_room(topic, key, value, headers)

    def _way(self, topic: str) -> tuple[Any, str]:
        """Return what produces to *topic*, and the topic's name on the broker."""
        producer = self._patient_producer if topic in self._patient else self._prompt_producer
        way = self._ways[topic] = (producer.produce, self._prefix + topic)
        return way

    def _write_when_there_is_room(
        self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        producer = self._patient_producer if topic in self._patient else self._prompt_producer
        deadline = time.monotonic() + self._confirm_timeout_s
        while True:
            producer.poll(0.1)
            self._raise_refused()
            try:
                producer.produce(self._prefix + topic, value, key, headers=list(headers))
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise SinkError(f"Kafka at {self._bootstrap} takes nothing: its queue here is full") from None

    def deliver(self) -> None:
        for producer in self._producers:
            producer.poll(0)
        self._raise_refused()

    def confirm(self) -> None:
        unconfirmed = sum(producer.flush(self._confirm_timeout_s) for producer in self._producers)
        self._raise_refused()
        if unconfirmed:
            raise SinkError(
                f"Kafka at {self._bootstrap} did not acknowledge {unconfirmed} records within "
                f"{self._confirm_timeout_s:.0f} s; they will be written again after the restart"
            )

    def _raise_refused(self) -> None:
        if self._refused:
            reasons = ", ".join(sorted(set(self._refused)))
            raise SinkError(f"Kafka at {self._bootstrap} refused {len(self._refused)} records: {reasons}")

    def close(self) -> None:
        self._topics.close()
