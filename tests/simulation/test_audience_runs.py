"""Runs over audiences in worlds where anything may be killed at any moment: each member enters once, and every shard
decides the same, also what is skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from dataflow.runs import AudienceRuns
from dataflow.shard import Shard
from operators.language.values import HOUR, MINUTE, SECOND
from operators.machine.planning import Planner
from state.errors import StoreError
from state.store import ShardStore
from state.user import User
from tests.simulation.audit import audit
from tests.simulation.broker import SourcePartition, SourceRecord
from tests.simulation.oracle import Violation
from tests.simulation.scenario import RUNS, START, Life, Scenario
from tests.simulation.world import SimulatedWorld

SEEDS = int(os.environ.get("NUDGE_SIMULATION_SEEDS", "3000")) // 30
Patch = pytest.MonkeyPatch


def value(chance: Random, user: str) -> dict[str, Any]:
    kind = chance.choice(["join", "join", "join", "leave", "view", "update"])
    audience = chance.choice(["vip", "gold"])
    if kind == "view":
        return {"user_id": user, "event": "view"}
    if kind == "update":
        return {"audience": audience, "updated": True}
    return {"user_id": user, "audience": audience, "member": kind == "join", "row": {"n": chance.randint(0, 5)}}


def world_of(seed: int) -> SimulatedWorld:
    """Return a world with memberships, events, kills, power cuts and changes of the number of processes."""
    chance = Random(f"runs {seed}")
    made = Scenario(seed, shards=chance.randint(1, 3), sink_partitions=chance.randint(1, 2))
    made.users_in_memory = chance.choice([1, 3, 100])
    made.wakes_slowly = chance.random() < 0.7
    made.held_max = chance.choice([1, 5, 1_000])
    made.step_ms = chance.choice([60, 2 * SECOND, 20 * SECOND])
    made.slack_ms = chance.choice([0, SECOND])
    made.partitions = [SourcePartition("events", number) for number in range(chance.choice([1, 2, 3]))]
    users = [f"user-{number}" for number in range(chance.randint(2, 8))]
    now = START
    for _ in range(chance.randint(5, 40)):
        now += chance.choice([0, 1, chance.randint(0, 3 * MINUTE), chance.randint(0, 15 * MINUTE)])
        user = chance.choice(users)
        partition = made.partitions[int(user[-1]) % len(made.partitions)]
        text = json.dumps(value(chance, user)).encode()
        partition.records.append(SourceRecord(len(partition.records), now, now, text))
    may_lose_power = chance.random() < 0.3
    most = min(made.shards, 3)
    for _ in range(chance.choice([1, 2, 3, 4])):
        life = Life(RUNS, chance.randint(1, most), stop_at_end=chance.random() < 0.25)
        if chance.random() < 0.8:
            life.kill_at = int(2 ** chance.uniform(0, 9.5))
            life.loses_power = may_lose_power and chance.random() < 0.6
        if not life.stop_at_end:
            life.stop_after = int(2 ** chance.uniform(0, 9))
        life.pause_ms = chance.choice([0, SECOND, chance.randint(0, HOUR)])
        made.lives.append(life)
    made.lives.append(Life(RUNS, chance.randint(1, most), stop_at_end=True, until_ms=START + 24 * HOUR))
    return SimulatedWorld(made)


def run_seed(seed: int) -> None:
    world = world_of(seed)
    world.run()
    audit(world)


def test_each_member_enters_once_whatever_is_killed() -> None:
    for seed in range(SEEDS):
        try:
            run_seed(seed)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")


def do_not_commit_the_cursor(patch: Patch) -> None:
    """The cursor of a run is not committed with the rest: after a crash the run begins anew."""
    settle = Shard.settle

    def without(self: Shard) -> None:
        settle(self)
        for run in self.store.meta.runs:
            run.cursor = ""

    patch.setattr(Shard, "settle", without)


def forget_who_has_taken_part_already(patch: Patch) -> None:
    take_part = AudienceRuns._take_part

    def unmarked(self: AudienceRuns, run: Any, user_id: str, user: User, *, marked: bool = False) -> None:
        take_part(self, run, user_id, user)

    patch.setattr(AudienceRuns, "_take_part", unmarked)


def look_for_members_before_they_are_written(patch: Patch) -> None:
    next_member, spill = AudienceRuns.next_member, ShardStore.spill

    def without_spill(self: AudienceRuns, time_ms: int, due: int) -> str | None:
        patch.setattr(ShardStore, "spill", lambda self: None)
        found = next_member(self, time_ms, due)
        patch.setattr(ShardStore, "spill", spill)
        return found

    patch.setattr(AudienceRuns, "next_member", without_spill)


def let_a_run_overtake_records(patch: Patch) -> None:
    """Every run counts as one of which all is known, so it is decided before other partitions have come to it."""
    patch.setattr(Planner, "is_sure", property(lambda self: self.next_ms >= 0))


def finish_a_run_without_a_trace(patch: Patch) -> None:
    """That a time is decided is not committed."""
    settle = Shard.settle

    def without(self: Shard) -> None:
        settle(self)
        for one in self.store.meta.planned.values():
            one.done_ms = -1

    patch.setattr(Shard, "settle", without)


@pytest.mark.parametrize(
    "mutation",
    [
        do_not_commit_the_cursor,
        forget_who_has_taken_part_already,
        look_for_members_before_they_are_written,
        let_a_run_overtake_records,
        finish_a_run_without_a_trace,
    ],
)
def test_that_is_noticed(mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    for seed in range(200):
        try:
            run_seed(seed)
        except (Violation, StoreError, AssertionError):
            return
    pytest.fail("nobody noticed")
