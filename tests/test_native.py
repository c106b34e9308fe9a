"""The native format: what is read, what is refused and why, and that the quick way agrees with the slow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from random import Random
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.formats import native
from connectors.formats.native import decode, parse_object, record_of
from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.read.scanner import MISSING, NativeFormat
from dataflow.read.streamtime import StreamTime
from operators.conditions.base import Condition
from operators.conditions.index import MatchIndex
from operators.conditions.where import parse_where
from operators.language.problems import Document, Problems
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, Record, Reject, unpacked
from tests.intake import taken

SAMPLE = (
    b'{"message_id": "01J9", "user_id": "u-17", "event": "add_to_cart",'
    b' "timestamp": "2026-11-23T08:00:00.123Z",'
    b' "properties": {"sku": "A-1", "amount": 129.9, "currency": "CNY"}, "context": {"app": "ios"}}'
)
AT = 1_795_420_800_123
MIB = 1_048_576
T = TypeVar("T")


def line(**fields: Any) -> bytes:
    return orjson.dumps({"user_id": "u", "event": "e"} | fields)


def raw_line(fields: bytes) -> bytes:
    """Return an event with *fields*, already JSON, behind its user and name."""
    return b'{"user_id":"u","event":"e",' + fields + b"}"


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
    same([line(message_id=""), line(message_id="0")])


def test_events_carry_traits_also_empty_ones() -> None:
    assert decode(line(traits={"a": {"b": None}})) == event(traits={"a": {"b": None}})
    assert decode(line(traits={})) == event(traits={})


def test_both_times_are_read_in_all_forms() -> None:
    raw = line(timestamp="2026-11-23 16:00:00.1239+0800", received_at=1.5)
    assert decode(raw) == event(at_ms=AT, received_ms=1)


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

DEEP_64 = b'"properties":' + b'{"a":' * 62 + b"[]" + b"}" * 62
DEEP_65 = b'"properties":' + b'{"a":' * 62 + b"[{}]" + b"}" * 62

NOT_JSON = [
    b"",
    b" ",
    b"nonsense",
    b"{",
    b"{}{}",
    b"{} x",
    b"{'user_id':'u'}",
    b'{"user_id":"u",}',
    b'\xef\xbb\xbf{"user_id":"u","event":"e"}',
    b'{"user_id":"u","event":"e"}\0',
    *(
        raw_line(b'"x":' + value)
        for value in [
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b"nan",
            b"1e999",
            b"-1e999",
            b"1E+309",
            b"1.8e308",
            b"9" * 309,
            b"-" + b"1" * 400 + b".5",
            b"01",
            b"-01",
            b"1.",
            b".5",
            b"-",
            b"+1",
            b"1e",
            b"0x1",
            b"1_0",
            b"tru",
            b"True",
            b"undefined",
            b'"\\ud800"',
            b'"\\udc00"',
            b'"\\ud800\\u0041"',
            b'"\\uD83D"',
            b'"\\x41"',
            b'"\\u12"',
            b'"\xff"',
            b'"\xc0\x80"',
            b'"\xed\xa0\x80"',
            b'"\xf4\x90\x80\x80"',
            b'"\xe5\x8a"',
            b'"\n"',
            b'"\x00"',
            b'"a',
            b"[1,]",
            b"[1 2]",
            b"[,]",
            b'{"a"}',
            b"{1:2}",
            b'{"a":1 "b":2}',
            b"/**/1",
            b"\x0b1",
            b"\xa01",
        ]
    ),
]


@pytest.mark.parametrize("raw", NOT_JSON)
def test_what_is_no_json_is_refused_wherever_it_stands(raw: bytes) -> None:
    assert reason(raw) == "not_json"
    nested = b'"properties":{"a":[{"b":' + raw + b"}]}"
    if raw.strip() and raw not in (b"{", b"{} x"):
        assert reason(raw_line(nested)) == "not_json"
    same([raw, raw_line(nested)])


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
        same([padded])
    assert reason(b"x" * (MIB + 1)) == "too_large"


def test_64_levels_pass() -> None:
    assert isinstance(decode(raw_line(DEEP_64)), Record)
    assert reason(raw_line(DEEP_65)) == "too_deep"
    same([raw_line(DEEP_64), raw_line(DEEP_65), raw_line(DEEP_64)])


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


# The scanner.


class Watched(NativeFormat):
    """Notes what the scanner left to `decode`."""

    def __init__(self, table: dict[str, Any] | None) -> None:
        super().__init__(table)
        self.looked_at: list[bytes] = []

    def decode(self, raw: bytes) -> Record | Reject:
        self.looked_at.append(raw)
        return super().decode(raw)


def where(**tests: Any) -> Condition:
    """Return the condition of a flow's `where`."""
    problems = Problems(Document("test", tests))
    found = parse_where(tests, (), problems, templates=False).fixed
    assert found is not None, problems.found
    return found


