"""Read one partition of a Kafka topic, and know when it has been read to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, overload

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka import (
    ANSWER_TIMEOUT_S,
    MISSING,
    MISSING_S,
    KafkaTopics,
    KafkaUnavailable,
    Options,
    Renewed,
    client_options,
    ends_now,
)
from connectors.kafka_outage import Outage, in_words, is_of_the_connection
from connectors.sources import Batch, Headers, Mark, Reached, SourceError

PROBE_EVERY_S: Final = 0.02
ASK_ALL_EVERY_S: Final = 0.1  # Also for what nobody waits: how far readers lag.
PROBE_PAUSE: Final = 30  # Times the CPU time of the probing thread, a third of what a probe costs: a tenth of a core.
BATCH_PATIENCE_S: Final = 0.05
OUTAGE_MS: Final = 2_000  # Without an answer for so long, a broker counts as away: producers could not reach it either.
SILENT_MS: Final = 10_000  # Without an answer for so long, somebody should know.
STUCK_S: Final = 10.0  # A reader that gives no sign of life for so long, though there is more, is replaced.
# What all readers of a process hold together when they lag. It does not grow with the number of partitions.
BUFFERED_MESSAGES: Final = 800_000
BUFFERED_KB: Final = 512 * 1024
FETCHED_BYTES: Final = 64 * 2**20  # On their way.
GRACE_MAX_MS: Final = 30_000  # And no longer than this do we wait for what they have kept meanwhile.

_HOPELESS: Final = (KafkaError.TOPIC_AUTHORIZATION_FAILED,)


T = TypeVar("T")


class _Each(Sequence[T]):
    """Something of each of some messages, read off only where somebody asks."""

    def __init__(self, messages: list[Message], read: Callable[[Message], T]) -> None:
        self._messages = messages
        self._read = read

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> _Each[T]: ...

    def __getitem__(self, index: int | slice) -> T | _Each[T]:
        if isinstance(index, slice):
            return _Each(self._messages[index], self._read)
        return self._read(self._messages[index])


def _offset_of(message: Message) -> int:
    offset: int = message.offset()
    return offset


def headers_of(message: Message) -> Headers:
    """Return the headers of a message; none where the client cannot read them, since names may be any bytes."""
    try:
        return message.headers() or ()
    except (UnicodeDecodeError, SystemError):
        return ()


class KnownEnds:
    """Where partitions were last known to end, and whether time may go by it.

    After an outage producers need a moment to bring what they have kept, with the stamps of before. So the answers that
    come first say where a partition ends, but move no time: for as long again as there was none, within a bound.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Reached] = {}
        self._away: dict[tuple[str, int], tuple[int, int]] = {}  # Since when, and the first answer after that.
        self._trusted_from: dict[tuple[str, int], int] = {}

    def note(self, topic: str, partition: int, offset: int, asked_ms: int) -> None:
        """Note the answer to a question that was sent at *asked_ms*."""
        key = (topic, partition)
        before = self._known.get(key)
        if before is not None and asked_ms - before.at_ms > OUTAGE_MS:
            since, first = self._away.setdefault(key, (before.at_ms, asked_ms))
            # The bound counts from the first answer: a broker that is slow for good does not stop time.
            self._trusted_from[key] = min(asked_ms + (asked_ms - since), first + GRACE_MAX_MS)
        else:
            self._away.pop(key, None)
        self._known[key] = Reached(offset, asked_ms)

    def end(self, topic: str, partition: int) -> Reached | None:
        """Return the last known end of a partition, None before the first answer."""
        return self._known.get((topic, partition))

    def reached(self, topic: str, partition: int, position: int) -> Reached | None:
        """Return that *position* is the end and as of when, None when it is not, or time may not go by it."""
        end = self._known.get((topic, partition))
        if end is None or end.offset != position or end.at_ms < self._trusted_from.get((topic, partition), 0):
            return None
        return end


