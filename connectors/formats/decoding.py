"""What a format is to whoever reads: from the bytes of a record to the records that it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from connectors.formats.fields import NAME_CHARACTERS_MAX, Unreadable
from connectors.formats.parsing import no_object, parse_object
from connectors.sources import Headers
from state.records import Record, Reject

Decoded = Record | Reject | list[Record | Reject]
"""The record that some bytes are, or why they are none; a list of that where they are a batch."""

Decode = Callable[[bytes, Headers], Decoded]
"""Decodes a record with its headers, none where the transport has none."""

Read = Callable[[dict[str, Any]], Decoded]
"""Reads an object in the shape of a format. Raises `Unreadable` where all of it is none."""


class Settings(msgspec.Struct, frozen=True):
    """What a source says of its records besides their format.

    Args:
        any_user: take an anonymous or device id as the user where no other is there.
        user_from: of CloudEvents, where the user may stand; the first that is there is taken.
        code_field, time_field, properties_field: of Quick Audience, the fields that its documentation does not name.
    """

    any_user: bool = False
    user_from: tuple[str, ...] = ("subject", "data.user_id")
    code_field: str = "eventCode"
    time_field: str = "eventTime"
    properties_field: str = "properties"


class Kind(NamedTuple):
    """One format.

    `settings` are the parameters of a source that mean something to it. `has_headers` tells whether it wants Kafka's
    headers, which cost time to read.
    """

    decoder: Callable[[Settings], Decode]
    settings: tuple[str, ...] = ()
    has_headers: bool = False


def settings_of(given: Mapping[str, str]) -> Settings:
    """Return the settings that parameters of a source give.

    Raises:
        ValueError: one of them has a value that means nothing.
    """
    fields: dict[str, Any] = dict(given)
    if "user" in fields and fields.pop("user") != "any":
        raise ValueError("user=any is all that can be said of anonymous and device ids")
    fields["any_user"] = "user" in given
    if "user_from" in fields:
        fields["user_from"] = tuple(given["user_from"].split(","))
        if not all(part for path in fields["user_from"] for part in path.split(".")):
            raise ValueError("user_from is one path such as subject or data.user_id, or several with commas")
    for field in ("code_field", "time_field", "properties_field"):
        if not 0 < len(fields.get(field, "x")) <= NAME_CHARACTERS_MAX:
            raise ValueError(f"{field} is the name of a field")
    return Settings(**fields)


def decoding(read: Read) -> Decode:
    """Return what decodes the objects that *read* reads."""

    def decode(raw: bytes, _: Headers = ()) -> Decoded:
        value = parse_object(raw)
        return value if isinstance(value, Reject) else read_whole(read, value)

    return decode


def read_whole(read: Read, value: dict[str, Any]) -> Decoded:
    """Return what *read* finds in *value*, or why it finds nothing."""
    try:
        return read(value)
    except Unreadable as unreadable:
        return unreadable.reject


def read_items(items: list[Any], read: Callable[[dict[str, Any]], Record]) -> list[Record | Reject]:
    """Return what each item of a batch is: a bad one does not take the others with it."""
    return [_read_item(item, read) for item in items]


def _read_item(item: Any, read: Callable[[dict[str, Any]], Record]) -> Record | Reject:
    try:
        if isinstance(item, dict):
            return read(item)
        reject = no_object("it", item)
    except Unreadable as unreadable:
        reject = unreadable.reject
    reject.raw = orjson.dumps(item)
    return reject


# Keys that let others send in somebody's name. A text that was cut has no end.
_SECRETS: Final = re.compile(
    rb'("(?:writeKey|api_key|sign|[Aa]uthorization)"\s*:\s*)"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL
)


def without_secrets(raw: bytes) -> bytes:
    """Return *raw*, as much of a record as is kept, without the keys and signatures that senders put into it."""
    return _SECRETS.sub(rb'\1"***"', raw)
