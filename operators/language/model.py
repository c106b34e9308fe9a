"""What all models of the language have in common: unknown keys are errors, and every problem is told at its place.

A model says what may be written at one place of a flow file or of `nudge.yaml`, with the sentence that an editor shows
for each key. What needs more than one place (step names, loops, conditions) is checked in `operators/program`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from operators.language.problems import Path, Problems, did_you_mean
from operators.language.values import shown

EVENT_NAME_MAX: Final = 128
CLAUSES_MAX: Final = 8  # Of one trigger, and of one `did`.
COUNTED_MAX: Final = 10_000  # In a window, of which each user keeps so many times.

RawSteps = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"$ref": "#/$defs/Step"}})]
"""A list of steps as it was read: each kind of step has a model of its own, found by `operators/steps/build.py`."""
RawArms = Annotated[
    dict[str, RawSteps],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "array", "items": {"$ref": "#/$defs/Step"}}}),
]
"""Lists of steps by label: what a `then` has."""
RawWhere = Annotated[Any, WithJsonSchema({"$ref": "#/$defs/Where"})]
RawWhen = Annotated[Any, WithJsonSchema({"$ref": "#/$defs/When"})]
EventName = Annotated[str, Field(min_length=1, max_length=EVENT_NAME_MAX, strict=True)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]
JsonValue = Annotated[Any, WithJsonSchema({"description": "any JSON value; texts in it may be templates"})]


class Model(BaseModel):
    """A mapping of the language. Nothing changes after reading.

    The rest is for hints: `mistaken` says which key is meant by another name, `belongs` what else has a key that is
    written here by a wrong indentation, `shapes` how a key is written whose value has the wrong type, `conflicts` which
    keys exclude each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)

    mistaken: ClassVar[Mapping[str, str]] = {}
    belongs: ClassVar[Mapping[str, str]] = {}
    shapes: ClassVar[Mapping[str, str]] = {}
    conflicts: ClassVar[tuple[frozenset[str], ...]] = ()


class EventModel(Model):
    """An event, and what is asked of its properties."""

    mistaken: ClassVar[Mapping[str, str]] = {"name": "event", "filter": "where", "when": "where", "properties": "where"}

    event: Annotated[EventName, Field(description="The name of the event.")]
    where: Annotated[RawWhere, Field(description="Conditions on its properties.")] = None


M = TypeVar("M", bound=Model)


def checked(model: type[M], raw: object, path: Path, problems: Problems) -> M | None:
    """Return *raw* as *model*, or None after noting every problem at the path the author wrote."""
    if not isinstance(raw, dict):
        hint = f"write {{event: {raw}}}" if isinstance(raw, str) and issubclass(model, EventModel) else ""
        problems.add(path, "wrong-type", f"a mapping is needed here, not {shown(raw)}", hint)
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=True, include_input=True):
            if problems.is_full:
                break
            _note(detail, model, path, problems)
        return None


def sound_part(model: type[M], raw: object) -> M | None:
    """Return *raw* as *model* without the keys that are wrong, None if too little is left. Notes nothing.

    For what is wrong beside the problems that have been noted: the flow is refused already.
    """
    if not isinstance(raw, dict):
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors(include_url=False, include_context=False)}
    try:
        return model.model_validate({key: value for key, value in raw.items() if key not in wrong})
    except ValidationError:
        return None


def keys_of(model: type[Model]) -> set[str]:
    """Return the keys of *model*, as authors write them."""
    return {field.alias or name for name, field in model.model_fields.items()}


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
"""Code and message for each error of pydantic that an author can cause."""


def _note(detail: ErrorDetails, model: type[Model], base: Path, problems: Problems) -> None:
    marks = problems.document.marks
    path: Path = base
    for part in detail["loc"]:
        if (*path, part) in marks:  # Names of union members and aliases of ours are no part of what was written.
            path = (*path, part)
    kind, context = detail["type"], detail.get("ctx") or {}
    if kind == "missing":
        problems.add(path, "missing-key", f"'{detail['loc'][-1]}' is missing", "it is required here")
    elif kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        around = problems.document.value_at(path[:-1])
        hint = _hint_for_key(key, _models_at(model, detail["loc"][:-1]), around if isinstance(around, dict) else {})
        problems.add(path, "unknown-key", f"'{key}' is not a key here", hint, at_key=True)
    elif "-" in kind:  # A code of ours: those of pydantic have underscores.
        extra = context.get("path", ())
        problems.add((*path, *extra), kind, str(context.get("text", detail["msg"])), str(context.get("hint", "")))
    else:
        code, text = _CODES.get(
            kind, ("wrong-type", detail["msg"].replace("{", "(").replace("}", ")") + ", not {value}")
        )
        message = text.format(value=shown(detail["input"]), **context)
        hint = _shape_of(detail["loc"], model, detail["input"]) if code in ("wrong-type", "too-few") else ""
        problems.add(path, code, message.replace(", not None", "; nothing is written"), hint)


def _models_at(model: type[Model], place: tuple[str | int, ...]) -> list[type[Model]]:
    """Return the models of what may stand at *place* below *model*."""
    models = [model]
    for part in place:
        fields = [
            field.annotation
            for one in models
            for name, field in one.model_fields.items()
            if part == (field.alias or name)
        ]
        if fields:  # Else it is a number in a list, a free name, or the tag of a union.
            models = [found for annotation in fields for found in _models_in(annotation)]
    return models


def _hint_for_key(key: str, models: list[type[Model]], around: Mapping[str, Any]) -> str:
    """Return what to write instead of an unknown *key*: nothing that would be refused next."""
    known = {name for one in models for name in _offered(one, around)}
    for one in models:
        meant = one.mistaken.get(key)
        if meant in known or (meant is not None and " " in meant):
            return f"write {meant}"
        if key in one.belongs:
            return f"'{key}' belongs to {one.belongs[key]}: is the indentation right?"
    names = list(around)
    above = names[names.index(key) - 1] if names.index(key) > 0 else None
    if above is not None and around[above] is None and above in {name for one in models for name in keys_of(one)}:
        return f"if it belongs to '{above}', begin the line further to the right"
    written = {name for one in models for name in keys_of(one)} & around.keys()
    hint = did_you_mean(key, known)
    if not hint.startswith("did") and (near := did_you_mean(key, written)).startswith("did"):
        return f"is it {near.removeprefix('did you mean ')[:-1]}, which is written already? keep one of them"
    return hint


def _offered(model: type[Model], around: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of *model* that may be added to what is written around them."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        excluded = any(key in keys and keys & around.keys() for keys in model.conflicts)
        if not excluded and key not in around:
            yield key


def _shape_of(place: tuple[str | int, ...], model: type[Model], written: Any) -> str:
    """Return how the value at *place* is written, "" if nobody says."""
    for index in range(len(place) - 1, -1, -1):
        shapes = [one.shapes.get(str(place[index]), "") for one in _models_at(model, place[:index])]
        if shape := next(filter(None, shapes), None):
            number = str(written) if isinstance(written, int) and not isinstance(written, bool) else "3"
            return "write " + shape.replace("<n>", number)
    return ""


def _models_in(annotation: Any) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
