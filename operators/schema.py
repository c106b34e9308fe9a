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
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from operators.conditions.tree import NEGATIONS, TESTS
from operators.conditions.when import DidModel
from operators.language.flow import CLAUSES_MAX, EVENT_NAME_MAX, Flow, LocalTime, Model, Trigger, TriggerAny, Workspace
from operators.language.values import DURATION_PATTERN, NAME_PATTERN
from operators.program.build import DEFAULT_ADDRESSES
from operators.steps import KINDS
from operators.steps.branch import ArmModel, ElseModel
from operators.steps.wait import WaitForm
from state.iso import TIME_MS_MAX

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
USER_ID_MAX: Final = 256


# ---- values --------------------------------------------------------------------------------------------------------

_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
_ISO: Final = rf"^{_DATE}([T ]{_CLOCK}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?$"
_PATH: Final = r"[^.]+(\.[^.]+)*"  # No part of a path is empty.
_ID: Final = r"^[0-9a-f]{32}$"
_TEMPLATE: Final = r"\{[{%]"
_TIME_OF_DAY: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"

_MOMENT: Final[Schema] = {
    "type": "string",
    "pattern": _ISO,
    "description": "ISO 8601 with offset, such as 2026-11-01T00:00:00+08:00",
}
_MOMENT_OR_TEMPLATE: Final[Schema] = {"anyOf": [_MOMENT, {"type": "string", "pattern": _TEMPLATE}]}
_DURATION: Final[Schema] = {"type": "string", "pattern": DURATION_PATTERN, "description": "such as 90s, 30m, 1d12h"}
_SCALAR: Final[Schema] = {"type": ["string", "number", "boolean"]}
_ORDERED: Final[Schema] = {"type": ["string", "number"]}
_TEXT: Final[Schema] = {"type": "string"}
_NOT_YET: Final[Schema] = {"not": {}, "description": "not supported yet"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _list_of(item: Schema, *, most: int | None = None) -> Schema:
    """Return the schema of a list with at least one *item*."""
    return {"type": "array", "minItems": 1, "items": item} | ({} if most is None else {"maxItems": most})


# ---- conditions ----------------------------------------------------------------------------------------------------

# What each test of `operators/conditions/tree.py` compares with, and when it holds.
_ARGUMENTS: Final[dict[str, tuple[Schema, str]]] = {
    "eq": (_SCALAR, "equal; numbers by value, true is not 1"),
    "ne": (_SCALAR, "not equal, or missing"),
    "in": (_list_of(_SCALAR), "one of these"),
    "not_in": (_list_of(_SCALAR), "none of these, or missing"),
    "gt": (_ORDERED, "greater: number with number, text with text"),
    "gte": (_ORDERED, "greater or equal"),
    "lt": (_ORDERED, "less: number with number, text with text"),
    "lte": (_ORDERED, "less or equal"),
    "between": (_list_of(_ORDERED) | {"minItems": 2, "maxItems": 2}, "from the first to the second, both included"),
    "contains": (_SCALAR, "a text with this in it, or a list with this value"),
    "not_contains": (_SCALAR, "the opposite of contains; holds for what is missing"),
    "starts_with": (_TEXT, "a text that begins like this"),
    "ends_with": (_TEXT, "a text that ends like this"),
    "matches": (
        {"type": "string", "not": {"pattern": _TEMPLATE}},
        "a text in which this RE2 regular expression is found",
    ),
    "exists": ({"type": "boolean"}, "whether there is a value that is not null"),
    "before": (_MOMENT_OR_TEMPLATE, "an ISO time before this moment"),
    "after": (_MOMENT_OR_TEMPLATE, "an ISO time after this moment"),
    "within_last": (_DURATION, "an ISO time at most so long ago"),
    "within_next": (_DURATION, "an ISO time at most so far ahead"),
}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _conditions() -> Schema:
    """Return the definitions of `where`, of `when`, and of the tests in both."""
    tests = {op: _described(*_ARGUMENTS[op]) for op in (*TESTS, *NEGATIONS)}

    def groups(name: str) -> Schema:
        each = _list_of(_ref(name))
        return {
            "any": _described(each, "at least one of these holds"),
            "all": _described(each, "each of these holds"),
            "not": _described(_ref(name), "this does not hold"),
        }

    did = {"anyOf": [_ref("Did"), _ref("DidSeveral")]}
    return {
        "Test": {
            "title": "test",
            "description": "a value, a list of values, or tests such as {gte: 50}; null: there is no value",
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"], "description": "equal to this; null: no value"},
                _described(_list_of(_SCALAR), "one of these"),
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
                "did": {**did, "description": "so many such events came"},
                "did_not": {**did, "description": "the opposite of did"},
                "local_time": _ref("LocalTime"),
                "cap_left": _NOT_YET,
                "audience": _NOT_YET,
            },
            "patternProperties": {rf"^(profile|entry)\.{_PATH}$": _ref("Test")},
            "additionalProperties": False,
        },
        "DidSeveral": {
            "title": "did any / all",
            "description": f"up to {CLAUSES_MAX} events, of which one or each must have come",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                "any": _described(_list_of(_ref("Did"), most=CLAUSES_MAX), "at least one of these"),
                "all": _described(_list_of(_ref("Did"), most=CLAUSES_MAX), "each of these"),
            },
            "additionalProperties": False,
        },
    }


