"""The native format: what the bytes of a record say, or why they cannot be read."""

from __future__ import annotations

from typing import Any

from connectors.formats.fields import (
    MESSAGE_ID_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    USER_ID_CHARACTERS_MAX,
    bad_name,
    bad_time,
    bad_type,
    look_of,
)
from connectors.formats.parsing import parse_object
from state.iso import parse_time_value
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, UPDATED, Record, Reject


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


def record_of(value: dict[str, Any]) -> Record | Reject:
    """Return the record that an object in the native shape is, or why it is none. *value* is not copied."""
    get = value.get
    is_update = get("updated") is True and _is_update(value)
    user_id: Any = "" if is_update else get("user_id")
    if is_update:
        pass  # Whoever stands in it: it is about an audience.
    elif user_id.__class__ is not str or not 0 < len(user_id) <= USER_ID_CHARACTERS_MAX:
        rejected = bad_name("user_id", user_id, "no_user", USER_ID_CHARACTERS_MAX)
        if user_id is None and (look := look_of(value, "native")):
            rejected.detail += f"; {look}"
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
                return bad_type(field, value[field], "a text")
    elif get("audience") is not None and get("member") is not None:
        kind = MEMBERSHIP
        fields = value
        if (bad := _bad_audience(value["audience"])) is not None:
            return bad
        if value["member"].__class__ is not bool:
            return bad_type("member", value["member"], "a boolean")
        row = get("row")
        if row.__class__ is not dict and row is not None:
            return bad_type("row", row, "an object")
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
                return bad_name("event", name, "no_event", NAME_CHARACTERS_MAX)
            properties = get("properties")
            if properties.__class__ is not dict and properties is not None:
                return bad_type("properties", properties, "an object")
        if traits.__class__ is not dict and traits is not None:
            return bad_type("traits", traits, "an object")
    message_id = get("message_id")
    if message_id.__class__ is not str and message_id is not None:
        return bad_type("message_id", message_id, "a text")
    if message_id is not None and len(message_id) > MESSAGE_ID_CHARACTERS_MAX:
        return bad_name("message_id", message_id, "bad_type", MESSAGE_ID_CHARACTERS_MAX)
    at_ms = get("timestamp")
    if at_ms is not None:
        at_ms = parse_time_value(at_ms)
        if at_ms is None:
            return bad_time("timestamp", value["timestamp"])
    received_ms = get("received_at")
    if received_ms is not None:
        received_ms = parse_time_value(received_ms)
        if received_ms is None:
            return bad_time("received_at", value["received_at"])
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
    return bad_name("audience", name, "bad_type", NAME_CHARACTERS_MAX)
