"""A small job that is killed at each single touch of the outside: every write, before, after and in the middle."""

from __future__ import annotations

import re
from random import Random

import pytest

from operators.language.values import MINUTE
from tests.simulation.audit import run_scenario
from tests.simulation.broker import SourcePartition
from tests.simulation.scenario import ASKING, END, Life, Scenario, fill
from tests.simulation.world import SimulatedWorld


def small(processes: int, *lives: Life) -> Scenario:
    """Return a dozen records in two partitions, for *lives* and a last one that ends by itself."""
    made = Scenario(seed=7, shards=2, users_in_memory=1, step_ms=20)
    made.partitions = [SourcePartition("events", number) for number in range(2)]
    fill(made, Random(7), records=14, pace_ms=MINUTE)
    made.lives = [*lives, Life(0, processes, stop_at_end=True, until_ms=END)]
    return made


def touches(made: Scenario) -> int:
    """Return how often the first life of *made* touches the outside when nothing goes wrong."""
    world = SimulatedWorld(made)
    world.live(made.lives[0])
    return world.fate.touches


@pytest.mark.parametrize("loses_power", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_every_touch(processes: int, loses_power: bool) -> None:
    def life(kill_at: int | None) -> Life:
        return Life(0, processes, kill_at=kill_at, loses_power=loses_power, stop_after=120, pause_ms=5 * MINUTE)

    many = touches(small(processes, life(None)))
    assert many > 100
    for touch in range(1, many + 1):
        check(small(processes, life(touch)), f"touch {touch} of {many}")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_every_touch_around_an_exchange_of_the_processes(processes: int) -> None:
    def life(kill_at: int | None) -> Life:
        return Life(
            0, processes, kill_at=kill_at, stop_after=40, pause_ms=5 * MINUTE, exchange_after=60, exchange_flows=2
        )

    many = touches(small(processes, life(None)))
    assert many > 100
    for touch in range(1, many + 1):
        made = small(processes, life(touch))
        made.lives[-1].flows = 2
        check(made, f"touch {touch} of {many}")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_every_touch_of_the_replay_after_a_kill(processes: int) -> None:
    first = Life(0, processes, kill_at=120, stop_after=120, pause_ms=MINUTE)

    def second(kill_at: int | None) -> Life:
        return Life(0, 3 - processes, kill_at=kill_at, stop_after=80, pause_ms=MINUTE)

    world = SimulatedWorld(small(processes, first, second(None)))
    for life in world.scenario.lives[:2]:
        world.live(life)
    many = world.fate.touches
    assert many > 100
    for touch in range(1, many + 1):
        check(small(processes, first, second(touch)), f"touch {touch} of {many} in the second life")


@pytest.mark.parametrize("loses_power", [False, True])
def test_killed_at_every_touch_of_a_job_that_asks_the_register(loses_power: bool) -> None:
    """Between question and answer, between the answer and what follows from it, and before all of it counts."""

    def made(kill_at: int | None) -> Scenario:
        life = Life(ASKING, 2, kill_at=kill_at, loses_power=loses_power, stop_after=120, pause_ms=5 * MINUTE)
        one = small(2, life)
        one.lives[-1].flows = ASKING
        for partition in one.partitions:
            partition.records[:] = [
                record._replace(value=re.sub(rb'"(cart|noise|bye|hello)"', b'"gift"', record.value))
                for record in partition.records
            ]
        return one

    many = touches(made(None))
    world = SimulatedWorld(made(None))
    world.fate.keeps_trace = True
    world.live(world.scenario.lives[0])
    assert world.fate.trace.count("ask the register") > 5
    for touch in range(1, many + 1):
        check(made(touch), f"touch {touch} of {many}")


def check(made: Scenario, what: str) -> None:
    try:
        run_scenario(made)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