class EndProbe:
    """Ask the broker, over and over, where partitions end: on a client and a thread of its own.

    An end counts as of the moment at which the question was sent: everything that arrived before that moment lies
    before it. The fetching consumer cannot answer this: its end-of-partition events and cached offsets are wrong while
    the broker is away, and its own query waits behind its fetches.

    Partitions whose time stands until their end is known are asked for every 20 ms, all every 100 ms; less often where
    that would cost more than a tenth of a core.
    """

    def __init__(
        self,
        bootstrap: str,
        options: Options,
        partitions: Sequence[tuple[str, int]],
        clock_ms: Callable[[], int],
        log: Callable[[str], None] = lambda _: None,
        outage: Outage | None = None,
    ) -> None:
        self._outage = outage or Outage(bootstrap, log)
        self._admin = Renewed(lambda: AdminClient(client_options(bootstrap, options)))
        self._partitions = [TopicPartition(*partition) for partition in partitions]
        self._awaited = dict.fromkeys(partitions, False)  # No key comes or goes: other threads look at it.
        self._clock_ms = clock_ms
        self._since_ms = clock_ms()
        self.ends = KnownEnds()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-probe", daemon=True)
        self._thread.start()

    def reached(self, topic: str, partition: int, position: int) -> Reached | None:
        """Return that *position* is the end and as of when, None when it is not, or nobody knows; ask soon."""
        self._awaited[(topic, partition)] = True
        return self.ends.reached(topic, partition, position)

    def _run(self) -> None:
        pause_s, all_from_s = PROBE_EVERY_S, 0.0
        while not self._stop.wait(pause_s):
            began_s, now_s = time.thread_time(), time.monotonic()
            if now_s >= all_from_s:
                due, all_from_s = self._partitions, now_s + ASK_ALL_EVERY_S
            else:
                due = [one for one in self._partitions if self._awaited[(one.topic, one.partition)]]
            if due:
                self._ask(due)
            pause_s = max(PROBE_EVERY_S, PROBE_PAUSE * (time.thread_time() - began_s))

    def _ask(self, partitions: Sequence[TopicPartition]) -> None:
        for one in partitions:
            self._awaited[(one.topic, one.partition)] = False
        asked_ms = self._clock_ms()
        unknown: dict[str, object] = {}
        silent: list[str] = []
        try:
            for partition, offset, reason in ends_now(self._admin.now, partitions):
                if offset is None:
                    # No answer, no progress: time stands still there until the broker is back.
                    unknown[f"{partition.topic}[{partition.partition}]"] = reason
                    if self._is_silent_for_long(partition, asked_ms):
                        silent.append(f"{partition.topic}[{partition.partition}]")
                else:
                    self.ends.note(partition.topic, partition.partition, offset, asked_ms)
        except KafkaException as error:
            self._outage.trouble(f"it cannot be asked where partitions end: {in_words(error)}")
            self._admin.learn_anew()
            return
        if not unknown:
            self._outage.well()
            return
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            why = in_words(unknown[silent[0]])
            self._outage.trouble(f"it does not tell where {silent[0]}{more} ends, so no wait ends: {why}")
        self._admin.learn_anew()

    def _is_silent_for_long(self, partition: TopicPartition, asked_ms: int) -> bool:
        last = self.ends.end(partition.topic, partition.partition)
        return asked_ms - (self._since_ms if last is None else last.at_ms) >= SILENT_MS

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=ANSWER_TIMEOUT_S + 2)


