"""Lists and JSON lines: with and without the compiled part the same is stored, and the same is said of the rest."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.gateway import events
from dataflow.gateway.config import read_gateway
from dataflow.gateway.http import NotTaken
from dataflow.gateway.keys import Key, Keys
from state.records import Reject
from tests.gateway.doors import WRITE_KEY
from tests.records import DEEP_64, DEEP_65, MIB, NOT_JSON, ODD, SAMPLE, Choices, any_record, line, raw_line

OURS = {"key": {"env": "WRITE_KEY"}}
KINDS: dict[str, dict[str, Any]] = {"all": {}, "profiles": {"kinds": ["identify"]}, "segment": {"format": "segment"}}


def one_key(**more: Any) -> Key:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRITE_KEY", WRITE_KEY)
        settings = read_gateway({"keys": {"web": {**OURS, **more}}}, Path()).keys
    found = Keys(settings, "", lambda: 0.0).found(WRITE_KEY.encode())
    assert found is not None
    return found


KEYS = {name: one_key(**more) for name, more in KINDS.items()}


def outcome(body: bytes, key: Key, are_lines: bool) -> Any:
    """Return what becomes of a request, as text, to the type of every number."""
    try:
        found = events.records_of(body, key, are_lines=are_lines)
    except NotTaken as not_taken:
        return not_taken.answer.status, not_taken.answer.body
    return [repr(one if isinstance(one, Reject) else (one[0], orjson.loads(one[1]))) for one in found]


def same(body: bytes) -> None:
    """Assert that the compiled part changes nothing, whatever a write key takes."""
    for key in KEYS.values():
        for are_lines in (False, True):
            quick = outcome(body, key, are_lines)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("dataflow.read.scanner.WHY_NOT_COMPILED", "it is not to be used")
                assert outcome(body, key, are_lines) == quick, body


def any_body(choices: Choices) -> bytes:
    """Return a body with several records: mostly a list or lines, perhaps damaged."""
    blank = choices.one([b"", b"", b" ", b"\r\n", b"\x0b"])
    pieces = [choices.one([SAMPLE, line(), any_record(choices), choices.one(ODD)]) for _ in range(choices.below(5))]
    if choices.below(2):
        return (blank + b"\n").join(pieces)
    body = blank + b"[" + (b"," + blank).join(pieces) + blank + b"]"
    here = choices.below(len(body) + 1)
    cut = choices.one([0, 0, 0, 1, 2])
    return body[:here] + choices.one([b"", b"", choices.one(ODD)]) + body[here + cut :]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_sent_the_same_becomes_of_it(data: st.DataObject) -> None:
    same(any_body(Choices(lambda below: data.draw(st.integers(0, below - 1)))))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_sent_in_many_requests_the_same_becomes_of_it(seed: int) -> None:
    for number in range(100):
        same(any_body(Choices(Random(f"{seed}.{number}").randrange)))


@pytest.mark.parametrize("place", [b"[%s]", b"[1,%s]", b"[{}, %s ,2]", b"[%s,%s]", b"[[%s]]", b'[{"a":%s}]', b"%s"])
def test_odd_pieces_are_the_same_at_any_place(place: bytes) -> None:
    for piece in (*ODD, *NOT_JSON, b"", raw_line(DEEP_64), raw_line(DEEP_65)):
        same(place.replace(b"%s", piece))
        same(SAMPLE.join([b"[", b",", b",", b"]"]).replace(b",,", b"," + place.replace(b"%s", piece) + b","))


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b" [ ] ", b"[]\n[]", b"[", b"]", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1]]", b"[1] 1", b"[1}", b"{]",
        b"[" + line() + b"}", b"[" + line() + line() + b"]", b"[" + line() + b",]", b"[" + line() + b"]\n" + line(),
        b"[" + b",".join([line()] * 10_000) + b"]", b"[" + b",".join([line()] * 10_001) + b"]",
        b"[" + b"[" * 127 + b"]" * 127 + b"]", b"[" + b"[" * 128 + b"]" * 128 + b"]",
        b"[1," + b"[" * 1023 + b"]" * 1023 + b"]", b"[1," + b"[" * 1024 + b"]" * 1024 + b"]",
        b"[" + line(x="\u00e9") + b',"\xff"]', b"\xef\xbb\xbf[]", b"[\0]", b"\n".join([line()] * 3) + b"\n\x0b\n",
        b'[{"user_id":"u","event":"e","event":"f"},{"user_id":"u","event":"e","x":1,"x":2}]',
    ],
    ids=lambda body: f"{body[:20]!r}, {len(body)}",
)  # fmt: skip
def test_what_is_hardly_a_list_is_the_same(body: bytes) -> None:
    same(body)


def test_records_at_their_largest_are_the_same() -> None:
    """Python measures an item as it writes it, where a number may be longer than it was sent."""
    for half in (MIB // 2, MIB):
        for more in (-1, 0, 1):
            item = line(x="x" * (half + more - len(line(x=""))))
            assert len(item) == half + more
            same(b"[" + item + b"]")
            same(b" [ " + item + b"\n,\n" + item + b"]")
    numbers = b'"x":[' + b",".join([b"18446744073709551616", b"-0"] * ((MIB - 100) // 24)) + b"]"
    same(b"[" + raw_line(numbers) + b"]")


def test_plain_events_are_stored_as_they_came_and_no_other_reader_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [b'{ "user_id":"u-1", "event":"e", "n":1.50 }', SAMPLE, raw_line(b'"x":{"a":"\\n","a":2}')]
    users = ["u-1", "u-17", "u"]
    monkeypatch.setattr(events, "_checked", lambda raw, value: pytest.fail(f"{raw!r} is plain"))
    for body, are_lines in ((b"[" + b" ,\n".join(plain) + b"]", False), (b"\n".join(plain), True)):
        assert events.records_of(body, KEYS["all"], are_lines=are_lines) == list(zip(users, plain, strict=True))


@pytest.mark.parametrize(
    "odd", [b'"x":"\\ud83d\\ude00"', b'"x":1e5', b'"type":"identify"', b'"event":"f"', b'"traits":{"a":1}']
)
def test_an_odd_item_leaves_its_neighbours_to_the_compiled_part(odd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(raw: bytes, value: Any) -> Any:
        seen.append(raw)
        return raw, value

    seen: list[bytes] = []
    monkeypatch.setattr(events, "_checked", checked)
    found = events.records_of(b"[" + b",".join([line(), raw_line(odd), line()]) + b"]", KEYS["all"], are_lines=False)
    assert [orjson.loads(one) for one in seen] == [orjson.loads(raw_line(odd))]
    assert [user for user, _ in found] == ["u", "u", "u"]


def test_the_records_of_a_user_stay_in_their_order() -> None:
    numbered = [raw_line(b'"x":%s,"n":%d' % (b"1e5" if n % 3 else b"1", n)) for n in range(50)]
    for body, are_lines in ((b"[" + b",".join(numbered) + b"]", False), (b"\n".join(numbered), True)):
        found = events.records_of(body, KEYS["all"], are_lines=are_lines)
        assert [orjson.loads(raw)["n"] for _, raw in found] == list(range(50))
