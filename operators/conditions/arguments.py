"""What a test compares with: one entry per kind of argument, its parser beside its JSON Schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from operators.conditions.pattern import parse_pattern
from operators.conditions.values import Json, comparable
from operators.language.problems import BadValue
from operators.language.values import DURATION_PATTERN, parse_duration, parse_moment, shown
from operators.templates.errors import TemplateSyntaxError
from operators.templates.parse import parse_template
from operators.templates.template import Template
from state.iso import format_ms

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The JSON Schema that all of them are written in."""

ISO_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?( ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?$"
)
TEMPLATE_PATTERN: Final = r"\{[{%]"
MOMENT_SCHEMA: Final[Schema] = {
    "type": "string",
    "pattern": ISO_PATTERN,
    "description": "ISO 8601 such as 2026-11-01T00:00:00+08:00; without an offset in the flow's timezone",
}
SCALAR_SCHEMA: Final[Schema] = {"type": ["string", "number", "boolean"]}


def described(schema: Schema, description: str) -> Schema:
    """Return *schema* with what an editor says of it."""
    return {**schema, "description": description}


def list_of(item: Schema, *, most: int | None = None) -> Schema:
    """Return the schema of a list with at least one *item*."""
    return {"type": "array", "minItems": 1, "items": item} | ({} if most is None else {"maxItems": most})


Parse = Callable[[str, object, str | None], Json]
"""Returns the argument of the test *name* that is written in *raw*, with templates parsed; raises `BadValue`.

A `Moment` becomes ms only where it is known in which zone it is read.
The last argument says why templates are not allowed here, None where they are.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Argument:
    """One kind of argument."""

    schema: Schema
    parse: Parse
    told: Callable[[Json], Json] = lambda wanted: wanted
    """Returns an argument as the journal tells it."""


def parse_value_template(text: str) -> Template:
    """Return the template in *text*.

    Raises:
        BadValue: the template cannot be read.
    """
    try:
        return parse_template(text)
    except TemplateSyntaxError as error:
        hint = getattr(error, "hint", "") or "see docs/flow-language.md, Templates"
        raise BadValue("bad-template", str(error), hint) from None


def _scalar(test: str, wanted: object, no_templates: str | None) -> Json:
    """Return one value or one template."""
    if wanted is None or isinstance(wanted, list | dict):
        hint = "use 'exists' to ask whether there is a value" if wanted is None else "a test compares with one value"
        raise BadValue("bad-argument", f"'{test}' cannot compare with {shown(wanted)}", hint)
    if isinstance(wanted, str) and ("{{" in wanted or "{%" in wanted):
        if no_templates is not None:
            raise BadValue("template-not-allowed", f"no template is allowed here: {no_templates}")
        return parse_value_template(wanted)
    return wanted


def _ordered(test: str, wanted: object, no_templates: str | None) -> Json:
    value = _scalar(test, wanted, no_templates)
    if isinstance(value, bool):
        raise BadValue("bad-argument", f"'{test}' compares numbers or texts, not {shown(wanted)}")
    return value


def _text(test: str, wanted: object, no_templates: str | None) -> Json:
    value = _scalar(test, wanted, no_templates)
    if not isinstance(value, str | Template):
        raise BadValue("bad-argument", f"'{test}' takes a text, not {shown(wanted)}", "put quotes around it")
    return value


def _moment(test: str, wanted: object, no_templates: str | None) -> Json:
    """Return a moment as it is written, or a template."""
    value = _scalar(test, wanted, no_templates)
    return value if isinstance(value, Template) else parse_moment(value)


def _truth(test: str, wanted: object, no_templates: str | None) -> Json:
    if not isinstance(wanted, bool):
        raise BadValue("bad-argument", f"'{test}' takes true or false, not {shown(wanted)}")
    return wanted


def _list(test: str, wanted: object) -> list[object]:
    if not isinstance(wanted, list):
        raise BadValue("bad-argument", f"'{test}' takes a list, not {shown(wanted)}", f"write {test}: [1, 2]")
    return wanted


def _each(parse: Parse, test: str, wanted: list[object], no_templates: str | None) -> list[Json]:
    values = []
    for index, one in enumerate(wanted):
        try:
            values.append(parse(test, one, no_templates))
        except BadValue as bad:
            raise BadValue(bad.code, bad.message, bad.hint, (index, *bad.path)) from None
    return values


def _scalars(test: str, wanted: object, no_templates: str | None) -> Json:
    listed = _list(test, wanted)
    if not listed:
        raise BadValue("empty-condition", f"the list of '{test}' is empty", "name at least one value")
    return _each(_scalar, test, listed, no_templates)


def _pair(test: str, wanted: object, no_templates: str | None) -> Json:
    """Return two values in their order; with a template among them that shows only later."""
    listed = _list(test, wanted)
    if len(listed) != 2:
        raise BadValue("bad-argument", f"'{test}' takes two values", f"write {test}: [low, high]")
    low, high = values = _each(_ordered, test, listed, no_templates)
    if isinstance(low, Template) or isinstance(high, Template):
        return values
    if not comparable(low, high):
        raise BadValue("impossible-condition", f"'{test}' takes two numbers or two texts")
    if low > high:
        hint = f"write {test}: [{high}, {low}]"
        raise BadValue("impossible-condition", f"nothing is between {low} and {high}", hint)
    return values


_ORDERED_SCHEMA: Final[Schema] = {"type": ["string", "number"]}

SCALAR: Final = Argument(SCALAR_SCHEMA, _scalar)
SCALARS: Final = Argument(list_of(SCALAR_SCHEMA), _scalars)
ORDERED: Final = Argument(_ORDERED_SCHEMA, _ordered)
PAIR: Final = Argument(list_of(_ORDERED_SCHEMA) | {"minItems": 2, "maxItems": 2}, _pair)
TEXT: Final = Argument({"type": "string"}, _text)
PATTERN: Final = Argument(
    {"type": "string", "not": {"pattern": TEMPLATE_PATTERN}}, lambda test, wanted, no_templates: parse_pattern(wanted)
)
TRUTH: Final = Argument({"type": "boolean"}, _truth)
MOMENT: Final = Argument(
    {"anyOf": [MOMENT_SCHEMA, {"type": "string", "pattern": TEMPLATE_PATTERN}]},
    _moment,
    told=lambda wanted: format_ms(wanted) if wanted.__class__ is int else wanted,
)
DURATION: Final = Argument(
    {"type": "string", "pattern": DURATION_PATTERN}, lambda test, wanted, no_templates: parse_duration(wanted)
)
