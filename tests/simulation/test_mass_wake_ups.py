"""Many are woken at one instant, and the job is killed amid that: whoever was woken has been woken by the old flows."""

from __future__ import annotations

import json

import pytest

from dataflow.job.worker import Worker
from dataflow.read.partition import Partition
from operators.language.values import HOUR, MINUTE
from tests.simulation.audit import audit
from tests.simulation.broker import SourcePartition, SourceRecord
from tests.simulation.oracle import Violation
from tests.simulation.scenario import END, PAUSED, START, Life, Scenario
from tests.simulation.world import SimulatedWorld

USERS = 8
KILLS = range(40, 220, 3)


def kill_at(touch: int, then: int, by_record: bool) -> None:
    """Let a job be killed at a touch of the outside, be stopped soon after a start with flows *then*, and be paused.

    Time comes to where users are woken by a record, or by the clock alone.
    """
    partition = SourcePartition("events", 0)
    for number in range(USERS):
        value = json.dumps({"user_id": f"user-{number}", "event": "view"}).encode()
        partition.records.append(SourceRecord(number, START, START, value))
    if by_record:
        later = json.dumps({"user_id": "user-0", "event": "noise"}).encode()
        partition.records.append(SourceRecord(USERS, START + 2 * HOUR, START + 2 * HOUR, later))
    made = Scenario(touch, [partition], shards=2, wakes_slowly=True, step_ms=60 if by_record else MINUTE)
    made.lives = [
        Life(0, 1, kill_at=touch, stop_after=100_000, pause_ms=HOUR),
        Life(then, 1, stop_after=touch % 40 if by_record else 0),
        Life(PAUSED, 1, stop_at_end=True, until_ms=END),
    ]
    world = SimulatedWorld(made)
    world.run()
    audit(world)


def test_nobody_is_woken_again_by_other_flows() -> None:
    for touch in KILLS:
        for then in (0, PAUSED):
            for by_record in (True, False):
                kill_at(touch, then, by_record)


def leave_the_rest(patch: pytest.MonkeyPatch) -> None:
    """A replay stops where the dead run had come to, whoever is still to be woken."""
    patch.setattr(Worker, "has_due", False)
    patch.setattr("dataflow.shard.Shard.is_over", False)


def call_it_clean(patch: pytest.MonkeyPatch) -> None:
    """A replay that is asked to stop counts as finished once all has been read."""
    patch.setattr(Worker, "has_due", False)


def forget_what_the_clock_said(patch: pytest.MonkeyPatch) -> None:
    """It counts as finished although nobody has told the shards what time the dead run had come to."""
    patch.setattr(Partition, "has_caught_up", True)


@pytest.mark.parametrize("mutation", [leave_the_rest, call_it_clean, forget_what_the_clock_said])
def test_that_is_noticed(mutation: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(mutation)
    mutation(monkeypatch)
    with pytest.raises(Violation):
        test_nobody_is_woken_again_by_other_flows()
