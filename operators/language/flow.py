"""The models of a flow file and of the workspace file `nudge.yaml`: what may be written, key by key.

Models check shape and values; what needs the whole flow (step names, loops, conditions) is checked by
`operators/program/compile.py`. Nested lists of steps stay plain data here, because each kind of step has its own
model, found through `operators/steps`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from operators.language.problems import Path, Problems, did_you_mean
from operators.language.values import Days, Duration, Moment, Name, Percent, Zone, shown

EVENT_NAME_MAX: Final = 128
CLAUSES_MAX: Final = 8
COUNTED_MAX: Final = 10_000  # In a window, of which each user keeps so many times.


def _not_yet(value: Any) -> Any:
    raise PydanticCustomError(
        "not-yet-supported",
        "this is part of the language, but this version cannot run it yet",
        {"hint": "docs/flow-language.md lists what is not supported yet"},
    )


RawSteps = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"$ref": "#/$defs/Step"}})]
RawWhere = Annotated[Any, WithJsonSchema({"$ref": "#/$defs/Where"})]
RawWhen = Annotated[Any, WithJsonSchema({"$ref": "#/$defs/When"})]
NotYet = Annotated[Any, BeforeValidator(_not_yet), WithJsonSchema({"not": {}, "description": "not supported yet"})]
EventName = Annotated[str, Field(min_length=1, max_length=EVENT_NAME_MAX, strict=True)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]
Template = Annotated[str, Field(strict=True, description="text with Liquid templates")]
JsonValue = Annotated[Any, WithJsonSchema({"description": "any JSON value; texts in it may be templates"})]


class Model(BaseModel):
    """A mapping of the flow language: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


M = TypeVar("M", bound=Model)


class Asked(Model):
    """An event, and what is asked of its properties."""

    event: EventName
    where: RawWhere = None


class Count(Model):
    """How often, and within which rolling window, a trigger's event must come."""

    at_least: PositiveInt
    within: Duration | None = None


class Trigger(Asked):
    """One event that starts a journey."""

    count: Count | None = None


class TriggerAny(Model):
    """Several events, each of which starts a journey."""

    any: Annotated[list[Trigger], Field(min_length=1, max_length=CLAUSES_MAX)]


class ReentryAfter(Model):
    """Entry is allowed again so long after the last one."""

    after: Duration


class ReentryAtMost(Model):
    """At most so many entries in the rolling window."""

    at_most: Annotated[PositiveInt, Field(le=COUNTED_MAX)]
    within: Duration


def _reentry_form(value: Any) -> str:
    if isinstance(value, dict):
        return "#at_most" if "at_most" in value or "within" in value else "#after"
    return "#word"


Reentry = Annotated[
    Annotated[Literal["always", "never"], Tag("#word")]
    | Annotated[ReentryAfter, Tag("#after")]
    | Annotated[ReentryAtMost, Tag("#at_most")],
    Discriminator(_reentry_form),
]


class Entry(Model):
    """Who may enter."""

    when: RawWhen = None
    reentry: Reentry = "always"
    concurrent: PositiveInt = 1
    key: Annotated[str, Field(min_length=1, strict=True)] | None = None
    limit: NotYet = None
    holdout: Percent | None = None


class ExitRule(Asked):
    """An event that ends a journey at once."""

    goal: Annotated[bool, Field(strict=True)] = False
    label: Name | None = None


class Active(Model):
    """The period in which users may enter: `[from, until)`."""

    from_: Annotated[Moment | None, Field(alias="from")] = None
    until: Moment | None = None


class Flow(Model):
    """A flow file."""

    flow: Name
    version: PositiveInt = 1
    state: Literal["draft", "live", "paused", "ended"] = "live"
    title: str | None = None
    description: str | None = None
    owner: str | None = None
    labels: JsonValue = None
    timezone: Zone = "UTC"
    active: Active = Active()
    priority: StrictInt = 0
    trigger: Annotated[Any, WithJsonSchema({"anyOf": [{"$ref": "#/$defs/Trigger"}, {"$ref": "#/$defs/TriggerAny"}]})]
    entry: Entry = Entry()
    exit: list[ExitRule] = []
    steps: RawSteps


class LocalTime(Model):
    """A window of the user's local time."""

    after: Any = None
    before: Any = None
    days: Days | None = None


