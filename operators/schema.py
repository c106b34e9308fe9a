"""JSON Schemas of flow files, of the workspace file and of the records, so that editors complete and check them.

What a flow file may say is in the models of `operators/language/flow.py` and `operators/steps`, and its schema is made
from them. Written by hand is only what the models leave open, because other code reads it: conditions, and the places
where lists of steps stand.

A schema sees one place at a time. What takes the whole flow or a parser (step names, templates, zones, impossible
conditions) is left to `nudge check`. What `check` takes, the schema takes too, with one exception: `where:` and
`when:` with nothing behind them, which is most often a condition that somebody forgot to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

import msgspec
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from operators.conditions.arguments import ISO_PATTERN, MOMENT_SCHEMA, SCALAR_SCHEMA, Schema, list_of
from operators.conditions.tests import TESTS
from operators.conditions.when import KEYWORDS
from operators.language.flow import Flow
from operators.language.model import EVENT_NAME_MAX, Model
from operators.language.workspace import Workspace
from operators.steps import KINDS
from operators.triggers.event import Trigger, TriggerAny
from state.iso import TIME_MS_MAX
from state.outgoing import (
    NAME_PATTERN,
    USER_ID_MAX,
    Action,
    DeadLetter,
    EntryReason,
    JournalRecord,
    SendReason,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


# ---- values --------------------------------------------------------------------------------------------------------

_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_PATH: Final = r"[^.]+(\.[^.]+)*"  # No part of a path is empty.
_ID: Final = r"^[0-9a-f]{32}$"
_TEXT: Final[Schema] = {"type": "string"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


# ---- conditions ----------------------------------------------------------------------------------------------------


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _conditions() -> Schema:
    """Return the definitions of `where`, of `when`, and of the tests in both."""
    tests = {name: _described(kind.argument.schema, kind.says) for name, kind in TESTS.items()}

    def groups(name: str) -> Schema:
        each = list_of(_ref(name))
        return {
            "any": _described(each, "at least one of these holds"),
            "all": _described(each, "each of these holds"),
            "not": _described(_ref(name), "this does not hold"),
        }

    definitions: Schema = {
        "Test": {
            "title": "test",
            "description": "a value, a list of values, or tests such as {gte: 50}; null: there is no value",
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"], "description": "equal to this; null: no value"},
                _described(list_of(SCALAR_SCHEMA), "one of these"),
                {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": tests},
            ],
        },
        "Where": {
            "title": "where",
            "description": "Conditions on the properties of an event, all of which must hold. Nested properties are "
            "written with dots; a property that is called like a keyword is written properties.any.",
            "type": "object",
            "minProperties": 1,
            "properties": groups("Where"),
            "propertyNames": {"pattern": f"^{_PATH}$"},
            "additionalProperties": _ref("Test"),
        },
        "When": {
            "title": "when",
            "description": "Conditions on the user, all of which must hold: profile.<attribute>, entry.<property> "
            "(of the event that started the journey), what the user did, and the user's local time.",
            "type": "object",
            "minProperties": 1,
            "properties": {
                **groups("When"),
                **{name: keyword.schema for name, keyword in KEYWORDS.items()},
            },
            "patternProperties": {rf"^(profile|entry)\.{_PATH}$": _ref("Test")},
            "additionalProperties": False,
        },
    }
    for keyword in KEYWORDS.values():
        definitions.update(keyword.definitions)
    return definitions


# ---- from the models -----------------------------------------------------------------------------------------------


class _Generator(GenerateJsonSchema):
    """Schemas of the models, without what helps nobody in an editor."""

    def get_schema_from_definitions(self, json_ref: Any) -> JsonSchemaValue | None:
        try:
            return super().get_schema_from_definitions(json_ref)
        except KeyError:
            return None  # One of the definitions that are written by hand.

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # The key itself says as much.

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if not isinstance(made.get("default"), str | int | float):
            made.pop("default", None)  # An editor would offer to write null, or empty mappings.
        return made

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value  # In the order of the models, which is that of the documentation.


def _definitions(*models: type[Model]) -> Schema:
    """Return the definitions of *models* and of all they mention, `SendModel` being called `Send`."""
    _, made = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    short = {name: name.removesuffix("Model") for name in made["$defs"]}
    definitions: Schema = {short[name]: _tidied(schema, short) for name, schema in made["$defs"].items()}
    for name, schema in definitions.items():
        schema["title"] = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        for value in schema["properties"].values():
            if "not" in value:
                value["description"] = f"{value['description']} Not supported yet."
    return definitions


def _tidied(schema: Any, short: dict[str, str]) -> Any:
    """Return *schema* with short names of definitions, and with what the models say too little about."""
    if isinstance(schema, list):
        return [_tidied(one, short) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "date-time":
        return dict(MOMENT_SCHEMA)  # `date-time` would refuse a date alone, or a space instead of the T.
    tidied = {key: _tidied(value, short) for key, value in schema.items()}
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].rpartition("/")[2]
        tidied["$ref"] = f"#/$defs/{short.get(name, name)}"
    if "patternProperties" in schema:
        tidied["additionalProperties"] = False  # What is no name is no key either.
        tidied.pop("propertyNames", None)
    return tidied


def _top(definitions: Schema, name: str, title: str, description: str) -> Schema:
    """Return the definition *name* as a schema of its own, with the others that it needs."""
    whole = {
        "$schema": DIALECT,
        **definitions[name],
        "title": title,
        "description": description,
    }
    needed = _needed(whole, definitions)
    return {**whole, "$defs": {key: value for key, value in definitions.items() if key in needed}}


def _needed(schema: Schema, definitions: Schema) -> set[str]:
    found: set[str] = set()
    todo = list(_references(schema))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(_references(definitions[name]))
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def flow_schema() -> Schema:
    """Return the JSON Schema of flow files."""
    parts = [part for kind in KINDS.values() for part in kind.parts]
    of_keywords = [model for keyword in KEYWORDS.values() for model in keyword.models]
    definitions = _definitions(Flow, Trigger, TriggerAny, *KINDS.values(), *parts, *of_keywords)
    kinds = []
    for kind, model in KINDS.items():
        name = model.__name__.removesuffix("Model")
        definitions[name]["title"] = kind
        required = definitions[name].get("required", [])
        definitions[name]["required"] = list(
            dict.fromkeys([*required, kind])
        )  # Else a step without kind were an `end`.
        kinds.append(_ref(name))
    definitions["Step"] = {
        "title": "step",
        "description": "One step: a mapping with its kind as key, " + ", ".join(KINDS) + "; or the word end.",
        "anyOf": [*kinds, {"const": "end", "description": "End the journey here."}],
    }
    definitions.update(_conditions())
    return _top(definitions, "Flow", "Nudge flow", "A flow: who enters, what happens to them, and what ends it.")


def workspace_schema() -> Schema:
    """Return the JSON Schema of `nudge.yaml`."""
    description = "nudge.yaml: channels, rules for messages, and settings of nudge run, for all flows of a folder."
    return _top(_definitions(Workspace), "Workspace", "Nudge workspace", description)


# ---- records -------------------------------------------------------------------------------------------------------

_TIME_IN: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": ISO_PATTERN},
        {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": TIME_MS_MAX + 1},
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
            "user_id": _described(_USER, "Who did it; the Kafka key."),
            "event": {"description": "What was done, such as add_to_cart. Required, except with type identify."},
            "type": {"description": "identify: a profile update, whose traits are merged into the profile."},
            "message_id": _described(
                _TEXT_OR_NULL, "Identity of the record: a second one within 24 hours is dropped. Send one."
            ),
            "timestamp": _described(_TIME_IN, "When it happened: ISO 8601, or ms since 1970. Default: on arrival."),
            "received_at": _described(_TIME_IN, "In files: when it arrived."),
            "properties": {"description": "What happened: an object, which where asks about."},
            "traits": _described(_OBJECT_OR_NULL, "Attributes, merged into the profile first; null removes one."),
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


def _record_schema(record: type[msgspec.Struct], title: str) -> Schema:
    """Return the JSON Schema of a record that goes out. Further fields are allowed: a later version may add some."""
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

    digest = {"type": "string", "pattern": _ID}
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
            of("sent", {"required": ["step", "detail"], "properties": {"detail": sent}}),
        ],
    }


SCHEMAS: Final[dict[str, Callable[[], Schema]]] = {
    "flow": flow_schema,
    "workspace": workspace_schema,
    "event": event_schema,
    "action": action_schema,
    "journal": journal_schema,
    "dead-letter": dead_letter_schema,
}