# ---- from the models -----------------------------------------------------------------------------------------------

_STEPS: Final = "a list of steps, one after the other"

# What an editor shows at a key. Keys of the models that say it themselves are not here.
_KEYS: Final[dict[str, dict[str, str]]] = {
    "Flow": {
        "flow": "The identity of the flow, across its versions.",
        "version": "Raise it with every change: who is inside finishes the version they began.",
        "state": "draft: checked, never runs. live. paused: nobody enters, journeys stand still. ended: nobody "
        "enters, those inside run to their end.",
        "title": "What people call it.",
        "description": "What it is for.",
        "owner": "Whom to ask about it.",
        "labels": "Whatever you sort flows by.",
        "timezone": "IANA name such as Asia/Shanghai: the time zone of users whose profile.timezone is none.",
        "active": "The period in which users may enter; those inside run to the end.",
        "priority": "Higher goes first when several flows act on one user in the same instant.",
        "trigger": "What starts a journey.",
        "entry": "Who may enter.",
        "exit": "While inside, a matching event ends the journey at once, before anything else.",
        "steps": "What happens to whoever is inside: " + _STEPS + ".",
    },
    "Active": {"from": "Nobody enters before this moment.", "until": "Nobody enters from this moment on."},
    "Trigger": {"count": "Fires on the event that makes the number of such events reach at_least."},
    "TriggerAny": {"any": f"Up to {CLAUSES_MAX} events, each of which starts a journey."},
    "Count": {
        "at_least": "The event that makes it so many fires, and uses them up.",
        "within": "The rolling window that counts; without it, all count.",
    },
    "Entry": {
        "when": "A condition on the user. A did in it needs within.",
        "reentry": "never, always, {after: 7d}, or {at_most: 3, within: 30d}.",
        "concurrent": "The most journeys of one user (with key: of one user and key value) at once.",
        "key": "A property of the trigger event, such as order_id: journeys and counts are per user and value, and a "
        "journey sees only events that carry its value.",
        "limit": "The most entries over all users.",
        "holdout": "This share of users gets no journey, always the same users: to see what the flow is worth.",
    },
    "ReentryAfter": {"after": "So long after the last entry."},
    "ReentryAtMost": {"at_most": "Refused with so many entries in the window.", "within": "The rolling window."},
    "ExitRule": {"goal": "true: counts the journey as converted.", "label": "The reason in the journal."},
    "Awaited": {"at_least": "So many of them."},
    "Did": {
        "at_least": "1 unless given.",
        "at_most": "At most so many.",
        "exactly": "So many and no other number; stands alone.",
        "within": "In the rolling window that ends now; excludes since.",
        "since": "entry, the default: since this journey began.",
    },
    "LocalTime": {
        "after": 'From this local time on, such as "09:00". Later than before: crosses midnight.',
        "before": 'Until this local time, such as "18:00", which is excluded.',
        "days": "On these weekdays.",
    },
    "Send": {
        "send": "The channel. One that is not built in needs an entry under channels in nudge.yaml.",
        "template": "What the channel knows, such as a provider's template code.",
        "to": "Where to; default: the attribute of the profile that is the channel's address.",
        "vars": "Variables of the template; texts may be Liquid.",
        "category": "notification is exempt from caps and quiet hours.",
        "expires": "Of no use later than this after the step began.",
        "if_missing": "What happens when the address, or a variable without default, is missing.",
        "postpone": "Whether a send that quiet hours hold goes out later.",
    },
    "Set": {"set": "Attributes of the profile; null removes one."},
    "Wait": {"wait": "A duration such as 30m, or one of the forms with for or until."},
    "WaitForm": {
        "for": "So long.",
        "at": "With for: the first such local time at or after that.",
        "until": 'A moment, a local time such as "09:00", or a template such as {{ profile.renewal }}.',
        "offset": "With a template: so much later, or earlier such as -3d.",
        "if_missing": "With a template, required there: what happens when there is no such date.",
        "if_past": "With a template: what happens when the date is past. Default: skip.",
        "days": "Only on these weekdays; with a local time.",
    },
    "WaitFor": {
        "wait_for": "Up to 8 labels with an event each; the first that comes wins.",
        "timeout": "The most to wait. At most 366d.",
        "then": "What happens next, by label, or at timeout. Labels that are not here just go on.",
    },
    "Branch": {"branch": "Arms with a condition each; the first that holds wins. The last may be else."},
    "Arm": {
        "when": "The condition.",
        "label": "The name of this arm in the journal. Default: its number from 0.",
        "steps": _STEPS,
    },
    "Else": {"else": _STEPS},
    "Goto": {"goto": "The id of the step to go on at. A loop needs a wait on it."},
    "End": {"end": "A label for the journal; may be left out."},
    "Workspace": {
        "channels": "Where actions go. sms, email, push, wechat, webhook, kafka, coupon and ads are known without.",
        "caps": "The most messages, over all channels.",
        "quiet": "Times without messages.",
        "exempt": "Users whom caps and quiet hours do not hold.",
        "suppress": "Users who are never sent anything.",
        "consent": "Attributes of the profile that must be true.",
        "templates": "The templates that flows may name.",
        "audiences": "The audiences that flows may name.",
        "run": "Settings of nudge run, such as processes: 2. Flags and the environment come first.",
        "kafka": "Options of all Kafka clients, as librdkafka names them. Keep passwords out of Git.",
    },
    "Channel": {
        "topic": "Default: actions.<channel>.",
        "address": "The attribute of the profile with the user's address; null: none is needed.",
        "caps": "The most messages on this channel.",
        "quiet": "Times without messages on this channel.",
    },
}
_EVENT: Final = "The name of the event."
_WHERE: Final = "Conditions on its properties."
_STEP_ID: Final = "Unique in the flow; default: the path of the step, such as steps.2."

