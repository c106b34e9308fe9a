"""How often time is told and asked for, and how much is read at once: enough for its purpose, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from connectors import kafka_source
from connectors.kafka_source import EndProbe
from connectors.sources import Batch, Mark, Reached
from dataflow.keep.files import DiskFolder
from dataflow.read.clock import SteadyClock
from dataflow.read.intake import Intake
from dataflow.read.partition import RECORDS_AT_LEAST, RECORDS_AT_ONCE, TURN_MAX_S, Partition, mark_every_s
from dataflow.read.progress import ProgressLog
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from operators.machine.deployment import Deployment
from tests.time.world import SHARDS, START

SLACK = 200


class Source:
    """A source partition that has as much as is asked for, or nothing; each question for its end is counted."""

    def __init__(self, value: bytes = b"", stamp_ms: Callable[[], int] = lambda: START) -> None:
        self.position = 0
        self.asked_for: list[int] = []
        self.questions = 0
        self.reached_ms: int | None = None
        self._value, self._stamp_ms = value, stamp_ms

    def poll(self, records_max: int) -> Batch:
        if not self._value:
            return Batch([], [], [])
        self.asked_for.append(records_max)
        offsets = range(self.position, self.position + records_max)
        self.position += records_max
        return Batch([self._value] * records_max, [self._stamp_ms()] * records_max, offsets)

    def reached_end(self) -> Reached | None:
        self.questions += 1
        return None if self.reached_ms is None else Reached(self.position, self.reached_ms)

    def mark(self, position: int) -> Mark:
        return ()

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def partition(folder: Path, source: Source, clock: Any, **more: Any) -> Partition:
    folder.mkdir()
    disk, deployed = DiskFolder(folder), Deployment([])
    intake = Intake(
        deployed.index, NativeFormat(deployed.index.table()), topic="e", partition=0, source=0, shards=SHARDS,
        time=StreamTime(),
    )  # fmt: skip
    return Partition(
        0, source, intake, ProgressLog(disk, "e-0", 0), shards=SHARDS, end=None, closes=False,
        clock=SteadyClock(lambda: clock.ms, lambda: clock.ms), slack_ms=SLACK,
        monotonic_s=lambda: clock.ms / 1000, **more,
    )  # fmt: skip


# ---- marks ------------------------------------------------------------------------------------------------------


def test_shards_hear_of_time_every_20_ms_while_no_record_comes(tmp_path: Path) -> None:
    clock, source = SimpleNamespace(ms=START), Source()
    one = partition(tmp_path / "progress", source, clock)
    told = 0
    for _ in range(1_000):
        clock.ms += 1
        source.reached_ms = clock.ms
        told += bool(one.step())
    assert 47 <= told <= 50


def test_a_shard_that_waits_hears_of_time_within_20_ms_and_one_that_does_not_within_half_a_second(
    tmp_path: Path,
) -> None:
    clock, source = SimpleNamespace(ms=START), Source()
    one = partition(
        tmp_path / "progress", source, clock, wait_for=lambda time_ms: [1] if time_ms >= START + 100 else []
    )
    told: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(2_000):
        clock.ms += 1
        source.reached_ms = clock.ms
        for parcel in one.step():
            if parcel.shard in told:
                told[parcel.shard].append(clock.ms)
    assert 4 <= len(told[0]) <= 5
    assert max(b - a for a, b in pairwise(told[0])) <= 520
    after = [ms for ms in told[1] if ms >= START + 100 + SLACK]
    assert after[0] <= START + SLACK + 125
    assert max(b - a for a, b in pairwise(after)) <= 21


def test_what_is_said_of_time_never_takes_more_than_a_tenth_of_a_process() -> None:
    assert mark_every_s(4 * 64) == 0.02
    for parcels in (1, 256, 768, 64 * 64, 1_000 * 64):
        assert parcels * 3e-6 / mark_every_s(parcels) <= 0.1 + 1e-9
    assert mark_every_s(3 * 4 * 64) < 0.03, "three topics with four partitions each do not hear of it later"


# ---- questions for ends -----------------------------------------------------------------------------------------


def test_nobody_asks_for_the_end_of_a_partition_whose_records_are_ahead_of_the_slack(tmp_path: Path) -> None:
    clock = SimpleNamespace(ms=START)
    source = Source(b'{"user_id": "u", "event": "x"}', lambda: START)
    one = partition(tmp_path / "progress", source, clock)
    one.step()
    source._value = b""
    clock.ms = START + SLACK
    one.step()
    assert source.questions == 0, "the clock less the slack is where time is already"
    clock.ms += 1
    one.step()
    assert source.questions == 1


class Probing:
    """An `EndProbe` without its thread, and how it paces itself. Each question takes *cost_s* of CPU time.

    Args:
        between: called in each pause, with its number.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, cost_s: float, pauses: int, between: Callable[[int, EndProbe], object]
    ) -> None:
        self.pauses: list[float] = []
        self.asked: list[list[str]] = []
        self._now_s = self._cpu_s = 0.0

        def ends_now(admin: object, places: list[TopicPartition]) -> Iterator[tuple[TopicPartition, int, str]]:
            self._cpu_s += cost_s
            self.asked.append([one.topic for one in places])
            return ((place, 7, "") for place in places)

        def wait(pause_s: float) -> bool:
            self.pauses.append(pause_s)
            self._now_s += pause_s
            between(len(self.pauses), probe)
            return len(self.pauses) > pauses

        clocks = SimpleNamespace(monotonic=lambda: self._now_s, thread_time=lambda: self._cpu_s)
        idle = SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=lambda: None), Event=lambda: None)
        monkeypatch.setattr(kafka_source, "time", clocks)
        monkeypatch.setattr(kafka_source, "threading", idle)
        monkeypatch.setattr(kafka_source, "ends_now", ends_now)
        monkeypatch.setattr(kafka_source, "AdminClient", lambda _: None)
        probe = EndProbe("b:9", {}, [("busy", 0), ("silent", 0)], lambda: int(self._now_s * 1000))
        monkeypatch.setattr(probe, "_stop", SimpleNamespace(wait=wait))
        probe._run()
        self.ends = probe.ends


