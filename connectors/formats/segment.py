"""Segment's format: calls such as `track` and `identify`, one by one or in a batch."""

from __future__ import annotations

from typing import Any, Final

from connectors.formats.decoding import Decode, Decoded, Read, Settings, decoding, read_items
from connectors.formats.fields import Unreadable, an_object, look_of, message_id, name, time_ms, user
from state.iso import TIME_MS_MAX
from state.records import EVENT, IDENTIFY, IGNORED, Record, Reject

CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
_IGNORED: Final = ("group", "alias")
_VIEWS: Final = ("page", "screen")
_NO_DEFAULTS: Final[dict[str, Any]] = {}


def decoder(settings: Settings) -> Decode:
    """Return what decodes records of Segment."""
    return decoding(reader(settings))


def reader(settings: Settings) -> Read:
    """Return what reads a call, or a batch of calls with what they have in common beside it."""

    def read(value: dict[str, Any]) -> Decoded:
        batch = value.get("batch")
        if isinstance(batch, list):
            return read_items(batch, lambda call: _read_call(call, value, settings))
        return _read_call(value, _NO_DEFAULTS, settings)

    return read


def _read_call(call: dict[str, Any], batch: dict[str, Any], settings: Settings) -> Record:
    get = call.get
    kind = get("type")
    if kind is None and "event" in call:
        kind = "track"  # The address that it was posted to said so.
    if kind.__class__ is str and kind in _IGNORED:
        at_ms, received_ms = _times(call, batch)
        return Record(IGNORED, "", "", None, at_ms, received_ms, {}, None)
    user_id = _user(call, settings)
    properties = traits = None
    event = ""
    if kind == "track":
        event = name("event", get("event"), "no_event")
        properties = an_object("properties", get("properties"))
    elif kind.__class__ is str and kind in _VIEWS:
        event = kind
        properties = dict(an_object("properties", get("properties")) or ())
        for field in ("name", "category"):
            if get(field) is not None:
                properties[field] = call[field]
    elif kind == "identify":
        traits = an_object("traits", get("traits")) or {}
    else:
        if kind is None or kind == "":
            raise Unreadable(Reject("no_event", "`type` is missing, null or empty, and there is no `event`"))
        raise Unreadable(Reject("bad_type", f"`type` is none of {', '.join(CALLS)}"))
    if traits is None:
        traits = _traits_of_context(call)
        if traits is None and batch:
            traits = _traits_of_context(batch)
    sent_id = message_id("messageId", get("messageId"))
    at_ms, received_ms = _times(call, batch)
    record_kind = IDENTIFY if kind == "identify" else EVENT
    return Record(record_kind, user_id, event, sent_id, at_ms, received_ms, properties or {}, traits)


def _user(call: dict[str, Any], settings: Settings) -> str:
    user_id, device = call.get("userId"), call.get("anonymousId")
    if user_id is None or user_id == "":
        if device is not None and device != "":
            if settings.any_user:
                return user("anonymousId", device)
            raise Unreadable(
                Reject("no_user", "`userId` is missing, null or empty; user=any takes `anonymousId` as the user")
            )
        look = look_of(call, "segment")
        raise Unreadable(
            Reject("no_user", "`userId` and `anonymousId` are missing, null or empty" + (f"; {look}" if look else ""))
        )
    return user("userId", user_id)


def _traits_of_context(call: dict[str, Any]) -> dict[str, Any] | None:
    context = an_object("context", call.get("context"))
    return None if context is None else an_object("context.traits", context.get("traits"))


def _times(call: dict[str, Any], batch: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return when the call was made and when it was received; None where nobody says.

    Without a `timestamp` the first is as Segment computes it: a sender's clock may be wrong, but it is as wrong when it
    sends.
    """
    get = call.get
    received = get("receivedAt")
    received_ms = time_ms("receivedAt", batch.get("receivedAt") if received is None else received)
    at_ms = time_ms("timestamp", get("timestamp"))
    if at_ms is None:
        at_ms = time_ms("originalTimestamp", get("originalTimestamp"))
        sent = get("sentAt")
        sent_ms = time_ms("sentAt", batch.get("sentAt") if sent is None else sent)
        if at_ms is not None and sent_ms is not None and received_ms is not None:
            at_ms = received_ms - (sent_ms - at_ms)
            if not 0 <= at_ms <= TIME_MS_MAX:
                raise Unreadable(Reject("bad_time", "`originalTimestamp` and `sentAt` make no time from 1970 to 9999"))
    return at_ms, received_ms
