"""CloudEvents: what the official SDK writes is read as it says itself."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import from_binary, from_structured, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources import Headers
from state.records import EVENT, Record
from tests.formats.read import AT, record, rejected

EVENT_OF_A_SHOP = {
    "specversion": "1.0",
    "id": "a-1",
    "source": "//shop/orders",
    "type": "order_paid",
    "subject": "u-17",
    "time": "2026-11-23T08:00:00.123Z",
    "datacontenttype": "application/json",
    "data": {"order": "o-9", "amount": 129.9},
}
BINARY: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"a-1"),
    ("ce_source", b"//shop/orders"),
    ("ce_type", b"order_paid"),
    ("ce_subject", b"u-17"),
    ("ce_time", b"2026-11-23T08:00:00.123Z"),
    ("content-type", b"application/json"),
]
DATA = b'{"order": "o-9", "amount": 129.9}'

texts = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def with_headers(*changed: tuple[str, bytes | None]) -> Headers:
    names = {name for name, _ in changed}
    return [*(one for one in BINARY if one[0] not in names), *changed]


def without(*names: str) -> Headers:
    return [one for one in BINARY if one[0] not in names]


def test_an_event_is_read() -> None:
    found = record("cloudevents", EVENT_OF_A_SHOP)
    assert found == Record(
        EVENT, "u-17", "order_paid", found.message_id, AT, None, {"order": "o-9", "amount": 129.9}, None
    )


@given(
    source=texts,
    event_id=texts,
    kind=texts,
    subject=texts,
    data=st.none() | st.dictionaries(texts, values, max_size=3),
    at_us=st.integers(10**15, 4 * 10**15),
)
def test_what_the_sdk_writes_is_the_same_event_in_both_modes_and_as_the_sdk_reads_it(
    source: str, event_id: str, kind: str, subject: str, data: Any, at_us: int
) -> None:
    """With data that is an object: of any other its binary mode does not write JSON."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    attributes = {"id": event_id, "source": source, "type": kind, "subject": subject, "time": at}
    attributes |= {"specversion": "1.0", "datacontenttype": "application/json"}
    event = CloudEvent(attributes, data)
    binary, structured = to_binary(event, JSONFormat()), to_structured(event, JSONFormat())
    found = record("cloudevents", binary.value, list(binary.headers.items()))
    assert record("cloudevents", structured.value, list(structured.headers.items())) == found
    for read in (from_binary(binary, JSONFormat()), from_structured(structured, JSONFormat())):
        assert (read.get_time(), found.at_ms) == (at, at_us // 1000)
        assert (found.user_id, found.name) == (read.get_subject(), read.get_type())
        said = read.get_data()
        assert found.properties == (said if isinstance(said, dict) else {} if said is None else {"value": said})


def test_data_in_base64_is_that_data() -> None:
    event = CloudEvent({"id": "a-1", "source": "//shop/orders", "type": "order_paid", "subject": "u-17"}, DATA)
    structured = to_structured(event, JSONFormat())
    found = record("cloudevents", structured.value, list(structured.headers.items()))
    assert found.properties == {"order": "o-9", "amount": 129.9}
    assert found.message_id == record("cloudevents", EVENT_OF_A_SHOP).message_id


def test_an_event_whole_in_the_value_and_one_with_headers_have_the_same_id() -> None:
    assert record("cloudevents", DATA, BINARY) == record("cloudevents", EVENT_OF_A_SHOP)
    other = record("cloudevents", EVENT_OF_A_SHOP | {"source": "//shop/returns"})
    assert other.message_id != record("cloudevents", EVENT_OF_A_SHOP).message_id, "an id is unique for its source only"


def test_headers_without_a_content_type_go_with_json() -> None:
    assert record("cloudevents", DATA, without("content-type")) == record("cloudevents", DATA, BINARY)
    assert rejected("cloudevents", b"\xff\xfe", without("content-type")).reason == "not_json"


def test_an_event_may_be_without_data() -> None:
    assert record("cloudevents", b"", BINARY).properties == {}
    assert record("cloudevents", {**EVENT_OF_A_SHOP, "data": None}).properties == {}


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
@pytest.mark.parametrize("value", [b"application/cloudevents+json; charset=UTF-8", b"APPLICATION/CLOUDEVENTS+JSON"])
def test_the_content_type_tells_that_all_is_in_the_value(name: str, value: bytes) -> None:
    headers = [(name, value), ("ce_specversion", b"1.0"), ("ce_type", b"other"), ("ce_id", b"\xff")]
    assert record("cloudevents", EVENT_OF_A_SHOP, headers) == record("cloudevents", EVENT_OF_A_SHOP)


def test_without_headers_all_is_in_the_value() -> None:
    assert record("cloudevents", EVENT_OF_A_SHOP, [("traceparent", b"\xff"), ("", None)]).name == "order_paid"


def test_of_a_header_that_comes_twice_the_last_counts() -> None:
    assert record("cloudevents", DATA, [*BINARY, ("ce_type", b"order_sent")]).name == "order_sent"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (with_headers(("ce_id", b"\xff\xfe")), "bad_type"),
        (with_headers(("content-type", b"text/plain")), "bad_type"),
        (with_headers(("content-type", b"application/xml")), "bad_type"),
        (with_headers(("content-type", b"\xff")), "bad_type"),
        (with_headers(("ce_specversion", b"0.3")), "unknown_format"),
        (with_headers(("ce_time", b"1795420800123")), "bad_time"),
        (with_headers(("ce_subject", b"")), "no_user"),
        (with_headers(("ce_type", None)), "no_event"),
        (without("ce_id"), "bad_type"),
        (without("ce_source"), "bad_type"),
        (without("ce_type"), "no_event"),
        (without("ce_subject"), "no_user"),
    ],
)
def test_wrong_headers_make_a_dead_letter(headers: Headers, reason: str) -> None:
    assert rejected("cloudevents", DATA, headers).reason == reason


