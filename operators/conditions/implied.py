"""Tells which conditions follow from others: what a later arm asks may have been asked by an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from operators.conditions.base import Condition, identity
from operators.conditions.did import Did
from operators.conditions.in_audience import InAudience
from operators.conditions.tests import EXISTS, TESTS, Range
from operators.conditions.tree import Some, Test, conjuncts, leaves
from operators.conditions.values import comparable

TESTS_MAX: Final = 100  # Of all that is compared, each with each; beyond it nothing is known.


def first_implied(conditions: Sequence[Condition | None]) -> Iterator[tuple[int, int]]:
    """Yield the place of each condition that surely holds only where an earlier one does, and the place of that one."""
    if sum(1 for one in conditions if one is not None for _ in leaves(one)) > TESTS_MAX:
        return
    for index, one in enumerate(conditions):
        for before, earlier in enumerate(conditions[:index]):
            if one is not None and earlier is not None and implies(one, earlier):
                yield index, before
                break


def implies(condition: Condition, other: Condition) -> bool:
    """Tell whether *other* surely holds where *condition* does; False where nobody knows."""
    known = conjuncts(condition)
    return all(any(_follows(wanted, given) for given in known) for wanted in conjuncts(other))


def _follows(wanted: Condition, given: Condition) -> bool:
    if isinstance(given, Some):
        return all(implies(one, wanted) for one in given.items)
    if isinstance(wanted, Some):
        return any(implies(given, one) for one in wanted.items)
    if isinstance(wanted, Did) and isinstance(given, Did):
        return _counts_follow(wanted, given)
    if isinstance(wanted, InAudience) and isinstance(given, InAudience):
        return set(given.names) <= set(wanted.names)
    if isinstance(wanted, Test) and isinstance(given, Test):
        return _test_follows(wanted, given)
    return identity(wanted) == identity(given)


def _counts_follow(wanted: Did, given: Did) -> bool:
    one, other = wanted.clause, given.clause
    if (one.event, one.within) != (other.event, other.within):
        return False
    for ours, theirs in ((one.where.fixed, other.where.fixed), (one.where.live, other.where.live)):
        if identity(ours) != identity(theirs):
            return False
    fits_above = one.high is None or (other.high is not None and other.high <= one.high)
    return other.low >= one.low and fits_above


def _test_follows(wanted: Test, given: Test) -> bool:
    if (wanted.root, wanted.path) != (given.root, given.path):
        return False
    if identity(wanted) == identity(given):
        return True
    if wanted.templated or given.templated:
        return False
    one, other = TESTS[wanted.op], TESTS[given.op]
    if wanted.op == EXISTS and wanted.wanted:
        return not other.holds(None, given.wanted, 0)
    only = other.only(given.wanted)
    if only is not None:
        return not one.needs_time and all(one.holds(value, wanted.wanted, 0) for value in only)
    if one.range is None or other.range is None:
        return False
    return _lies_in(other.range(given.wanted), one.range(wanted.wanted))


def _lies_in(inner: Range, outer: Range) -> bool:
    """Tell whether all of *inner* is in *outer*; a test of the other kind of values holds for none of these."""
    if inner.of_moments != outer.of_moments:
        return False
    ends = [end for end in (inner.low, inner.high, outer.low, outer.high) if end is not None]
    if not all(comparable(end, ends[0]) for end in ends):
        return False
    return _not_below(inner, outer) and _not_above(inner, outer)


def _not_below(inner: Range, outer: Range) -> bool:
    if outer.low is None or inner.low is None:
        return outer.low is None
    return bool(inner.low > outer.low or (inner.low == outer.low and (inner.low_is_open or not outer.low_is_open)))


def _not_above(inner: Range, outer: Range) -> bool:
    if outer.high is None or inner.high is None:
        return outer.high is None
    return bool(
        inner.high < outer.high or (inner.high == outer.high and (inner.high_is_open or not outer.high_is_open))
    )
