"""A shard gives the same records however its input is cut up, delayed, committed, crashed and replayed."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.allowance import Allowance, Turns, Unlimited
from dataflow.shard import CLOSED, OPEN, Delivery, Shard
from operators.language.values import HOUR, MINUTE
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from state.backend import MemoryBackend
from state.iso import format_ms
from state.records import Input
from state.store import ShardStore
from state.user import NEVER
from tests.outgoing import actions_of, journal_of

START = 1_795_435_200_000
FLOWS = """
flow: cart
priority: 1
trigger: {event: cart, count: {at_least: 2, within: 1h}}
entry: {concurrent: 2}
exit: [{event: buy, goal: true}]
steps:
  - wait: 30m
  - branch:
      - when: {did: {event: view, within: 2h}}
        steps: [{send: webhook, template: viewed}]
      - else: [{send: webhook, template: blind}]
  - wait_for: {back: {event: view}}
    timeout: 3h
---
flow: view
trigger: {event: view}
entry: {reentry: {after: 2h}}
steps:
  - {set: {last: "{{ now }}"}}
  - wait: 45m
  - {send: webhook, template: "seen", vars: {last: "{{ profile.last }}"}}
"""


def deployment(text: str = FLOWS, **states: str) -> Deployment:
    texts = []
    for number, flow in enumerate(text.split("---\n")):
        name = flow.strip().split("\n")[0].removeprefix("flow: ")
        state = f"state: {states[name]}\n" if name in states else ""
        texts.append(FlowText(f"{number}.yaml", state + flow))
    checked = compile_texts(texts, Workspace())
    assert not checked.has_errors, checked.problems
    return Deployment(checked.programs)


def record(deployed: Deployment, user: str, name: str, at: int, offset: int, source: int = 0) -> Input:
    hits = deployed.index.match(name, {})
    return Input(user, at, name, f"m-{source}-{offset}", False, at, {}, None, hits, source, offset)


def timers(backend: MemoryBackend) -> list[tuple[int, str]]:
    """Return (due time, user) of every timer row."""
    return [(int.from_bytes(key[1:9], "big"), key[9:].decode()) for key, _ in backend.scan(b"t", b"u")]


def emitted(shard: Shard) -> list[Any]:
    """Return what the shard has emitted, in an order that depends on the users alone."""
    records = [*actions_of(shard), *journal_of(shard)]
    return sorted(records, key=lambda one: (one["user_id"], one["seq"], one.get("channel", "")))


EVENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["cart", "view", "buy"]), st.integers(0, 90 * MINUTE)),
    max_size=25,
)


def history(deployed: Deployment, events: list[tuple[str, str, int]]) -> list[Input]:
    at, records = START, []
    for offset, (user, name, pause) in enumerate(events):
        at += pause
        records.append(record(deployed, user, name, at, offset))
    return records


class AnyAllowance:
    """May be used up at any moment."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def enter(self) -> None:
        pass

    def grant(self) -> int:
        return self._chance.randint(0, 2)


def run(deployed: Deployment, deliveries: list[list[Delivery]], allowance: Allowance | None = None) -> list[Any]:
    shard = Shard(ShardStore(MemoryBackend()), deployed, sources=1, until_ms=START + 1000 * HOUR)
    for delivery in deliveries:
        shard.take(delivery, allowance or Unlimited())
    shard.drain(Unlimited())
    return emitted(shard)


def copied(records: list[Input]) -> list[Input]:
    return msgspec.convert(msgspec.to_builtins(records), list[Input])


def whole(records: list[Input]) -> list[list[Delivery]]:
    return [[Delivery(0, max((one.now for one in records), default=START), CLOSED, copied(records))]]


