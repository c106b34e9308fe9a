"""JSON as all formats read it: its bounds, and why some bytes are none of it."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any, Final

import orjson

from connectors.formats.fields import KINDS_OF_VALUE
from state.records import Reject

BYTES_MAX: Final = 1_048_576  # Kafka itself takes no larger records unless told to.
LEVELS_MAX: Final = 64  # Whoever walks through what was sent may recurse.

_LIST: Final = ord("[")


def parse_object(raw: bytes) -> dict[str, Any] | Reject:
    """Return the JSON object that *raw* is, or why it is none."""
    value = parse_value(raw)
    if isinstance(value, dict):
        return value
    return value if isinstance(value, Reject) else no_object("the record", value)


def no_object(what: str, value: object) -> Reject:
    """Return that *what* is some other JSON *value* than an object."""
    return Reject("not_an_object", f"{what} is {KINDS_OF_VALUE[value.__class__]}, not an object")


def parse_value(raw: bytes) -> Any:
    """Return the JSON value that *raw* is, or a `Reject`: why it is none, or too large or too deep.

    Of duplicate keys the last wins; integers beyond 64 bits become doubles.
    """
    if len(raw) > BYTES_MAX:
        return Reject("too_large", f"the record has {len(raw)} bytes, {BYTES_MAX} are allowed")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if raw.startswith(_ENCODINGS):
            return Reject("not_json", _other_encoding(raw))
        if _levels(raw) <= LEVELS_MAX:
            return Reject("not_json", str(error))
        # Deeper than the parser goes, it gives up before the end: whether all of it is JSON is still open.
        return _too_deep() if _is_json(raw) else Reject("not_json", "not JSON, and nested deeply")
    return _too_deep() if is_too_deep(raw) else value


def is_too_deep(raw: bytes, levels_max: int = LEVELS_MAX) -> bool:
    """Tell whether objects and lists of a JSON text nest deeper than *levels_max*, `LEVELS_MAX` or more."""
    # `replace` finds the few that there are faster than `count` counts them.
    return (_LIST in raw or len(raw) - len(raw.replace(b"{", b"")) > LEVELS_MAX) and _levels(raw) > levels_max


_GZIP: Final = b"\x1f\x8b"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"\0\n", b"\0")
_ENCODINGS: Final = (_GZIP, *_UTF_16)


def _other_encoding(raw: bytes) -> str:
    """Return what a record looks like that begins as no text in UTF-8 does."""
    if raw.startswith(_GZIP):
        return "this looks like gzip: send the text itself, and let Kafka compress it"
    return "this looks like UTF-16: write UTF-8"


def _too_deep() -> Reject:
    return Reject("too_deep", f"objects and lists nest more than {LEVELS_MAX} levels deep")


# How deep a record nests.

# A text; also one without an end, else its inner quotes would be tried one by one, each up to the end.
_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_WORD: Final = rb'[^ \t\n\r"\[\]{}:,]++'
_TEXTS: Final = re.compile(_TEXT, re.DOTALL)
_WORDS: Final = re.compile(_WORD)
_SCALARS: Final = re.compile(_TEXT + rb"|" + _WORD, re.DOTALL)
_ALL_BUT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ALL_BUT_BRACKETS_AND_QUOTES: Final = _ALL_BUT_BRACKETS.replace(b'"', b"")
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _levels(raw: bytes) -> int:
    """Return how deep objects and lists nest in a JSON text, also in what a duplicate key hides.

    0 stands for anything that is allowed and quick to see: there are no more opening brackets than levels.
    """
    if raw.count(b"{") + raw.count(b"[") <= LEVELS_MAX:
        return 0
    if b"\\" in raw:
        brackets = _TEXTS.sub(b"", raw).translate(None, _ALL_BUT_BRACKETS)
    else:  # Every second part between quotes is in a text.
        brackets = b"".join(raw.translate(None, _ALL_BUT_BRACKETS_AND_QUOTES).split(b'"')[::2])
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _is_json(raw: bytes) -> bool:
    """Say whether *raw* is JSON at any depth, as `orjson` would if it did not limit the depth.

    `orjson` judges the texts, numbers and words, as one flat list; how they are put together is checked here,
    without recursion.
    """
    try:
        orjson.loads(b"[" + b",".join(_SCALARS.findall(raw)) + b"]")
    except orjson.JSONDecodeError:
        return False
    signs = _WORDS.sub(b"0", _TEXTS.sub(b'"', raw)).translate(None, b" \t\n\r").decode()
    closers: list[str] = []  # Those of the objects and lists that are open.
    state = "value"
    for sign in signs:
        match sign:
            case '"' if state in ("key", "key or end"):
                state = "colon"
            case '"' | "0" if state in ("value", "value or end"):
                state = "next"
            case "[" if state in ("value", "value or end"):
                closers.append("]")
                state = "value or end"
            case "{" if state in ("value", "value or end"):
                closers.append("}")
                state = "key or end"
            case ":" if state == "colon":
                state = "value"
            case "," if state == "next" and closers:
                state = "value" if closers[-1] == "]" else "key"
            case "]" | "}" if state in ("next", "value or end", "key or end") and closers:
                if closers.pop() != sign:
                    return False
                state = "next"
            case _:
                return False
    return state == "next" and not closers
