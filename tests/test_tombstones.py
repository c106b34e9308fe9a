"""A tombstone, a Kafka record without a value, is ignored and counted; it is no dead letter and moves no time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.kafka_source import KafkaPartition, KnownEnds
from connectors.sources import Batch, Mark, Reached
from dataflow.keep.files import DiskFolder
from dataflow.read.clock import SteadyClock
from dataflow.read.intake import Intake
from dataflow.read.partition import Parcel, Partition
from dataflow.read.progress import ProgressLog
from dataflow.read.scanner import NativeFormat
from operators.conditions.index import MatchIndex
from state.records import unpacked

AT = 1_795_435_200_000  # 2026-11-23T12:00:00Z
EVENT = b'{"user_id": "u", "event": "hello"}'


@pytest.fixture
def producer() -> Producer:
    return Producer({"test.mock.num.brokers": 1, "log_level": 0, "partitioner": "murmur2_random"})


def bootstrap_of(producer: Producer) -> str:
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    return f"{broker.host}:{broker.port}"


@pytest.fixture
def source(producer: Producer) -> Iterator[KafkaPartition]:
    for number, value in enumerate([None, EVENT, None, b"", EVENT, None]):
        producer.produce("events", value, "u", partition=0, timestamp=AT + number)
    assert producer.flush(30) == 0
    probe: Any = SimpleNamespace(ends=KnownEnds())
    partition = KafkaPartition(bootstrap_of(producer), {}, "events", 0, 0, probe)
    yield partition
    partition.close()


def test_a_batch_has_records_and_tombstones_apart_each_with_its_own_stamp_and_offset(source: KafkaPartition) -> None:
    values, stamps, offsets, tombstones = [], [], [], []
    deadline = time.monotonic() + 30
    while source.position < 6 and time.monotonic() < deadline:
        batch = source.poll(100)
        values += batch.values
        stamps += batch.arrived_ms or []
        offsets += [batch.offsets[position] for position in range(len(batch.values))]
        tombstones += batch.tombstones
    assert values == [EVENT, b"", EVENT]  # An empty value is one: a dead letter.
    assert stamps == [AT + 1, AT + 3, AT + 4]
    assert offsets == [1, 3, 4]
    assert tombstones == [0, 2, 5]
    assert source.position == 6


class Reader:
    """Gives the batches that it was given, then nothing."""

    def __init__(self, *batches: tuple[int, Batch]) -> None:
        self.position = 0
        self.reached: Reached | None = None
        self._batches = list(batches)

    def poll(self, records_max: int) -> Batch:
        if not self._batches:
            return Batch([], [], [])
        self.position, batch = self._batches.pop(0)
        return batch

    def reached_end(self) -> Reached | None:
        return self.reached

    def mark(self, position: int) -> Mark:
        return ()

    def lag(self) -> int | None:
        return 0

    def close(self) -> None:
        pass


def partition_of(reader: Reader, folder: Path, end: int | None = None) -> Partition:
    index = MatchIndex([("hello", None)])
    intake = Intake(index, NativeFormat(index.table()), topic="t", partition=0, source=0, shards=1)
    log = ProgressLog(DiskFolder(folder), "t-0", 0)
    clock = SteadyClock(lambda: AT + 10_000, lambda: 0)
    return Partition(
        0, reader, intake, log, shards=1, end=end, closes=True, clock=clock, slack_ms=0, monotonic_s=lambda: 0.0
    )  # fmt: skip


def offsets_of(parcels: list[Parcel]) -> list[int]:
    return [one.offset for parcel in parcels for one in unpacked(parcel.records)]


def test_a_tombstone_is_counted_and_leaves_nothing_else(tmp_path: Path) -> None:
    reader = Reader((3, Batch([EVENT], [AT], [1], [0, 2])))
    partition = partition_of(reader, tmp_path)
    parcels = partition.step()
    counts = partition.intake.counts
    assert (counts.records, counts.tombstones, counts.dead) == (1, 2, {})
    assert offsets_of(parcels) == [1]
    assert [parcel.dead for parcel in parcels] == [[]]


def test_tombstones_alone_move_the_position_and_no_time(tmp_path: Path) -> None:
    reader = Reader((1, Batch([EVENT], [AT], [0])), (4, Batch([], [], [], [1, 2, 3])))
    partition = partition_of(reader, tmp_path)
    partition.step()
    assert partition.step() == []
    assert partition.snapshot() == [4, AT]
    assert not partition.is_idle  # More may be there at once.
    partition.step()
    assert partition.is_idle


def test_behind_tombstones_time_goes_with_the_clock_as_behind_records(tmp_path: Path) -> None:
    reader = Reader((1, Batch([EVENT], [AT], [0])), (2, Batch([], [], [], [1])))
    partition = partition_of(reader, tmp_path)
    partition.step()
    reader.reached = Reached(2, AT + 5_000)
    partition.step()
    assert partition.snapshot() == [2, AT + 5_000]


def test_a_run_that_ends_among_tombstones_ends_and_counts_those_before_it(tmp_path: Path) -> None:
    reader = Reader((6, Batch([EVENT, EVENT], [AT, AT], [0, 4], [1, 2, 3, 5])))
    partition = partition_of(reader, tmp_path, end=3)
    assert offsets_of(partition.step()) == [0]
    assert partition.is_finished
    assert partition.snapshot() == [3, AT]
    assert (partition.intake.counts.records, partition.intake.counts.tombstones) == (1, 2)
