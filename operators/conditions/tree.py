"""The tree of a condition: `All`, `Some` and `Not` over leaves, of which the test of one value is here.

`holds` on these trees is the definition of the language. `operators/conditions/codegen.py` turns the ones without
templates and without time into Python functions; a property test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from operators.conditions.base import Condition, Context
from operators.conditions.tests import TESTS
from operators.conditions.values import Json
from operators.limits import told
from operators.templates.errors import TemplateFailed
from operators.templates.missing import MISSING
from operators.templates.template import Template


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one value: false for a missing value or one of another type, unless it says otherwise.

    `wanted` may hold templates, alone or in a list.
    """

    root: str
    path: tuple[str, ...]
    op: str
    wanted: Json
    templated: bool = False

    def holds(self, context: Context) -> bool:
        wanted = self.wanted
        if self.templated:
            wanted = _resolve(wanted, context)
            if wanted is MISSING:
                return False  # Also when negated: a filter that turns out empty must not let everybody through.
        return TESTS[self.op].holds(context.value(self.root, self.path), wanted, context.now)

    def key(self) -> list[Any]:
        return ["test", self.root, list(self.path), self.op, _sources(self.wanted)]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        wanted = _resolve(self.wanted, context) if self.templated else self.wanted
        return {
            "path": ".".join((self.root, *self.path)),
            "test": {self.op: None if wanted is MISSING else told(TESTS[self.op].argument.told(wanted))},
            "value": told(context.value(self.root, self.path)),
        }


@dataclass(frozen=True, slots=True)
class All:
    """Holds when every item does."""

    items: tuple[Condition, ...]

    def holds(self, context: Context) -> bool:
        return all(item.holds(context) for item in self.items)

    def key(self) -> list[Any]:
        return ["all", *sorted((item.key() for item in self.items), key=orjson.dumps)]

    def failure(self, context: Context) -> dict[str, Any]:
        return next(item.failure(context) for item in self.items if not item.holds(context))

    def described(self, context: Context) -> dict[str, Any]:
        return {"all": [item.described(context) for item in self.items]}


@dataclass(frozen=True, slots=True)
class Some:
    """Holds when at least one item does."""

    items: tuple[Condition, ...]

    def holds(self, context: Context) -> bool:
        return any(item.holds(context) for item in self.items)

    def key(self) -> list[Any]:
        return ["any", *sorted((item.key() for item in self.items), key=orjson.dumps)]

    def failure(self, context: Context) -> dict[str, Any]:
        return {"any": [item.failure(context) for item in self.items]}

    def described(self, context: Context) -> dict[str, Any]:
        return {"any": [item.described(context) for item in self.items]}


@dataclass(frozen=True, slots=True)
class Not:
    """Holds when its item does not."""

    item: Condition

    def holds(self, context: Context) -> bool:
        return not self.item.holds(context)

    def key(self) -> list[Any]:
        return ["not", self.item.key()]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        found = self.item.described(context)
        if "test" not in found:
            return {"not": found}
        return {**found, "test": {"not": found["test"]}}


def _resolve(wanted: Json, context: Context) -> Json:
    """Return *wanted* with its templates rendered, `MISSING` when one of them gives nothing."""
    if isinstance(wanted, list):
        rendered = [_resolve(one, context) for one in wanted]
        return MISSING if any(one is MISSING for one in rendered) else rendered
    if not isinstance(wanted, Template):
        return wanted
    try:
        value = context.render(wanted)
    except TemplateFailed:
        return MISSING
    return MISSING if value == "" and not wanted.is_reference else value


def _sources(wanted: Json) -> Json:
    """Return *wanted* with its templates as they are written."""
    if isinstance(wanted, list):
        return [_sources(one) for one in wanted]
    return ["template", wanted.source] if isinstance(wanted, Template) else wanted


def leaves(condition: Condition) -> Iterator[Condition]:
    """Yield the leaves of the tree."""
    if isinstance(condition, All | Some):
        for item in condition.items:
            yield from leaves(item)
    elif isinstance(condition, Not):
        yield from leaves(condition.item)
    else:
        yield condition


def conjuncts(condition: Condition) -> tuple[Condition, ...]:
    """Return what must all hold for *condition* to hold."""
    if isinstance(condition, All):
        return tuple(part for item in condition.items for part in conjuncts(item))
    return (condition,)


def conjunction(parts: list[Condition]) -> Condition | None:
    """Return the condition that all *parts* hold, None for no parts."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    return All(tuple(parts))