INDEXES = [
    MatchIndex([("e", None), ("\u52a0\u8d2d", None)]),
    MatchIndex([("none", None)]),
    MatchIndex(
        [
            ("e", where(a={"gte": 1})),
            ("e", where(a="x y")),
            ("f", where(a={"exists": True})),
            ("e", where(**{"n.n": {"lt": 2**53}})),
            ("f", where(sku="A-1", amount={"gt": 100})),
            ("e", where(a={"contains": "e"})),
            ("e", where(n={"in": [0, 1, 1.0, 2**63, 2**64, 0.1]})),
            ("page_view", where(items={"exists": False})),
        ]
    ),
]


def everything(
    index: MatchIndex, records: NativeFormat, values: list[bytes], arrived_ms: list[int] | None
) -> list[Any]:
    """Return everything that comes of *values*, as text, to the type of every number."""
    intake = Intake(index, records, topic="t", partition=3, source=7, shards=4, time=StreamTime(5), head_ms=9)
    found: list[Any] = []
    half = len(values) // 2
    for part in (slice(half), slice(half, None)):  # What is remembered between batches counts, too.
        stamps = None if arrived_ms is None else arrived_ms[part]
        by_shard, dead = intake.take(Batch(values[part], stamps, range(100, 100 + len(values))[part]))
        inputs = {shard: unpacked(some) for shard, some in sorted(by_shard.items())}
        for one in chain.from_iterable(inputs.values()):
            one.body = one.properties
        found += [repr(dead), intake.time.now_ms, repr(intake.counts), repr(inputs)]
    return found


def same(values: list[bytes]) -> None:
    """Assert that with and without the scanner everything is the same, whoever says when records came."""
    stamps = [AT + 1000 * (number % 7) - 10**15 * (number % 11 == 10) for number in range(len(values))]
    for index in INDEXES:
        for arrived_ms in (None, stamps, [2**62] * len(values)):
            quick, slow = NativeFormat(index.table()), NativeFormat()
            assert everything(index, quick, values, arrived_ms) == everything(index, slow, values, arrived_ms)


def read_slowly(values: list[bytes], index: MatchIndex = INDEXES[0]) -> list[bytes]:
    """Return which of *values* the scanner leaves to `decode`."""
    watched = Watched(index.table())
    everything(index, watched, values, None)
    return watched.looked_at


def test_this_installation_has_the_scanner() -> None:
    """Without it the job works; but then nothing here says anything of it: install Rust, and then Nudge again."""
    assert MISSING == ""


def test_only_valid_events_that_nobody_wants_are_left_out() -> None:
    values = [
        line(),
        line(event="f"),
        line(event="f", traits={}),
        line(event="f", traits={"a": 1}),
        line(event="f", timestamp="now"),
        line(event="f", type="identify"),
        line(event="f", type="track"),
        line(event="f", action_id="a"),
        line(event="f", action_id="a", status="s"),
        line(event="f", audience="a", member=True),
        line(event="f", timestamp="2026-11-23", received_at=AT, properties={"a": [1e5]}),
        b"",
    ]
    dead, inputs = taken(INDEXES[0], values)
    assert [one.offset for one in inputs] == [0, 3, 5]
    assert [(one.offset, one.reason) for one in dead] == [(4, "bad_time"), (11, "not_json")]
    same(values)
    for raw in values:
        same([raw])


