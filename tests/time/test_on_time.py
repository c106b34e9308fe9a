"""Lag, downtime, outages, idle and stalled partitions, skewed clocks and odd stamps: the actions of a job on time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_shard import deployment
from tests.time.world import HOUR, MINUTE, SECOND, SLACK, START, TICK, World

FLOWS = """
flow: reminder
trigger: {event: cart}
exit: [{event: buy, goal: true}]
steps:
  - wait: 30m
  - {send: webhook, template: reminder}
---
flow: visitor
trigger: {event: view, count: {at_least: 2, within: 20m}}
entry: {reentry: {after: 1h}, concurrent: 2}
steps:
  - wait_for: {bought: {event: buy}, again: {event: view, at_least: 2}}
    timeout: 40m
    then:
      bought: [{send: webhook, template: thanks}]
      timeout:
        - branch:
            - when: {did: {event: cart, within: 1h}}
              steps: [{send: webhook, template: still-there}]
            - else: [{send: webhook, template: come-back}]
"""
USERS = [f"u{number}" for number in range(12)]


def world(folder: Path, **more: object) -> World:
    return World(folder, deployment(FLOWS), **more)  # type: ignore[arg-type]


def shopping(one: World, seed: int) -> Callable[[], None]:
    """Return what users do at a tick: the same in every world with this seed, at the same time."""
    chance = random.Random(seed)

    def at_tick() -> None:
        if chance.random() < 0.02:
            user, event = chance.choice(USERS), chance.choice(["cart", "view", "view", "buy"])
            one.send(user, event)

    return at_tick


@pytest.fixture
def on_time(tmp_path: Path) -> World:
    """Six hours of a job that keeps up."""
    one = world(tmp_path / "on-time")
    one.start()
    one.advance(6 * HOUR, at_tick=shopping(one, 1))
    one.advance(2 * HOUR)
    assert {template for _, template, _ in one.actions} == {"reminder", "thanks", "still-there", "come-back"}
    return one


def test_a_job_that_was_down_for_an_hour_does_the_same_as_one_that_kept_up(on_time: World, tmp_path: Path) -> None:
    late = world(tmp_path / "late")
    shop = shopping(late, 1)
    late.start()
    late.advance(2 * HOUR, at_tick=shop)
    late.stop()
    late.advance(HOUR, at_tick=shop)
    late.start()
    late.advance(3 * HOUR, at_tick=shop)
    late.advance(2 * HOUR)
    assert late.all_emitted == on_time.all_emitted


def test_a_job_that_crashed_and_was_down_for_an_hour_does_the_same(on_time: World, tmp_path: Path) -> None:
    late = world(tmp_path / "late")
    shop = shopping(late, 1)
    late.start()
    late.advance(HOUR, at_tick=shop)
    late.checkpoint()
    late.advance(HOUR, at_tick=shop)
    late.crash()
    late.advance(HOUR, at_tick=shop)
    late.start()
    late.advance(3 * HOUR, at_tick=shop)
    late.advance(2 * HOUR)
    assert late.all_emitted == on_time.all_emitted


def test_a_job_that_lags_by_an_hour_does_the_same_as_one_that_kept_up(on_time: World, tmp_path: Path) -> None:
    late = world(tmp_path / "late")
    shop = shopping(late, 1)
    late.start()
    for frozen in (False, True, False, True, True, False):
        late.is_frozen = frozen
        late.advance(HOUR, at_tick=shop)
    late.advance(2 * HOUR)
    assert late.all_emitted == on_time.all_emitted


def test_an_outage_of_an_hour_with_what_was_kept_stamped_on_arrival_does_what_its_stamps_say(tmp_path: Path) -> None:
    one = world(tmp_path)
    one.start()
    one.send("a", "cart")
    one.send("b", "cart")
    one.advance(29 * MINUTE)
    one.broker.away = True
    one.send("a", "buy")
    one.advance(HOUR)
    assert one.actions == [], "no answer, no progress"
    one.broker.away = False
    one.advance(10 * SECOND, at_tick=lambda: one.deliver() if one.now % (5 * SECOND) == 0 else None)
    one.advance(HOUR)
    assert one.actions == [("a", "reminder", "12:30:00"), ("b", "reminder", "12:30:00")], (
        "by the broker's stamps a bought an hour later"
    )


def test_nobody_who_bought_while_the_broker_was_away_gets_the_reminder(tmp_path: Path) -> None:
    one = world(tmp_path, stamps_by="sender")
    one.start()
    for user in ("before", "during", "never"):
        one.send(user, "cart")
    one.advance(30 * MINUTE - 5 * SECOND)
    one.send("before", "buy")
    one.broker.away = True
    one.advance(2 * SECOND)
    one.send("during", "buy")
    one.advance(8 * SECOND)
    one.broker.away = False
    one.advance(6 * SECOND)  # Producers find the broker again later than the job does.
    assert one.actions == [], "time waits for what producers have kept"
    one.deliver()
    one.advance(MINUTE)
    assert one.actions == [("never", "reminder", "12:30:00")]
    assert [key[0] for key, record in one.emitted.items() if record.get("kind") == "converted"] == ["before", "during"]


def in_both_partitions(one: World) -> tuple[str, str]:
    """Return a user of partition 0 and one of partition 1."""
    by_partition = {one.broker.partition_of(user): user for user in USERS}
    return by_partition[0], by_partition[1]


@pytest.mark.parametrize("busy", ["neither partition", "the other partition"])
def test_waits_of_an_idle_partition_end_by_the_clock(tmp_path: Path, busy: str) -> None:
    one = world(tmp_path)
    waiting, other = in_both_partitions(one)
    one.start()
    one.send(waiting, "cart")
    one.advance(HOUR, at_tick=lambda: one.send(other, "noise") if busy == "the other partition" else None)
    assert one.actions == [(waiting, "reminder", "12:30:00")]
    (seen,) = [at for key, at in one.seen_at.items() if key[1] == "webhook"]
    assert seen - (START + 30 * MINUTE) <= SLACK + TICK


def test_a_partition_that_cannot_be_read_holds_time_back_for_all_and_is_seen_to_do_so(tmp_path: Path) -> None:
    one = world(tmp_path)
    waiting, other = in_both_partitions(one)
    one.start()
    one.send(waiting, "cart")
    one.send(other, "cart")
    one.advance(10 * MINUTE)
    one.broker.unreadable.add(one.broker.partition_of(other))
    one.send(other, "buy")
    one.advance(5 * HOUR)
    assert one.actions == []
    times = {one.broker.partition_of(user): one.partitions[one.broker.partition_of(user)].time.now_ms for user in
             (waiting, other)}  # fmt: skip
    assert START + 10 * MINUTE - 2 * SLACK <= times[one.broker.partition_of(other)] <= START + 10 * MINUTE
    assert times[one.broker.partition_of(waiting)] >= START + 5 * HOUR
    one.broker.unreadable.clear()
    one.advance(MINUTE)
    assert one.actions == [(waiting, "reminder", "12:30:00")], "the other bought in time, and now that is known"


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("lasting", [6 * SECOND, 15 * MINUTE])
def test_a_clock_that_jumps_by_hours_changes_no_action(
    on_time: World, tmp_path: Path, hours: int, lasting: int
) -> None:
    late = world(tmp_path / "late")
    shop = shopping(late, 1)
    late.start()
    for _ in range(6):
        late.advance(HOUR // 2, at_tick=shop)
        late.skew_ms = hours * HOUR
        late.advance(lasting, at_tick=shop)
        late.skew_ms = 0
        late.advance(HOUR // 2 - lasting, at_tick=shop)
    late.advance(2 * HOUR)
    assert late.all_emitted == on_time.all_emitted


def test_a_clock_that_was_behind_and_is_put_right_is_believed_as_soon_as_a_record_agrees(tmp_path: Path) -> None:
    one = world(tmp_path, skew_ms=-5 * HOUR)
    first, second = in_both_partitions(one)
    one.start()
    one.send(first, "cart")
    one.advance(MINUTE)
    one.skew_ms = 0
    one.advance(HOUR)
    assert one.actions == [], "late is safe"
    one.send(first, "noise")
    one.send(second, "noise")
    one.advance(3 * SECOND)
    assert one.actions == [(first, "reminder", "12:30:00")]


def test_a_clock_behind_the_brokers_makes_waits_late_and_changes_no_action(on_time: World, tmp_path: Path) -> None:
    late = world(tmp_path / "late", skew_ms=-10 * MINUTE)
    late.start()
    late.advance(6 * HOUR, at_tick=shopping(late, 1))
    late.advance(3 * HOUR)
    assert late.all_emitted == on_time.all_emitted
    assert any("ahead of this machine's clock" in one for one in late.warnings)
    assert len(late.warnings) <= 2 * 9 * 6, "said every ten minutes and not more"
    assert {one.ahead_ms for one in late.partitions} <= set(range(10 * MINUTE - 2 * TICK, 10 * MINUTE + 1))


def test_a_clock_ahead_by_less_than_the_slack_changes_no_action(on_time: World, tmp_path: Path) -> None:
    fast = world(tmp_path / "fast", skew_ms=SLACK)
    fast.start()
    fast.advance(6 * HOUR, at_tick=shopping(fast, 1))
    fast.advance(3 * HOUR)
    assert fast.all_emitted == on_time.all_emitted
    assert fast.warnings == []


def test_a_clock_ahead_by_more_than_the_slack_is_named_with_the_first_record(tmp_path: Path) -> None:
    fast = world(tmp_path, partitions=1, skew_ms=10 * SECOND)
    fast.start()
    fast.advance(MINUTE)
    assert fast.warnings == []
    fast.send("a", "cart")
    fast.advance(TICK)
    assert [one.late_ms for one in fast.partitions] == [9 * SECOND]
    assert "came 9.0 s later than the slack allows" in fast.warnings[0]
    fast.advance(HOUR)
    fast.send("a", "noise")
    fast.skew_ms = 0
    fast.advance(TICK)
    assert len(fast.warnings) == 2


# ---- stamps that do not fit ----------------------------------------------------------------------------------


def test_records_with_old_stamps_among_others_are_taken_at_the_time_reached_and_count_by_their_own(
    tmp_path: Path,
) -> None:
    one = world(tmp_path, partitions=1, stamps_by="sender")
    one.start()
    one.send("a", "noise")
    one.send("a", "cart", stamp=START - 9 * HOUR, own=START - 9 * HOUR)
    one.send("b", "view", stamp=START - 9 * HOUR, own=START - 9 * HOUR)
    one.send("b", "view")
    one.send("c", "view", stamp=START - 10 * MINUTE, own=START - 10 * MINUTE)
    one.send("c", "view", stamp=1)
    one.advance(2 * HOUR)
    assert one.actions == [("a", "reminder", "12:30:00"), ("c", "come-back", "12:40:00")]


def test_a_stamp_far_ahead_moves_the_time_of_its_own_partition_only_and_is_named(tmp_path: Path) -> None:
    one = world(tmp_path, stamps_by="sender")
    near, far = in_both_partitions(one)
    one.start()
    one.send(near, "cart")
    one.send(far, "cart")
    one.advance(5 * MINUTE)
    one.send(far, "noise", stamp=START + 24 * HOUR)
    one.advance(20 * MINUTE)
    one.send(near, "buy")
    one.advance(2 * HOUR)
    assert one.actions == [(far, "reminder", "12:30:00")], "due for the other, and not early for anybody"
    assert [" s ahead of this machine's clock" in warning for warning in one.warnings] == [True]


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_at_any_moment_changes_no_time_also_of_records_that_came_late(tmp_path: Path, seed: int) -> None:
    """The clock has moved time, a record comes too late for it and is raised: a replay raises it as far."""
    chance = random.Random(seed)
    one = world(tmp_path, partitions=2, stamps_by="sender")
    one.start()

    def at_tick() -> None:
        if chance.random() < 0.5:
            late = chance.choice([0, 500, 3 * SECOND, 40 * SECOND])
            one.send(chance.choice(USERS[:4]), chance.choice(["cart", "view", "buy"]), stamp=one.now - late)
        if chance.random() < 0.1:
            one.work()
            one.checkpoint()
        if chance.random() < 0.2:
            one.crash()
            one.start()

    for _ in range(20):
        one.advance(400, at_tick=at_tick, tick=20)  # More often than shards are told of time.
        one.advance(40 * SECOND, at_tick=at_tick)
    one.advance(2 * HOUR)  # `work` compares whatever is decided again with what was decided before.
    assert one.actions
