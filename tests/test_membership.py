"""Memberships on their way from the record to the user, and what is known of updates of audiences."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.read.scanner import NativeFormat
from dataflow.shard import OPEN, Delivery, Shard
from operators.conditions.index import MatchIndex
from operators.limits import AUDIENCES_MAX, ROW_BYTES_MAX
from operators.machine.deployment import Deployment
from operators.machine.membership import join, take_membership
from state.backend import MemoryBackend
from state.records import MEMBERSHIP, Input, unpacked
from state.store import ShardStore
from state.user import User

AT = 1_795_435_200_000  # 2026-11-23T12:00:00Z


def membership(audience: str, *, member: bool = True, user: str = "u", **fields: Any) -> bytes:
    return orjson.dumps({"audience": audience, "user_id": user, "member": member, **fields})


def completion(audience: str) -> bytes:
    return orjson.dumps({"audience": audience, "updated": True})


def intake_of(*watched: str) -> Intake:
    index = MatchIndex([])
    return Intake(
        index, NativeFormat(index.table()), topic="t", partition=0, source=0, shards=1, watched=frozenset(watched)
    )


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


def test_the_newest_update_of_each_watched_audience_is_known_by_memberships_and_by_completions() -> None:
    intake = intake_of("vip", "new")
    values = [membership("vip"), membership("vip", member=False), completion("new"), membership("other")]
    intake.take(Batch(values, [AT, AT + 1, AT + 2, AT + 3], range(4)))
    assert intake.updated == {"vip": AT + 1, "new": AT + 2}
    intake.take(Batch([completion("vip")], [AT], range(4, 5)))
    assert intake.updated["vip"] == AT + 3, "stream time does not go back, and so does this"


def test_nothing_is_noted_of_audiences_that_nobody_watches() -> None:
    intake = intake_of()
    intake.take(Batch([membership("vip"), completion("vip")], [AT, AT], range(2)))
    assert intake.updated == {}


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
