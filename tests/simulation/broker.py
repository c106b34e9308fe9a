"""A broker: source partitions that fill as time goes by, and sink topics that dead processes may still reach."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple
from zlib import crc32

from connectors.sinks import Ends, Written
from connectors.sources import Batch, Mark, Reached
from dataflow.read.clock import SteadyClock
from tests.simulation.fate import Fate


class Clock:
    """The broker's time, which only goes forward, and the host's, which may jump; both in ms."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.host_is_ahead_ms = 0

    @property
    def host_ms(self) -> int:
        return self.now_ms + self.host_is_ahead_ms


class SourceRecord(NamedTuple):
    """A record that comes to be at *appended_ms* and is stamped *arrived_ms*."""

    offset: int
    appended_ms: int
    arrived_ms: int
    value: bytes


@dataclass
class SourcePartition:
    """All that will ever be in a source partition, in order of its appearance; it exists from *appears_ms* on."""

    topic: str
    number: int
    records: list[SourceRecord] = field(default_factory=list)
    appears_ms: int = 0

    @property
    def key(self) -> str:
        return f"{self.topic}-{self.number}"

    def there(self, now_ms: int) -> int:
        """Return how many records are there by *now_ms*."""
        return bisect_left(self.records, now_ms + 1, key=lambda one: one.appended_ms)

    def end(self, now_ms: int) -> int:
        """Return the end offset as of *now_ms*."""
        count = self.there(now_ms)
        return self.records[count - 1].offset + 1 if count else 0

    def offset_at(self, at_ms: int, now_ms: int) -> int:
        """Return the offset of the first record stamped *at_ms* or later, as of *now_ms*, else the end."""
        there = self.records[: self.there(now_ms)]
        return next((one.offset for one in there if one.arrived_ms >= at_ms), self.end(now_ms))


class SimulatedReader:
    """A `SourcePartition` of connectors/sources.py, on a partition of the simulated broker."""

    def __init__(
        self, partition: SourcePartition, position: int, clock: Clock, host: SteadyClock, chance: Random
    ) -> None:
        self._partition, self._clock, self._host, self._chance = partition, clock, host, chance
        self.position = position
        self._reached: Reached | None = None
        self._silent = chance.choice([0, 0, 0, chance.randint(1, 12)])  # So often it takes to get a first answer.

    def poll(self, records_max: int) -> Batch:
        records = self._partition.records
        first = bisect_left(records, self.position, key=lambda one: one.offset)
        there = self._partition.there(self._clock.now_ms)
        chance = self._chance
        count = max(0, there - first)
        if self._silent:
            self._silent, count = self._silent - 1, 0
        count = 0 if chance.random() < 0.1 else chance.randint(1, count) if count else 0
        found = records[first : first + count]
        if found:
            self.position = found[-1].offset + 1
        return Batch([one.value for one in found], [one.arrived_ms for one in found], [one.offset for one in found])

    def ask(self) -> None:
        """The probe's thread: ask where the partition ends, as of now."""
        self._reached = Reached(self._partition.end(self._clock.now_ms), self._host.tick_ms())

    def reached_end(self) -> Reached | None:
        if not self._silent and self._chance.random() < 0.5:
            self.ask()
        return self._reached if self._reached is not None and self._reached.offset == self.position else None

    def mark(self, position: int) -> Mark:
        return ()

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        pass


class SinkRecord(NamedTuple):
    key: str
    value: bytes
    headers: dict[str, bytes]