@given(EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_how_the_records_are_cut_into_deliveries_and_the_wake_ups_into_slices_changes_nothing(
    events: list[tuple[str, str, int]], chance: random.Random
) -> None:
    deployed = deployment()
    records = history(deployed, events)
    deliveries: list[list[Delivery]] = []
    left, mark = copied(records), START
    while left:
        size = chance.randint(0, 4)
        part, left = left[:size], left[size:]
        mark = max([mark, *(one.now for one in part)])
        if left:  # A wall clock may have come as far as the next record.
            mark = chance.choice([mark, chance.randint(mark, left[0].now)])
        deliveries.append([Delivery(0, mark, OPEN, part)])
    deliveries.append([Delivery(0, mark, CLOSED, [])])
    assert run(deployed, deliveries, AnyAllowance(chance)) == run(deployed, whole(records))


@given(EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_crash_loses_and_repeats_nothing_when_its_replay_is_told_apart_by_seq(
    events: list[tuple[str, str, int]], chance: random.Random
) -> None:
    deployed = deployment()
    records = history(deployed, events)
    expected = run(deployed, whole(records))
    backend = MemoryBackend()
    found: dict[tuple[str, str, int], Any] = {}
    resumed, committed = 0, 0
    for life in range(4):
        last = life == 3
        store = ShardStore(backend, cached_users=chance.choice([0, 100]), changed_users=chance.choice([1, 100]))
        store.roll_back(committed)
        shard = Shard(store, deployed, sources=1, until_ms=START + 1000 * HOUR)
        position = resumed
        stop = len(records) if last else chance.randint(position, len(records))
        while position < stop:
            size = chance.randint(1, 4)
            part = copied(records[position : min(stop, position + size)])
            position += len(part)
            shard.take([Delivery(0, part[-1].now, OPEN, part)], AnyAllowance(chance))
            if chance.random() < 0.3:
                shard.settle()
                committed, resumed = store.commit(), position
                assert store.meta.fired_ms <= min((due for due, _ in timers(backend)), default=NEVER)
        if last:
            mark = records[-1].now if records else START
            shard.take([Delivery(0, mark, CLOSED, [])], AnyAllowance(chance))
            shard.drain(Unlimited())
        for one in [*actions_of(shard), *journal_of(shard)]:
            key = (one.get("channel", "journal"), one["user_id"], one["seq"])
            assert found.setdefault(key, one) == one, "a replay decided otherwise"
    assert sorted(found.values(), key=lambda one: (one["user_id"], one["seq"], one.get("channel", ""))) == expected


@given(EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_records_of_several_topics_are_taken_in_order_of_time_topic_and_offset(
    events: list[tuple[str, str, int]], chance: random.Random
) -> None:
    deployed = deployment()
    records = history(deployed, events)
    sources: list[list[Input]] = [[], []]
    for one in records:
        one.source = chance.randint(0, 1)
        one.message_id = f"m-{one.now}-{one.offset}"
        sources[one.source].append(one)
    expected = sorted(records, key=lambda one: (one.now, one.source, one.offset))
    shard = Shard(ShardStore(MemoryBackend()), deployed, sources=2, ordered=False, until_ms=START + 1000 * HOUR)
    left = [copied(part) for part in sources]
    while left[0] or left[1]:
        source = chance.choice([number for number in (0, 1) if left[number]])
        size = chance.randint(1, 3)
        part, left[source] = left[source][:size], left[source][size:]
        shard.take([Delivery(source, part[-1].now, OPEN, part)])
        if chance.random() < 0.2:
            shard.settle()
            shard.store.commit()
            out = shard.out
            shard = Shard(shard.store, deployed, sources=2, ordered=False, until_ms=START + 1000 * HOUR)
            shard.out.actions, shard.out.journal = out.actions, out.journal
    end = max((one.now for one in records), default=START)
    shard.take([Delivery(0, end, CLOSED, []), Delivery(1, end, CLOSED, [])])
    assert emitted(shard) == run(deployed, whole(expected))


def test_time_waits_for_the_slowest_partition() -> None:
    deployed = deployment()
    shard = Shard(ShardStore(MemoryBackend()), deployed, sources=2)
    shard.take([Delivery(0, START, OPEN, [record(deployed, "a", "view", START, 0)])])
    shard.take([Delivery(0, START + 10 * HOUR, OPEN, [])])
    assert shard.out.actions == []
    shard.take([Delivery(1, START + HOUR, OPEN, [])])
    assert [(one["user_id"], one["at"]) for one in actions_of(shard)] == [("a", "2026-11-23T12:45:00.000Z")]


def test_a_paused_flow_stands_still_and_its_wake_ups_act_as_of_the_resume() -> None:
    backend = MemoryBackend()
    live, paused = deployment(), deployment(view="paused")
    shard = Shard(ShardStore(backend, due_of=live.due_of), live, sources=1)
    shard.take([Delivery(0, START, OPEN, [record(live, "a", "view", START, 0)])])
    shard.settle()
    shard.store.commit()

    shard = Shard(ShardStore(backend, due_of=paused.due_of), paused, sources=1)
    shard.take([Delivery(0, START + 5 * HOUR, OPEN, [record(paused, "b", "view", START + 5 * HOUR, 1)])])
    assert shard.out.actions == []
    assert [one["reason"] for one in journal_of(shard) if one["kind"] == "refused"] == ["paused"]
    shard.settle()
    shard.store.commit()

    shard = Shard(ShardStore(backend, due_of=live.due_of), live, sources=1)
    shard.take([Delivery(0, START + 6 * HOUR, OPEN, [])])
    assert [(one["user_id"], one["at"]) for one in actions_of(shard)] == [("a", "2026-11-23T17:00:00.000Z")]


def test_a_flow_resumed_after_idle_days_acts_as_of_the_resume_though_the_job_was_started_anew() -> None:
    """Nothing but time has moved meanwhile, in many epochs."""
    backend = MemoryBackend()
    live, paused = deployment(), deployment(view="paused")
    days = [START + number * 24 * HOUR for number in range(1, 11)]
    for deployed, times in ((live, [START]), (paused, days), (live, [days[-1] + HOUR])):
        shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
        for at in times:
            records = [record(deployed, "a", "view", START, 0)] if at == START else []
            shard.take([Delivery(0, at, OPEN, records)])
            shard.settle()
            shard.store.commit()
    assert [one["at"] for one in actions_of(shard)] == [format_ms(days[-1])]


def test_a_watermark_beyond_all_time_hangs_nobody() -> None:
    deployed = deployment()
    shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
    shard.take([Delivery(0, START, OPEN, [record(deployed, "a", "view", START, 0)])])
    shard.take([Delivery(0, 2**62, OPEN, [])])
    assert [one["template"] for one in actions_of(shard)] == ["seen"]
    assert shard.next_due() is None


def test_a_step_that_raises_ends_its_journey_as_failed_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    from operators.steps.send import SendStep

    deployed = deployment()
    enter = SendStep.enter

    def broken(self: SendStep, visit: Any) -> Any:
        if visit.user_id == "a":
            raise ZeroDivisionError("made to fail")
        return enter(self, visit)

    monkeypatch.setattr(SendStep, "enter", broken)
    shard = Shard(ShardStore(MemoryBackend()), deployed, sources=1)
    shard.take([Delivery(0, START, OPEN, [record(deployed, user, "view", START, n) for n, user in enumerate("ab")])])
    shard.take([Delivery(0, START + HOUR, CLOSED, [])])
    failed = [one for one in journal_of(shard) if one["kind"] == "failed"]
    assert [(one["user_id"], one["reason"], one["step"]) for one in failed] == [("a", "error", "steps.2")]
    assert "made to fail" in failed[0]["detail"]["error"]
    assert [one["user_id"] for one in actions_of(shard)] == ["b"]


def test_of_an_idle_user_only_what_has_no_end_stays() -> None:
    deployed = deployment()
    backend = MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
    first, second = record(deployed, "a", "cart", START, 0), record(deployed, "b", "view", START, 1)
    first.id_sent = second.id_sent = True
    shard.take([Delivery(0, START, OPEN, [first, second])])
    shard.settle()
    shard.store.commit()
    assert {user_id for user_id, _ in shard.store.scan_users()} == {"a", "b"}
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
    shard.take([Delivery(0, START + 100 * HOUR, CLOSED, [])])
    shard.settle()
    shard.store.commit()
    left = dict(shard.store.scan_users())
    assert set(left) == {"b"}, "nothing is known of somebody who did nothing that lasts"
    assert (left["b"].seq, left["b"].seen, left["b"].windows) == (5, {}, {})
    assert left["b"].entries == {"view": [START]}
    assert shard.next_due() is None


def test_a_wake_up_of_a_flow_that_was_paused_is_not_lost_whatever_else_the_user_waits_for() -> None:
    """While `view` stood still, the user's timer was that of `cart`; at the resume nobody had the one of `view`."""
    backend = MemoryBackend()
    deployed = {"live": deployment(), "paused": deployment(cart="paused")}

    def life(state: str, deliveries: list[Delivery]) -> Shard:
        now = deployed[state]
        shard = Shard(ShardStore(backend, due_of=now.due_of), now, sources=1)
        shard.take(deliveries)
        shard.settle()
        shard.store.commit()
        return shard

    first = [record(deployed["live"], "a", name, START, n) for n, name in enumerate(("cart", "cart"))]
    later = [record(deployed["live"], "a", "view", START + 10 * MINUTE, 2)]
    life(
        "live", [Delivery(0, START + 10 * MINUTE, OPEN, first + later)]
    )  # `cart` wakes after 30 minutes, `view` after 55.
    shard = life("paused", [Delivery(0, START + HOUR, OPEN, [])])
    assert [one["template"] for one in actions_of(shard)] == ["seen"]
    shard = life("live", [Delivery(0, START + 2 * HOUR, OPEN, [])])
    assert [(one["template"], one["at"]) for one in actions_of(shard)] == [("viewed", "2026-11-23T13:00:00.000Z")]


def test_what_fell_due_during_a_pause_goes_on_at_the_resume_although_no_record_comes_and_time_stands() -> None:
    backend = MemoryBackend()
    first = [record(deployment(), "a", "view", START, 0)]
    lives = (("live", START, first, []), ("paused", START + HOUR, [], []), ("live", START + HOUR, [], ["seen"]))
    for state, mark, records, actions in lives:
        now = deployment(view=state)
        shard = Shard(ShardStore(backend, due_of=now.due_of), now, sources=1)
        shard.take([Delivery(0, mark, OPEN, records)])
        assert [one["template"] for one in actions_of(shard)] == actions
        shard.settle()
        shard.store.commit()


LIVES = st.lists(
    st.tuples(
        st.sampled_from(["live", "cart", "view", "both", "longer"]),
        EVENTS,
        st.sampled_from([0, MINUTE, 30 * MINUTE, HOUR, 26 * HOUR]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(LIVES, st.sampled_from([1, 100]))
@settings(max_examples=200, deadline=None)
def test_every_user_has_the_one_timer_row_they_need_whatever_is_deployed_paused_and_crashed(
    lives: list[tuple[str, list[tuple[str, str, int]], int, bool]], changed: int
) -> None:
    deployed = {
        "live": deployment(),
        "cart": deployment(cart="paused"),
        "view": deployment(view="paused"),
        "both": deployment(cart="paused", view="paused"),
        "longer": deployment(FLOWS.replace("within: 2h", "within: 20d")),
    }
    backend, at, offset, committed = MemoryBackend(), START, 0, 0
    for state, events, pause, crashes in [*lives, ("live", [], 2000 * HOUR, False)]:
        now = deployed[state]
        store = ShardStore(backend, due_of=now.due_of, cached_users=changed, changed_users=changed)
        store.roll_back(committed)
        shard = Shard(store, now, sources=1)
        for user, name, wait in events:
            at, offset = at + wait, offset + 1
            one = record(now, user, name, at, offset)
            one.id_sent = True
            shard.take([Delivery(0, at, OPEN, [one])])
        at += pause
        shard.take([Delivery(0, at, OPEN, [])])
        if crashes:
            continue
        shard.settle()
        committed = store.commit()
        left = ShardStore(backend)
        needed = {(now.due_of(user), user_id) for user_id, user in left.scan_users()}
        rows = timers(backend)
        assert rows == sorted(one for one in needed if one[0] < NEVER)
        assert all(due > shard.time_ms for due, _ in rows), "nothing is due"
    assert [user for _, user in ShardStore(backend).scan_users() if user.journeys or user.seen or user.windows] == []


def test_time_that_ran_on_behind_the_last_record_is_remembered_also_where_nothing_changed() -> None:
    deployed = deployment()
    backend = MemoryBackend()
    shard = Shard(ShardStore(backend), deployed, sources=1, until_ms=START + HOUR)
    shard.take([Delivery(0, START, CLOSED, [])])
    shard.settle()
    shard.store.commit()
    again = Shard(ShardStore(backend), deployed, sources=1)
    again.take([Delivery(0, START, OPEN, [record(deployed, "a", "view", START, 0)])])
    assert {one["at"] for one in journal_of(again)} == {"2026-11-23T13:00:00.000Z"}


@pytest.mark.parametrize(("times", "written"), [((START,), False), ((START, START + HOUR), True)])
def test_time_that_every_source_will_say_again_is_not_written_down(times: tuple[int, ...], written: bool) -> None:
    shard = Shard(ShardStore(MemoryBackend()), deployment(), sources=len(times))
    shard.take([Delivery(source, time, CLOSED, []) for source, time in enumerate(times)])
    assert shard.time_ms == max(times)
    shard.settle()
    assert shard.store.commit() == int(written)


def test_a_journey_that_no_user_holds_and_one_that_nobody_counted_are_noticed_at_the_commit() -> None:
    deployed = deployment()

    def difference(damage: Any) -> int:
        shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
        shard.take(
            [Delivery(0, START, OPEN, [record(deployed, user, "view", START, n) for n, user in enumerate("ab")])]
        )
        shard.settle()
        shard.store.commit()
        assert shard.difference() == 0
        slot = shard.store.slot("a")
        damage(shard, slot.user)
        shard.store.touch("a", slot, NEVER)
        shard.settle()
        shard.store.commit()
        return shard.difference()

    def lose(shard: Shard, user: Any) -> None:
        user.journeys.clear()

    def invent(shard: Shard, user: Any) -> None:
        shard.out.count("view\x1f1", "ended")

    assert difference(lambda shard, user: None) == 0
    assert difference(lose) == 1
    assert difference(invent) == -1


@pytest.mark.parametrize("state", ["live", "ended"])
def test_a_journey_of_an_older_version_goes_on_to_hear_what_only_its_version_asks_for(state: str) -> None:
    """Nobody enters there any more: its trigger is of no interest, what its steps and exits wait for is."""
    old = (
        "flow: f\nversion: 1\ntrigger: {event: start}\nexit: [{event: out}]\n"
        "steps: [{wait_for: {x: {event: x}}, timeout: 1d}]\n"
    )
    new = "flow: f\nversion: 2\ntrigger: {event: other}\nsteps: [{wait: 1h}]\n"
    backend = MemoryBackend()
    before = deployment(old)
    shard = Shard(ShardStore(backend, due_of=before.due_of), before, sources=1)
    shard.take([Delivery(0, START, OPEN, [record(before, user, "start", START, n) for n, user in enumerate("ab")])])
    shard.settle()
    shard.store.commit()

    after = deployment(f"{old.replace('version: 1', f'version: 1{chr(10)}state: {state}')}---\n{new}")
    shard = Shard(ShardStore(backend, due_of=after.due_of), after, sources=1)
    heard = [("a", "x"), ("b", "out"), ("c", "start")]
    at = START + MINUTE
    shard.take([Delivery(0, at, OPEN, [record(after, user, name, at, 2 + n) for n, (user, name) in enumerate(heard)])])
    assert [(one["user_id"], one["version"], one["kind"]) for one in emitted(shard)] == [
        ("a", 1, "moved"),
        ("a", 1, "ended"),
        ("b", 1, "exited"),
    ]


def test_a_million_wake_ups_are_worked_off_in_turns_and_a_record_that_comes_meanwhile_is_handled_in_its_turn() -> None:
    deployed = deployment()
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 0.001
        return now_s

    turns = Turns(clock, turn_s=0.01, users=5)
    shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
    shard.take([Delivery(0, START, OPEN, [record(deployed, f"u{n}", "view", START, n) for n in range(300)])], turns)
    at = START + HOUR
    slices = []
    while shard.is_behind or not slices:
        turns.begin()
        before = len(shard.out.actions)
        shard.take([Delivery(0, at, OPEN, [record(deployed, f"new{len(slices)}", "view", at, len(slices))])], turns)
        slices.append(len(shard.out.actions) - before)
        entered = {one["user_id"] for one in journal_of(shard) if one["kind"] == "entered"}
        assert f"new{len(slices) - 1}" in entered, "it does not wait for those who are woken"
    assert sum(slices) == 300
    assert max(slices) <= 50
    assert {one["at"] for one in actions_of(shard)} == {format_ms(START + 45 * MINUTE)}


def test_where_nobody_begins_turns_they_begin_by_themselves() -> None:
    now_s = 0
    turns = Turns(lambda: float(now_s), turn_s=10, users=1)
    worked = []
    for now_s in range(0, 100, 5):
        turns.enter()
        granted = turns.grant()
        now_s += 5  # noqa: PLW2901 - what was granted takes so long.
        worked.append(bool(granted))
        turns.grant()
    assert worked == [True, True, False, False] * 5


def test_what_is_spent_on_records_is_not_taken_from_what_may_be_spent_on_those_who_are_woken() -> None:
    now_s = 0
    turns = Turns(lambda: float(now_s), turn_s=10, users=1)
    turns.begin()
    now_s = 30
    turns.enter()
    assert turns.grant() == 1
    now_s = 39
    assert turns.grant() == 1
    now_s = 40
    assert turns.grant() == 0
    turns.enter()
    assert turns.grant() == 0
    turns.begin()
    turns.enter()
    assert turns.grant() == 1


def test_while_the_sink_is_behind_nobody_is_woken_unless_nobody_else_waits() -> None:
    is_behind = True
    turns = Turns(lambda: 0.0, users=3, is_behind=lambda: is_behind)
    turns.begin()
    turns.enter()
    assert turns.grant() == 0
    turns.begin(hurries=True)
    assert turns.grant() == 3
    turns.begin()
    is_behind = False
    assert turns.grant() == 3
