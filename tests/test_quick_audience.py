"""Quick Audience's format: the fields that its documentation names, and those that a source has to name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from state.records import EVENT, Record
from tests.formats.read import AT, decode, items, record, rejected, taken

# After its documentation of Event API 3.0; the code, time and properties are under the names that we guess.
SENT = {
    "organizationId": "org-1",
    "workspaceId": "ws-1",
    "customerId": "u-17",
    "customerIdList": [{"customerId": "1fe9a970", "idMapping": "oaid"}, {"customerId": "", "idMapping": "phone"}],
    "comeFrom": "quick_tracking",
    "channel": "app_ios",
    "eventCode": "add_to_cart",
    "eventTime": "2026-11-23T08:00:00.123Z",
    "properties": {"sku": "A-1", "price": "129.9"},
}
READ = Record(
    EVENT, "u-17", "add_to_cart", None, AT, None, {"sku": "A-1", "price": "129.9"}, {"oaid": "1fe9a970"}, None
)


def test_an_event_is_read_as_object_as_array_and_as_the_field_of_the_form() -> None:
    assert record("quick_audience", SENT) == READ
    assert items("quick_audience", [SENT, SENT]) == [READ, READ]
    assert items("quick_audience", json.dumps([SENT])) == [READ]
    assert record("quick_audience", json.dumps(SENT)) == READ
    form = {"accessId": "org-1", "eventMessageModelListJson": json.dumps([SENT])}
    assert items("quick_audience", form) == [READ]
    assert items("quick_audience", form | {"eventMessageModelListJson": [SENT]}) == [READ]
    assert record("quick_audience", form | {"eventMessageModelListJson": json.dumps(SENT)}) == READ


def test_a_source_says_where_code_time_and_properties_stand() -> None:
    sent = {"customerId": "u-17", "evt": "e", "at": AT, "p": {"a": 1}}
    found = record("quick_audience", sent, code_field="evt", time_field="at", properties_field="p")
    assert found == Record(EVENT, "u-17", "e", None, AT, None, {"a": 1}, None)
    no_event = rejected("quick_audience", sent)
    assert no_event.reason == "no_event"
    assert "code_field names the field" in no_event.detail


def test_its_events_have_no_ids_so_they_get_those_of_their_place() -> None:
    inputs, dead, _ = taken("quick_audience", [[SENT, {}, SENT], SENT], ["add_to_cart"])
    assert [(one.message_id, one.id_sent) for one in inputs] == [
        *(("t-3-5#0", False), ("t-3-5#2", False), ("t-3-6", False))
    ]
    assert [(letter.offset, letter.reason, letter.detail[:7]) for letter in dead] == [(5, "no_user", "item 1:")]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"customerId": 17}, "bad_type"),
        ({"customerId": None, "customerIdList": None}, "no_user"),
        ({"customerId": ""}, "no_user"),
        ({"eventCode": None}, "no_event"),
        ({"eventCode": 5}, "bad_type"),
        ({"properties": "x"}, "bad_type"),
        ({"customerIdList": {}}, "bad_type"),
        ({"customerIdList": ["x"]}, "bad_type"),
        ({"customerIdList": [{"customerId": "x"}]}, "bad_type"),
        ({"customerIdList": [{"customerId": 5, "idMapping": "phone"}]}, "bad_type"),
        ({"eventTime": "1795420800123"}, "bad_time"),
        ({"eventTime": 1_795_420_800}, "bad_time"),
    ],
)
def test_an_event_with_a_wrong_field_is_a_dead_letter(fields: dict[str, Any], reason: str) -> None:
    assert rejected("quick_audience", SENT | fields).reason == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "not_an_object"),
        ("[", "not_json"),
        ("5", "not_an_object"),
        ('"[]"', "not_an_object"),
        ({"eventMessageModelListJson": "["}, "not_json"),
        ("[" * 65 + "]" * 65, "too_deep"),
    ],
)
def test_what_holds_no_event_is_a_dead_letter(value: Any, reason: str) -> None:
    assert rejected("quick_audience", value).reason == reason


def test_another_id_is_a_user_only_where_the_source_says_so() -> None:
    sent = SENT | {"customerId": None}
    assert "user=any" in rejected("quick_audience", sent).detail
    assert record("quick_audience", sent, user="any").user_id == "1fe9a970"
    assert decode("quick_audience", []) == []
