"""`where`: what is asked of an event, and which half of it the match index can answer."""

from __future__ import annotations

from typing import Final

from operators.conditions.base import Condition, Where
from operators.conditions.parse import Dialect, Resolve, parse_condition
from operators.conditions.tests import TESTS
from operators.conditions.tree import Test, conjunction, conjuncts, leaves
from operators.language.problems import BadValue, Path, Problems
from operators.language.values import shown


def where_field(key: str) -> tuple[str, tuple[str, ...]]:
    """Return the property that *key* names: dots descend, one leading `properties.` is taken off."""
    path = key.removeprefix("properties.")
    parts = tuple(path.split("."))
    if not all(parts):
        raise BadValue("bad-path", f"{shown(key)} is not the path of a property", "write name or outer.inner")
    return "properties", parts


NOWHERE: Final = Dialect(where_field, no_templates="")
"""Conditions on events where no template is allowed and nobody asks why."""


def parse_where(
    raw: object, path: Path, problems: Problems, *, resolve: Resolve, templates: bool, because: str = ""
) -> Where:
    """Return the parsed `where` of an event; None for raw means no condition.

    Args:
        resolve: says which moment is meant where one is written.
        because: why there can be no templates, where there can be none.
    """
    if raw is None:
        return Where(None, None)
    dialect = Dialect(where_field, no_templates=None if templates else because, resolve=resolve)
    return _split(parse_condition(raw, path, problems, dialect))


def _split(condition: Condition | None) -> Where:
    """Return *condition* as its two halves."""
    fixed: list[Condition] = []
    live: list[Condition] = []
    for part in conjuncts(condition) if condition is not None else ():
        needs_more = any(
            isinstance(leaf, Test) and (leaf.templated or TESTS[leaf.op].needs_time) for leaf in leaves(part)
        )
        (live if needs_more else fixed).append(part)
    return Where(conjunction(fixed), conjunction(live))
