"""Conditions: `where` on an event, `when` on the user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

from tests.oracle.templates import Failed, Missing, is_single_reference, is_template, render
from tests.oracle.values import (
    WEEKDAYS,
    at_path,
    duration_ms,
    is_number,
    ms_to_local,
    names_of,
    parse_iso,
    same,
    time_of_day,
    zone_of,
)

Fields = dict[str, Any]


@dataclass
class Asked:
    """What conditions on the user ask of others."""

    count_of: Callable[[dict[str, Any]], int]  # How many events a `did` clause counts now.
    is_in: Callable[[str], bool]  # Whether the user is in an audience.
    cap_left: Callable[[str], bool]  # W15: whether "the caps only" allow a marketing send on a channel.


OPPOSITES = {"ne": "eq", "not_in": "in", "not_contains": "contains"}
WITHOUT_TEMPLATES = {"matches", "exists", "within_last", "within_next"}  # W8


def where_holds(
    where: dict[str, Any] | None, properties: Any, now: int, fields: Fields | None, flow: dict[str, Any]
) -> bool:
    """Conditions on an event: "A mapping from property path to test; all must hold."

    *fields* are those of templates; None where templates are not allowed (W8).
    """

    def is_so(written: str, test: Any) -> bool:
        path = names_of(written)
        if path[0] == "properties" and len(path) > 1:  # W12: "One leading `properties.` is taken off."
            path = path[1:]
        return test_holds(at_path(properties, path), test, now, fields, flow)

    return combined(where or {}, is_so)


def combined(condition: dict[str, Any], is_so: Callable[[str, Any], bool]) -> bool:
    """W14: "`any` and `all` take lists of mappings, `not` one mapping; they stand beside paths"."""
    for name, value in condition.items():
        if name == "any":
            holds = any(combined(one, is_so) for one in value)
        elif name == "all":
            holds = all(combined(one, is_so) for one in value)
        elif name == "not":
            holds = not combined(value, is_so)
        else:
            holds = is_so(name, value)
        if not holds:
            return False
    return True


def test_holds(value: Any, test: Any, now: int, fields: Fields | None, flow: dict[str, Any]) -> bool:
    """One path's test: a bare scalar is `eq`, a bare list `in`, a bare null `exists: false`."""
    if test is None:
        test = {"exists": False}
    elif isinstance(test, list):
        test = {"in": test}
    elif not isinstance(test, dict):
        test = {"eq": test}
    return all(operator_holds(name, value, argument, now, fields, flow) for name, argument in test.items())


def operator_holds(name: str, value: Any, argument: Any, now: int, fields: Fields | None, flow: dict[str, Any]) -> bool:
    if name in ("before", "after") and not is_template(argument):
        # V11: "A moment in a flow file .. without an offset is a local time in the flow's `timezone`".
        return time_test_holds(name, value, parse_iso(argument, zone_of({}, flow)), now)
    if name not in WITHOUT_TEMPLATES:
        try:
            argument = argument_of(argument, fields)
        except (Missing, Failed):
            return False  # W9: "A missing template makes the test false, also a negated one".
    if name in OPPOSITES:
        return not positive_holds(OPPOSITES[name], value, argument, now)  # "the exact negations"
    return positive_holds(name, value, argument, now)


def argument_of(argument: Any, fields: Fields | None) -> Any:
    """Fill templates in; raise `Missing` or `Failed`. W9: "In a list one missing element makes the test
    false".
    """
    if isinstance(argument, list):
        return [argument_of(one, fields) for one in argument]
    if not is_template(argument):
        return argument
    assert fields is not None, "W8: no template here"
    result = render(argument, fields)
    if result == "" and not is_single_reference(argument):
        raise Missing  # W9: "A template that is more than one reference gives text; .. "" the test is false."
    return result


