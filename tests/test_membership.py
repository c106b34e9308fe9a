"""Memberships on their way from the record to the user, and what is known of updates of audiences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.read.scanner import NativeFormat
from dataflow.shard import OPEN, Delivery, Shard
from operators.conditions.index import MatchIndex
from operators.language.schedule import Every, Schedule
from operators.language.values import HOUR
from operators.limits import AUDIENCES_MAX, ROW_BYTES_MAX
from operators.machine.deployment import Deployment
from operators.machine.membership import join, take_membership
from state.backend import MemoryBackend
from state.iso import format_ms
from state.records import MEMBERSHIP, Input, unpacked
from state.store import ShardStore
from state.user import User
from tests.jobs import RunningJob, in_folder, simulated

AT = 1_795_435_200_000  # 2026-11-23T12:00:00Z


def membership(audience: str, *, member: bool = True, user: str = "u", **fields: Any) -> bytes:
    return orjson.dumps({"audience": audience, "user_id": user, "member": member, **fields})


def completion(audience: str) -> bytes:
    return orjson.dumps({"audience": audience, "updated": True})


def intake_of(**watched: list[Schedule]) -> Intake:
    index = MatchIndex([])
    records = NativeFormat(index.table())
    return Intake(index, records, topic="t", partition=0, source=0, shards=1, watched=watched)


def test_a_membership_goes_to_its_user_with_all_that_it_says_and_moves_time() -> None:
    intake = intake_of()
    values = [membership("vip", row={"city": "Hangzhou"}, message_id="m", timestamp="2026-11-01"), completion("vip")]
    found, dead = intake.take(Batch(values, [AT, AT + 5], range(7, 9)))
    (one,) = unpacked(found[0])
    assert not dead
    assert (one.user_id, one.now, one.kind, one.message_id, one.id_sent) == ("u", AT, MEMBERSHIP, "m", True)
    assert one.fields == orjson.loads(values[0])
    assert intake.time.now_ms == AT + 5, "a completed update moves time, too"
    assert (intake.counts.records, intake.counts.memberships, intake.counts.updates) == (2, 1, 1)


def test_updates_of_watched_audiences_are_told_once_between_two_planned_times() -> None:
    intake = intake_of(vip=[Every(AT, HOUR)], new=[Every(AT, HOUR)])
    values = [membership("vip"), membership("vip", member=False), completion("new"), membership("other")]
    intake.take(Batch(values, [AT, AT + 1, AT + 2, AT + 3], range(4)))
    assert intake.take_updates() == [("vip", AT), ("new", AT + 2)]
    assert intake.take_updates() == ()
    late = [completion("vip"), membership("vip"), completion("vip"), membership("vip")]
    intake.take(Batch(late, [AT + HOUR - 1, AT + HOUR, AT + HOUR + 1, AT], range(4, 8)))
    assert intake.take_updates() == [("vip", AT + HOUR)], "stream time does not go back, and so does this"


def test_nothing_is_noted_of_audiences_that_nobody_watches() -> None:
    intake = intake_of()
    intake.take(Batch([membership("vip"), completion("vip")], [AT, AT], range(2)))
    assert intake.take_updates() == ()


@pytest.mark.parametrize("row", [{}, {"a": [{"b": None}]}, {"n": 2**64 - 1}])
def test_a_held_membership_is_after_a_restart_what_it_was(row: dict[str, Any]) -> None:
    found, _ = intake_of().take(Batch([membership("vip", row=row)], [AT], range(1)))
    backend = MemoryBackend()
    shard = Shard(ShardStore(backend), Deployment([]), sources=2, ordered=False)
    shard.take([Delivery(0, AT, OPEN, unpacked(found[0]))])
    shard.settle()
    shard.store.commit()
    shard = Shard(ShardStore(backend), Deployment([]), sources=2, ordered=False)
    assert shard.held == 1
    shard.take([Delivery(0, AT + 1, OPEN, []), Delivery(1, AT + 1, OPEN, [])])
    assert shard.store.slot("u").user.audiences == {"vip": row}


def test_memberships_in_a_file_of_their_own_are_taken_in_order_of_time(tmp_path: Path) -> None:
    flow = {
        "flow": "f",
        "trigger": {"event": "a"},
        "entry": {"when": {"audience": "vip"}, "concurrent": 9},
        "steps": [{"audience": {"add": "seen"}}, {"wait": "1h"}, {"send": "webhook", "template": "t"}],
    }
    (tmp_path / "flow.json").write_text(json.dumps(flow))
    events, members = [], []
    for number in range(60):
        at = format_ms(AT + number * 60_000)
        fields = {"user_id": f"u{number % 5}", "message_id": f"m{number}", "timestamp": at}
        if number % 3:
            events.append(json.dumps({"event": "a", **fields}))
        else:
            members.append(json.dumps({"audience": "vip", "member": number % 4 != 3, **fields}))
    members.append(json.dumps({"audience": "vip", "updated": True, "timestamp": format_ms(AT + 3_600_000)}))
    (tmp_path / "events.jsonl").write_text("\n".join(events) + "\n")
    (tmp_path / "members.jsonl").write_text("\n".join(members) + "\n")
    both = sorted([*events, *members], key=lambda line: str(json.loads(line)["timestamp"]))
    (tmp_path / "both.jsonl").write_text("\n".join(both) + "\n")
    sources = [f"--source=file:{tmp_path / name}.jsonl" for name in ("events", "members")]
    RunningJob(
        [tmp_path / "flow.json", *sources, "--sink", f"file:{tmp_path / 'out'}", "--state", tmp_path / "state",
         "--stop-at-end", "--shards", "3", "--until", "2026-11-24"],
        tmp_path / "log",
    ).wait()  # fmt: skip
    expected = simulated(tmp_path / "flow.json", tmp_path / "both.jsonl", tmp_path / "simulated", until="2026-11-24")
    assert {one["kind"] for one in expected.journal} > {"entered", "refused", "audience"}
    assert in_folder(tmp_path / "out").differences(expected) == []


def record(fields: bytes, message_id: str, now: int) -> Input:
    return Input("u", now, "", message_id, True, now, {}, None, (), 0, 0, MEMBERSHIP, orjson.loads(fields))


def test_a_duplicate_membership_changes_nothing() -> None:
    shard = Shard(ShardStore(MemoryBackend()), Deployment([]), sources=1)
    shard.handle(record(membership("vip"), "m-1", AT))
    shard.handle(record(membership("vip", member=False), "m-1", AT + 1))
    assert shard.store.slot("u").user.audiences == {"vip": {}}
    assert shard.out.duplicates == 1
    shard.handle(record(membership("vip", member=False), "m-2", AT + 2))
    assert shard.store.slot("u").user.audiences == {}


def test_a_later_membership_replaces_the_row_and_one_without_a_row_has_an_empty_one() -> None:
    user = User()
    for row, expected in (({"a": 1, "b": 2}, {"a": 1, "b": 2}), ({"a": 3}, {"a": 3}), (None, {})):
        assert take_membership(user, {"audience": "vip", "member": True, "row": row})
        assert user.audiences == {"vip": expected}
    assert take_membership(user, {"audience": "other", "member": False})
    assert user.audiences == {"vip": {}}


def test_a_row_that_is_too_large_is_left_out_and_the_user_is_a_member_all_the_same() -> None:
    user = User()
    large = {"text": "x" * ROW_BYTES_MAX}
    assert not take_membership(user, {"audience": "new", "member": True, "row": large})
    assert take_membership(user, {"audience": "old", "member": True, "row": {"a": 1}})
    assert not take_membership(user, {"audience": "old", "member": True, "row": large})
    assert user.audiences == {"new": {}, "old": {"a": 1}}


def test_a_user_is_in_no_more_audiences_than_there_may_be() -> None:
    user = User(audiences={f"a{number}": {} for number in range(AUDIENCES_MAX)})
    assert not take_membership(user, {"audience": "more", "member": True, "row": {}})
    assert not join(user, "more")
    assert take_membership(user, {"audience": "a0", "member": True, "row": {"a": 1}}), "who is in stays in"
    assert take_membership(user, {"audience": "a1", "member": False})
    assert take_membership(user, {"audience": "more", "member": True})
    assert len(user.audiences) == AUDIENCES_MAX


def test_joining_keeps_the_row_that_is_there() -> None:
    user = User(audiences={"vip": {"city": "Hangzhou"}})
    assert join(user, "vip")
    assert join(user, "new")
    assert user.audiences == {"vip": {"city": "Hangzhou"}, "new": {}}