# What the models leave to code that reads more than one key.
_MORE: Final[dict[str, Schema]] = {
    "WaitForm": {"anyOf": [{"required": ["for"]}, {"required": ["until"]}]},
    "LocalTime": {"minProperties": 1},
}
_MORE_OF_KEYS: Final[dict[tuple[str, str], Schema]] = {
    ("Flow", "steps"): {"minItems": 1},
    ("Send", "send"): {"examples": list(DEFAULT_ADDRESSES)},
    ("Set", "set"): {"propertyNames": {"pattern": r"^[^.]+$"}},
    ("WaitForm", "until"): {"type": ["string", "null"]},
    ("Did", "since"): {"enum": ["entry", None]},
    ("LocalTime", "after"): {"type": ["string", "null"], "pattern": _TIME_OF_DAY},
    ("LocalTime", "before"): {"type": ["string", "null"], "pattern": _TIME_OF_DAY},
}


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
        schema.update(_MORE.get(name, {}))
        for key, value in schema["properties"].items():
            value.update(_MORE_OF_KEYS.get((name, key), {}))
            said = _KEYS.get(name, {}).get(key) or {"event": _EVENT, "where": _WHERE, "id": _STEP_ID}.get(key)
            if said:
                value["description"] = f"{said} Not supported yet." if "not" in value else said
    return definitions


def _tidied(schema: Any, short: dict[str, str]) -> Any:
    """Return *schema* with short names of definitions, and with what the models say too little about."""
    if isinstance(schema, list):
        return [_tidied(one, short) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "date-time":
        return dict(_MOMENT)  # `date-time` would refuse a date alone, or a space instead of the T.
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
    definitions = _definitions(
        Flow, Trigger, TriggerAny, *KINDS.values(), ArmModel, ElseModel, WaitForm, DidModel, LocalTime
    )
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

_TIME_OUT: Final[Schema] = {"type": "string", "pattern": rf"^{_DATE}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}\.[0-9]{{3}}Z$"}
_TIME_IN: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": _ISO},
        {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": TIME_MS_MAX + 1},
        {"type": "null"},
    ]
}
_USER: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": USER_ID_MAX}
_NAME: Final[Schema] = {"type": "string", "pattern": NAME_PATTERN}
_OBJECT_OR_NULL: Final[Schema] = {"type": ["object", "null"]}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_FROM_ONE: Final[Schema] = {"type": "integer", "minimum": 1}
_CAUSE: Final[Schema] = {
    "type": "object",
    "description": "The event that led here.",
    "required": ["message_id", "event"],
    "properties": {
        "message_id": {"type": "string", "description": "Its id; of an audience run <audience>@<planned time>."},
        "event": {"type": ["string", "null"], "description": "Its name; null for an audience run."},
    },
}
_JOB: Final[Schema] = {"type": "string", "pattern": _ID, "description": "On Kafka: the job that wrote it."}

