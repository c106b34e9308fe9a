"""JSON Schemas of the records: events as trackers send them, and what goes out, made of its definitions.

The schemas of what goes out are made of `state/outgoing.py`. Later versions may add fields, so further fields are
allowed.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from operators.conditions.arguments import DIALECT, ISO_PATTERN, Schema, described
from operators.language.channels import STATUSES
from operators.language.model import EVENT_NAME_MAX
from state.iso import NUMBER_MS_MIN, TIME_MS_MAX
from state.outgoing import (
    DIGEST_PATTERN,
    NAME_PATTERN,
    USER_ID_MAX,
    Action,
    DeadLetter,
    EntryReason,
    JournalRecord,
    SendReason,
)

_TIME_IN: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": ISO_PATTERN},
        {"type": "number", "minimum": NUMBER_MS_MIN, "exclusiveMaximum": TIME_MS_MAX + 1},
        {"type": "null"},
    ]
}
_USER: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": USER_ID_MAX}
_NAME: Final[Schema] = {"type": "string", "pattern": NAME_PATTERN}
_OBJECT_OR_NULL: Final[Schema] = {"type": ["object", "null"]}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}


def event_schema() -> Schema:
    """Return the JSON Schema of events and profile updates, as trackers send them."""
    return {
        "$schema": DIALECT,
        "title": "Nudge event or profile update",
        "description": "What a user did, or with type identify, what is known of them. One JSON object per Kafka "
        "record or line, at most 1 MiB and 64 levels deep. Other fields are ignored; null is as absent.",
        "type": "object",
        "required": ["user_id"],
        "properties": {
            "user_id": described(_USER, "Who did it; the Kafka key."),
            "event": {"description": "What was done, such as add_to_cart. Required, except with type identify."},
            "type": {"description": "identify: a profile update, whose traits are merged into the profile."},
            "message_id": described(
                _TEXT_OR_NULL, "Identity of the record: a second one within 24 hours is dropped. Send one."
            ),
            "timestamp": described(_TIME_IN, "When it happened: ISO 8601, or ms since 1970. Default: on arrival."),
            "received_at": described(_TIME_IN, "In files: when it arrived."),
            "properties": {"description": "What happened: an object, which where asks about."},
            "traits": described(_OBJECT_OR_NULL, "Attributes, merged into the profile first; null removes one."),
            "context": {"description": "Not looked at."},
        },
        "if": {"required": ["type"], "properties": {"type": {"const": "identify"}}},
        "else": {
            "required": ["event"],
            "properties": {
                "event": {"type": "string", "minLength": 1, "maxLength": EVENT_NAME_MAX},
                "properties": _OBJECT_OR_NULL,
            },
        },
    }


def receipt_schema() -> Schema:
    """Return the JSON Schema of receipts, as channels send them."""
    return {
        "$schema": DIALECT,
        "title": "Nudge receipt",
        "description": "What a channel says of an action. One JSON object per Kafka record or line, as for events. "
        "Other fields are ignored; null is as absent.",
        "type": "object",
        "required": ["user_id", "action_id", "status"],
        "properties": {
            "user_id": described(_USER, "Whom the action was for; the Kafka key."),
            "action_id": {"type": "string", "description": "The action, by its id."},
            "status": {
                "type": "string",
                "description": "What became of it: " + ", ".join(STATUSES) + ", or a webhook's own.",
                "examples": list(STATUSES),
            },
            "code": {"description": "What the provider calls it."},
            "detail": {"description": "More of what the provider says."},
            "message_id": described(
                _TEXT_OR_NULL, "Identity of the record: a second one within 24 hours is dropped. Send one."
            ),
            "timestamp": described(_TIME_IN, "When it happened: ISO 8601, or ms since 1970. Default: on arrival."),
            "received_at": described(_TIME_IN, "In files: when it arrived."),
        },
    }


def membership_schema() -> Schema:
    """Return the JSON Schema of memberships in audiences, and of the record that an update is complete."""
    return {
        "$schema": DIALECT,
        "title": "Nudge membership",
        "description": "That a user is in an audience, or no longer; or that an update of an audience is complete. "
        "Other fields are ignored; null is as absent.",
        "type": "object",
        "required": ["audience"],
        "properties": {
            "audience": {"type": "string", "maxLength": EVENT_NAME_MAX, "description": "The name of the audience."},
            "message_id": described(_TEXT_OR_NULL, "Identity of the record: a second one within 24 hours is dropped."),
            "timestamp": described(_TIME_IN, "When it was decided: ISO 8601, or ms since 1970. Default: on arrival."),
            "received_at": described(_TIME_IN, "In files: when it arrived."),
        },
        "anyOf": [
            {
                "title": "membership",
                "required": ["user_id", "member"],
                "properties": {
                    "user_id": described(_USER, "Who is in it; the Kafka key."),
                    "member": {"type": "boolean", "description": "Whether the user is in it from now on."},
                    "row": described(_OBJECT_OR_NULL, "What the audience knows of this member."),
                },
            },
            {
                "title": "completed update",
                "required": ["updated"],
                "properties": {
                    "updated": {"const": True, "description": "The update is complete: to every partition."},
                    "member": {"type": "null"},
                },
            },
        ],
    }


def _record_schema(record: type[msgspec.Struct], title: str) -> Schema:
    """Return the JSON Schema of a record that goes out."""
    made = msgspec.json.schema(record)
    whole = made["$defs"][record.__name__]
    description = " ".join(str(record.__doc__).split()) + " Later versions may add fields."
    inlined = _inlined({"$schema": DIALECT, **whole, "title": title, "description": description}, made["$defs"])
    assert isinstance(inlined, dict)
    return inlined


def _inlined(schema: Any, definitions: Schema) -> Any:
    """Return *schema* with the definitions that it refers to in their places."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        return _inlined({key: value for key, value in found.items() if key != "title"}, definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def action_schema() -> Schema:
    """Return the JSON Schema of actions."""
    return _record_schema(Action, "Nudge action")


def dead_letter_schema() -> Schema:
    """Return the JSON Schema of dead letters."""
    return _record_schema(DeadLetter, "Nudge dead letter")


def journal_schema() -> Schema:
    """Return the JSON Schema of journal records, with what only some kinds have."""

    def of(kind: str, then: Schema, otherwise: Schema | None = None) -> Schema:
        rule: Schema = {"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}}, "then": then}
        return rule if otherwise is None else {**rule, "else": otherwise}

    def reasons(known: Any) -> Schema:
        return {"required": ["reason"], "properties": {"reason": {"enum": list(get_args(known))}}}

    digest = {"type": "string", "pattern": DIGEST_PATTERN}
    refused = reasons(EntryReason)
    refused["properties"]["journey_id"] = {"type": "null"}
    sent = {
        "type": "object",
        "required": ["action_id", "channel"],
        "properties": {"action_id": digest, "channel": _NAME},
    }
    return {
        **_record_schema(JournalRecord, "Nudge journal record"),
        "allOf": [
            of("refused", refused, {"properties": {"journey_id": digest}}),
            of("suppressed", {**reasons(SendReason), "required": ["step", "reason"]}),
            of("postponed", {**reasons(SendReason), "required": ["step", "reason", "detail"]}),
            of("sent", {"required": ["step", "detail"], "properties": {"detail": sent}}),
            of("ended", {"required": ["step"]}),
            of("receipt", {"required": ["step", "reason", "detail"], "properties": {"detail": sent}}),
        ],
    }
