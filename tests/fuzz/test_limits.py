"""What one user can make the job remember, write and do has bounds, and whoever meets one finds it told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.formats.native import MESSAGE_ID_CHARACTERS_MAX, decode
from dataflow.read.scanner import NativeFormat
from dataflow.shard import Shard
from dataflow.simulate import Simulation
from operators import limits
from operators.conditions.codegen import compile_condition
from operators.conditions.index import MatchIndex
from operators.conditions.parse import parse_condition
from operators.conditions.pattern import MATCHED_MAX_CHARS
from operators.conditions.where import NOWHERE
from operators.language.problems import Document, Problems
from operators.language.workspace import Workspace
from operators.limits import (
    ADDRESS_CHARACTERS_MAX,
    AUDIENCES_MAX,
    COUNTERS_MAX,
    ENTRIES_MAX,
    IDS_MAX,
    JOURNEYS_MAX,
    KEY_CHARACTERS_MAX,
    PROFILE_BYTES_MAX,
    ROW_BYTES_MAX,
    fits,
    told,
    write_profile,
)
from operators.machine.deployment import Deployment
from operators.machine.memory import REPEAT_MS, forget_oldest_ids
from operators.program.flows import FlowText, compile_texts
from state.records import Reject
from state.user import dump_user, load_user
from tests.fuzz.bounds import cpu_at_most
from tests.intake import taken
from tests.outgoing import plain
from tests.test_match import Judged

NOON = "2026-11-23T12:00:00Z"
RECORD_BYTES_MAX = 1_000_000  # What Kafka's clients send unless they are told to send more.


def simulated(flow: str, events: list[dict[str, Any]], folder: Path) -> tuple[list[Any], list[Any], Shard]:
    """Return the actions, the journal and the shard after *events* of one user."""
    file = folder / "events.jsonl"
    file.write_bytes(b"".join(orjson.dumps({"user_id": "u", "timestamp": NOON, **one}) + b"\n" for one in events))
    checked = compile_texts([FlowText("f.yaml", flow)], Workspace())
    assert not checked.has_errors, checked.problems
    actions: list[Any] = []
    journal: list[Any] = []
    simulation = Simulation(
        Deployment(checked.programs),
        action=lambda one: actions.append(plain(one)),
        journal=lambda one: journal.append(plain(one)),
    )
    simulation.run(file, NativeFormat(), 1_795_435_200_000)
    assert simulation.mistakes == 0
    return actions, journal, simulation._shard


def sizes(records: list[Any]) -> int:
    return max(len(orjson.dumps(one)) for one in records)


@pytest.mark.parametrize("length", [MESSAGE_ID_CHARACTERS_MAX, MESSAGE_ID_CHARACTERS_MAX + 1])
@pytest.mark.parametrize("wanted", ["e", "f"])
def test_a_message_id_has_a_length(length: int, wanted: str) -> None:
    raw = orjson.dumps({"user_id": "u", "event": "e", "message_id": "é" * length, "timestamp": NOON})
    found = decode(raw)
    is_long = length > MESSAGE_ID_CHARACTERS_MAX
    assert isinstance(found, Reject) == is_long
    if isinstance(found, Reject):
        assert (found.reason, found.detail) == ("bad_type", "`message_id` has 257 characters, 256 are allowed")
    letters, inputs = taken(MatchIndex([(wanted, None)]), [raw])
    assert [letter.detail for letter in letters] == ([found.detail] if isinstance(found, Reject) else [])
    assert [one.message_id for one in inputs] == ["é" * length] * (wanted == "e" and not is_long)


def test_a_long_text_is_no_key(tmp_path: Path) -> None:
    flow = "flow: f\ntrigger: {event: e, count: {at_least: 1}}\nentry: {key: k}\nsteps: [{wait: 1h}]\n"
    keys = ["k" * KEY_CHARACTERS_MAX, "k" * (KEY_CHARACTERS_MAX + 1), "x" * 900_000]
    _, journal, shard = simulated(flow, [{"event": "e", "properties": {"k": key}} for key in keys], tmp_path)
    assert [one.get("reason") for one in journal if one["kind"] in ("entered", "refused")] == [None, "no_key", "no_key"]
    assert sizes(journal) < 10_000
    assert len(dump_user(shard.store.slot("u").user)) < 10_000


def test_what_is_sent_and_told_fits_into_a_record(tmp_path: Path) -> None:
    flow = """