class SinkTopics:
    """The sink's topics, and what dead processes have sent that may still arrive."""

    def __init__(self, chance: Random, partitions: int) -> None:
        self._chance = chance
        self._partitions = partitions
        self.topics: dict[str, list[list[SinkRecord]]] = {}
        self._late: dict[tuple[str, int], list[SinkRecord]] = {}
        self.refused: set[tuple[str, int]] = set()

    def create(self, topic: str) -> None:
        self.topics.setdefault(topic, [[] for _ in range(self._partitions)])

    def place(self, topic: str, key: str) -> tuple[str, int]:
        return topic, crc32(key.encode()) % len(self.topics[topic])

    def take(self, place: tuple[str, int], records: list[SinkRecord]) -> None:
        self.topics[place[0]][place[1]].extend(records)

    def bury(self, sent: dict[tuple[str, int], list[SinkRecord]]) -> None:
        """A process has died: of what it had sent, some arrives at once, some later, some never; in order.

        Now and then it died because one record had been refused, and those behind it were not.
        """
        for place, all_of_it in sent.items():
            records = all_of_it
            draw = crc32(records[0].value)  # Not by chance: seeds that found something should go on finding it.
            if draw % 10 == 0:
                self.refused.add(place)
                records = [one for number, one in enumerate(records) if number != draw % len(records)]
            arrived = self._chance.randint(0, len(records))
            self.take(place, records[:arrived])
            if self._chance.random() < 0.5:
                later = records[arrived : self._chance.randint(arrived, len(records))]
                self._late.setdefault(place, []).extend(later)

    def let_pass(self) -> None:
        """A moment passes: something late may arrive."""
        if self._late and self._chance.random() < 0.2:
            place = self._chance.choice(list(self._late))
            self.take(place, self._late.pop(place))

    def settle(self) -> None:
        """So much time passes that whatever is still on its way has arrived."""
        for place, records in self._late.items():
            self.take(place, records)
        self._late = {}


class SimulatedSink:
    """A `Sink` of one process, on the simulated broker. Like Kafka's, it knows the topics that it was told to open."""

    remembers = True
    marks_job = True

    def __init__(self, topics: SinkTopics, fate: Fate) -> None:
        self._topics, self._fate, self._chance = topics, fate, fate.chance
        self._opened: set[str] = set()
        self.sent: dict[tuple[str, int], list[SinkRecord]] = {}

    def open_topics(self, topics: Sequence[str]) -> None:
        self._fate.touch("open topics")
        for topic in topics:
            self._topics.create(topic)
            self._opened.add(topic)

    def ends(self, topics: Sequence[str], *, settled: bool = False) -> Ends:
        self._fate.touch("ask for ends")
        if settled:
            self._topics.settle()
        self._topics.let_pass()
        unknown = sorted(set(topics) - self._opened)
        if unknown:
            raise KeyError(f"topics that were not opened: {unknown}")
        return {topic: [len(partition) for partition in self._topics.topics[topic]] for topic in topics}

    def read_back(self, starts: Ends) -> Iterator[Written]:
        ends = self.ends(list(starts))
        for topic, offsets in starts.items():
            padded = [*offsets, *[0] * (len(ends[topic]) - len(offsets))]
            for number, (start, end) in enumerate(zip(padded, ends[topic], strict=True)):
                for record in self._topics.topics[topic][number][start:end]:
                    yield Written(topic, record.value, record.headers)
                self._topics.let_pass()

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        assert topic in self._opened, topic
        self._fate.touch("produce")
        self.sent.setdefault(self._topics.place(topic, key), []).append(SinkRecord(key, value, dict(headers)))

    @property
    def is_behind(self) -> bool:
        return False

    def go_on(self) -> None:
        pass

    def deliver(self, *, at_once: bool = False) -> None:
        self._topics.let_pass()
        for place in [place for place in self.sent if self._chance.random() < 0.5]:
            count = self._chance.randint(1, len(self.sent[place]))
            self._acknowledge(place, count)

    def confirm(self) -> None:
        self._fate.touch("confirm")
        places = list(self.sent)
        self._chance.shuffle(places)
        for place in places:
            self._acknowledge(place, len(self.sent[place]))
        self._fate.touch("confirmed")

    def _acknowledge(self, place: tuple[str, int], count: int) -> None:
        self._topics.take(place, self.sent[place][:count])
        del self.sent[place][:count]
        if not self.sent[place]:
            del self.sent[place]
        self._fate.touch("acknowledged")

    def close(self) -> None:
        pass