def positive_holds(name: str, value: Any, argument: Any, now: int) -> bool:
    """The table of tests. "A test on a missing or null property, or on a value of another type, is false"."""
    if name == "exists":
        return (value is not None) is bool(argument)
    if value is None:
        return False
    if name == "eq":
        return same(value, argument)
    if name == "in":
        return any(same(value, one) for one in argument)
    if name == "gt":
        return comparable(value, argument) and value > argument
    if name == "gte":
        return comparable(value, argument) and value >= argument
    if name == "lt":
        return comparable(value, argument) and value < argument
    if name == "lte":
        return comparable(value, argument) and value <= argument
    if name == "between":
        low, high = argument
        return comparable(value, low) and comparable(value, high) and bool(low <= value <= high)
    if name == "contains":
        if isinstance(value, list):
            return any(same(one, argument) for one in value)  # W11
        return isinstance(value, str) and isinstance(argument, str) and argument in value
    if name == "starts_with":
        return isinstance(value, str) and isinstance(argument, str) and value.startswith(argument)
    if name == "ends_with":
        return isinstance(value, str) and isinstance(argument, str) and value.endswith(argument)
    if name == "matches":
        return isinstance(value, str) and re2.search(argument, value) is not None  # W17
    return time_test_holds(name, value, argument, now)


def comparable(left: Any, right: Any) -> bool:
    """ "number with number, text with text (code points)"; W17: booleans never."""
    return (is_number(left) and is_number(right)) or (isinstance(left, str) and isinstance(right, str))


def time_test_holds(name: str, value: Any, argument: Any, now: int) -> bool:
    """`before`, `after`, `within_last`, `within_next`: T2 (numbers are no times here), W6."""
    at = parse_iso(value) if isinstance(value, str) else None
    if at is None:
        return False
    if name in ("before", "after"):
        # V11: "(In values that come with records it stays UTC: T2.)"
        moment = parse_iso(argument) if isinstance(argument, str) else argument
        if moment is None or not is_number(moment):
            return False
        return bool(at < moment if name == "before" else at > moment)
    if name == "within_last":
        return now - duration_ms(argument) <= at <= now
    if name == "within_next":
        return now <= at <= now + duration_ms(argument)
    raise NotImplementedError(name)


def when_holds(when: dict[str, Any] | None, flow: dict[str, Any], now: int, fields: Fields, asked: Asked) -> bool:
    """Conditions on the user: as `where`, with `profile.`, `entry.` and the keys of the user."""

    def is_so(name: str, value: Any) -> bool:
        if name == "did":
            return did_holds(value, asked.count_of)
        if name == "did_not":
            return not did_holds(value, asked.count_of)  # W7: "`did_not` negates the whole".
        if name == "local_time":
            return local_time_holds(value, flow, now, fields["profile"])
        if name == "audience":  # "the user is in any of them"
            return any(asked.is_in(one) for one in ([value] if isinstance(value, str) else value))
        if name == "cap_left":
            return asked.cap_left(value)
        root, *path = names_of(name)
        if root not in ("profile", "entry") or not path:
            raise NotImplementedError(name)
        return test_holds(at_path(fields[root], path), value, now, fields, flow)

    return combined(when or {}, is_so)


def did_holds(did: dict[str, Any], count_of: Callable[[dict[str, Any]], int]) -> bool:
    """W7: "`did: {any: [..]}` or `{all: [..]}` with 1..8 clauses"."""
    if "any" in did:
        return any(did_holds(one, count_of) for one in did["any"])
    if "all" in did:
        return all(did_holds(one, count_of) for one in did["all"])
    count = count_of(did)
    if "exactly" in did:
        return bool(count == did["exactly"])
    # W5: "`at_least` is 1 unless given, also beside `at_most`".
    return bool(did.get("at_least", 1) <= count <= did.get("at_most", count))


def local_time_holds(test: dict[str, Any], flow: dict[str, Any], now: int, profile: dict[str, Any]) -> bool:
    """W10: "`after` inclusive, `before` exclusive; `after` > `before` crosses midnight"; days are local."""
    local = ms_to_local(now, zone_of(profile, flow))
    if "days" in test and WEEKDAYS[local.weekday()] not in test["days"]:
        return False
    after = time_of_day(test["after"]) if "after" in test else None
    before = time_of_day(test["before"]) if "before" in test else None
    clock = local.time()
    if after is not None and before is not None and after > before:
        return clock >= after or clock < before
    return (after is None or clock >= after) and (before is None or clock < before)


def did_clauses(condition: Any) -> list[dict[str, Any]]:
    """Every `did` and `did_not` clause somewhere in a flow."""
    found: list[dict[str, Any]] = []
    if isinstance(condition, list):
        for one in condition:
            found += did_clauses(one)
    elif isinstance(condition, dict):
        for name, value in condition.items():
            if name in ("did", "did_not") and isinstance(value, dict):
                found += [value] if "event" in value else [*value.get("any", []), *value.get("all", [])]
            else:
                found += did_clauses(value)
    return found
