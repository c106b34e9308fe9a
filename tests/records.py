"""Records of the native format for tests: sound ones, broken ones, and any that parsers may disagree about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import orjson
from hypothesis import strategies as st

T = TypeVar("T")

SAMPLE = (
    b'{"message_id": "01J9", "user_id": "u-17", "event": "add_to_cart",'
    b' "timestamp": "2026-11-23T08:00:00.123Z",'
    b' "properties": {"sku": "A-1", "amount": 129.9, "currency": "CNY"}, "context": {"app": "ios"}}'
)
AT = 1_795_420_800_123
MIB = 1_048_576


def line(**fields: Any) -> bytes:
    return orjson.dumps({"user_id": "u", "event": "e"} | fields)


def raw_line(fields: bytes) -> bytes:
    """Return an event with *fields*, already JSON, behind its user and name."""
    return b'{"user_id":"u","event":"e",' + fields + b"}"


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

# Pieces that parsers are known to disagree about.
ODD: Final = [
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
KEYS: Final = [
    *b"user_id event message_id timestamp received_at properties traits type action_id status".split(),
    *b"audience member updated row context x user\\u005fid \xc3\xa9".split(),
]
TYPICAL: Final = {
    b"user_id": [b'"u"', b'"u-17"'],
    b"event": [b'"e"', b'"f"', b'"page_view"', b'"\xe5\x8a\xa0\xe8\xb4\xad"'],
    b"timestamp": [b'"2026-11-23T08:00:00.123Z"', b'"2026-11-23 08:00:01+08:00"', b"1795420800123"],
    b"properties": [b"{}", b'{"sku":"A-1","amount":129.9}', b'{"items":[{"id":1},{"id":2}],"ok":true}'],
    b"member": [b"true", b"false"],
    b"updated": [b"true", b"false"],
}
ANY: Final = [b'"t"', b"{}", b"null", b"7"]


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
        keys += choices.one([[b"action_id", b"status"], [b"audience", b"member"], [b"audience", b"updated"]])
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
