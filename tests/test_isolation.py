"""A mistake of ours in one user's handling stays with that user: contained, told, the same at a replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflow.job import mistakes as reporting
from dataflow.job.mistakes import KINDS_LOGGED, MistakeLog
from dataflow.read.scanner import NativeFormat
from dataflow.shard import CLOSED, OPEN, Delivery, Shard
from dataflow.simulate import Simulation
from operators.conditions import tree as conditions
from operators.language.values import HOUR, MINUTE
from operators.language.workspace import Workspace
from operators.machine import entry, event, journey, wakeup
from operators.machine.context import AtStep, InJourney
from operators.machine.deployment import Deployment
from operators.machine.journey import Journey
from operators.machine.outbox import PLACES as KNOWN_PLACES
from operators.machine.outbox import Mistake
from operators.machine.totals import read_totals
from operators.program.flows import FlowText, compile_texts
from operators.steps.send import SendStep
from operators.steps.wait import WaitDurationStep
from operators.steps.wait_for import WaitForStep
from state.backend import MemoryBackend
from state.errors import StoreError
from state.records import Input
from state.store import ShardStore
from state.user import NEVER, User
from tests.outgoing import actions_of, journal_of, plain

START = 1_795_435_200_000
FLOWS = """
flow: cart
trigger: {event: cart, where: {sku: {ne: ""}}}
entry: {concurrent: 3, when: {any: [{profile.tier: gold}, {not: {profile.tier: gold}}]}}
exit: [{event: buy, where: {sku: "{{ entry.sku }}"}, goal: true}]
steps:
  - send: webhook
    template: first
  - wait: 30m
  - wait_for: {back: {event: view}}
    timeout: 1h
  - send: webhook
    template: second
---
flow: other
trigger: {event: cart, count: {at_least: 2, within: 1h}}
steps:
  - branch:
      - when: {did: {event: view, where: {sku: a}, within: 1h}}
        steps: [end]
  - wait: 1h
"""
POISONED = "poisoned"  # The user in whose handling everything goes wrong.


class Broken(Exception):
    """A bug of ours; its message quotes a user's data, as such messages do."""


def deployment() -> Deployment:
    texts = [FlowText(f"{number}.yaml", text) for number, text in enumerate(FLOWS.split("---\n"))]
    checked = compile_texts(texts, Workspace())
    assert not checked.has_errors, checked.problems
    return Deployment(checked.programs)


def history(deployed: Deployment) -> list[Input]:
    """Return the same events for three users, the poisoned one between two others."""
    records = []
    for minute, name in (
        (0, "cart"),
        (5, "view"),
        (10, "cart"),
        (35, "buy"),
        (36, "cart"),
        (70, "view"),
        (300, "cart"),
    ):
        for user in ("ann", POISONED, "zoe"):
            properties = {"sku": "a", "secret": "4111"}
            at = START + minute * MINUTE
            hits = deployed.index.match(name, properties)
            offset = len(records)
            traits = {"tier": "gold", "secret": "4111"} if name == "cart" else None
            records.append(Input(user, at, name, f"m{offset}", True, at, properties, traits, hits, 0, offset))
    return records


def run(deployed: Deployment, records: list[Input], *, crash_after: int | None = None) -> tuple[Shard, list[Any]]:
    """Run *records* through a shard that is committed after each; perhaps crash, and replay the interrupted epoch."""
    backend = MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
    told: list[Any] = []
    crashed = False
    at = 0
    while at < len(records):
        record = records[at]
        shard.take([Delivery(0, record.now, OPEN, [record])])
        if at == crash_after and not crashed:
            crashed = True
            commit = shard.store.commit_number
            store = ShardStore(backend, due_of=deployed.due_of)
            store.roll_back(commit)
            shard = Shard(store, deployed, sources=1)
            continue
        told += [*actions_of(shard), *journal_of(shard)]
        shard.out.actions, shard.out.journal = [], []
        shard.settle()
        shard.store.commit()
        at += 1
    shard.take([Delivery(0, START + 1000 * HOUR, CLOSED, [])])
    return shard, [*told, *actions_of(shard), *journal_of(shard)]


def of_others(records: list[Any]) -> list[bytes]:
    return sorted(orjson.dumps(one, option=orjson.OPT_SORT_KEYS) for one in records if one["user_id"] != POISONED)