def test_the_end_that_somebody_waits_for_is_asked_for_every_20_ms_and_all_every_100(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probing = Probing(monkeypatch, 0.0001, 50, lambda _, probe: probe.reached("silent", 0, 7))
    assert {round(pause_s, 3) for pause_s in probing.pauses} == {0.02}
    assert all("silent" in topics for topics in probing.asked)
    assert sum("busy" in topics for topics in probing.asked) == pytest.approx(10, abs=1)


def test_an_end_that_nobody_waits_for_is_asked_for_every_100_ms_only(monkeypatch: pytest.MonkeyPatch) -> None:
    probing = Probing(monkeypatch, 0.0001, 50, lambda *_: None)
    assert len(probing.asked) == pytest.approx(10, abs=1)
    assert probing.ends.end("busy", 0) is not None


def test_questions_that_are_dear_are_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    probing = Probing(monkeypatch, 0.01, 20, lambda _, probe: probe.reached("silent", 0, 7))
    assert probing.pauses[2:] == [pytest.approx(0.3)] * (len(probing.pauses) - 2)


# ---- how much is read at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("record_us", "partitions"), [(5, 1), (30, 1), (30, 4), (200, 4)])
def test_a_turn_over_all_partitions_takes_a_tenth_of_a_second_however_dear_a_record_is(
    tmp_path: Path, record_us: int, partitions: int
) -> None:
    clock = SimpleNamespace(ms=float(START))
    sources = [Source(b"no json") for _ in range(partitions)]
    all_of_them = [partition(tmp_path / str(number), one, clock) for number, one in enumerate(sources)]
    took_s: list[float] = []
    for _ in range(12):
        began_ms = clock.ms
        for one, source in zip(all_of_them, sources, strict=True):
            one.step()
            clock.ms += source.asked_for[-1] * record_us / 1000
        took_s.append((clock.ms - began_ms) / 1000)
    least_s = RECORDS_AT_LEAST * partitions * record_us / 1e6
    assert took_s[-1] <= max(TURN_MAX_S, least_s) * 1.01
    assert took_s[-1] >= min(RECORDS_AT_ONCE * partitions * record_us / 1e6, TURN_MAX_S) * 0.9


def test_after_one_slow_turn_batches_grow_again(tmp_path: Path) -> None:
    clock, source = SimpleNamespace(ms=float(START)), Source(b"no json")
    one = partition(tmp_path / "progress", source, clock)
    one.step()
    clock.ms += 900  # A checkpoint, say.
    for _ in range(6):
        one.step()
        clock.ms += 20
    assert source.asked_for[0] == RECORDS_AT_ONCE
    assert source.asked_for[1] < RECORDS_AT_ONCE / 5
    assert source.asked_for[-1] == RECORDS_AT_ONCE
