"""Whatever goes wrong, and in whatever order: the topics hold what the flows decide, once, and the state adds up."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.simulation.audit import run_asking, run_changing_rules, run_receipts, run_scenario, run_seed, run_two_builds
from tests.simulation.scenario import PLACES, scenario
from tests.simulation.world import SimulatedWorld

SEEDS = int(os.environ.get("NUDGE_SIMULATION_SEEDS", "3000"))
GROUPS = 10
NAMED = tomllib.loads((Path(__file__).parent / "seeds.toml").read_text())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", range(GROUPS))
def test_no_fault_loses_repeats_or_changes_anything(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        run(seed)


def test_two_builds_that_decide_differently_lose_and_repeat_nothing() -> None:
    differed = [seed for seed in range(SEEDS // 10) if run(seed, run_two_builds).differed]
    assert len(differed) > SEEDS // 1000, "else this shows nothing"


def test_changed_message_rules_apply_to_what_is_not_done_yet_and_to_nothing_else() -> None:
    worlds = [run(seed, run_changing_rules) for seed in range(SEEDS // 4)]
    assert sum(world.history.left_at_changes > 0 for world in worlds) > SEEDS // 400, "else this shows nothing"


def test_receipts_meet_what_was_sent_whatever_goes_wrong() -> None:
    worlds = [run(seed, run_receipts) for seed in range(SEEDS // 10)]
    kinds = Counter(
        orjson.loads(record.value).get("kind") if topic == "journal" else topic
        for world in worlds
        for topic, partitions in world.topics.topics.items()
        for partition in partitions
        for record in partition
    )
    assert min(kinds[what] for what in ("receipt", "moved", "exited", "actions.one")) > len(worlds) // 20, kinds


def test_flows_that_ask_the_register_let_in_as_many_as_they_say_and_have_one_winner() -> None:
    full = won = 0
    for seed in range(SEEDS // 5):
        asked = run(seed, run_asking).history.expected().asked
        assert asked is not None
        full += any(number > PLACES for number in asked.asked.values())
        won += bool(asked.winners)
    assert min(full, won) > SEEDS // 50, "else this shows nothing"


@pytest.mark.parametrize("name", NAMED)
def test_what_went_wrong_once_does_not_again(name: str) -> None:
    run(NAMED[name]["seed"])


def run(seed: int, run_world: Callable[[int], SimulatedWorld] = run_seed) -> SimulatedWorld:
    try:
        return run_world(seed)
    except Exception as error:
        pytest.fail(
            f"seed {seed}: {type(error).__name__}: {error}; `python -m tests.simulation --first {seed} --seeds 1`"
        )


@pytest.mark.parametrize("seed", [3, 14, 29])
def test_a_seed_is_the_same_world_every_time(seed: int) -> None:
    def trace() -> list[str]:
        made = scenario(seed)
        made.keeps_trace = True
        return run_scenario(made).fate.trace

    first = trace()
    assert len(first) > 100
    assert trace() == first
