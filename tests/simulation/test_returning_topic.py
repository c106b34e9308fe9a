"""A topic that no flow uses for a while: when it returns, it is read back only from where it went out of use."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

import pytest

from connectors.sinks import Ends, Written
from tests.simulation.broker import SimulatedSink, SourcePartition, SourceRecord
from tests.simulation.scenario import Life, Scenario
from tests.simulation.world import SimulatedWorld

TOPIC = "actions.three"
WITH_TOPIC, WITHOUT = Life(0, 1, stop_at_end=True), Life(3, 1, stop_at_end=True)


class Backup:
    """A copy of a world's state directory."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._folders = deepcopy((world.files._files, world.progress._files, world.rows))
        self._recovery = "\n".join(world.recovery.database.iterdump())

    def put_back(self, world: SimulatedWorld) -> None:
        world.files._files, world.progress._files, world.rows = deepcopy(self._folders)
        world.recovery.database = sqlite3.connect(":memory:", isolation_level=None)
        world.recovery.database.executescript(self._recovery)


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the records that are read back, by topic."""
    counts: Counter[str] = Counter()
    read = SimulatedSink.read_back

    def counted(self: SimulatedSink, starts: Ends) -> Iterator[Written]:
        for record in read(self, starts):
            counts[record.topic] += 1
            yield record

    monkeypatch.setattr(SimulatedSink, "read_back", counted)
    monkeypatch.setattr(SimulatedWorld, "_meet_another_job", lambda self: None)
    return counts


@pytest.fixture
def world() -> SimulatedWorld:
    return SimulatedWorld(Scenario(1, [SourcePartition("events", 0)], [WITH_TOPIC]))


def greet(world: SimulatedWorld, users: int) -> None:
    """Let *users* more users do what sends them something to the topic."""
    (partition,) = world.scenario.partitions
    for _ in range(users):
        world.clock.now_ms += 1000
        offset = len(partition.records)
        value = json.dumps({"user_id": f"user-{offset}", "event": "hello", "properties": {}}).encode()
        partition.records.append(SourceRecord(offset, world.clock.now_ms, world.clock.now_ms, value))


def sent(world: SimulatedWorld) -> Counter[str]:
    return Counter(
        json.loads(record.value)["action_id"] for partition in world.topics.topics[TOPIC] for record in partition
    )


def test_a_topic_that_returns_is_not_read_back_from_its_first_offset(
    world: SimulatedWorld, read_back: Counter[str]
) -> None:
    greet(world, 40)
    for life in (WITH_TOPIC, WITHOUT, WITHOUT):
        world.live(life)
    assert sent(world).total() == 40
    read_back.clear()
    greet(world, 5)
    world.live(WITH_TOPIC)
    assert read_back[TOPIC] == 0
    assert sent(world).total() == 45


def test_in_a_state_that_was_put_back_what_was_sent_since_is_found_on_it(
    world: SimulatedWorld, read_back: Counter[str]
) -> None:
    greet(world, 40)
    for life in (WITH_TOPIC, WITHOUT, WITHOUT):
        world.live(life)
    backup = Backup(world)
    greet(world, 5)
    world.live(WITH_TOPIC)
    backup.put_back(world)
    read_back.clear()
    world.live(WITH_TOPIC)
    assert read_back[TOPIC] == 5, "only what it may have to compare"
    assert sent(world).total() == 45
    assert max(sent(world).values()) == 1