flow: f
trigger: {event: e}
entry: {concurrent: 100, when: {not: {entry.refuse: {exists: true}}}}
exit: [{event: bye, where: {text: "{{ entry.text }}"}}]
steps:
  - {send: webhook, template: t, vars: {text: "{{ entry.text }}", list: "{{ entry.list }}"}}
  - {set: {text: "{{ entry.text }}", list: "{{ entry.list }}"}}
  - {send: email, template: t, to: "{{ entry.text }}"}
  - branch: [{when: {profile.text: nobody}, steps: [end]}]
  - wait: 1h
"""
    texts: list[dict[str, Any]] = [
        {"text": "\x01" * 100_000, "list": ["\u0001é\U0001f600" * 20] * 1200},
        {"text": "x" * 400_000, "list": ["y" * 200] * 2000},
        {"text": "x", "list": [[["z" * 1000]] * 10] * 80},
        {"text": "x" * 1000, "refuse": {"deep": ["x" * 1000] * 900}},
        {"text": "ok", "list": [1]},
    ]
    actions, journal, _ = simulated(flow, [{"event": "e", "properties": one} for one in texts], tmp_path)
    assert sizes(actions) < RECORD_BYTES_MAX
    assert sizes(journal) < 20_000
    reasons = [(one["kind"], one["reason"]) for one in journal if "reason" in one and one["kind"] != "moved"]
    assert reasons[:4] == [("suppressed", "template_error"), ("suppressed", "no_address")] * 2
    assert [one["vars"]["text"] for one in actions if one["channel"] == "webhook"] == ["ok"]
    written = [one["detail"]["text"] for one in journal if one["kind"] == "set"]
    assert written[:2] == ["too large: the attribute stays as it is"] * 2


def test_an_address_has_a_length(tmp_path: Path) -> None:
    flow = 'flow: f\ntrigger: {event: e}\nsteps: [{send: sms, template: t, to: "{{ entry.to }}"}]\n'
    events = [
        {"event": "e", "properties": {"to": "1" * n}} for n in (ADDRESS_CHARACTERS_MAX, ADDRESS_CHARACTERS_MAX + 1)
    ]
    actions, journal, _ = simulated(flow, events, tmp_path)
    assert len(actions) == 1
    assert [one["reason"] for one in journal if one["kind"] == "suppressed"] == ["no_address"]


def test_a_profile_has_a_size_and_may_always_shrink(tmp_path: Path) -> None:
    flow = "flow: f\ntrigger: {event: e}\nsteps: [{wait: 1h}]\n"
    events: list[dict[str, Any]] = [{"type": "identify", "traits": {f"new{n}": "x" * 900}} for n in range(1000)]
    events += [{"type": "identify", "traits": {f"{n}": n for n in range(50_000)}}]
    events += [{"type": "identify", "traits": {"new0": None, "name": "Ann"}}]
    _, _, shard = simulated(flow, events, tmp_path)
    profile = shard.store.slot("u").user.profile
    assert len(orjson.dumps(profile)) <= PROFILE_BYTES_MAX
    assert profile["name"] == "Ann"
    assert "new1" in profile
    assert "new0" not in profile
    assert shard.out.too_large > 700


def test_a_profile_that_is_too_large_already_can_be_made_smaller() -> None:
    profile = {"a": "x" * 300_000, "b": "x" * 300_000}
    assert not write_profile(profile, {"c": 1})
    assert write_profile(profile, {"a": None})
    assert write_profile(profile, {"b": "y" * 1000})
    assert profile == {"b": "y" * 1000}


def test_audiences_of_one_user_and_their_rows_are_bounded(tmp_path: Path) -> None:
    flow = "flow: f\ntrigger: {event: e}\nsteps: [{audience: {add: [a0, more], remove: a1}}, {audience: {add: more}}]\n"
    member = {"member": True, "row": {"text": "x" * (ROW_BYTES_MAX + 1)}}
    events: list[dict[str, Any]] = [{**member, "audience": f"a{n}"} for n in range(AUDIENCES_MAX + 5)]
    _, journal, shard = simulated(flow, [*events, {"event": "e"}], tmp_path)
    user = shard.store.slot("u").user
    assert len(user.audiences) == AUDIENCES_MAX
    assert len(dump_user(user)) < 20 * AUDIENCES_MAX
    assert [one["detail"] for one in journal if one["kind"] == "audience"] == [
        {"added": [], "removed": ["a1"], "left_out": ["more"]},
        {"added": ["more"], "removed": []},
    ]
    assert shard.out.memberships_cut == AUDIENCES_MAX + 5 + 1


def test_open_journeys_of_one_user_are_bounded(tmp_path: Path) -> None:
    flow = "flow: f\ntrigger: {event: e}\nentry: {key: order}\nsteps: [{wait: 1h}]\n"
    events = [{"event": "e", "properties": {"order": n}} for n in range(JOURNEYS_MAX + 3)]
    _, journal, shard = simulated(flow, events, tmp_path)
    assert len(shard.store.slot("u").user.journeys) == JOURNEYS_MAX
    refused = [one for one in journal if one["kind"] == "refused"]
    assert [(one["reason"], one["detail"]) for one in refused] == [
        ("already_inside", {"open_in_all_flows": JOURNEYS_MAX, "at_most": JOURNEYS_MAX})
    ] * 3


def test_counters_and_entries_per_key_value_forget_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(COUNTERS_MAX, ENTRIES_MAX) >= 10_000  # Who has so many orders open is no user but a test.
    for module in ("triggers.event.COUNTERS_MAX", "machine.entry.ENTRIES_MAX"):
        monkeypatch.setattr(f"operators.{module}", 50)
    flow = """