def conserved(shard: Shard) -> None:
    """Assert that whoever entered is ended, exited, failed or inside, and that who is inside has a wake-up."""
    open_journeys: dict[str, int] = {}
    for user_id in ("ann", POISONED, "zoe"):
        for one in shard.store.slot(user_id).user.journeys:
            open_journeys[f"{one.flow}\x1f{one.version}"] = open_journeys.get(f"{one.flow}\x1f{one.version}", 0) + 1
            assert one.branches
            assert all(branch.wake_ms < NEVER and branch.step for branch in one.branches)
    for flow, counts in read_totals(shard.out.totals).items():
        assert counts.inside == open_journeys.get(flow, 0), (flow, counts)


def numbered_without_gaps(records: list[Any]) -> None:
    for user in ("ann", POISONED, "zoe"):
        assert [one["seq"] for one in records if one["user_id"] == user and "kind" in one] == list(
            range(1, 1 + sum(one["user_id"] == user and "kind" in one for one in records))
        )


def poisons(owner: Any, name: str, whose: Callable[..., str]) -> Any:
    """Return a stand-in for `owner.name` that raises where it is about the poisoned user."""
    original = getattr(owner, name)

    def stand_in(*arguments: Any, **options: Any) -> Any:
        if whose(*arguments) == POISONED:
            raise Broken("card 4111 of poisoned")
        return original(*arguments, **options)

    return stand_in


def of_step(step: Any, visit: AtStep) -> str:
    return visit.user_id


def of_visit(visit: AtStep, *_: Any) -> str:
    return visit.user_id


def of_test(test: Any, context: Any) -> str:
    return str(getattr(context, "user_id", ""))


def of_window(user: User, record: Input, *_: Any) -> str:
    return record.user_id