_ENTRY_REASONS: Final = ["paused", "inactive", "no_key", "condition", "reentry", "already_inside", "limit", "holdout"]
_SEND_REASONS: Final = [
    "suppressed",
    "no_consent",
    "no_address",
    "missing_variable",
    "expired",
    "quiet",
    "cap",
    "template_error",
]
_KINDS_OF_RECORDS: Final = [
    "entered",
    "refused",
    "sent",
    "suppressed",
    "postponed",
    "waiting",
    "moved",
    "receipt",
    "set",
    "audience",
    "converted",
    "exited",
    "ended",
    "failed",
    "migrated",
]


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


def action_schema() -> Schema:
    """Return the JSON Schema of actions. Further fields are allowed: a later version may add some."""
    properties: Schema = {
        "action_id": {"type": "string", "pattern": _ID, "description": "What to drop repeats by."},
        "channel": _described(_NAME, "Where it goes."),
        "user_id": _described(_USER, "Whom it is for; the Kafka key."),
        "to": _described(_TEXT_OR_NULL, "The address; null where the channel needs none."),
        "flow": _described(_NAME, "The flow that sends it."),
        "version": _described(_FROM_ONE, "The version of the flow."),
        "journey_id": {"type": "string", "pattern": _ID, "description": "The user's passage through the flow."},
        "step": _described(_TEXT, "The step that sends it."),
        "visit": _described(_FROM_ONE, "How often this journey has begun this step."),
        "template": _described(_TEXT, "What the channel knows."),
        "vars": {"type": "object", "description": "Its variables, rendered."},
        "category": {"enum": ["marketing", "notification"], "description": "What kind of message it is."},
        "at": _described(_TIME_OUT, "The stream time at which it was sent."),
        "expires_at": {"anyOf": [_TIME_OUT, {"type": "null"}], "description": "Of no use later; null: never."},
        "seq": _described(_FROM_ONE, "The number of the user's journal record `sent` for it."),
        "cause": _CAUSE,
        "job": _JOB,
    }
    return {
        "$schema": DIALECT,
        "title": "Nudge action",
        "description": "What a journey emits to a channel, on the topic actions.<channel>. Each action_id is there "
        "exactly once. Later versions may add fields.",
        "type": "object",
        "required": [key for key in properties if key != "job"],
        "properties": properties,
    }


def journal_schema() -> Schema:
    """Return the JSON Schema of journal records. Further fields are allowed: a later version may add some."""

    def of(kind: str, then: Schema, otherwise: Schema | None = None) -> Schema:
        rule: Schema = {"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}}, "then": then}
        return rule if otherwise is None else {**rule, "else": otherwise}

    def reasons(known: list[str]) -> Schema:
        return {"required": ["reason"], "properties": {"reason": {"enum": known}}}

    refused = reasons(_ENTRY_REASONS)
    refused["properties"]["journey_id"] = {"type": "null"}
    sent = {
        "type": "object",
        "required": ["action_id", "channel"],
        "properties": {"action_id": {"type": "string", "pattern": _ID}, "channel": _NAME},
    }
    properties: Schema = {
        "at": _described(_TIME_OUT, "The stream time at which it happened."),
        "user_id": _described(_USER, "To whom; the Kafka key."),
        "seq": _described(_FROM_ONE, "Counts the user's records from 1 without gaps."),
        "flow": _described(_NAME, "In which flow."),
        "version": _described(_FROM_ONE, "In which version of it."),
        "journey_id": _described(_TEXT_OR_NULL, "The user's passage through the flow; null: entry was refused."),
        "kind": {"enum": _KINDS_OF_RECORDS, "description": "What happened."},
        "step": _described(_TEXT, "At which step."),
        "reason": _described(_TEXT, "Why, or which way: a code, a label or a status."),
        "detail": {"type": "object", "description": "What was compared, written or waited for."},
        "cause": _CAUSE,
        "job": _JOB,
    }
    return {
        "$schema": DIALECT,
        "title": "Nudge journal record",
        "description": "Something that a journey did or was refused, on the topic journal. Each (user_id, seq) is "
        "there exactly once. Later versions may add fields.",
        "type": "object",
        "required": ["at", "user_id", "seq", "flow", "version", "journey_id", "kind"],
        "properties": properties,
        "allOf": [
            of("refused", refused, {"properties": {"journey_id": {"type": "string", "pattern": _ID}}}),
            of("suppressed", {**reasons(_SEND_REASONS), "required": ["step", "reason"]}),
            of("sent", {"required": ["step", "detail"], "properties": {"detail": sent}}),
        ],
    }


SCHEMAS: Final[dict[str, Callable[[], Schema]]] = {
    "flow": flow_schema,
    "workspace": workspace_schema,
    "event": event_schema,
    "action": action_schema,
    "journal": journal_schema,
}
