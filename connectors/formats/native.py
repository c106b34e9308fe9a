"""The native format: what the bytes of a record say, or why they cannot be read."""

from __future__ import annotations

import re
from itertools import accumulate
from types import NoneType
from typing import Any, Final

import orjson

from state.iso import looks_like_seconds, parse_time_value
from state.outgoing import DeadReason
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, UPDATED, Record, Reject

BYTES_MAX: Final = 1_048_576  # Kafka itself takes no larger records unless told to.
LEVELS_MAX: Final = 64  # Whoever walks through what was sent may recurse.
USER_ID_CHARACTERS_MAX: Final = 256
NAME_CHARACTERS_MAX: Final = 128
MESSAGE_ID_CHARACTERS_MAX: Final = 256  # It is remembered for a day, and in every action that it causes.

_LIST: Final = ord("[")
_KINDS_OF_VALUE: Final = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def decode(raw: bytes) -> Record | Reject:
    """Return the record that *raw* is, or the first reason why it is none, in the order of `docs/records.md`.

    null is as absent for every optional field. So is a `message_id` of "": if a tracker fills the field
    without having an id, all events of a user but one would else be dropped as duplicates. Fields that belong
    to another kind of record are unknown fields, neither checked nor used.

    Args:
        raw: the record without its line end.
    """
    value = parse_object(raw)
    return value if isinstance(value, Reject) else record_of(value)


