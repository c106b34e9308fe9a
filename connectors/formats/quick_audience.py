"""Quick Audience's events, as its Event API takes them: an array, one of its objects, or the form field's text.

Its documentation does not name the fields of an event's code, time and properties: a source says which they are.
"""

from __future__ import annotations

from typing import Any

from connectors.formats.decoding import Decode, Decoded, Read, Settings, read_items, read_whole
from connectors.formats.fields import Unreadable, an_object, bad_type, look_of, name, time_ms, user
from connectors.formats.parsing import no_object, parse_value
from connectors.sources import Headers
from state.records import EVENT, Record, Reject

FORM_FIELD = "eventMessageModelListJson"


def decoder(settings: Settings) -> Decode:
    """Return what decodes records of Quick Audience."""
    read = reader(settings)

    def decode(raw: bytes, _: Headers = ()) -> Decoded:
        return read_any(read, parse_value(raw))

    return decode


def read_any(read: Read, value: Any) -> Decoded:
    """Return what *read* finds in *value*, which may be an array or a text that holds one."""
    if isinstance(value, str):
        value = parse_value(value.encode())
    if isinstance(value, Reject):
        return value
    if isinstance(value, list):
        value = {FORM_FIELD: value}
    return read_whole(read, value) if isinstance(value, dict) else no_object("the record", value)


def reader(settings: Settings) -> Read:
    """Return what reads an event, or a form with events."""

    def read(value: dict[str, Any]) -> Decoded:
        events = value.get(FORM_FIELD)
        if isinstance(events, str):
            events = parse_value(events.encode())
            if isinstance(events, Reject):
                return events
        if isinstance(events, list):
            return read_items(events, lambda event: _read_event(event, settings))
        return _read_event(events if isinstance(events, dict) else value, settings)

    return read


def _read_event(event: dict[str, Any], settings: Settings) -> Record:
    get = event.get
    user_id = _user(event, settings)
    code, at, properties = settings.code_field, settings.time_field, settings.properties_field
    try:
        event_name = name(code, get(code), "no_event")
    except Unreadable as unreadable:
        if unreadable.reject.reason == "no_event":
            unreadable.reject.detail += ": code_field names the field that has the event's code"
        raise
    fields = an_object(properties, get(properties)) or {}
    traits = _other_ids(get("customerIdList"))
    return Record(EVENT, user_id, event_name, None, time_ms(at, get(at)), None, fields, traits)


def _user(event: dict[str, Any], settings: Settings) -> str:
    user_id = event.get("customerId")
    if user_id is None or user_id == "":
        other = next(iter((_other_ids(event.get("customerIdList")) or {}).values()), None)
        if other is not None:
            if settings.any_user:
                return user("customerIdList", other)
            raise Unreadable(
                Reject(
                    "no_user", "`customerId` is missing, null or empty; user=any takes the first of `customerIdList`"
                )
            )
        look = look_of(event, "quick_audience")
        raise Unreadable(Reject("no_user", "`customerId` is missing, null or empty" + (f"; {look}" if look else "")))
    return user("customerId", user_id)


def _other_ids(ids: Any) -> dict[str, Any] | None:
    """Return the user's further ids by their kind; those that are empty say nothing."""
    if ids is None:
        return None
    if not isinstance(ids, list):
        raise Unreadable(bad_type("customerIdList", ids, "a list"))
    found = {}
    for one in ids:
        if not isinstance(one, dict):
            raise Unreadable(bad_type("customerIdList", one, "a list of objects"))
        its_id = one.get("customerId")
        if its_id is not None and its_id != "":
            kind = name("customerIdList.idMapping", one.get("idMapping"), "bad_type")
            found[kind] = user("customerIdList.customerId", its_id)
    return found
