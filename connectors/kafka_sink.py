"""Publish records to Kafka topics, keyed by user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from operator import gt
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from connectors.kafka import MISSING_S, KafkaTopics, Options, client_options
from connectors.kafka_outage import Outage
from connectors.kafka_outlet import Outlet
from connectors.sinks import Ends, SinkError, Written

LINGER_MS: Final = 1  # A part of the latency of every action.
PATIENCE_S: Final = 0.1
SETTLED_S: Final = 0.5
LOOK_AGAIN_S: Final = 0.25
CONFIRM_TIMEOUT_S: Final = 60.0


def producer_options(options: Options) -> dict[str, Any]:
    """Return the configuration of a producer: what may be overridden, then *options*, then what may not."""
    return {
        "linger.ms": LINGER_MS,
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
        log: told what goes wrong and passes.
        outage: told instead, where other clients share the cluster.
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
        outage: Outage | None = None,
    ) -> None:
        if outage is not None:
            log = outage.trouble
        self._outage = outage or Outage(bootstrap, log)
        self._bootstrap = bootstrap
        self._options = dict(options)
        self._create = create
        self._prefix = prefix
        self._confirm_timeout_s = confirm_timeout_s
        self._topics = KafkaTopics(bootstrap, options, log, patience_s=confirm_timeout_s)
        self._partitions: dict[str, list[int]] = {}
        self._refused: list[str] = []
        self._patient_topics = frozenset(patient)
        self._prompt = self._patient = Outlet(self._new_producer(), self._make_room)
        if patient:
            self._patient = Outlet(self._new_producer(), self._make_room, PATIENCE_S)
        self._outlets = [self._prompt, self._patient] if patient else [self._prompt]

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **producer_options(client_options(self._bootstrap, self._options)),
                "on_delivery": self._report,
                "error_cb": self._note_error,
            }
        )

    def _note_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._refused.append(error.str())
        else:
            self._outage.trouble(error.str())

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(f"{error.str()} ({message.topic()})")

    def open_topics(self, topics: Sequence[str]) -> None:
        names = [self._prefix + topic for topic in topics]
        found = self._topics.partitions_of_all(names)
        # A broker that has just started may deny for a moment what it has.
        deadline = time.monotonic() + (MISSING_S if self._create is None else 0)
        while (missing := [name for name in names if not found[name]]) and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
            found = self._topics.partitions_of_all(names)
        if missing and self._create is None:
            raise SinkError(f"missing topics: {', '.join(missing)}; create them, or leave out --no-create-topics")
        if missing:
            self._topics.create(missing, partitions=self._create or 0)
            found |= self._topics.partitions_of_all(missing)
        self._partitions |= {topic: found[name] for topic, name in zip(topics, names, strict=True)}
        self._topics.rest()

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
        self._topics.rest()
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
        outlet = self._patient if topic in self._patient_topics else self._prompt
        outlet.write(self._prefix + topic, key, value, headers)

    def _make_room(self, producer: Producer) -> None:
        """Wait until the queue of *producer*, which is full, takes a record again."""
        deadline = time.monotonic() + self._confirm_timeout_s
        queued = len(producer)
        while len(producer) >= queued:
            producer.poll(0.1)
            self._raise_refused()
            if time.monotonic() > deadline:
                raise SinkError(f"Kafka at {self._bootstrap} takes nothing: its queue here is full")

    def deliver(self, *, at_once: bool = False) -> None:
        for outlet in self._outlets:
            outlet.deliver(at_once=at_once)
        self._raise_refused()

    def go_on(self) -> None:
        self.deliver()

    @property
    def is_behind(self) -> bool:
        return any(outlet.is_behind for outlet in self._outlets)

    def confirm(self) -> None:
        unconfirmed = sum(outlet.flush(self._confirm_timeout_s) for outlet in self._outlets)
        self._raise_refused()
        if unconfirmed:
            raise SinkError(
                f"Kafka at {self._bootstrap} did not acknowledge {unconfirmed} records within "
                f"{self._confirm_timeout_s:.0f} s; they will be written again after the restart"
            )
        self._outage.well()

    def _raise_refused(self) -> None:
        if self._refused:
            reasons = ", ".join(sorted(set(self._refused)))
            raise SinkError(f"Kafka at {self._bootstrap} refused {len(self._refused)} records: {reasons}")

    def close(self) -> None:
        self._topics.close()