def test_positions_are_right_in_long_batches() -> None:
    values = [line(event="f" if n % 7 else "e", message_id=str(n)) for n in range(1000)]
    values[300] = b"x"
    values[500] = line(event="f", timestamp="now")
    values[700] = line(event="f", x="\u00e9")
    values[900] = raw_line(b'"x":1e999')
    assert read_slowly(values) == [values[300], values[500], values[900]]
    same(values)


def test_numbers_are_the_same_to_the_scanner() -> None:
    numbers = [
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**30,
        1.0,
        -0.0,
        0.1,
        1 / 3,
        5e-324,
        2**53,
        2**53 + 1,
        -(2**53),
    ]
    texts = [
        *map(json.dumps, numbers),
        "-0",
        "0.30000000000000004440892098500626",
        "9007199254740992.0",
        "9007199254740993.0",
        "0." + "1" * 299,
        "0." + "1" * 400,
    ]
    for name in ("properties", "traits", "x"):
        for form in ('{"n":%s}', '{"n":[%s]}', '{"n":{"n":%s}}', '{"a":%s}'):
            values = [raw_line(f'"{name}":{form % text}'.encode()) for text in texts]
            same(values)
            for raw in values:
                same([raw])


def test_times_are_the_same_to_the_scanner() -> None:
    texts = [
        *(
            "2026-11-23T08:00:00",
            "2026-11-23 08:00:00.1234567Z",
            "2026-11-23T08:00:00.5-0130",
            "2024-02-29T23:59:59+14:00",
        ),
        *(
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.999-00:01",
        ),
        *("2100-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "2026-00-01T00:00:00Z", "2026-11-23T08:00:00,5Z"),
        *(
            "2026-11-23",
            "2026-11-23T08:00Z",
            "2026-11-23t08:00:00Z",
            "2026-11-23T08:00:00+08:0",
            "0000-01-01T00:00:00Z",
        ),
    ]
    values = [line(event="e", timestamp=text) for text in texts]
    values += [line(event="e", received_at=text, timestamp="2026-11-23T09:00:00Z") for text in texts]
    values += [raw_line(b'"timestamp":%d' % ms) for ms in (0, 1, AT, 253_402_300_799_999, 253_402_300_800_000, -1)]
    same(values)
    for raw in values:
        same([raw])


@pytest.mark.parametrize(
    ("fields", "quick"),
    [
        (b'"properties":{"sku":"A-1","amount":129.9}', True),
        (b'"type":"track","context":{"a":[1,{"b":null}],"note":"a \\"quoted\\" word"}', True),
        (b'"message_id":"","timestamp":null,"properties":null,"traits":null,"action_id":null', True),
        (b'"timestamp":"2026-11-23T08:00:00.123456+08:00","received_at":1795420800123', True),
        ('"x":"\u52a0\u8d2d"'.encode(), True),
        (b'"x":"\\u52a0"', True),
        (b'"x":"\\ud83d\\ude00"', False),
        (b'"type":"\\u0065"', False),
        (b'"x":1e5', False),
        (b'"properties":{},"properties":{"a":1}', False),
        (b'"timestamp":"2026-11-23"', False),
        (b'"traits":{}', False),
        (b'"x":"\xff"', False),
    ],
)
def test_plain_events_are_read_by_the_scanner_alone(fields: bytes, quick: bool) -> None:
    raw = raw_line(fields)
    assert read_slowly([raw]) == ([] if quick else [raw])
    same([raw])


def test_what_a_condition_cannot_compare_exactly_is_left_to_the_definition() -> None:
    def record(properties: bytes) -> bytes:
        return raw_line(b'"properties":' + properties)

    for odd in (b'{"a":9007199254740993}', b'{"a":"\\n"}', b'{"a":1,"a":2}', b'{"n":{"n":1},"n":{}}', b'{"\\n":1}'):
        assert read_slowly([record(odd)], INDEXES[2]) == [record(odd)]
        same([record(odd)])
    for plain in (b'{"a":9007199254740992}', b'{"b":"\\n"}', b'{"b":1,"b":2}', b'{"a":1.5,"n":{"n":{}}}', b"{}"):
        assert read_slowly([record(plain)], INDEXES[2]) == []
        same([record(plain)])


def test_a_path_as_long_as_a_file_is_nobodys_end() -> None:
    """What walks along it, or is built along it, may recurse."""
    index = MatchIndex([("e", where(**{".".join("a" * 200_000): {"exists": True}})), ("e", where(a=1))])
    _, inputs = taken(index, [raw_line(b'"properties":{"a":1}'), raw_line(b'"properties":{"a":{"a":1}}')])
    assert [one.hits for one in inputs] == [(1,)]


def test_a_file_whose_name_is_no_text_is_read() -> None:
    index = INDEXES[0]
    records = NativeFormat(index.table())
    intake = Intake(index, records, topic="ev\udcff.jsonl", partition=0, source=0, shards=1, is_file=True)
    by_shard, _ = intake.take(Batch([line()], None, [1]))
    assert [one.message_id for one in unpacked(by_shard[0])] == ["ev\udcff.jsonl-1"]


def test_stamps_that_are_none_are_left_to_the_definition() -> None:
    for stamp in (-1, -(2**70), 0):
        same_at([stamp, AT, stamp])
    letters, inputs = taken(INDEXES[0], [line(), line()], [2**70, AT])
    assert [letter.reason for letter in letters] == ["bad_time"]
    assert [one.now for one in inputs] == [AT]


def same_at(stamps: list[int]) -> None:
    values = [line() for _ in stamps]
    quick, slow = NativeFormat(INDEXES[0].table()), NativeFormat()
    assert everything(INDEXES[0], quick, values, stamps) == everything(INDEXES[0], slow, values, stamps)


def test_an_input_is_read_once_and_where_it_came_from_is_kept() -> None:
    index = INDEXES[0]
    intake = Intake(index, NativeFormat(index.table()), topic="t", partition=3, source=7, shards=1)
    by_shard, _ = intake.take(Batch([raw_line(b'"properties":{"a":[1]}')], [AT], [42]))
    (one,) = unpacked(by_shard[0])
    assert (one.user_id, one.message_id, one.id_sent, one.at_ms, one.now) == ("u", "t-3-42", False, AT, AT)
    assert (one.source, one.offset, one.hits, one.traits) == (7, 42, (0,), None)
    assert one.properties == {"a": [1]}
    assert one.properties is one.properties


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


def check(raw: bytes) -> None:
    """Assert of *raw* that all ways to look at it agree, and about JSON also with the standard library."""
    same([raw])
    if native._levels(raw) <= 400:  # The standard library recurses.
        found = decode(raw)
        is_json = strict_json(raw)
        assert (isinstance(found, Reject) and found.reason == "not_json") == (not is_json)
        assert native._is_json(raw) == is_json


# Pieces that parsers are known to disagree about.
ODD = [
    *b"1e999 -1e999 1E+400 1e5 -1.5E-7 1e308 1.8e308 0e0 01 -0 - 1. .5 +1 1e NaN true tru".split(),
    *b"Infinity null 1795420800123 1795420800123.9 1e12 -1 18446744073709551616 253402300800000".split(),
    *b'"\\ud800" "\\udc00" "\\ud83d\\ude00" "\\u0065" "\\u0000" "\\x" "\xff" "\xc3\xa9"'.split(),
    *b'"\xed\xa0\x80" "2026-11-23T08:00:00.123Z" "2026-11-23" "2026-11-23t08:00:00z" "now" "4e1"'.split(),
    *b'"identify" "" "e" "u" {} [] [[]] {"a":1,"a":[{}]}'.split(),
    *b'[ ] { } , : " \\ e E 1 0 . - + / \xef\xbb\xbf \xe5\x8a\xa0'.split(),
    *[b" ", b"\t", b"\n", b"\r", b"\0", b"\x0b", b"\xa0", b'"a, e, b"', b'"e e"', b'"\n"', b'"\x7f"'],
    *[b"1" * 308, b"9" * 309, b"-" + b"1" * 400, b"0." + b"1" * 400, b"1" * 400 + b"e-200", b"1" * 900],
    *[b"[" * 62 + b"]" * 62, b"[" * 63 + b"]" * 63, b'{"a":' * 64 + b"1" + b"}" * 64],
    *[b"[" * 1100 + b"]" * 1100, b"[" * 1100 + b"1e999" + b"]" * 1100, b"[" * 1100 + b"]" * 1099],
    *[b'"' + b"x" * 256 + b'"', b'"' + b"x" * 257 + b'"', b'"' + b"\xc3\xa9" * 128 + b'"'],
]
KEYS = [
    *b"user_id event message_id timestamp received_at properties traits type action_id status".split(),
    *b"audience member row context x user\\u005fid \xc3\xa9".split(),
]
TYPICAL = {
    b"user_id": [b'"u"', b'"u-17"'],
    b"event": [b'"e"', b'"f"', b'"page_view"', b'"\xe5\x8a\xa0\xe8\xb4\xad"'],
    b"timestamp": [b'"2026-11-23T08:00:00.123Z"', b'"2026-11-23 08:00:01+08:00"', b"1795420800123"],
    b"properties": [b"{}", b'{"sku":"A-1","amount":129.9}', b'{"items":[{"id":1},{"id":2}],"ok":true}'],
    b"member": [b"true", b"false"],
}
ANY = [b'"t"', b"{}", b"null", b"7"]


class Choices:
    """What a generator of records chooses from: hypothesis, which shrinks, or a seed, which is quick."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.below = choose  # Returns a number from 0 to below its argument.

    def one(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


def any_record(choices: Choices) -> bytes:
    """Return a record: mostly a valid event with a few more fields, some of them odd, perhaps damaged."""

    def value(key: bytes) -> bytes:
        what = choices.below(12)
        if what == 0:
            return choices.one(ODD)
        if what == 1:
            pairs = [(choices.one([b"a", b"b", b"x y"]), choices.one(ODD)) for _ in range(choices.below(3))]
            return b"{" + b",".join(b'"' + name + b'":' + odd for name, odd in pairs) + b"}"
        return choices.one(TYPICAL.get(key, ANY))

    keys = [b"user_id", b"event", *(choices.one(KEYS) for _ in range(choices.below(5)))]
    if choices.below(8) == 0:
        keys += choices.one([[b"action_id", b"status"], [b"audience", b"member"]])
    fields: list[bytes] = []
    for key in keys:
        field = [b'"', key, b'":', value(key), choices.one([b"", b"", b"", b" ", b"\n", b"\t"])]
        fields.insert(choices.below(len(fields) + 1), b"".join(field))
    raw = b"{" + b",".join(fields) + b"}"
    for _ in range(choices.one([0, 0, 0, 1, 2])):
        here = choices.below(len(raw) + 1)
        match choices.below(4):
            case 0:
                flipped = bytes(byte ^ (1 << choices.below(8)) for byte in raw[here : here + 1])
                raw = raw[:here] + flipped + raw[here + 1 :]
            case 1:
                raw = raw[:here] + raw[here + 1 + choices.below(4) :]
            case 2:
                raw = raw[:here] + choices.one(ODD) + raw[here:]
            case _:
                raw = raw[:here]
    return raw


@st.composite
def records(draw: st.DrawFn) -> bytes:
    return any_record(Choices(lambda below: draw(st.integers(0, below - 1))))


@settings(max_examples=150)
@given(records())
def test_all_ways_to_look_at_a_record_agree(raw: bytes) -> None:
    check(raw)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(records(), st.just(SAMPLE)), max_size=6))
def test_all_ways_to_look_at_a_batch_agree(values: list[bytes]) -> None:
    same(values)


@pytest.mark.parametrize("seed", range(20))
def test_all_ways_to_look_at_many_records_agree(seed: int) -> None:
    values = [any_record(Choices(Random(f"{seed}.{n}").randrange)) for n in range(100)]
    for raw in values:
        check(raw)
    same(values)


@pytest.mark.parametrize(
    "place",
    [b"%s", b'"x":%s', b'"properties":{"a": %s }', b'"context":[{"b":2},%s]', b'"x":[\t%s\r\n]'],
)
def test_what_a_quick_look_skips_is_checked(place: bytes) -> None:
    for piece in ODD:
        check(raw_line(b'"y":1,' + place.replace(b"%s", piece)))
        check(raw_line(b'"y":[' + piece + b"]," + place.replace(b"%s", b"1")))