def parse_object(raw: bytes) -> dict[str, Any] | Reject:
    """Return the JSON object that *raw* is, or why it is none; this much all formats have in common.

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
    # `replace` finds the few that there are faster than `count` counts them.
    if (_LIST in raw or len(raw) - len(raw.replace(b"{", b"")) > LEVELS_MAX) and _levels(raw) > LEVELS_MAX:
        return _too_deep()
    if isinstance(value, dict):
        return value
    return Reject("not_an_object", f"the record is {_KINDS_OF_VALUE[value.__class__]}, not an object")


_GZIP: Final = b"\x1f\x8b"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"\0\n", b"\0")
_ENCODINGS: Final = (_GZIP, *_UTF_16)


def _other_encoding(raw: bytes) -> str:
    """Return what a record looks like that begins as no text in UTF-8 does."""
    if raw.startswith(_GZIP):
        return "this looks like gzip: send the text itself, and let Kafka compress it"
    return "this looks like UTF-16: write UTF-8"


def record_of(value: dict[str, Any]) -> Record | Reject:
    """Return the record that an object in the native shape is, or why it is none. *value* is not copied."""
    get = value.get
    is_update = get("updated") is True and _is_update(value)
    user_id: Any = "" if is_update else get("user_id")
    if is_update:
        pass  # Whoever stands in it: it is about an audience.
    elif user_id.__class__ is not str or not 0 < len(user_id) <= USER_ID_CHARACTERS_MAX:
        rejected = _bad_name("user_id", user_id, "no_user", USER_ID_CHARACTERS_MAX)
        if user_id is None and (hint := _of_another_format(value)):
            rejected.detail += f"; {hint}"
        return rejected
    name: Any = ""
    properties = traits = fields = None
    if is_update:
        kind = UPDATED
        fields = value
        if (bad := _bad_audience(value["audience"])) is not None:
            return bad
    elif get("action_id") is not None and get("status") is not None:
        kind = RECEIPT
        fields = value
        for field in ("action_id", "status"):
            if value[field].__class__ is not str:
                return _bad_type(field, value[field], "a text")
    elif get("audience") is not None and get("member") is not None:
        kind = MEMBERSHIP
        fields = value
        if (bad := _bad_audience(value["audience"])) is not None:
            return bad
        if value["member"].__class__ is not bool:
            return _bad_type("member", value["member"], "a boolean")
        row = get("row")
        if row.__class__ is not dict and row is not None:
            return _bad_type("row", row, "an object")
    else:
        traits = get("traits")
        if get("type") == "identify":
            kind = IDENTIFY
            if traits is None:
                traits = {}
        else:
            kind = EVENT
            name = get("event")
            if name.__class__ is not str or not 0 < len(name) <= NAME_CHARACTERS_MAX:
                return _bad_name("event", name, "no_event", NAME_CHARACTERS_MAX)
            properties = get("properties")
            if properties.__class__ is not dict and properties is not None:
                return _bad_type("properties", properties, "an object")
        if traits.__class__ is not dict and traits is not None:
            return _bad_type("traits", traits, "an object")
    message_id = get("message_id")
    if message_id.__class__ is not str and message_id is not None:
        return _bad_type("message_id", message_id, "a text")
    if message_id is not None and len(message_id) > MESSAGE_ID_CHARACTERS_MAX:
        return _bad_name("message_id", message_id, "bad_type", MESSAGE_ID_CHARACTERS_MAX)
    at_ms = get("timestamp")
    if at_ms is not None:
        at_ms = parse_time_value(at_ms)
        if at_ms is None:
            return _bad_time("timestamp", value["timestamp"])
    received_ms = get("received_at")
    if received_ms is not None:
        received_ms = parse_time_value(received_ms)
        if received_ms is None:
            return _bad_time("received_at", value["received_at"])
    if properties is None:
        properties = {}
    return Record(kind, user_id, name, message_id or None, at_ms, received_ms, properties, traits, fields)


def _is_update(value: dict[str, Any]) -> bool:
    """Tell whether a record with `updated: true` says that an update of an audience is complete."""
    get = value.get
    is_receipt = get("action_id") is not None and get("status") is not None
    return get("audience") is not None and get("member") is None and not is_receipt


def _bad_audience(name: object) -> Reject | None:
    if isinstance(name, str) and len(name) <= NAME_CHARACTERS_MAX:
        return None
    return _bad_name("audience", name, "bad_type", NAME_CHARACTERS_MAX)


_IDS_OF_OTHERS: Final = {
    "userId": "Segment's",
    "anonymousId": "Segment's",
    "batch": "a batch of Segment's",
    "distinct_id": "PostHog's or Mixpanel's",
    "user_pseudo_id": "Google Analytics'",
    "specversion": "CloudEvents'",
    "subject": "CloudEvents'",
    "customer_id": "another",
    "uid": "another",
}


def _of_another_format(value: dict[str, Any]) -> str:
    """Return which field of another format is there instead, "" for none."""
    for field, whose in _IDS_OF_OTHERS.items():
        if field in value:
            return f"there is `{field}`, so the format may be {whose}: this source is read as `native`"
    return ""


def _bad_name(field: str, value: object, missing: DeadReason, characters_max: int) -> Reject:
    if value is None or value == "":
        return Reject(missing, f"`{field}` is missing, null or empty")
    if isinstance(value, str):
        return Reject("bad_type", f"`{field}` has {len(value)} characters, {characters_max} are allowed")
    return _bad_type(field, value, "a text")


def _bad_type(field: str, value: object, wanted: str) -> Reject:
    return Reject("bad_type", f"`{field}` is {_KINDS_OF_VALUE[value.__class__]}, not {wanted}")


def _bad_time(field: str, value: object) -> Reject:
    if looks_like_seconds(value):
        return Reject("bad_time", f"`{field}` looks like seconds since 1970: send ms, or an ISO 8601 time")
    return Reject("bad_time", f"`{field}` is neither an ISO 8601 time nor ms since 1970, from 1970 to 9999")


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
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _levels(raw: bytes) -> int:
    """Return how deep objects and lists nest in a JSON text, also in what a duplicate key hides.

    0 stands for anything that is allowed and quick to see: there are no more opening brackets than levels.
    """
    if raw.count(b"{") + raw.count(b"[") <= LEVELS_MAX:
        return 0
    brackets = _TEXTS.sub(b"", raw).translate(None, _ALL_BUT_BRACKETS)
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
