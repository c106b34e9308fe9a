"""Quick Tracking's format: the events of its HTTP API."""

from __future__ import annotations

from typing import Any

import pytest

from state.records import EVENT, IDENTIFY, Record
from tests.formats.read import AT, record, rejected, taken

# After its documentation of the HTTP API.
SENT = {
    "sign": "0123456789abcdef0123456789abcdef",
    "app_id": "svc1",
    "appkey": "app1",
    "id": "add_to_cart",
    "umid": "dev-1",
    "puid": "u-17",
    "ts": str(AT),
    "page_name": "detail",
    "cusp": {"sku": "A-1", "price": "129.9"},
    "gp": {"vip": "1", "price": "0"},
    "sdk_type": "httpapi",
    "uuid": "7c1e",
}


def test_an_event_has_the_common_properties_under_its_own() -> None:
    properties = {"vip": "1", "price": "129.9", "sku": "A-1", "page_name": "detail"}
    assert record("quick_tracking", SENT) == Record(EVENT, "u-17", "add_to_cart", "7c1e", AT, None, properties, None)


def test_the_least_that_is_an_event() -> None:
    assert record("quick_tracking", {"id": "e", "puid": "u"}) == Record(EVENT, "u", "e", None, None, None, {}, None)


@pytest.mark.parametrize(
    ("ids", "message_id"),
    [
        ({"log_id": "l", "uuid": "u"}, "l"),
        ({"log_id": "", "uuid": "u"}, "u"),
        ({"log_id": None, "uuid": None}, None),
    ],
)
def test_its_id_is_that_of_the_log_or_else_its_seed(ids: dict[str, Any], message_id: str | None) -> None:
    assert record("quick_tracking", SENT | ids).message_id == message_id


def test_a_profile_is_one_of_a_user() -> None:
    sent = SENT | {"id": "$$_user_profile", "cusp": {"city": "Hangzhou", "tier": None}}
    assert record("quick_tracking", sent) == Record(
        IDENTIFY, "u-17", "", "7c1e", AT, None, {}, {"city": "Hangzhou", "tier": None}
    )
    assert rejected("quick_tracking", sent | {"puid": None}).reason == "no_user"
    assert record("quick_tracking", sent | {"cusp": None}).traits == {}


@pytest.mark.parametrize("ts", [str(AT), AT, float(AT)])
def test_its_time_is_a_number_of_ms_mostly_as_text(ts: object) -> None:
    assert record("quick_tracking", SENT | {"ts": ts}).at_ms == AT
    assert record("quick_tracking", SENT | {"server_ts": ts, "ts": None}).received_ms == AT


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ts": "1795420800"}, "bad_time"),
        ({"ts": 1_795_420_800}, "bad_time"),
        ({"ts": "1795420800123000"}, "bad_time"),
        ({"ts": "2026-11-23T08:00:00Z"}, "bad_time"),
        ({"ts": "9" * 5000}, "bad_time"),
        ({"ts": "\u0661" * 13}, "bad_time"),
        ({"ts": ""}, "bad_time"),
        ({"ts": True}, "bad_time"),
        ({"server_ts": "x"}, "bad_time"),
        ({"puid": 17}, "bad_type"),
        ({"puid": "", "umid": None}, "no_user"),
        ({"id": None}, "no_event"),
        ({"cusp": []}, "bad_type"),
        ({"gp": "x"}, "bad_type"),
        ({"uuid": 5}, "bad_type"),
        ({"ekv": []}, "unknown_format"),
    ],
)
def test_an_event_with_a_wrong_field_is_a_dead_letter(fields: dict[str, Any], reason: str) -> None:
    assert rejected("quick_tracking", SENT | fields).reason == reason


def test_a_device_is_a_user_only_where_the_source_says_so() -> None:
    sent = SENT | {"puid": None}
    assert "user=any" in rejected("quick_tracking", sent).detail
    assert record("quick_tracking", sent, user="any").user_id == "dev-1"


def test_who_sends_the_same_twice_with_a_uuid_has_sent_it_once() -> None:
    inputs, _, _ = taken("quick_tracking", [SENT, SENT], ["add_to_cart"])
    assert [(one.message_id, one.id_sent) for one in inputs] == [("7c1e", True)] * 2
