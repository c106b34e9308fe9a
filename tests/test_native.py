"""The native format: what is read, what is refused and why."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from connectors.formats import parsing
from connectors.formats.native import decode, record_of
from connectors.formats.parsing import parse_object
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, UPDATED, Record, Reject
from tests.records import AT, DEEP_64, DEEP_65, MIB, NOT_JSON, ODD, SAMPLE, Choices, any_record, line, raw_line, records


def record(raw: bytes) -> Record:
    found = decode(raw)
    assert isinstance(found, Record), found
    return found


def reason(raw: bytes) -> str:
    found = decode(raw)
    assert isinstance(found, Reject), found
    return found.reason


def event(**fields: Any) -> Record:
    """Return the event of `line()`, with other *fields*."""
    made = Record(EVENT, "u", "e", None, None, None, {}, None)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# What is read.


def test_the_event_of_the_documentation() -> None:
    properties = {"sku": "A-1", "amount": 129.9, "currency": "CNY"}
    assert decode(SAMPLE) == Record(EVENT, "u-17", "add_to_cart", "01J9", AT, None, properties, None)


def test_the_profile_update_of_the_documentation() -> None:
    raw = b'{"type": "identify", "user_id": "u-17", "traits": {"phone": "+86", "tier": null}}'
    assert decode(raw) == Record(IDENTIFY, "u-17", "", None, None, None, {}, {"phone": "+86", "tier": None})


def test_a_profile_update_has_no_name_and_perhaps_no_traits() -> None:
    assert decode(line(type="identify", event=5, properties=[])) == event(kind=IDENTIFY, name="", traits={})
    assert decode(line(type="identify", traits=None)) == event(kind=IDENTIFY, name="", traits={})


def test_the_receipt_of_the_documentation() -> None:
    fields = {
        "action_id": "9f",
        "user_id": "u-17",
        "status": "delivered",
        "code": "DELIVERED",
        "detail": "",
        "timestamp": "2026-11-23T08:00:00.123Z",
    }
    expected = Record(RECEIPT, "u-17", "", None, AT, None, {}, None, fields)
    assert decode(orjson.dumps(fields)) == expected


def test_the_membership_of_the_documentation() -> None:
    fields = {
        "audience": "vip",
        "user_id": "u-17",
        "member": False,
        "row": {"city": "Hangzhou"},
        "received_at": AT,
    }
    expected = Record(MEMBERSHIP, "u-17", "", None, None, AT, {}, None, fields)
    assert decode(orjson.dumps(fields)) == expected


def test_the_completed_update_of_the_documentation_names_no_user_and_ignores_one() -> None:
    fields = {"audience": "vip", "updated": True, "timestamp": "2026-11-23T08:00:00.123Z"}
    for user in ({}, {"user_id": "u-17"}, {"user_id": 5}, {"user_id": "u" * 257}):
        whole = fields | user
        assert decode(orjson.dumps(whole)) == Record(UPDATED, "", "", None, AT, None, {}, None, whole)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, EVENT),
        ({"type": "track"}, EVENT),
        ({"type": 5}, EVENT),
        ({"type": ["identify"]}, EVENT),
        ({"type": "identify"}, IDENTIFY),
        ({"audience": "a", "member": True}, MEMBERSHIP),
        ({"audience": "a", "member": True, "type": "identify"}, MEMBERSHIP),
        ({"audience": "a", "member": None}, EVENT),
        ({"audience": "a", "member": True, "updated": True}, MEMBERSHIP),
        ({"audience": "a", "member": None, "updated": True}, UPDATED),
        ({"audience": "a", "updated": True, "type": "identify"}, UPDATED),
        ({"action_id": "a", "status": "s", "audience": "a", "updated": True}, RECEIPT),
        ({"audience": "a", "updated": False}, EVENT),
        ({"audience": "a", "updated": 1}, EVENT),
        ({"audience": None, "updated": True}, EVENT),
        ({"updated": True}, EVENT),
        ({"audience": None, "member": True}, EVENT),
        ({"audience": 5}, EVENT),
        ({"member": 5, "row": 5}, EVENT),
        ({"action_id": "a", "status": "s"}, RECEIPT),
        ({"action_id": "", "status": ""}, RECEIPT),
        ({"action_id": "a", "status": "s", "audience": 1, "member": 1, "row": 1, "traits": 1}, RECEIPT),
        ({"action_id": "a", "status": None, "audience": "a", "member": True}, MEMBERSHIP),
        ({"action_id": "a", "status": None}, EVENT),
        ({"action_id": 5}, EVENT),
        ({"status": 5}, EVENT),
    ],
)
def test_the_first_kind_that_fits_wins_and_fields_of_others_do_not_matter(fields: Any, kind: int) -> None:
    assert record(line(**fields)).kind == kind


@pytest.mark.parametrize("field", ["message_id", "timestamp", "received_at", "properties", "traits", "x"])
def test_null_is_as_absent(field: str) -> None:
    assert decode(line(**{field: None})) == event()


def test_an_empty_message_id_is_as_absent() -> None:
    assert decode(line(message_id="")) == event()
    assert decode(line(message_id="0")) == event(message_id="0")


def test_events_carry_traits_also_empty_ones() -> None:
    assert decode(line(traits={"a": {"b": None}})) == event(traits={"a": {"b": None}})
    assert decode(line(traits={})) == event(traits={})


def test_both_times_are_read_in_all_forms() -> None:
    raw = line(timestamp="2026-11-23 16:00:00.1239+0800", received_at=100_000_000_001.5)
    assert decode(raw) == event(at_ms=AT, received_ms=100_000_000_001)


@pytest.mark.parametrize("field", ["timestamp", "received_at"])
def test_a_number_of_seconds_is_told_as_that(field: str) -> None:
    rejected = decode(line(**{field: 1_795_420_800}))
    assert isinstance(rejected, Reject)
    assert (rejected.reason, "looks like seconds" in rejected.detail) == ("bad_time", True)
    rejected = decode(line(**{field: -5}))
    assert isinstance(rejected, Reject)
    assert (rejected.reason, "seconds" in rejected.detail) == ("bad_time", False)


@pytest.mark.parametrize(
    ("raw", "reason", "word"),
    [
        (b'{"type":"track","userId":"u","event":"e"}', "no_user", "`userId`"),
        (b'{"batch":[]}', "no_user", "`batch`"),
        (b'{"event":"e","distinct_id":"u"}', "no_user", "`distinct_id`"),
        (b'{"specversion":"1.0","subject":"u"}', "no_user", "CloudEvents"),
        ('{"user_id":"u"}'.encode("utf-16"), "not_json", "UTF-16"),
        ('{"user_id":"u"}'.encode("utf-16-le"), "not_json", "UTF-16"),
        ('{"user_id":"u"}'.encode("utf-16-be"), "not_json", "UTF-16"),
        (b"\x1f\x8b\x08\x00", "not_json", "gzip"),
    ],
)
def test_who_sends_another_format_or_encoding_is_told_which(raw: bytes, reason: str, word: str) -> None:
    rejected = decode(raw)
    assert isinstance(rejected, Reject)
    assert rejected.reason == reason
    assert word in rejected.detail


def test_the_last_of_duplicate_keys_wins() -> None:
    raw = b'{"event":5,"user_id":"x","event":"e","properties":[],"user_id":"u","properties":{"a":1,"a":2}}'
    assert decode(raw) == event(properties={"a": 2})
    assert reason(b'{"event":"e","user_id":"u","user_id":null}') == "no_user"


def test_integers_beyond_64_bits_are_doubles() -> None:
    numbers = [2**64 - 1, -(2**63), 2**64, -(2**63) - 1, 10**308]
    raw = raw_line(b'"properties":{"n":' + json.dumps(numbers).encode() + b"}")
    read = record(raw).properties["n"]
    assert read == [*numbers[:2], *map(float, numbers[2:])]
    assert [type(number) for number in read] == [int, int, float, float, float]


def test_escapes_and_other_scripts_are_read() -> None:
    raw = b'{"user\\u005fid":"\\ud83d\\ude00","event":"\xe5\x8a\xa0\xe8\xb4\xad\\n\\u0000"}'
    assert decode(raw) == event(user_id="\U0001f600", name="\u52a0\u8d2d\n\0")


def test_space_around_the_record_is_no_error() -> None:
    assert decode(b" \t\r\n" + line() + b"\r\n") == event()


def test_lengths_are_counted_in_characters() -> None:
    assert record(line(user_id="\U0001f600" * 256, event="\u00e9" * 128)).kind == EVENT
    assert reason(line(user_id="u" * 257)) == "bad_type"
    assert reason(line(event="\u00e9" * 129)) == "bad_type"


# What is refused, and why.


@pytest.mark.parametrize("raw", NOT_JSON)
def test_what_is_no_json_is_refused_wherever_it_stands(raw: bytes) -> None:
    assert reason(raw) == "not_json"
    if raw.strip() and raw not in (b"{", b"{} x"):
        assert reason(raw_line(b'"properties":{"a":[{"b":' + raw + b"}]}")) == "not_json"


NO_OBJECT = {
    b"[]": "a list",
    b'["user_id"]': "a list",
    b'"x"': "a text",
    b"1": "a number",
    b"1.5": "a number",
    b"null": "null",
    b"true": "a boolean",
}


@pytest.mark.parametrize("raw", NO_OBJECT)
def test_other_json_is_not_an_object(raw: bytes) -> None:
    assert decode(raw) == Reject("not_an_object", f"the record is {NO_OBJECT[raw]}, not an object")


WRONG: dict[str, list[Any]] = {
    "user_id": [0, 17, 1.5, True, False, [], ["u"], {}],
    "event": [0, True, [], {}],
    "message_id": [0, 17, False, [], {}],
    "properties": [0, "", "{}", False, []],
    "traits": [0, "", "{}", False, []],
    "timestamp": ["", "now", "1795420800123", True, [], {}, -1, 253_402_300_800_000, "1969-12-31"],
}
KINDS: list[dict[str, Any]] = [
    {},
    {"type": "identify"},
    {"action_id": "a", "status": "s"},
    {"audience": "a", "member": True},
    {"audience": "a", "updated": True},
]
REASONS: list[tuple[str, dict[str, Any]]] = [
    ("no_user", {"user_id": None}),
    ("no_user", {"user_id": ""}),
    ("no_event", {"event": None}),
    ("no_event", {"event": ""}),
    *(("bad_type", {field: one}) for field in list(WRONG)[:5] for one in WRONG[field]),
    ("bad_type", {"type": "identify", "traits": []}),
    ("bad_type", {"type": "identify", "message_id": 1}),
    ("bad_type", {"action_id": 1, "status": "s"}),
    ("bad_type", {"action_id": "a", "status": False}),
    ("bad_type", {"action_id": "a", "status": "s", "message_id": 1}),
    ("bad_type", {"audience": ["a"], "member": True}),
    ("bad_type", {"audience": "a" * 129, "member": True}),
    ("bad_type", {"audience": ["a"], "updated": True}),
    ("bad_type", {"audience": "a" * 129, "updated": True}),
    ("bad_type", {"audience": "a", "member": 1}),
    ("bad_type", {"audience": "a", "member": "true"}),
    ("bad_type", {"audience": "a", "member": True, "row": []}),
    ("bad_type", {"audience": "a", "member": True, "row": ""}),
    ("bad_type", {"audience": "a", "member": True, "message_id": {}}),
    *(
        ("bad_time", kind | {field: one})
        for kind in KINDS
        for field in ("timestamp", "received_at")
        for one in WRONG["timestamp"]
    ),
]


@pytest.mark.parametrize(("expected", "fields"), REASONS)
def test_each_reason(expected: str, fields: dict[str, Any]) -> None:
    assert reason(line(**fields)) == expected


def test_a_missing_user_or_name() -> None:
    assert reason(b"{}") == "no_user"
    assert reason(b'{"event":"e"}') == "no_user"
    assert reason(b'{"user_id":"u"}') == "no_event"


def test_reasons_are_checked_in_order() -> None:
    faults = {
        "bad_time": b'"timestamp":"now"',
        "bad_type": b'"traits":7',
        "no_event": b'"event":""',
        "no_user": b'"user_id":""',
        "too_deep": DEEP_65,
        "not_json": b'"x":NaN',
        "too_large": b'"y":"' + b"y" * MIB + b'"',
    }
    present = b'"user_id":"u","event":"e"'
    for expected, fault in faults.items():
        present += b"," + fault
        assert reason(b"{" + present + b"}") == expected


def test_too_deep_comes_before_not_an_object() -> None:
    assert reason(b"[" * 65 + b"]" * 65) == "too_deep"
    assert reason(b"[" * 64 + b"]" * 64) == "not_an_object"


def test_1_mib_passes() -> None:
    raw = line(x="")
    for size, passes in ((MIB, True), (MIB + 1, False)):
        padded = raw.replace(b'"x":""', b'"x":"' + b"x" * (size - len(raw)) + b'"')
        assert len(padded) == size
        assert isinstance(decode(padded), Record) == passes
    assert reason(b"x" * (MIB + 1)) == "too_large"


def test_64_levels_pass() -> None:
    assert isinstance(decode(raw_line(DEEP_64)), Record)
    assert reason(raw_line(DEEP_65)) == "too_deep"


def test_brackets_in_texts_are_no_levels() -> None:
    assert isinstance(decode(line(x="[{" * 1000, y='"[' * 100, z="\\[" * 100)), Record)
    assert isinstance(decode(line(x=[[]] * 1000)), Record)


def test_what_a_duplicate_key_hides_is_nested_all_the_same() -> None:
    assert reason(raw_line(DEEP_65 + b',"properties":{}')) == "too_deep"


@pytest.mark.parametrize("levels", [65, 1000, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [(b"[", b"]"), (b'{"a":', b"}"), (b'[{},{"\\"]":[1,"[",', b" ]\n}\t]")],
)
def test_deep_records_and_broken_ones_are_told_apart(levels: int, opening: bytes, closing: bytes) -> None:
    def nested(inside: bytes, after: bytes = b"") -> bytes:
        return raw_line(b'"x":' + opening * levels + inside + closing * levels + after)

    for inside in (b"1", b"null", b'"\\ud83d\\ude00"', b"{}", b"[1,2.5e3]", b'{"a":{},"b":[]}'):
        assert reason(nested(inside)) == "too_deep"
    for inside in (
        b"1e999",
        b'"\\ud800"',
        b'"\xff"',
        b"[1,]",
        b"{1:2}",
        b'{"a":1,}',
        b"]",
        b"}",
        b"1 2",
        b'"',
    ):
        assert reason(nested(inside)) == "not_json"
    for after in (b"]", b"}", b",", b"1", b',"y"', b',"y":', b'"', b"\\"):
        assert reason(nested(b"1", after)) == "not_json"
    assert reason(nested(b"1")[:-1]) == "not_json"
    assert reason(nested(b"1") + b"1") == "not_json"


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * MIB,
        b"[]" * (MIB // 2),
        b"[" * (MIB // 2) + b"]" * (MIB // 2),
        b'{"":' * (MIB // 5) + b"1" + b"}" * (MIB // 5),
        b"[" * 100 + b'"' + b'\\"' * (MIB // 2 - 100),
        b"[" * 100 + b'"' + b"\\" * (MIB - 200),
        b"[" * 2000 + b"1," * (MIB // 2 - 2000),
        b"[" * 2000 + b" " * (MIB - 4000),
        b'{"user_id":"u","event":"e","timestamp":"' + b"1" * (MIB - 100) + b'"}',
    ],
)
@pytest.mark.timeout(100)  # Each takes 0.2 s; the slip to look out for is quadratic, and takes hours.
def test_no_record_takes_long(raw: bytes) -> None:
    assert not isinstance(decode(raw), Record)


def test_details_tell_people_what_is_wrong_without_quoting_values() -> None:
    assert decode(line(event=5)) == Reject("bad_type", "`event` is a number, not a text")
    too_long = "`user_id` has 300 characters, 256 are allowed"
    assert decode(line(user_id="x" * 300)) == Reject("bad_type", too_long)
    no_member = "`member` is a text, not a boolean"
    assert decode(line(audience="a", member="secret")) == Reject("bad_type", no_member)
    for raw in (b'{"user_id": secret}', line(timestamp="secret"), line(message_id=["secret"]), b'"secret"'):
        found = decode(raw)
        assert isinstance(found, Reject)
        assert "secret" not in found.detail


def test_other_formats_can_use_both_halves() -> None:
    value = parse_object(SAMPLE)
    assert isinstance(value, dict)
    assert record_of(value) == decode(SAMPLE)
    assert parse_object(b"x") == decode(b"x")


def strict_json(raw: bytes) -> bool:
    """Say whether the standard library reads *raw* as JSON, with the stricter rules of `docs/records.md`."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    def finite(digits: str) -> float:
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            raise ValueError(digits)
        return number

    def kept(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return pairs  # With those that a duplicate key hides.

    try:
        value = json.loads(
            raw.decode(),
            parse_constant=no_constant,
            parse_float=finite,
            parse_int=finite,
            object_pairs_hook=kept,
        )
        json.dumps(value, ensure_ascii=False).encode()  # Fails on lone surrogates.
    except ValueError:
        return False
    return True


def check_json(raw: bytes) -> None:
    """Assert that `decode` and the standard library agree on whether *raw* is JSON."""
    if parsing._levels(raw) <= 400:  # The standard library recurses.
        found = decode(raw)
        is_json = strict_json(raw)
        assert (isinstance(found, Reject) and found.reason == "not_json") == (not is_json)
        assert parsing._is_json(raw) == is_json


@settings(max_examples=150)
@given(records())
def test_a_record_is_json_when_the_standard_library_says_so(raw: bytes) -> None:
    check_json(raw)


@pytest.mark.parametrize("seed", range(20))
def test_many_records_are_json_when_the_standard_library_says_so(seed: int) -> None:
    for number in range(100):
        check_json(any_record(Choices(Random(f"{seed}.{number}").randrange)))


@pytest.mark.parametrize(
    "place",
    [b"%s", b'"x":%s', b'"properties":{"a": %s }', b'"context":[{"b":2},%s]', b'"x":[\t%s\r\n]'],
)
def test_what_a_quick_look_skips_is_checked(place: bytes) -> None:
    for piece in ODD:
        check_json(raw_line(b'"y":1,' + place.replace(b"%s", piece)))
        check_json(raw_line(b'"y":[' + piece + b"]," + place.replace(b"%s", b"1")))