@pytest.mark.parametrize(
    "content_type", [b"application/json; charset=UTF-8", b"Application/Vnd.Shop+JSON", b"text/json"]
)
def test_all_that_is_json_is_read(content_type: bytes) -> None:
    assert record("cloudevents", DATA, with_headers(("content-type", content_type))).properties["order"] == "o-9"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"specversion": None}, "unknown_format"),
        ({"specversion": "2.0"}, "unknown_format"),
        ({"specversion": 1.0}, "unknown_format"),
        ({"datacontenttype": "text/plain"}, "bad_type"),
        ({"datacontenttype": 5}, "bad_type"),
        ({"id": 5}, "bad_type"),
        ({"id": ""}, "bad_type"),
        ({"source": None}, "bad_type"),
        ({"type": ""}, "no_event"),
        ({"type": "x" * 129}, "bad_type"),
        ({"subject": 5}, "bad_type"),
        ({"subject": None}, "no_user"),
        ({"subject": "x" * 257}, "bad_type"),
        ({"time": "2026"}, "bad_time"),
        ({"data_base64": "e30="}, "bad_type"),
        ({"data": None, "data_base64": "?"}, "bad_type"),
        ({"data": None, "data_base64": 5}, "bad_type"),
        ({"data": None, "data_base64": base64.b64encode(b"{").decode()}, "not_json"),
    ],
)
def test_a_wrong_attribute_makes_a_dead_letter(fields: dict[str, Any], reason: str) -> None:
    assert rejected("cloudevents", EVENT_OF_A_SHOP | fields).reason == reason


def test_a_source_says_where_the_user_stands() -> None:
    event = EVENT_OF_A_SHOP | {"subject": None, "buyer": "u-1", "data": {"user_id": "u-2", "order": {"by": "u-3"}}}
    assert record("cloudevents", event).user_id == "u-2", "where there is no subject"
    assert record("cloudevents", event, user_from="buyer").user_id == "u-1"
    assert record("cloudevents", event, user_from="subject,data.order.by").user_id == "u-3"
    nobody = rejected("cloudevents", event, user_from="data.order.by.name")
    assert (nobody.reason, "`data.order.by.name`" in nobody.detail) == ("no_user", True)
    assert record("cloudevents", b'{"by": "u-4"}', without("ce_subject"), user_from="data.by").user_id == "u-4"
    tenant = with_headers(("ce_buyer", b"u-5"))
    assert record("cloudevents", DATA, tenant, user_from="buyer").user_id == "u-5"


def test_data_that_is_no_object_is_a_value() -> None:
    assert record("cloudevents", EVENT_OF_A_SHOP | {"data": [1, 2]}).properties == {"value": [1, 2]}
    assert record("cloudevents", b"false", BINARY).properties == {"value": False}
