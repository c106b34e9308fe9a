"""The match index: one look-up per event answers which conditions, of all flows together, the event satisfies.

Every distinct pair of event name and condition is an *interest* with a number; flows that ask the same share it. Per
event name, an interest is found by its most selective equality (a hash look-up), else by a numeric bound (a binary
search over sorted bounds), else it is tried; what an interest asks beyond that is a generated function. So an event
costs what it satisfies, not what there is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from operators.conditions.base import Condition
from operators.conditions.codegen import Judge, compile_condition
from operators.conditions.tests import TESTS, PlainTest
from operators.conditions.tree import All, Not, Some, Test, conjunction, conjuncts
from operators.conditions.values import Json, dig

Hits = tuple[int, ...]
NO_HITS: Final[Hits] = ()

Matcher = Callable[[dict[str, Any]], Hits]
"""Returns the numbers of all interests that an event of one name satisfies, ascending."""

_Candidate = tuple[int, Judge | None]

PlainCondition = Judge | PlainTest
"""A condition for the scanner: tests as plain data, and functions for what only Python can judge."""


class Row(NamedTuple):
    """An interest that is found by the value of a property."""

    value: Json
    number: int
    rest: PlainCondition | None
    """What is left to ask."""


class Rows(NamedTuple):
    """The interests that are found by the property at `path`."""

    path: tuple[str, ...]
    rows: list[Row]


class Tried(NamedTuple):
    """An interest that nothing finds."""

    number: int
    condition: PlainCondition


class EventTable(NamedTuple):
    """The interests in one event name, as plain data. The scanner takes it as tuples: see `scanner.rs`."""

    always: list[int]
    """Those that ask for nothing."""
    equalities: list[Rows]
    lower: list[Rows]
    """By a lower bound, ascending."""
    upper: list[Rows]
    tried: list[Tried]


EXACT_MAX: Final = 2**53  # Up to here integers and doubles are the same numbers.
PARTS_MAX: Final = 32  # Of a path; events that nest deeper than twice as much are refused.


class MatchIndex:
    """Find the interests that an event satisfies.

    Args:
        interests: (event name, condition on the properties, or None); the number of an interest is its position.
    """

    def __init__(self, interests: Iterable[tuple[str, Condition | None]]) -> None:
        by_event: dict[str, list[tuple[int, Condition | None]]] = {}
        for number, (event, condition) in enumerate(interests):
            by_event.setdefault(event, []).append((number, condition))
        self._by_event = {event: _EventIndex(found) for event, found in by_event.items()}

    @property
    def matchers(self) -> dict[str, Matcher]:
        """`match` per event name, for whoever asks for every event."""
        return {event: index.match for event, index in self._by_event.items()}

    @property
    def events(self) -> frozenset[str]:
        """The event names that anybody is interested in."""
        return frozenset(self._by_event)

    def match(self, event: str, properties: dict[str, Any]) -> Hits:
        """Return the numbers of all interests that the event satisfies, ascending."""
        index = self._by_event.get(event)
        return NO_HITS if index is None else index.match(properties)

    def table(self) -> dict[str, EventTable]:
        """Return the index as plain data, for whoever looks things up in it by other means."""
        return {event: index.table() for event, index in self._by_event.items() if _is_plain(event)}


class _Way(NamedTuple):
    """How an interest is found: `always`, by an `equality`, a `lower` or `upper` bound at `path`, or `tried`."""

    kind: str
    number: int
    path: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    """What the property may equal, or the bound."""
    rest: Condition | None = None
    """What is left to ask of an event that was found so."""
    whole: Condition | None = None


class _EventIndex:
    """The interests in one event name."""

    def __init__(self, interests: list[tuple[int, Condition | None]]) -> None:
        selectivity = _selectivity(interests)
        self._ways = [_way(number, condition, selectivity) for number, condition in interests]
        self._always = [way.number for way in self._ways if way.kind == "always"]
        self._tried: list[tuple[int, Judge]] = []
        equalities: dict[tuple[str, ...], dict[Any, list[_Candidate]]] = {}
        lower: dict[tuple[str, ...], list[tuple[float, int, Judge | None]]] = {}
        upper: dict[tuple[str, ...], list[tuple[float, int, Judge | None]]] = {}
        for way in self._ways:
            judge = None if way.rest is None else compile_condition(way.rest)
            if way.kind == "equality":
                table = equalities.setdefault(way.path, {})
                for value in way.values:
                    key = (True, value) if value.__class__ is bool else value
                    table.setdefault(key, []).append((way.number, judge))
            elif way.kind in ("lower", "upper"):
                bounds = lower if way.kind == "lower" else upper
                bounds.setdefault(way.path, []).append((way.values[0], way.number, judge))
            elif way.kind == "tried":
                assert judge is not None
                self._tried.append((way.number, judge))
        self._equalities = [(path[0], None if len(path) == 1 else path, table) for path, table in equalities.items()]
        self._lower = [_bounds(path, found) for path, found in lower.items()]
        self._upper = [_bounds(path, found) for path, found in upper.items()]
        self._has_others = bool(self._always or self._tried or self._lower or self._upper)

    def table(self) -> EventTable:
        """Return the interests as plain data."""
        by_kind: dict[str, dict[tuple[str, ...], list[Row]]] = {"equality": {}, "lower": {}, "upper": {}}
        tried: list[Tried] = []
        for way in self._ways:
            if way.whole is None:
                continue
            if way.kind == "tried" or not (_is_plain_path(way.path) and all(map(_is_plain, way.values))):
                tried.append(Tried(way.number, _plain(way.whole)))
                continue
            rest = None if way.rest is None else _plain(way.rest)
            rows = by_kind[way.kind].setdefault(way.path, [])
            rows.extend(Row(value, way.number, rest) for value in way.values)
        for kind in ("lower", "upper"):
            for rows in by_kind[kind].values():
                rows.sort(key=lambda row: (row.value, row.number))
        equalities, lower, upper = ([Rows(*found) for found in by_kind[kind].items()] for kind in by_kind)
        return EventTable(self._always, equalities, lower, upper, tried)

    def match(self, properties: dict[str, Any]) -> Hits:
        hits: list[int] | None = None
        for name, path, table in self._equalities:
            value = properties.get(name) if path is None else dig(properties, path)
            kind = value.__class__
            if kind is str or kind is int or kind is float:
                found = table.get(value)
            elif kind is bool:
                found = table.get((True, value))
            else:
                continue
            if found is not None:
                for number, judge in found:
                    if judge is None or judge(properties):
                        if hits is None:
                            hits = [number]
                        else:
                            hits.append(number)
        if self._has_others:
            hits = self._match_others(properties, hits or [])
        if not hits:
            return NO_HITS
        if len(hits) > 1:
            hits.sort()
        return tuple(hits)

    def _match_others(self, properties: dict[str, Any], hits: list[int]) -> list[int]:
        """Add the interests that are not found by an equality."""
        hits += self._always
        for path, bounds, candidates in self._lower:
            value = dig(properties, path)
            if value.__class__ is int or value.__class__ is float:
                for number, judge in candidates[: bisect_right(bounds, value)]:
                    if judge is None or judge(properties):
                        hits.append(number)
        for path, bounds, candidates in self._upper:
            value = dig(properties, path)
            if value.__class__ is int or value.__class__ is float:
                for number, judge in candidates[bisect_left(bounds, value) :]:
                    if judge is None or judge(properties):
                        hits.append(number)
        for number, tried in self._tried:
            if tried(properties):
                hits.append(number)
        return hits


def _bounds(
    path: tuple[str, ...], found: list[tuple[float, int, Judge | None]]
) -> tuple[tuple[str, ...], list[float], list[_Candidate]]:
    found.sort(key=lambda one: (one[0], one[1]))
    return path, [bound for bound, _, _ in found], [(number, judge) for _, number, judge in found]


def _way(number: int, condition: Condition | None, selectivity: dict[tuple[str, ...], int]) -> _Way:
    """Return how the interest *number* is to be found."""
    if condition is None:
        return _Way("always", number)
    parts = list(conjuncts(condition))
    anchor = _anchor(parts, selectivity)
    if anchor is None:
        return _Way("tried", number, rest=condition, whole=condition)
    only = _equalities(anchor)
    if only is not None:
        # True equals 1, but not here.
        values = tuple({(one.__class__ is bool, one): one for one in only}.values())
        rest = conjunction([part for part in parts if part is not anchor])
        return _Way("equality", number, anchor.path, values, rest, condition)
    # The bound is found by its number alone; being open or closed is left to the rest.
    kind, bound = _bound(anchor)
    return _Way(kind, number, anchor.path, (bound,), condition, condition)


def _plain(condition: Condition) -> PlainCondition:
    """Return *condition* as plain data, with functions for what that cannot say."""
    if isinstance(condition, All | Some):
        return "all" if isinstance(condition, All) else "any", [_plain(item) for item in condition.items]
    if isinstance(condition, Not):
        return "not", _plain(condition.item)
    assert isinstance(condition, Test), "conditions with templates or time are not in the index"
    path, wanted = condition.path, condition.wanted
    said = TESTS[condition.op].plain
    values = wanted if isinstance(wanted, list) else [wanted]
    if said is None or not (_is_plain_path(path) and all(map(_is_plain, values))):
        return compile_condition(condition)
    return said(condition.op, path, wanted)


def _is_plain_path(path: tuple[str, ...]) -> bool:
    return len(path) <= PARTS_MAX and all(map(_is_plain, path))


def _is_plain(value: Any) -> bool:
    """Tell whether *value* means the same everywhere: a text with a UTF-8 form, a number exact as a double."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= EXACT_MAX)


