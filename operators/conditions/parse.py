"""Reads conditions: groups, tests of fields in all their short forms, and the keywords that a dialect adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from operators.conditions.base import Condition
from operators.conditions.impossible import find_impossible
from operators.conditions.tests import EQ, EXISTS, IN, TESTS
from operators.conditions.tree import All, Not, Some, Test, conjunction
from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import Moment, shown
from operators.templates.template import Template

_MISTAKEN: Final = {
    **dict.fromkeys((">", "greater_than", "more_than"), "gt"),
    **dict.fromkeys((">=", "min", "at_least"), "gte"),
    **dict.fromkeys(("<", "less_than"), "lt"),
    **dict.fromkeys(("<=", "max", "at_most"), "lte"),
    **dict.fromkeys(("=", "==", "is", "equals"), "eq"),
    **dict.fromkeys(("!=", "<>", "not", "is_not"), "ne"),
    **dict.fromkeys(("regex", "regexp", "like"), "matches"),
    **dict.fromkeys(("includes", "has"), "contains"),
    **dict.fromkeys(("is_set", "present"), "exists"),
}
"""What other products call the tests."""

LeafParser = Callable[[object, Path, Problems], Condition | None]

Resolve = Callable[[Moment, Path], int]
"""Returns the ms of a moment that is written at a path: without an offset it is local time where the flow is."""


def in_utc(moment: Moment, path: Path) -> int:
    """Resolve a moment where no flow says a zone."""
    return moment.ms_in_utc()


class Dialect(NamedTuple):
    """How one kind of condition is written."""

    field: Callable[[str], tuple[str, tuple[str, ...]]]
    """Splits a key into (root, path), or raises `BadValue`."""
    no_templates: str | None = None
    """Why values cannot be templates here; None: they can."""
    keywords: Mapping[str, LeafParser] = {}
    """Parsers of further keys."""
    resolve: Resolve = in_utc


def parse_condition(raw: object, path: Path, problems: Problems, dialect: Dialect) -> Condition | None:
    """Return the condition that is written in *raw*, or None after noting why not."""
    if raw is None:
        problems.add(path, "empty-condition", "this condition asks for nothing", "leave it out, or say what must hold")
        return None
    if not isinstance(raw, dict):
        problems.add(path, "bad-condition", f"a condition is a mapping, not {shown(raw)}", "write {amount: {gte: 50}}")
        return None
    if not raw:
        problems.add(path, "empty-condition", "this condition asks for nothing", "leave it out, or say what must hold")
        return None
    parts: list[Condition] = []
    for key, value in raw.items():
        parsed = _parse_entry(str(key), value, (*path, key), problems, dialect)
        parts.extend(parsed)
    find_impossible(parts, path, problems)
    return conjunction(parts)


def _parse_entry(key: str, value: object, path: Path, problems: Problems, dialect: Dialect) -> list[Condition]:
    if key in ("any", "all"):
        return _parse_group(key, value, path, problems, dialect)
    if key == "not":
        inner = parse_condition(value, path, problems, dialect)
        return [Not(inner)] if inner is not None else []
    if key in dialect.keywords:
        leaf = dialect.keywords[key](value, path, problems)
        return [leaf] if leaf is not None else []
    try:
        root, parts = dialect.field(key)
    except BadValue as bad:
        problems.add(path, bad.code, bad.message, bad.hint, at_key=True)
        return []
    return _parse_tests(root, parts, value, path, problems, dialect)


def _parse_group(key: str, value: object, path: Path, problems: Problems, dialect: Dialect) -> list[Condition]:
    if not isinstance(value, list):
        hint = f"write {key}: [{{..}}, {{..}}]; a property of that name is written properties.{key}"
        problems.add(path, "bad-condition", f"'{key}' takes a list of conditions", hint)
        return []
    if not value:
        problems.add(path, "empty-condition", f"this '{key}' has no conditions", "leave it out, or say what must hold")
        return []
    items = [parse_condition(one, (*path, index), problems, dialect) for index, one in enumerate(value)]
    kept = tuple(item for item in items if item is not None)
    if not kept:
        return []
    return [All(kept) if key == "all" else Some(kept)]


def _parse_tests(
    root: str, parts: tuple[str, ...], value: object, path: Path, problems: Problems, dialect: Dialect
) -> list[Condition]:
    if value is None:
        return [Test(root, parts, EXISTS, False)]
    tests: dict[str, object]
    if isinstance(value, dict):
        tests = {str(op): wanted for op, wanted in value.items()}
        if not tests:
            problems.add(path, "empty-condition", "this condition asks for nothing", "write a test such as {gte: 50}")
            return []
    else:
        tests = {IN if isinstance(value, list) else EQ: value}
    parsed: list[Condition] = []
    for op, wanted in tests.items():
        place = (*path, op) if isinstance(value, dict) else path
        kind = TESTS.get(op)
        if kind is None:
            near = f"write {_MISTAKEN[op]}" if op in _MISTAKEN else did_you_mean(op, TESTS)
            hint = near or "nested properties are written with dots: outer.inner"
            problems.add(place, "unknown-test", f"there is no test '{op}'", hint, at_key=True)
            continue
        try:
            argument = kind.argument.parse(op, wanted, dialect.no_templates)
        except BadValue as bad:
            problems.add_bad(place, bad)
            continue
        if isinstance(argument, Moment):
            argument = dialect.resolve(argument, place)
        templated = isinstance(argument, Template) or (
            isinstance(argument, list) and any(isinstance(one, Template) for one in argument)
        )
        parsed.append(Test(root, parts, op, argument, templated))
    return parsed
