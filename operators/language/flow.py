"""The model of a flow file: what may be written, key by key, and what an editor shows for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictInt, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from operators.language.model import (
    COUNTED_MAX,
    EventModel,
    JsonValue,
    Model,
    PositiveInt,
    RawSteps,
    RawWhen,
)
from operators.language.values import DURATION_PATTERN, Duration, Name, Percent, WrittenMoment, Zone, shown

_WINDOWS: Final = {"last": "within", "window": "within", "max": "at_most", "times": "at_most", "count": "at_most"}


class ReentryAfter(Model):
    """Entry is allowed again so long after the last one."""

    mistaken: ClassVar[Mapping[str, str]] = {"every": "after", "wait": "after", "for": "after"}

    after: Annotated[Duration, Field(description="So long after the last entry.")]


class ReentryAtMost(Model):
    """At most so many entries in the rolling window."""

    mistaken: ClassVar[Mapping[str, str]] = _WINDOWS

    at_most: Annotated[PositiveInt, Field(le=COUNTED_MAX, description="Refused with so many entries in the window.")]
    within: Annotated[Duration, Field(description="The rolling window.")]


def _reentry_form(value: Any) -> str:
    if isinstance(value, dict):
        return "#at_most" if "at_most" in value or "within" in value else "#after"
    return "#word"


def _reentry_word(value: Any) -> Any:
    if value in ("always", "never"):
        return value
    hint = "write never, always, {after: 7d}, or {at_most: 3, within: 30d}"
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        hint = f"write {{after: {value}}}"
    elif isinstance(value, int) and not isinstance(value, bool):
        hint = f"write {{at_most: {value}, within: 30d}}"
    text = f"{shown(value)} is no rule of re-entry"
    raise PydanticCustomError("unknown-value", "{text}", {"text": text, "hint": hint})


Reentry = Annotated[
    Annotated[Literal["always", "never"], BeforeValidator(_reentry_word), Tag("#word")]
    | Annotated[ReentryAfter, Tag("#after")]
    | Annotated[ReentryAtMost, Tag("#at_most")],
    Discriminator(_reentry_form),
]


class Entry(Model):
    """Who may enter."""

    mistaken: ClassVar[Mapping[str, str]] = {"where": "when", "if": "when", "condition": "when"}

    when: Annotated[RawWhen, Field(description="A condition on the user. A did in it needs within.")] = None
    reentry: Annotated[Reentry, Field(description="never, always, {after: 7d}, or {at_most: 3, within: 30d}.")] = (
        "always"
    )
    concurrent: Annotated[
        PositiveInt,
        Field(description="The most journeys of one user (with key: of one user and key value) at once."),
    ] = 1
    key: Annotated[
        str | None,
        Field(
            min_length=1,
            strict=True,
            description="A property of the trigger event, such as order_id: journeys and counts are per user and "
            "value, and a journey sees only events that carry its value.",
        ),
    ] = None
    limit: Annotated[
        PositiveInt | None, Field(description="The most entries over all users and versions; never exceeded.")
    ] = None
    holdout: Annotated[
        Percent | None,
        Field(description="This share of users gets no journey, always the same users: to see what the flow is worth."),
    ] = None


class ExitRule(EventModel):
    """An event that ends a journey at once."""

    goal: Annotated[bool, Field(strict=True, description="true: counts the journey as converted.")] = False
    label: Annotated[Name | None, Field(description="The reason in the journal.")] = None


class Active(Model):
    """The period in which users may enter: `[from, until)`."""

    mistaken: ClassVar[Mapping[str, str]] = {
        "start": "from",
        "after": "from",
        "end": "until",
        "to": "until",
        "before": "until",
    }

    from_: Annotated[WrittenMoment | None, Field(alias="from", description="Nobody enters before this moment.")] = None
    until: Annotated[WrittenMoment | None, Field(description="Nobody enters from this moment on.")] = None


class Flow(Model):
    """A flow file."""

    mistaken: ClassVar[Mapping[str, str]] = {
        "name": "flow",
        "id": "flow",
        "triggers": "trigger",
        "goal": "exit: [{event: purchase, goal: true}]",
        "actions": "steps",
        "tz": "timezone",
    }
    belongs: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("event", "where", "count"), "'trigger'"),
        **dict.fromkeys(("when", "reentry", "concurrent", "key", "limit", "holdout"), "'entry'"),
        **dict.fromkeys(("from", "until"), "'active'"),
        **dict.fromkeys(
            ("send", "template", "to", "vars", "set", "wait", "wait_for", "timeout", "then", "branch", "goto", "end"),
            "a step",
        ),
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "steps": "steps: [{wait: 1h}, {send: sms, template: hello}]",
        "exit": "exit: [{event: purchase}]",
        "entry": "entry: {reentry: never}",
        "active": "active: {from: 2026-11-01, until: 2026-12-01}",
    }

    flow: Annotated[Name, Field(description="The identity of the flow, across its versions.")]
    version: Annotated[
        PositiveInt, Field(description="Raise it with every change: who is inside finishes the version they began.")
    ] = 1
    state: Annotated[
        Literal["draft", "live", "paused", "ended"],
        Field(
            description="draft: checked, never runs. live. paused: nobody enters, journeys stand still. ended: nobody "
            "enters, those inside run to their end."
        ),
    ] = "live"
    title: Annotated[str | None, Field(description="What people call it.")] = None
    description: Annotated[str | None, Field(description="What it is for.")] = None
    owner: Annotated[str | None, Field(description="Whom to ask about it.")] = None
    labels: Annotated[JsonValue, Field(description="Whatever you sort flows by.")] = None
    timezone: Annotated[
        Zone,
        Field(
            description="IANA name such as Asia/Shanghai: the time zone of users whose profile.timezone is none, and "
            "of moments that are written here without an offset."
        ),
    ] = "UTC"
    active: Annotated[
        Active, Field(description="The period in which users may enter; those inside run to the end.")
    ] = Active()
    priority: Annotated[
        StrictInt,
        Field(description="Higher goes first when several flows act on one user in the same instant."),
    ] = 0
    trigger: Annotated[
        Any,
        WithJsonSchema({"anyOf": []}),  # The kinds of triggers: see `operators/schemas/flow.py`.
        Field(description="What starts a journey."),
    ]
    entry: Annotated[Entry, Field(description="Who may enter, and how often.")] = Entry()
    exit: Annotated[
        list[ExitRule],
        Field(description="While inside, a matching event ends the journey at once, before anything else."),
    ] = []
    steps: Annotated[
        RawSteps,
        Field(
            description="What happens to whoever is inside: a list of steps, one after the other.",
            json_schema_extra={"minItems": 1},
        ),
    ]