flow: f
trigger: {any: [{event: e, count: {at_least: 2}}, {event: g}]}
entry: {key: order, reentry: never}
steps: [end]
"""
    events = [{"event": "e", "properties": {"order": n}} for n in range(60)]  # The first of each: counted.
    events += [{"event": "g", "properties": {"order": n}} for n in range(100, 160)]  # Each enters.
    events += [{"event": "e", "properties": {"order": n}} for n in (0, 59)]  # The first was forgotten, the last not.
    events += [{"event": "g", "properties": {"order": n}} for n in (100, 159)]
    _, journal, shard = simulated(flow, events, tmp_path)
    user = shard.store.slot("u").user
    assert len(user.windows) <= 50
    assert len(user.entries) <= 50
    assert load_user(dump_user(user)) == user
    assert list(load_user(dump_user(user)).windows) == list(user.windows)  # The oldest stays the oldest.
    ends = [(one["kind"], one.get("reason")) for one in journal if one["kind"] in ("entered", "refused")][-3:]
    assert ends == [("entered", None), ("entered", None), ("refused", "reentry")]


def test_the_ids_of_a_day_have_a_number_and_the_latest_are_kept(tmp_path: Path) -> None:
    flow = "flow: f\ntrigger: {event: e}\nentry: {concurrent: 1}\nsteps: [{wait: 1h}]\n"
    sent = [{"type": "identify", "message_id": f"m{n}"} for n in range(IDS_MAX + 100)]
    with cpu_at_most(30):
        _, _, shard = simulated(flow, [*sent, sent[-1], sent[IDS_MAX // 2], sent[0]], tmp_path)
    seen = shard.store.slot("u").user.seen
    assert IDS_MAX * 3 // 4 < len(seen) <= IDS_MAX
    assert shard.out.duplicates == 2  # The very first was forgotten.
    assert shard.out.ids_forgotten == 1


def test_ids_go_after_a_day_and_not_before() -> None:
    seen = {f"m{n}": 0 for n in range(10)}
    assert not forget_oldest_ids(seen, REPEAT_MS - 1)
    assert len(seen) == 10
    assert not forget_oldest_ids(seen, REPEAT_MS)
    assert seen == {}


def test_a_regular_expression_does_not_look_at_texts_without_end() -> None:
    problems = Problems(Document("test", None))
    condition = parse_condition({"x": {"matches": "b$"}}, (), problems, NOWHERE)
    assert condition is not None
    for length, found in ((MATCHED_MAX_CHARS, True), (MATCHED_MAX_CHARS + 1, False)):
        properties = {"x": "a" * (length - 1) + "b"}
        assert condition.holds(Judged(properties)) is found  # type: ignore[arg-type]
        assert compile_condition(condition)(properties) is found


def test_what_is_small_is_told_as_it_is_and_costs_no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, True, 7, "x" * 1000, ["a", {"b": 1}], {"a": [1]}):
        assert told(value) is value
    assert told("x" * 2000) == "x" * 997 + "..."
    assert told(["x" * 100] * 100) == "a list of 100"
    assert told({str(n): "x" * 100 for n in range(100)}) == "an object of 100"
    monkeypatch.setattr(limits.orjson, "dumps", None)
    assert fits({"a": 1, "b": "text", "c": None}, 10)