def _selectivity(interests: list[tuple[int, Condition | None]]) -> dict[tuple[str, ...], int]:
    """Return, per property, how many different values the interests compare it with."""
    values: dict[tuple[str, ...], set[Any]] = {}
    for _, condition in interests:
        for part in conjuncts(condition) if condition is not None else ():
            if isinstance(part, Test) and (only := _equalities(part)) is not None:
                values.setdefault(part.path, set()).update(only)
    return {path: len(found) for path, found in values.items()}


def _anchor(parts: list[Condition], selectivity: dict[tuple[str, ...], int]) -> Test | None:
    """Return the test by which an interest is found, None when it has to be tried."""
    tests = [part for part in parts if isinstance(part, Test)]
    equalities = [test for test in tests if _equalities(test) is not None]
    if equalities:
        return max(equalities, key=lambda test: (selectivity[test.path], test.path))
    return next((test for test in tests if _bound(test)[0]), None)


def _equalities(test: Test) -> list[Json] | None:
    """Return the values of which the property has to equal one, None where there is no such list."""
    only = TESTS[test.op].only(test.wanted)
    return None if only is None or None in only else only  # What is missing equals nothing.


def _bound(test: Test) -> tuple[str, float]:
    """Return `lower` or `upper`, with the number that is the least or the most; "" where there is none."""
    reach = TESTS[test.op].range
    if reach is not None:
        found = reach(test.wanted)
        if not found.of_moments:
            for kind, bound in (("lower", found.low), ("upper", found.high)):
                if bound is not None and not isinstance(bound, str):
                    return kind, bound
    return "", 0
