"""CloudEvents 1.0: whole in the value, or with their attributes in Kafka's headers and the data in the value.

Source: github.com/cloudevents/spec, the JSON event format and the Kafka protocol binding.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from connectors.formats.decoding import Decode, Decoded, Read, Settings, read_whole
from connectors.formats.fields import Unreadable, bad_type, look_of, name, time_ms, user
from connectors.formats.parsing import parse_object, parse_value
from connectors.sources import Headers
from state.records import EVENT, Record, Reject

_STRUCTURED: Final = "application/cloudevents"
_PREFIX: Final = "ce_"
_ATTRIBUTES_MAX: Final = 2**20  # As large as a record may be.
_JSON: Final = re.compile(r"[^/;\s]+/(?:json|[^/;\s]+\+json)\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_NOT_UTF_8: Final = object()


def decoder(settings: Settings) -> Decode:
    """Return what decodes CloudEvents, in either way."""
    read = reader(settings)

    def decode(raw: bytes, headers: Headers = ()) -> Decoded:
        if headers and is_binary(attributes := _attributes(headers)):
            return read_whole(lambda event: read(_with_data(event, raw)), attributes)
        value = parse_object(raw)
        return value if isinstance(value, Reject) else read_whole(read, value)

    return decode


def is_told_by(headers: Headers) -> bool:
    """Tell whether *headers* say that a record is a CloudEvent."""
    attributes = _attributes(headers)
    return _is_structured(attributes) or "specversion" in attributes


@lru_cache(maxsize=1024)
def _attribute_of(header: str) -> str:
    """Return the attribute that stands in a header, "" for none."""
    field = header.lower()
    if field == "content-type":
        return "datacontenttype"
    return field.removeprefix(_PREFIX) if field.startswith(_PREFIX) else ""


def _attributes(headers: Headers) -> dict[str, Any]:
    """Return the attributes of an event that stand in *headers*; of two with one name the last."""
    found: dict[str, Any] = {}
    for header, value in headers:
        field = _attribute_of(header)
        if field and value is not None:
            try:
                found[field] = value.decode()
            except UnicodeDecodeError:
                found[field] = _NOT_UTF_8
    return found


def _is_structured(attributes: dict[str, Any]) -> bool:
    content_type = attributes.get("datacontenttype")
    return isinstance(content_type, str) and content_type.lower().startswith(_STRUCTURED)


def is_binary(attributes: dict[str, Any]) -> bool:
    """Tell whether *attributes*, those of the headers, are those of the event; else all of it is in the value."""
    return "specversion" in attributes and not _is_structured(attributes)


def _with_data(attributes: dict[str, Any], raw: bytes) -> dict[str, Any]:
    attributes.pop("data", None)
    attributes.pop("data_base64", None)
    if _NOT_UTF_8 in attributes.values():
        field = next(field for field, value in attributes.items() if value is _NOT_UTF_8)
        raise Unreadable(Reject("bad_type", f"the header of `{field}` is no text in UTF-8"))
    _check_content_type(attributes)
    if raw:
        attributes["data"] = _parsed(raw)
    return attributes


def _parsed(raw: bytes) -> Any:
    value = parse_value(raw)
    if isinstance(value, Reject):
        raise Unreadable(value)
    return value


def reader(settings: Settings) -> Read:
    """Return what reads an event with all its attributes."""
    paths = [path.split(".") for path in settings.user_from]

    def read(event: dict[str, Any]) -> Record:
        get = event.get
        version = get("specversion")
        if not isinstance(version, str) or not version.startswith("1."):
            look = look_of(event, "cloudevents")
            told = "`specversion` is missing" if version is None else "`specversion` is not 1.0"
            raise Unreadable(Reject("unknown_format", told + (f"; {look}" if look else "")))
        _check_content_type(event)
        data = _data(event)
        user_id = _user(event, data, paths)
        kind = name("type", get("type"), "no_event")
        source = name("source", get("source"), "bad_type", _ATTRIBUTES_MAX)
        event_id = name("id", get("id"), "bad_type", _ATTRIBUTES_MAX)
        at_ms = time_ms("time", get("time"))
        properties = data if isinstance(data, dict) else {} if data is None else {"value": data}
        return Record(EVENT, user_id, kind, _digest(source, event_id), at_ms, None, properties, None)

    return read


def _check_content_type(event: dict[str, Any]) -> None:
    content_type = event.get("datacontenttype")
    if content_type is None or content_type == "application/json":
        return
    if not isinstance(content_type, str):
        raise Unreadable(bad_type("datacontenttype", content_type, "a text"))
    if not _JSON.fullmatch(content_type):
        raise Unreadable(Reject("bad_type", "`datacontenttype` is none of JSON: only data in JSON can be read"))


def _data(event: dict[str, Any]) -> Any:
    """Return the data of an event, None where it has none."""
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is None:
        return data
    if data is not None:
        raise Unreadable(Reject("bad_type", "there are both `data` and `data_base64`"))
    if not isinstance(encoded, str):
        raise Unreadable(bad_type("data_base64", encoded, "a text"))
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable(Reject("bad_type", "`data_base64` is no base64")) from None
    return _parsed(raw) if raw else None


def _user(event: dict[str, Any], data: Any, paths: Iterable[list[str]]) -> str:
    for path in paths:
        found = _at(event, data, path)
        if found is not None and found != "":
            return user(".".join(path), found)
    places = ", ".join(f"`{'.'.join(path)}`" for path in paths)
    raise Unreadable(Reject("no_user", f"there is no user in {places}: user_from says where it stands"))


def _at(event: dict[str, Any], data: Any, path: list[str]) -> Any:
    first, *rest = path
    found = data if first == "data" else event.get(first)
    for field in rest:
        if not isinstance(found, dict):
            return None
        found = found.get(field)
    return found


def _digest(source: str, event_id: str) -> str:
    """Return the id of an event, which `id` alone is not: it is unique for its `source` only."""
    return blake2b(f"{source}\x1f{event_id}".encode(), digest_size=16).hexdigest()
