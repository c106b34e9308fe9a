"""Segment's format, by what its own client posts and by its documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from state.records import EVENT, IDENTIFY, IGNORED, Record, Reject
from tests.formats.read import AT, decode, items, record, rejected, taken

(SAMPLE,) = (Path(__file__).parent / "formats").glob("segment-analytics-python-*.jsonl")
LINES = SAMPLE.read_bytes().splitlines()


def track(**fields: Any) -> dict[str, Any]:
    return {"type": "track", "userId": "u", "event": "e"} | fields


def test_what_the_python_client_posts_is_read() -> None:
    found = items("segment", LINES[-1])
    assert [one.reason if isinstance(one, Reject) else one.kind for one in found] == [
        *(EVENT, IDENTIFY, EVENT, EVENT, IGNORED, IGNORED, "no_user", EVENT, EVENT)
    ]
    added, plan, page, screen = found[:4]
    assert added == Record(EVENT, "u-17", "Product Added", "py-1", AT, None, added.properties, {"phone": "+4610000000"})
    assert added.properties["price"] == 129.9
    assert plan == Record(IDENTIFY, "u-17", "", "py-2", AT, None, {}, {"plan": "gold", "phone": None})
    assert page == Record(
        EVENT, "u-17", "page", "py-3", AT, None, {"path": "/cart", "name": "Cart", "category": "Shop"}, None
    )
    assert screen == Record(EVENT, "u-17", "screen", "py-4", AT, None, {"name": "Home"}, None)
    numbered = found[7]
    assert isinstance(numbered, Record)
    assert (numbered.user_id, numbered.at_ms) == ("17", AT), "the client writes numbers as text, and a zone as offset"


def test_the_same_calls_one_by_one_are_the_same_events() -> None:
    together = items("segment", LINES[-1])
    one_by_one = [one for line in LINES[:-1] for one in items("segment", line)]
    assert one_by_one[:-1] == together[:-1], "the last one has an id of its own in each"


def test_what_is_posted_twice_is_one_event() -> None:
    inputs, _, _ = taken("segment", [LINES[0], LINES[-1]], ["Product Added"])
    added = [one for one in inputs if one.name == "Product Added"]
    assert [(one.user_id, one.message_id, one.id_sent) for one in added] == [("u-17", "py-1", True)] * 2


def test_a_call_alone_is_read_without_a_batch() -> None:
    assert record("segment", track(messageId="m", timestamp="2026-11-23T08:00:00.123Z")) == Record(
        EVENT, "u", "e", "m", AT, None, {}, None
    )
    assert record("segment", {"userId": "u", "event": "e"}).name == "e", "as it is posted to /v1/track"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"userId": None}, "no_user"),
        ({"userId": ""}, "no_user"),
        ({"userId": 17}, "bad_type"),
        ({"userId": "x" * 257}, "bad_type"),
        ({"userId": None, "anonymousId": "a"}, "no_user"),
        ({"event": None}, "no_event"),
        ({"event": ""}, "no_event"),
        ({"event": 1}, "bad_type"),
        ({"event": "x" * 129}, "bad_type"),
        ({"type": None, "event": None}, "no_event"),
        ({"type": "delete"}, "bad_type"),
        ({"type": 7}, "bad_type"),
        ({"type": ["track"]}, "bad_type"),
        ({"properties": []}, "bad_type"),
        ({"context": "x"}, "bad_type"),
        ({"context": {"traits": "x"}}, "bad_type"),
        ({"messageId": 9}, "bad_type"),
        ({"messageId": "x" * 257}, "bad_type"),
        ({"timestamp": "yesterday"}, "bad_time"),
        ({"timestamp": 1_795_420_800}, "bad_time"),
        ({"timestamp": "1795420800123"}, "bad_time"),
        ({"receivedAt": "soon"}, "bad_time"),
        ({"originalTimestamp": "then"}, "bad_time"),
        ({"type": "group", "timestamp": "x"}, "bad_time"),
    ],
)
def test_a_call_with_a_wrong_field_is_a_dead_letter(fields: dict[str, Any], reason: str) -> None:
    assert rejected("segment", track(**fields)).reason == reason


def test_an_anonymous_id_is_a_user_only_where_the_source_says_so() -> None:
    nobody = track(userId=None, anonymousId="a-1")
    assert "user=any" in rejected("segment", nobody).detail
    assert record("segment", nobody, user="any").user_id == "a-1"
    assert record("segment", track(anonymousId="a-1"), user="any").user_id == "u"
    assert rejected("segment", track(userId=5, anonymousId="a"), user="any").reason == "bad_type"
    assert rejected("segment", track(userId=None, anonymousId=5), user="any").reason == "bad_type"


def test_256_characters_are_a_user() -> None:
    assert record("segment", track(userId="x" * 256)).user_id == "x" * 256


@pytest.mark.parametrize(
    ("fields", "at", "received"),
    [
        ({}, None, None),
        ({"timestamp": "2026-11-23T08:00:00.123Z"}, 0, None),
        ({"timestamp": AT}, 0, None),
        ({"timestamp": "2026-11-23T08:00:00.123"}, 0, None),
        ({"timestamp": "2026-11-23T08:00:00.123Z", "receivedAt": AT + 5}, 0, 5),
        ({"timestamp": AT, "originalTimestamp": "?", "sentAt": "?"}, 0, None),
        ({"originalTimestamp": AT}, 0, None),
        # Its clock is an hour behind, and it sent two seconds after it happened.
        ({"originalTimestamp": AT - 3_600_000, "sentAt": AT - 3_598_000, "receivedAt": AT + 2_000}, 0, 2_000),
        # It sent before it happened, by its own words.
        ({"originalTimestamp": AT, "sentAt": AT - 1_000, "receivedAt": AT}, 1_000, 0),
        ({"timestamp": "2100-01-01T00:00:00Z"}, 4_102_444_800_000 - AT, None),
        ({"timestamp": "1970-01-01T00:00:00Z"}, -AT, None),
    ],
)
def test_times(fields: dict[str, Any], at: int | None, received: int | None) -> None:
    found = record("segment", track(**fields))
    assert found.at_ms == (None if at is None else AT + at)
    assert found.received_ms == (None if received is None else AT + received)


def test_a_time_that_cannot_be_computed_is_none() -> None:
    far = track(originalTimestamp="9999-01-01", sentAt="1975-01-01", receivedAt="9999-01-01")
    assert rejected("segment", far).reason == "bad_time"


def test_what_a_batch_says_holds_for_its_items_unless_they_say_otherwise() -> None:
    batch = {
        "batch": [track(), track(receivedAt=AT + 1, context={"traits": {"a": 2}}), {"type": "identify", "userId": "u"}],
        "receivedAt": AT,
        "context": {"traits": {"a": 1}},
    }
    found = items("segment", batch)
    assert [(one.received_ms, one.traits) for one in found if isinstance(one, Record)] == [
        (AT, {"a": 1}),
        (AT + 1, {"a": 2}),
        (AT, {}),
    ]


def test_a_bad_item_does_not_take_the_others_with_it() -> None:
    batch = {"batch": [track(), track(userId=17), 5, track(messageId="m")], "writeKey": "k"}
    inputs, dead, intake = taken("segment", [batch], ["e"], arrived_ms=[AT])
    assert [(one.message_id, one.id_sent) for one in inputs] == [("t-3-5#0", False), ("m", True)]
    (letter,) = dead
    assert (letter.topic, letter.partition, letter.offset, letter.reason) == ("t", 3, 5, "bad_type")
    assert letter.detail == "item 1: `userId` is a number, not a text; item 2: it is a number, not an object"
    assert [json.loads(line) for line in letter.raw.splitlines()] == [track(userId=17), 5]
    assert (intake.counts.records, intake.counts.relevant, intake.counts.dead) == (1, 2, {"bad_type": 1})


def test_a_batch_of_nothing_but_rubbish_makes_one_small_dead_letter() -> None:
    _, (letter,), _ = taken("segment", [{"batch": [1] * 300_000}], ["e"])
    assert len(letter.raw) <= 16 * 1024
    assert len(letter.detail) < 2_000
    assert letter.detail.endswith("108, 109, and 299890 more")


def test_group_and_alias_are_counted_and_change_nothing_but_time() -> None:
    group = {"type": "group", "userId": "u", "groupId": "g", "traits": {"a": 1}, "timestamp": AT + 9}
    alias = {"type": "alias", "userId": "u", "previousId": "x", "timestamp": AT}
    inputs, dead, intake = taken("segment", [group, alias, {"type": "alias"}], ["e"])
    assert (inputs, dead, intake.counts.ignored, intake.time.now_ms) == ([], [], 3, AT + 9)


def test_a_native_record_is_told_from_segments() -> None:
    assert "use `--format native`" in rejected("segment", {"user_id": "u", "event": "e", "type": "track"}).detail


def test_a_batch_that_is_no_list_is_no_batch() -> None:
    assert rejected("segment", {"batch": {"0": track()}}).reason == "no_user"
    assert decode("segment", {"batch": []}) == []
