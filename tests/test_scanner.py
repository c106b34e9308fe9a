"""The scanner gives what the definition gives: the compiled part against `decode` and the match index."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.read.scanner import WHY_NOT_COMPILED, NativeFormat
from operators.conditions.base import Condition
from operators.conditions.index import MatchIndex
from operators.conditions.parse import in_utc
from operators.conditions.where import parse_where
from operators.language.problems import Document, Problems
from state.records import unpacked
from tests.intake import Watched, agree, everything, taken
from tests.records import AT, DEEP_64, DEEP_65, MIB, NOT_JSON, ODD, SAMPLE, Choices, any_record, line, raw_line, records


def where(**tests: Any) -> Condition:
    """Return the condition of a flow's `where`."""
    problems = Problems(Document("test", tests))
    found = parse_where(tests, (), problems, resolve=in_utc, templates=False).fixed
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


def same(values: list[bytes]) -> None:
    """Assert that with and without the scanner everything is the same, whoever says when records came."""
    stamps = [AT + 1000 * (number % 7) - 10**15 * (number % 11 == 10) for number in range(len(values))]
    for index in INDEXES:
        for arrived_ms in (None, stamps, [2**62] * len(values)):
            agree(index, values, arrived_ms)


def read_slowly(values: list[bytes], index: MatchIndex = INDEXES[0]) -> list[bytes]:
    """Return which of *values* the scanner leaves to `decode`."""
    watched = Watched(index.table())
    everything(index, watched, values, None)
    return watched.looked_at


def test_this_installation_has_the_scanner() -> None:
    """Without it the job works; but then nothing here says anything of it: install Rust, and then Nudge again."""
    assert WHY_NOT_COMPILED == ""


def test_what_is_no_sound_record_is_the_same_to_the_scanner() -> None:
    for raw in NOT_JSON:
        same([raw, raw_line(b'"properties":{"a":[{"b":' + raw + b"}]}")])
    same([line(message_id=""), line(message_id="0")])
    same([raw_line(DEEP_64), raw_line(DEEP_65), raw_line(DEEP_64)])
    for size in (MIB, MIB + 1):
        same([line(x="x" * (size - len(line(x=""))))])


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
        line(event="f", audience="a", updated=True),
        line(event="f", timestamp="2026-11-23", received_at=AT, properties={"a": [1e5]}),
        b"",
    ]
    dead, inputs = taken(INDEXES[0], values)
    assert [one.offset for one in inputs] == [0, 3, 5, 8, 9]
    assert [(one.offset, one.reason) for one in dead] == [(4, "bad_time"), (12, "not_json")]
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
    agree(INDEXES[0], [line() for _ in stamps], stamps)


def test_an_input_is_read_once_and_where_it_came_from_is_kept() -> None:
    index = INDEXES[0]
    intake = Intake(index, NativeFormat(index.table()), topic="t", partition=3, source=7, shards=1)
    by_shard, _ = intake.take(Batch([raw_line(b'"properties":{"a":[1]}')], [AT], [42]))
    (one,) = unpacked(by_shard[0])
    assert (one.user_id, one.message_id, one.id_sent, one.at_ms, one.now) == ("u", "t-3-42", False, AT, AT)
    assert (one.source, one.offset, one.hits, one.traits) == (7, 42, (0,), None)
    assert one.body == b'{"a":[1]}'
    assert one.parse_properties() == {"a": [1]}
    assert one.parse_properties() is one.body


@settings(max_examples=150)
@given(records())
def test_all_ways_to_look_at_a_record_agree(raw: bytes) -> None:
    same([raw])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(records(), st.just(SAMPLE)), max_size=6))
def test_all_ways_to_look_at_a_batch_agree(values: list[bytes]) -> None:
    same(values)


@pytest.mark.parametrize("seed", range(20))
def test_all_ways_to_look_at_many_records_agree(seed: int) -> None:
    values = [any_record(Choices(Random(f"{seed}.{n}").randrange)) for n in range(100)]
    for raw in values:
        same([raw])
    same(values)


@pytest.mark.parametrize(
    "place",
    [b"%s", b'"x":%s', b'"properties":{"a": %s }', b'"context":[{"b":2},%s]', b'"x":[\t%s\r\n]'],
)
def test_what_a_quick_look_skips_is_checked(place: bytes) -> None:
    for piece in ODD:
        same([raw_line(b'"y":1,' + place.replace(b"%s", piece))])
        same([raw_line(b'"y":[' + piece + b"]," + place.replace(b"%s", b"1"))])