JOURNAL: Final = "journal"
DEAD_LETTERS: Final = "dead-letters"
OWN_TOPICS: Final = frozenset((JOURNAL, DEAD_LETTERS))


class Channel(Model):
    """Where the actions of a channel go, and which attribute is the user's address there."""

    topic: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")] | None = None
    address: Annotated[str, Field(min_length=1)] | None = None
    caps: NotYet = None
    quiet: NotYet = None


class Workspace(Model):
    """`nudge.yaml`: channels, rules for messages, and the settings of `nudge run`."""

    channels: dict[Name, Channel] = {}
    caps: NotYet = None
    quiet: NotYet = None
    exempt: NotYet = None
    suppress: NotYet = None
    consent: NotYet = None
    templates: NotYet = None
    audiences: NotYet = None
    run: dict[str, Any] = {}
    kafka: dict[str, Any] = {}


def checked(model: type[M], raw: object, path: Path, problems: Problems) -> M | None:
    """Return *raw* as *model*, or None after noting every problem at the path the author wrote."""
    if not isinstance(raw, dict):
        problems.add(path, "wrong-type", f"a mapping is needed here, not {shown(raw)}")
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        known = {field.alias or name for name, field in model.model_fields.items()}
        for detail in error.errors(include_url=False, include_context=True, include_input=True):
            if problems.is_full:
                break
            _note(detail, known, path, problems)
        return None


_CODES: Final = {
    "greater_than_equal": ("out-of-range", "at least {ge} is needed here, not {value}"),
    "less_than_equal": ("out-of-range", "at most {le} is allowed here, not {value}"),
    "too_long": ("too-many", "at most {max_length} are allowed here, not {actual_length}"),
    "too_short": ("too-few", "at least {min_length} is needed here"),
    "string_too_long": ("too-long", "at most {max_length} characters are allowed here"),
    "string_too_short": ("empty-text", "this text is empty"),
    "string_pattern_mismatch": ("bad-name", "{value} has characters that are not allowed here"),
    "literal_error": ("unknown-value", "{value} is not one of {expected}"),
    "string_type": ("wrong-type", "a text is needed here, not {value}"),
    "int_type": ("wrong-type", "a whole number is needed here, not {value}"),
    "int_from_float": ("wrong-type", "a whole number is needed here, not {value}"),
    "bool_type": ("wrong-type", "true or false is needed here, not {value}"),
    "list_type": ("wrong-type", "a list is needed here, not {value}"),
    "dict_type": ("wrong-type", "a mapping is needed here, not {value}"),
    "model_type": ("wrong-type", "a mapping is needed here, not {value}"),
    "model_attributes_type": ("wrong-type", "a mapping is needed here, not {value}"),
}


def _note(detail: ErrorDetails, known: set[str], base: Path, problems: Problems) -> None:
    marks = problems.source.marks
    path: Path = base
    for part in detail["loc"]:
        if (*path, part) in marks:  # Names of union members and aliases of ours are no part of what was written.
            path = (*path, part)
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "missing":
        problems.add(path, "missing-key", f"'{detail['loc'][-1]}' is missing", "it is required here")
    elif kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        hint = did_you_mean(key, known) if len(detail["loc"]) == 1 else did_you_mean(key, _known_at(detail))
        problems.add(path, "unknown-key", f"'{key}' is not a key here", hint, at_key=True)
    elif "-" in kind or kind in _CUSTOM:
        extra = context.get("path", ())
        problems.add((*path, *extra), kind, str(context.get("text", detail["msg"])), str(context.get("hint", "")))
    else:
        code, text = _CODES.get(
            kind, ("wrong-type", detail["msg"].replace("{", "(").replace("}", ")") + ", not {value}")
        )
        problems.add(path, code, text.format(value=shown(detail["input"]), **context))


_CUSTOM: Final = frozenset(("not-yet-supported",))


def _known_at(detail: ErrorDetails) -> set[str]:
    """Return the keys that are known where an unknown one was found, as far as a small table tells."""
    table: dict[str, type[Model]] = {
        "entry": Entry,
        "exit": ExitRule,
        "active": Active,
        "channels": Channel,
        "count": Count,
        "reentry": ReentryAtMost,
    }
    for part in reversed(detail["loc"][:-1]):
        if isinstance(part, str) and part in table:
            return {field.alias or name for name, field in table[part].model_fields.items()}
    return set()
