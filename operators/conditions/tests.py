"""The tests of one value, `eq` to `within_next`: one row each, in which everything about it stands.

`holds` is the definition. The rest says the same by other means: as generated code, as what the match index may look
up, as what two tests exclude, and as plain data for the scanner. A row without those is slower, not wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from operators.conditions.arguments import (
    DURATION,
    MOMENT,
    ORDERED,
    PAIR,
    PATTERN,
    SCALAR,
    SCALARS,
    TEXT,
    TRUTH,
    Argument,
)
from operators.conditions.pattern import matches, pattern
from operators.conditions.values import NUMBERS, Json, comparable, contains, equal, iso_time

Bind = Callable[[Any], str]
"""Returns the name by which generated code knows a value: what an author writes never enters the source text."""

Code = Callable[[Bind, str, Json], str]
"""Returns the expression of a test: of the variable that holds the value, and of the argument."""

PlainTest = tuple[Any, ...]
"""A test as the scanner is told it: `(name, path, argument)`, or some of those in `("all", tests)`, `("not", test)`."""


class Range(NamedTuple):
    """The values that satisfy a test lie in here; None: no end. An open end does not belong to it."""

    low: Json = None
    high: Json = None
    low_is_open: bool = False
    high_is_open: bool = False
    of_moments: bool = False
    """Whether the value is compared as the moment that it names, in ms."""


@dataclass(frozen=True, slots=True, eq=False)
class TestKind:
    """One test of the language."""

    name: str
    says: str
    """When it holds, as an editor shows it."""
    argument: Argument
    holds: Callable[[Json, Json, int], bool]
    """Tells whether a value passes: (value, argument, stream time in ms). Never raises."""
    needs_time: bool = False
    """Whether the answer depends on the stream time, so that no index can give it."""
    code: Code | None = None
    """`holds` as code; without it generated code calls `holds`."""
    only: Callable[[Json], list[Json] | None] = lambda wanted: None
    """Returns the only values that pass, None being that there is no value; or None, if they cannot be listed."""
    range: Callable[[Json], Range] | None = None
    """Returns where the values lie that pass."""
    plain: Callable[[str, tuple[str, ...], Json], PlainTest] | None = None
    """Returns what the scanner is told; without it the scanner asks Python."""


# ---- code ----------------------------------------------------------------------------------------------------------


def _equal_code(bind: Bind, v: str, wanted: Json) -> str:
    if isinstance(wanted, bool):
        return f"({v} is {wanted})"
    if isinstance(wanted, str):
        return f"({v} == {bind(wanted)})"
    return f"({v}.__class__ in {bind(NUMBERS)} and {v} == {bind(wanted)})"


def _member_code(bind: Bind, v: str, wanted: Json) -> str:
    texts = frozenset(one for one in wanted if isinstance(one, str))
    truths = [one for one in wanted if isinstance(one, bool)]
    numbers = frozenset(one for one in wanted if not isinstance(one, str | bool))
    ways = []
    if texts:
        ways.append(f"({v}.__class__ is str and {v} in {bind(texts)})")
    if numbers:
        ways.append(f"({v}.__class__ in {bind(NUMBERS)} and {v} in {bind(numbers)})")
    ways.extend(f"({v} is {truth})" for truth in truths)
    return "(" + " or ".join(ways) + ")"


def _has_order_code(bind: Bind, v: str, wanted: Json) -> str:
    return f"{v}.__class__ is str" if isinstance(wanted, str) else f"{v}.__class__ in {bind(NUMBERS)}"


def _between_code(bind: Bind, v: str, wanted: Json) -> str:
    low, high = wanted
    return f"({_has_order_code(bind, v, low)} and {bind(low)} <= {v} <= {bind(high)})"


def _contains_code(bind: Bind, v: str, wanted: Json) -> str:
    return f"{bind(contains)}({v}, {bind(wanted)})"


def _matches_code(bind: Bind, v: str, wanted: Json) -> str:
    return f"{bind(matches)}({v}, {bind(pattern(wanted))})"


def _exists_code(bind: Bind, v: str, wanted: Json) -> str:
    return f"({v} is not None)" if wanted else f"({v} is None)"


# ---- rows that are alike -------------------------------------------------------------------------------------------


def _itself(name: str, path: tuple[str, ...], wanted: Json) -> PlainTest:
    return name, path, wanted


def _opposite(name: str, says: str, of: TestKind) -> TestKind:
    """Return the test that holds exactly when *of* does not, so also for what is missing."""
    code, plain = of.code, of.plain
    return TestKind(
        name,
        says,
        of.argument,
        lambda value, wanted, now: not of.holds(value, wanted, now),
        needs_time=of.needs_time,
        code=None if code is None else lambda bind, v, wanted: f"(not {code(bind, v, wanted)})",
        plain=None if plain is None else lambda _, path, wanted: ("not", plain(of.name, path, wanted)),
    )


def _comparison(
    name: str, says: str, sign: str, compare: Callable[[Json, Json], bool], reach: Callable[[Json], Range]
) -> TestKind:
    return TestKind(
        name,
        says,
        ORDERED,
        lambda value, wanted, now: comparable(value, wanted) and compare(value, wanted),
        code=lambda bind, v, wanted: f"({_has_order_code(bind, v, wanted)} and {v} {sign} {bind(wanted)})",
        range=reach,
        plain=_itself,
    )


def _of_text(name: str, says: str, method: Callable[[str, str], bool]) -> TestKind:
    """Return a test of a text by a method of `str` that is called as the test calls it."""
    return TestKind(
        name,
        says,
        TEXT,
        lambda value, wanted, now: value.__class__ is str and wanted.__class__ is str and method(value, wanted),
        code=lambda bind, v, wanted: f"({v}.__class__ is str and {v}.{method.__name__}({bind(wanted)}))",
        plain=_itself,
    )


def _moments(name: str, says: str, compare: Callable[[int, int], bool], reach: Callable[[Json], Range]) -> TestKind:
    """Return a test of the moment that a value names; the argument is one, too, in ms or where a template gave it."""

    def holds(value: Json, wanted: Json, now: int) -> bool:
        at = iso_time(value)
        moment = wanted if wanted.__class__ is int else iso_time(wanted)
        return at is not None and moment is not None and compare(at, moment)

    return TestKind(name, says, MOMENT, holds, range=reach, plain=_itself)


def _between(value: Json, wanted: Json, now: int) -> bool:
    low, high = wanted
    return comparable(value, low) and comparable(value, high) and bool(low <= value <= high)


def _within_last(value: Json, wanted: Json, now: int) -> bool:
    at = iso_time(value)
    return at is not None and now - wanted <= at <= now


def _within_next(value: Json, wanted: Json, now: int) -> bool:
    at = iso_time(value)
    return at is not None and now <= at <= now + wanted


# ---- the table -----------------------------------------------------------------------------------------------------

_EQ: Final = TestKind(
    "eq",
    "equal; numbers by value, true is not 1",
    SCALAR,
    lambda value, wanted, now: equal(value, wanted),
    code=_equal_code,
    only=lambda wanted: [wanted],
    plain=_itself,
)
_IN: Final = TestKind(
    "in",
    "one of these",
    SCALARS,
    lambda value, wanted, now: wanted.__class__ is list and any(equal(value, one) for one in wanted),
    code=_member_code,
    only=list,
    plain=_itself,
)
_CONTAINS: Final = TestKind(
    "contains",
    "a text with this in it, or a list with this value",
    SCALAR,
    lambda value, wanted, now: contains(value, wanted),
    code=_contains_code,
    plain=_itself,
)
_ROWS: Final = (
    _EQ,
    _opposite("ne", "not equal, or missing", _EQ),
    _IN,
    _opposite("not_in", "none of these, or missing", _IN),
    _comparison(
        "gt",
        "greater: number with number, text with text",
        ">",
        operator.gt,
        lambda wanted: Range(low=wanted, low_is_open=True),
    ),
    _comparison("gte", "greater or equal", ">=", operator.ge, lambda wanted: Range(low=wanted)),
    _comparison(
        "lt",
        "less: number with number, text with text",
        "<",
        operator.lt,
        lambda wanted: Range(high=wanted, high_is_open=True),
    ),
    _comparison("lte", "less or equal", "<=", operator.le, lambda wanted: Range(high=wanted)),
    TestKind(
        "between",
        "from the first to the second, both included",
        PAIR,
        _between,
        code=_between_code,
        range=lambda wanted: Range(low=wanted[0], high=wanted[1]),
        plain=lambda _, path, wanted: ("all", [("gte", path, wanted[0]), ("lte", path, wanted[1])]),
    ),
    _CONTAINS,
    _opposite("not_contains", "the opposite of contains; holds for what is missing", _CONTAINS),
    _of_text("starts_with", "a text that begins like this", str.startswith),
    _of_text("ends_with", "a text that ends like this", str.endswith),
    TestKind(
        "matches",
        "a text in which this RE2 regular expression is found",
        PATTERN,
        lambda value, wanted, now: matches(value, pattern(wanted)),
        code=_matches_code,
    ),
    TestKind(
        "exists",
        "whether there is a value that is not null",
        TRUTH,
        lambda value, wanted, now: (value is not None) is wanted,
        code=_exists_code,
        only=lambda wanted: None if wanted else [None],
        plain=_itself,
    ),
    _moments(
        "before",
        "an ISO time before this moment",
        operator.lt,
        lambda wanted: Range(high=wanted, high_is_open=True, of_moments=True),
    ),
    _moments(
        "after",
        "an ISO time after this moment",
        operator.gt,
        lambda wanted: Range(low=wanted, low_is_open=True, of_moments=True),
    ),
    TestKind("within_last", "an ISO time at most so long ago", DURATION, _within_last, needs_time=True),
    TestKind("within_next", "an ISO time at most so far ahead", DURATION, _within_next, needs_time=True),
)
TESTS: Final = {row.name: row for row in _ROWS}
"""All tests, by the name that authors write."""

EQ, IN, EXISTS = "eq", "in", "exists"  # What `amount: 5`, `amount: [5, 6]` and `amount: null` are short for.