PLACES: dict[str, tuple[Any, str, Callable[..., str]]] = {
    "beginning a step": (SendStep, "enter", of_step),
    "a wake-up of a step": (WaitDurationStep, "wake", of_step),
    "an event that a step waits for": (WaitForStep, "hear", of_step),
    "a step that waits": (WaitForStep, "enter", of_step),
    "a condition": (conditions.Test, "holds", of_test),
    "an entry check": (entry, "_refusal", of_visit),
    "remembering an entry": (entry, "_remember", lambda user, *_: POISONED if user.profile.get("secret") else ""),
    "beginning a journey": (entry, "begin", of_visit),
    "running on": (journey, "_run", of_visit),
    "hearing": (event, "hear", of_visit),
    "leaving": (event, "leave", of_visit),
    "the key of a journey": (InJourney, "hears_key", of_visit),
    "a window": (event, "_enter_window", of_window),
    "a trigger's count": (event, "_fires", of_window),
    "all of an event": (event, "_tell_journeys", lambda _, user, record, *rest: record.user_id),
    "a wake-up": (wakeup, "wake", of_visit),
    "writing the profile": (event, "write_profile", lambda profile, traits: POISONED if len(profile) == 2 else ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_others_go_on_and_nobody_is_lost_whatever_goes_wrong(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = deployment()
    records = history(deployed)
    _, sound = run(deployed, records)
    owner, name, whose = PLACES[place]
    monkeypatch.setattr(owner, name, poisons(owner, name, whose))
    everybody = place in ("remembering an entry", "writing the profile")  # Where one cannot tell whose it is.
    shard, told = run(deployed, records)
    if not everybody:
        assert of_others(told) == of_others(sound)
    assert shard.out.mistakes
    assert {one.place for one in shard.out.mistakes} <= set(KNOWN_PLACES), "a place that has no series of its own"
    conserved(shard)
    numbered_without_gaps(told)
    for crash_after in range(0, len(records), 4):
        again, replayed = run(deployed, records, crash_after=crash_after)
        assert replayed == told
        conserved(again)


def test_a_step_that_raises_closes_the_journey_as_failed_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SendStep, "enter", poisons(SendStep, "enter", of_step))
    _, told = run(deployed := deployment(), history(deployed))
    failed = [one for one in told if one.get("kind") == "failed" and one["user_id"] == POISONED]
    assert failed
    assert {(one["flow"], one["step"], one["reason"]) for one in failed} == {("cart", "steps.0", "error")}
    assert failed[0]["detail"] == {"error": "Broken: card 4111 of poisoned"}


def test_an_entry_check_that_raises_is_a_refusal_with_the_kind_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_refusal", poisons(entry, "_refusal", of_visit))
    _, told = run(deployed := deployment(), history(deployed))
    refused = [one for one in told if one.get("reason") == "error"]
    assert {(one["user_id"], one["kind"], one["detail"]["error"]) for one in refused} == {
        (POISONED, "refused", "Broken")
    }


def test_a_wake_up_that_cannot_even_begin_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = deployment()
    records = history(deployed)[:3]
    shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
    shard.take([Delivery(0, records[-1].now, OPEN, records)])
    with monkeypatch.context() as patched:
        patched.setattr(wakeup, "wake", poisons(wakeup, "wake", of_visit))
        shard.take([Delivery(0, START + 40 * MINUTE, OPEN, [])])
        assert [one.place for one in shard.out.mistakes] == ["wake-up"]
        conserved(shard)
    shard.take([Delivery(0, START + 300 * HOUR, CLOSED, [])])
    ended = {one["user_id"] for one in journal_of(shard) if one["kind"] == "ended" and one["flow"] == "cart"}
    assert ended == {"ann", POISONED, "zoe"}
    conserved(shard)


def test_a_simulation_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(SendStep, "enter", poisons(SendStep, "enter", of_step))
    events = tmp_path / "events.jsonl"
    line = b'{"user_id": "%s", "event": "cart", "timestamp": "2026-11-23T08:00:00Z", "properties": {"sku": "a"}}\n'
    events.write_bytes(line % b"ann" + line % POISONED.encode())
    journal: list[Any] = []
    flows = deployment()
    simulation = Simulation(flows, journal=lambda one: journal.append(plain(one)))
    simulation.run(events, NativeFormat(flows.index.table()))
    assert simulation.mistakes == 1
    assert {one["user_id"]: one["kind"] for one in journal if one["flow"] == "cart"} == {
        "ann": "ended",
        POISONED: "failed",
    }


def test_the_log_has_one_line_per_kind_and_nothing_of_the_user() -> None:
    lines: list[dict[str, Any]] = []
    report = MistakeLog(lambda said, **fields: lines.append({"said": said, **fields}), ["events-0"])

    def errors(number: int) -> list[Mistake]:
        found = []
        for offset in range(number):
            try:
                raise Broken("card 4111 of poisoned")
            except Broken as error:
                found.append(Mistake("step", "cart\x1f3", error, 0, offset))
        return found

    taken = errors(1000)
    report.take(taken)
    assert taken == []
    assert report.counts == {"step": 1000}
    assert [line["times"] for line in lines] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert lines[0]["record"] == "events-0 0"
    assert lines[0]["code"].startswith("tests/test_isolation.py:")
    assert "4111" not in str(lines)
    assert POISONED not in str(lines)
    report.take([Mistake(f"place {number}", "", Broken()) for number in range(1000)])
    assert len(lines) <= KINDS_LOGGED + 10
    assert reporting.code_line(Broken()) == ""


def test_a_user_whose_row_cannot_be_read_stops_the_shard_with_what_to_do() -> None:
    backend = MemoryBackend()
    store = ShardStore(backend)
    slot = store.slot("u")
    slot.user.seq = 7
    store.touch("u", slot, NEVER)
    store.commit()
    for row in (b"\xc1", b"", b"\x93\x01", b"\x92\x01\xa1x"):
        backend.rows[b"uu"] = row
        with pytest.raises(StoreError, match="restore the whole state directory from one backup"):
            ShardStore(backend).slot("u")
    backend.rows[b"uu"] = b"\x91\x63"
    with pytest.raises(StoreError, match="use the version that wrote it"):
        ShardStore(backend).slot("u")


def test_a_journey_whose_step_is_gone_fails_and_says_so() -> None:
    deployed = deployment()
    shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
    shard.take([Delivery(0, START, OPEN, history(deployed)[:1])])
    found: list[Journey] = shard.store.slot("ann").user.journeys
    found[0].branches[0].step = "gone"
    shard.take([Delivery(0, START + HOUR, OPEN, [])])
    last = journal_of(shard)[-1]
    assert (last["kind"], last["reason"], last["detail"]) == ("failed", "error", {"error": "KeyError: 'gone'"})
    conserved(shard)
