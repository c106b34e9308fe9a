"""Finds conditions that no value can satisfy, so that an author hears of it before anybody waits for a message."""

from __future__ import annotations

from typing import Final

from operators.conditions.base import Condition
from operators.conditions.in_audience import InAudience
from operators.conditions.tests import TESTS, Range
from operators.conditions.tree import Not, Test, conjuncts
from operators.conditions.values import Json
from operators.language.problems import Path, Problems
from operators.language.values import shown

TRIES_MAX: Final = 100_000  # Impossible conditions beyond this size are not found.


def find_impossible(parts: list[Condition], path: Path, problems: Problems) -> None:
    """Note values that would have to satisfy tests which exclude each other, and audiences to be in and not in."""
    conditions = [one for whole in parts for one in conjuncts(whole)]
    _find_outsiders(conditions, path, problems)
    by_field: dict[tuple[str, ...], list[Test]] = {}
    for part in conditions:
        if isinstance(part, Test) and not part.templated:
            by_field.setdefault((part.root, *part.path), []).append(part)
    for field, tests in by_field.items():
        if (len(tests) > 1 or TESTS[tests[0].op].range is not None) and _excluded(tests):
            said = ", ".join(f"{test.op}: {shown(TESTS[test.op].argument.told(test.wanted))}" for test in tests)
            name = ".".join(field[1:])
            problems.add(
                path, "impossible-condition", f"no value of '{name}' satisfies {said}", "see 'any' for either-or"
            )


def _find_outsiders(conditions: list[Condition], path: Path, problems: Problems) -> None:
    """Note that somebody is to be in an audience and not in it."""
    asked = [one.names for one in conditions if isinstance(one, InAudience)]
    negated = [one.item for one in conditions if isinstance(one, Not)] if asked else []
    excluded = {name for one in negated if isinstance(one, InAudience) for name in one.names}
    for names in asked:
        if excluded.issuperset(names):
            message = f"nobody is in {', '.join(names)} and not in it"
            problems.add(path, "impossible-condition", message, "see 'any' for either-or")


def _excluded(tests: list[Test]) -> bool:
    """Tell whether no value satisfies all *tests* of one field."""
    listed = [only for test in tests if (only := TESTS[test.op].only(test.wanted)) is not None]
    if [None] in listed and not all(_holds(test, None) for test in tests):
        return True
    if not listed:
        return _empty_range(tests)
    tried = [test for test in tests if not TESTS[test.op].needs_time]
    if len(tried) * len(listed[0]) > TRIES_MAX:
        return False
    return not any(all(_holds(test, value) for test in tried) for value in listed[0])


def _holds(test: Test, value: Json) -> bool:
    """Tell whether *value* passes; for a missing one the time makes no difference."""
    return TESTS[test.op].holds(value, test.wanted, 0)


def _empty_range(tests: list[Test]) -> bool:
    ranges = [reach(test.wanted) for test in tests if (reach := TESTS[test.op].range) is not None]
    if len({_is_of_text(one) for one in ranges}) > 1:
        return True  # Nothing is a number and a text.
    # A text and the moment that it names have no common order.
    moments = [_of_whole_ms(one) for one in ranges if one.of_moments]
    others = [one for one in ranges if not one.of_moments]
    if any(map(_is_of_text, others)):
        others.append(Range(low=""))
    return _is_empty(moments) or _is_empty(others) or _is_one_that_is_excluded(others, tests)


def _of_whole_ms(one: Range) -> Range:
    low = one.low + 1 if one.low is not None and one.low_is_open else one.low
    high = one.high - 1 if one.high is not None and one.high_is_open else one.high
    return Range(low, high, of_moments=True)


def _is_one_that_is_excluded(ranges: list[Range], tests: list[Test]) -> bool:
    """Tell whether only one value is in all *ranges*, which are not empty, and that one fails another test."""
    lows = [one.low for one in ranges if one.low is not None]
    highs = [one.high for one in ranges if one.high is not None]
    if not lows or not highs or max(lows) != min(highs):
        return False
    return not all(_holds(test, max(lows)) for test in tests if not TESTS[test.op].needs_time)


def _is_of_text(one: Range) -> bool:
    return one.of_moments or isinstance(one.high if one.low is None else one.low, str)


def _is_empty(ranges: list[Range]) -> bool:
    """Tell whether nothing is in all *ranges*, whose ends have one order."""
    lows = [(one.low, one.low_is_open) for one in ranges if one.low is not None]
    highs = [(one.high, not one.high_is_open) for one in ranges if one.high is not None]
    if not lows or not highs:
        return False
    (low, is_open), (high, is_closed) = max(lows), min(highs)
    return bool(low > high or (low == high and (is_open or not is_closed)))