def consumer_options(options: Options, partitions: int = 1) -> dict[str, Any]:
    """Return the configuration of a reader: what may be overridden, then *options*, then what may not.

    Args:
        partitions: how many readers share what this process may buffer.
    """
    return {
        "queued.min.messages": min(BUFFERED_MESSAGES // partitions, 100_000),
        "queued.max.messages.kbytes": min(BUFFERED_KB // partitions, 128 * 1024),
        "fetch.message.max.bytes": max(min(FETCHED_BYTES // partitions, 4 * 2**20), 2**18),
        "fetch.wait.max.ms": 100,
        # By default a partition whose queue was full once is not fetched for a whole second.
        "fetch.queue.backoff.ms": 2,
        **options,
        "group.id": "nudge",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }


class KafkaPartition:
    """One partition of a topic, read from an offset on; offsets are kept by the job's state, not by the broker.

    Raises:
        SourceError: the partition cannot be read, or what we want to go on from has been deleted.
    """

    def __init__(
        self,
        bootstrap: str,
        options: Options,
        topic: str,
        partition: int,
        position: int,
        probe: EndProbe,
        log: Callable[[str], None] = lambda _: None,
        topic_id: str = "",
        readers: int = 1,
        monotonic_s: Callable[[], float] = time.monotonic,
        outage: Outage | None = None,
    ) -> None:
        self._outage = outage or Outage(bootstrap, log)
        self._topic_id = topic_id
        self._place = f"{topic}[{partition}] at {bootstrap}"
        self._topics: Callable[[], KafkaTopics] = lambda: KafkaTopics(bootstrap, options, log)
        self._topic = topic
        self._partition = partition
        self._probe = probe
        self._log = log
        self.position = position
        self._denied = False
        self._monotonic_s = monotonic_s
        self._alive_s = monotonic_s()
        own = {"error_cb": self._note_error}
        self._new_consumer: Callable[[], Consumer] = lambda: Consumer(
            {**consumer_options(client_options(bootstrap, options), readers), **own}
        )
        self._consumer = self._new_consumer()
        self._consumer.assign([TopicPartition(topic, partition, position)])

    def _note_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise SourceError(f"cannot read {self._place}: {error.str()}")
        self._denied = self._denied or error.code() in MISSING
        self._say(error)

    def _say(self, error: KafkaError) -> None:
        if is_of_the_connection(error) and error.code() not in MISSING:
            self._outage.trouble(error.str())
        else:
            self._log(f"Kafka source {self._place}: {error.str()}")

    def poll(self, records_max: int) -> Batch:
        # With much ahead, a moment's wait makes large batches, which cost less; at the end nothing waits.
        ahead = self.lag()
        patience_s = BATCH_PATIENCE_S if ahead is not None and ahead > records_max else 0
        messages = self._consumer.consume(records_max, timeout=patience_s)
        if messages or not ahead:
            self._alive_s = self._monotonic_s()
        elif self._monotonic_s() - self._alive_s > STUCK_S:
            self._replace()
        if any(message.error() is not None for message in messages):
            messages = [message for message in messages if message.error() is None or self._heed(message)]
        if messages:
            self.position = max(self.position, messages[-1].offset() + 1)
        if self._denied:
            self._look_for_it()
        values = [message.value() for message in messages]
        tombstones: list[int] = []
        if not all(values):  # One has no value, or an empty one, which is a record.
            tombstones = [message.offset() for message in messages if message.value() is None]
            messages = [message for message in messages if message.value() is not None]
            values = [message.value() for message in messages]
        arrived_ms = [message.timestamp()[1] for message in messages]
        return Batch(values, arrived_ms, _Each(messages, _offset_of), tombstones, _Each(messages, headers_of))

    def _replace(self) -> None:
        """Read on with a new consumer: the old one may have lost its brokers, as `Renewed` tells, and says nothing."""
        self._log(f"Kafka source {self._place}: nothing came for {STUCK_S:.0f} s though there is more; connecting anew")
        self._consumer.close()
        self._consumer = self._new_consumer()
        self._consumer.assign([TopicPartition(self._topic, self._partition, self.position)])
        self._alive_s = self._monotonic_s()

    def _heed(self, message: Message) -> bool:
        """Do what an error among the messages asks for; it is no record."""
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            # Behind transaction markers the end lies beyond the last record.
            self.position = max(self.position, message.offset())
        elif error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise SourceError(
                f"{self._place} no longer has offset {self.position}: the records between were deleted by its "
                "retention; start from a newer state, or with a new one"
            )
        elif error.code() in MISSING:
            self._denied = True
        elif error.fatal() or error.code() in _HOPELESS:
            raise SourceError(f"cannot read {self._place}: {error.str()}")
        else:
            self._say(error)
        return False

    def _look_for_it(self) -> None:
        """Find out whether the partition is really gone: a broker that has just started denies what it has."""
        topics = self._topics()
        try:
            found = topics.partitions(self._topic, awaited_s=MISSING_S)
            topic_id = topics.topic_id(self._topic) if found else ""
        except KafkaUnavailable:
            return  # It is away again, which a source outlives; later then.
        finally:
            topics.close()
        if self._partition not in found:
            raise SourceError(f"cannot read {self._place}: there is no such topic or partition any more")
        if self._topic_id and topic_id and topic_id != self._topic_id:
            raise SourceError(f"cannot read {self._place}: the topic was made anew")
        self._denied = False
        self._log(f"Kafka source {self._place}: was denied for a moment, and is read on")
        self._consumer.assign([TopicPartition(self._topic, self._partition, self.position)])

    def reached_end(self) -> Reached | None:
        return self._probe.reached(self._topic, self._partition, self.position)

    def mark(self, position: int) -> Mark:
        return ()

    def lag(self) -> int | None:
        end = self._probe.ends.end(self._topic, self._partition)
        return None if end is None else max(0, end.offset - self.position)

    def close(self) -> None:
        self._consumer.close()
