"""Conditions: what `where` asks of an event and `when` of a user, parsed once, judged often.

A condition is a tree of `All`, `Some`, `Not` and leaves. The leaves here are tests of one value;
`operators/conditions/when.py` adds the leaves that only `when` knows. Judging cannot raise, whatever a user sent: a
test on a missing value, or on one of another type, is false.

`holds` on these trees is the definition of the language. `operators/conditions/codegen.py` turns the ones without
templates and without time into Python functions; a property test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
import re2

from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import parse_duration, shown
from operators.limits import told
from operators.templates import MISSING, Template, TemplateFailed, TemplateSyntaxError, parse_template
from state.iso import format_ms, parse_iso_ms

Value = Any  # A JSON value.

_NUMBERS: Final = frozenset((int, float))
_SCALARS: Final = frozenset((int, float, str, bool))


class Context(Protocol):
    """What a condition may ask while it is judged."""

    now: int

    def value(self, root: str, path: tuple[str, ...]) -> Value:
        """Return the value at *path* of `properties`, `profile` or `entry`, None when there is none."""
        ...

    def render(self, template: Template) -> Value:
        """Return what *template* gives now, or `MISSING`; raises `TemplateFailed`."""
        ...


class Condition(Protocol):
    """A node of the tree."""

    def holds(self, context: Context) -> bool: ...

    def key(self) -> list[Any]:
        """Return what identifies the condition, as plain JSON data: equal keys, equal conditions."""
        ...

    def failure(self, context: Context) -> dict[str, Any]:
        """Return why the condition does not hold: `path`, `test` and the `value` at this time."""
        ...

    def described(self, context: Context) -> dict[str, Any]:
        """Return what was compared, whether it holds or not."""
        ...


def dig(value: Value, path: tuple[str, ...]) -> Value:
    """Return what stands at *path* in nested objects, None when a part is missing; never descends into lists."""
    for part in path:
        if value.__class__ is not dict:
            return None
        value = value.get(part)
    return value


# ---- the tests: (value, argument, now) -> bool ---------------------------------------------------------------------


def equal(value: Value, wanted: Value) -> bool:
    """Tell whether two scalars are equal: numbers by value, `true` is not `1`, lists and objects equal nothing."""
    if value.__class__ is bool or wanted.__class__ is bool:
        return value is wanted
    return value.__class__ in _SCALARS and wanted.__class__ in _SCALARS and bool(value == wanted)


def contains(value: Value, wanted: Value) -> bool:
    if value.__class__ is str:
        return wanted.__class__ is str and wanted in value
    return value.__class__ is list and any(equal(item, wanted) for item in value)


def _comparable(value: Value, other: Value) -> bool:
    if value.__class__ is str:
        return other.__class__ is str
    return value.__class__ in _NUMBERS and other.__class__ in _NUMBERS


def iso_time(value: Value) -> int | None:
    """Return the ms of a value that is an ISO time, else None; numbers are not."""
    return parse_iso_ms(value) if value.__class__ is str else None


def _member(value: Value, wanted: Value) -> bool:
    return wanted.__class__ is list and any(equal(value, one) for one in wanted)


def _between(value: Value, wanted: Value) -> bool:
    low, high = wanted
    return _comparable(value, low) and _comparable(value, high) and low <= value <= high


def _moment_of(wanted: Value) -> int | None:
    return wanted if wanted.__class__ is int else iso_time(wanted)


def _before(value: Value, wanted: Value, now: int) -> bool:
    at, moment = iso_time(value), _moment_of(wanted)
    return at is not None and moment is not None and at < moment


def _after(value: Value, wanted: Value, now: int) -> bool:
    at, moment = iso_time(value), _moment_of(wanted)
    return at is not None and moment is not None and at > moment


def _within_last(value: Value, wanted: Value, now: int) -> bool:
    at = iso_time(value)
    return at is not None and now - wanted <= at <= now


def _within_next(value: Value, wanted: Value, now: int) -> bool:
    at = iso_time(value)
    return at is not None and now <= at <= now + wanted


TESTS: Final[dict[str, Callable[[Value, Value, int], bool]]] = {
    "eq": lambda value, wanted, now: equal(value, wanted),
    "in": lambda value, wanted, now: _member(value, wanted),
    "gt": lambda value, wanted, now: _comparable(value, wanted) and value > wanted,
    "gte": lambda value, wanted, now: _comparable(value, wanted) and value >= wanted,
    "lt": lambda value, wanted, now: _comparable(value, wanted) and value < wanted,
    "lte": lambda value, wanted, now: _comparable(value, wanted) and value <= wanted,
    "between": lambda value, wanted, now: _between(value, wanted),
    "contains": lambda value, wanted, now: contains(value, wanted),
    "starts_with": lambda value, wanted, now: (
        value.__class__ is str and wanted.__class__ is str and value.startswith(wanted)
    ),
    "ends_with": lambda value, wanted, now: (
        value.__class__ is str and wanted.__class__ is str and value.endswith(wanted)
    ),
    "matches": lambda value, wanted, now: matches(value, pattern(wanted)),
    "exists": lambda value, wanted, now: (value is not None) is wanted,
    "before": _before,
    "after": _after,
    "within_last": _within_last,
    "within_next": _within_next,
}
NEGATIONS: Final = {"ne": "eq", "not_in": "in", "not_contains": "contains"}
SATISFYING_TRIES_MAX: Final = 100_000  # Impossible conditions beyond this size are not found.
TIMED: Final = frozenset(("within_last", "within_next"))  # These ask for the stream time.
UNTEMPLATED: Final = frozenset(("matches", "exists", "within_last", "within_next"))

# RE2 takes time in proportion to pattern and text. With both at their limits a search takes half a second at worst.
PATTERN_MAX_CHARS: Final = 1_000
PROGRAM_MAX: Final = 20_000  # Instructions; repetition makes many of few characters. `\pL{10}` has 12 000.
MATCHED_MAX_CHARS: Final = 16_384

_patterns: dict[str, Any] = {}


def matches(value: Value, compiled: Any) -> bool:
    """Tell whether *value* is a text, and not too long a one, in which the pattern is found."""
    return value.__class__ is str and len(value) <= MATCHED_MAX_CHARS and compiled.search(value) is not None


def pattern(text: str) -> Any:
    """Return the compiled RE2 pattern of *text*: linear in time, bounded in memory."""
    found = _patterns.get(text)
    if found is None:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True  # Nobody asks what a group matched, and finding it can take 30 times as long.
        found = _patterns[text] = re2.compile(text, options)
    return found


# ---- the tree ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one value. `wanted` may hold templates, alone or in a list."""

    root: str
    path: tuple[str, ...]
    op: str
    wanted: Value
    templated: bool = False

    def holds(self, context: Context) -> bool:
        wanted = self.wanted
        if self.templated:
            wanted = _resolve(wanted, context)
            if wanted is MISSING:
                return False  # Also when negated: a filter that turns out empty must not let everybody through.
        value = context.value(self.root, self.path)
        positive = NEGATIONS.get(self.op)
        if positive is not None:
            return not TESTS[positive](value, wanted, context.now)
        return TESTS[self.op](value, wanted, context.now)

    def key(self) -> list[Any]:
        return ["test", self.root, list(self.path), self.op, _plain(self.wanted)]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        wanted = _resolve(self.wanted, context) if self.templated else self.wanted
        if self.op in ("before", "after") and wanted.__class__ is int:
            wanted = format_ms(wanted)
        return {
            "path": ".".join((self.root, *self.path)),
            "test": {self.op: None if wanted is MISSING else told(wanted)},
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


def _resolve(wanted: Value, context: Context) -> Value:
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


def _plain(wanted: Value) -> Value:
    if isinstance(wanted, list):
        return [_plain(one) for one in wanted]
    return ["template", wanted.source] if isinstance(wanted, Template) else wanted


def key_text(condition: Condition | None) -> str:
    """Return a text that is equal for equal conditions; "" for none."""
    return "" if condition is None else orjson.dumps(condition.key()).decode()


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


@dataclass(frozen=True, slots=True)
class Where:
    """What is asked of an event, in two halves: `fixed` depends on the event alone, `live` on who it is judged for.

    The fixed half is answered by the match index, once per event for all flows; the live half, which has templates
    or asks for the time, by the journey that it concerns.
    """

    fixed: Condition | None
    live: Condition | None


def split_where(condition: Condition | None) -> Where:
    """Return *condition* as its two halves."""
    fixed: list[Condition] = []
    live: list[Condition] = []
    for part in conjuncts(condition) if condition is not None else ():
        needs_more = any(isinstance(leaf, Test) and (leaf.templated or leaf.op in TIMED) for leaf in leaves(part))
        (live if needs_more else fixed).append(part)
    return Where(conjunction(fixed), conjunction(live))


# ---- parsing -------------------------------------------------------------------------------------------------------

LeafParser = Callable[[str, object, Path, Problems], Condition | None]


class Dialect:
    """How one kind of condition is written.

    Args:
        field: splits a key into (root, path), or raises `BadValue`.
        templates: whether values may be templates here; if not, the message that says why.
        keywords: parsers of further keys.
    """

    def __init__(
        self,
        field: Callable[[str], tuple[str, tuple[str, ...]]],
        *,
        templates: bool,
        keywords: Mapping[str, LeafParser] | None = None,
        no_templates_because: str = "",
    ) -> None:
        self.field = field
        self.templates = templates
        self.keywords = dict(keywords or {})
        self.no_templates_because = no_templates_because


def where_field(key: str) -> tuple[str, tuple[str, ...]]:
    """Return the property that *key* names: dots descend, one leading `properties.` is taken off."""
    path = key.removeprefix("properties.")
    parts = tuple(path.split("."))
    if not all(parts):
        raise BadValue("bad-path", f"{shown(key)} is not the path of a property", "write name or outer.inner")
    return "properties", parts


NOWHERE: Final = Dialect(where_field, templates=False)


def parse_where(raw: object, path: Path, problems: Problems, *, templates: bool, because: str = "") -> Where:
    """Return the parsed `where` of an event; None for raw means no condition."""
    if raw is None:
        return Where(None, None)
    dialect = Dialect(where_field, templates=templates, no_templates_because=because)
    return split_where(parse_condition(raw, path, problems, dialect))


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
    _find_impossible(parts, path, problems)
    return conjunction(parts)


def _parse_entry(key: str, value: object, path: Path, problems: Problems, dialect: Dialect) -> list[Condition]:
    if key in ("any", "all"):
        return _parse_group(key, value, path, problems, dialect)
    if key == "not":
        inner = parse_condition(value, path, problems, dialect)
        return [Not(inner)] if inner is not None else []
    if key in dialect.keywords:
        leaf = dialect.keywords[key](key, value, path, problems)
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
        return [Test(root, parts, "exists", False)]
    tests: dict[str, object]
    if isinstance(value, dict):
        tests = {str(op): wanted for op, wanted in value.items()}
        if not tests:
            problems.add(path, "empty-condition", "this condition asks for nothing", "write a test such as {gte: 50}")
            return []
    else:
        tests = {"in" if isinstance(value, list) else "eq": value}
    parsed: list[Condition] = []
    for op, wanted in tests.items():
        place = (*path, op) if isinstance(value, dict) else path
        if op not in TESTS and op not in NEGATIONS:
            hint = did_you_mean(op, [*TESTS, *NEGATIONS]) or "nested properties are written with dots: outer.inner"
            problems.add(place, "unknown-test", f"there is no test '{op}'", hint, at_key=True)
            continue
        try:
            argument = _parse_argument(op, wanted, dialect)
        except BadValue as bad:
            problems.add_bad(place, bad)
            continue
        templated = isinstance(argument, Template) or (
            isinstance(argument, list) and any(isinstance(one, Template) for one in argument)
        )
        parsed.append(Test(root, parts, op, argument, templated))
    return parsed


def _parse_argument(op: str, wanted: object, dialect: Dialect) -> Value:
    """Return the checked argument of test *op*."""
    if op == "exists":
        if not isinstance(wanted, bool):
            raise BadValue("bad-argument", f"'exists' takes true or false, not {shown(wanted)}")
        return wanted
    if op in TIMED:
        return parse_duration(wanted)
    if op == "matches":
        return _parse_pattern(wanted)
    if op in ("in", "not_in", "between"):
        if not isinstance(wanted, list):
            raise BadValue("bad-argument", f"'{op}' takes a list, not {shown(wanted)}", f"write {op}: [1, 2]")
        if op == "between" and len(wanted) != 2:
            raise BadValue("bad-argument", "'between' takes two values", "write between: [low, high]")
        if not wanted:
            raise BadValue("empty-condition", f"the list of '{op}' is empty", "name at least one value")
        values = []
        for index, one in enumerate(wanted):
            try:
                values.append(_parse_scalar(op, one, dialect))
            except BadValue as bad:
                raise BadValue(bad.code, bad.message, bad.hint, (index, *bad.path)) from None
        if op == "between":
            _check_range(values)
        return values
    return _parse_scalar(op, wanted, dialect)


def _parse_scalar(op: str, wanted: object, dialect: Dialect) -> Value:
    if wanted is None or isinstance(wanted, list | dict):
        hint = "use 'exists' to ask whether there is a value" if wanted is None else "a test compares with one value"
        raise BadValue("bad-argument", f"'{op}' cannot compare with {shown(wanted)}", hint)
    if isinstance(wanted, str) and ("{{" in wanted or "{%" in wanted):
        if not dialect.templates:
            raise BadValue("template-not-allowed", f"no template is allowed here: {dialect.no_templates_because}")
        return parse_value_template(wanted)
    if op in ("before", "after"):
        moment = parse_iso_ms(wanted) if isinstance(wanted, str) else None
        if moment is None:
            raise BadValue("bad-moment", f"{shown(wanted)} is not a moment", "write 2026-11-01T00:00:00+08:00")
        return moment
    if op in ("gt", "gte", "lt", "lte", "between") and isinstance(wanted, bool):
        raise BadValue("bad-argument", f"'{op}' compares numbers or texts, not {shown(wanted)}")
    if op in ("starts_with", "ends_with") and not isinstance(wanted, str):
        raise BadValue("bad-argument", f"'{op}' takes a text, not {shown(wanted)}", "put quotes around it")
    return wanted


def _parse_pattern(wanted: object) -> str:
    if not isinstance(wanted, str):
        raise BadValue("bad-pattern", f"'matches' takes a regular expression, not {shown(wanted)}")
    if "{{" in wanted or "{%" in wanted:
        raise BadValue("template-not-allowed", "no template is allowed in a regular expression", "escape a brace: \\{")
    if len(wanted) > PATTERN_MAX_CHARS:
        message = f"a regular expression may have {PATTERN_MAX_CHARS} characters, this one has {len(wanted)}"
        raise BadValue("bad-pattern", message, "compare with a list: in: [a, b]")
    try:
        size = pattern(wanted).programsize
    except re2.error as error:
        reason = error.args[0] if error.args else "cannot be read"
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        hint = "RE2 syntax: no look-around, no back-references"
        raise BadValue("bad-pattern", f"{shown(wanted)}: {reason}", hint) from None
    if size > PROGRAM_MAX:
        raise BadValue("bad-pattern", f"{shown(wanted)}: too large when its repetitions are written out", "repeat less")
    return wanted


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


# ---- conditions that can never hold --------------------------------------------------------------------------------


def _check_range(values: list[Value]) -> None:
    low, high = values
    if isinstance(low, Template) or isinstance(high, Template):
        return
    if not _comparable(low, high):
        raise BadValue("impossible-condition", "'between' takes two numbers or two texts")
    if low > high:
        raise BadValue(
            "impossible-condition", f"nothing is between {low} and {high}", f"write between: [{high}, {low}]"
        )


def _find_impossible(parts: list[Condition], path: Path, problems: Problems) -> None:
    """Note values that would have to satisfy tests which exclude each other."""
    by_field: dict[tuple[str, ...], list[Test]] = {}
    for part in (one for whole in parts for one in conjuncts(whole)):
        if isinstance(part, Test) and not part.templated:
            by_field.setdefault((part.root, *part.path), []).append(part)
    for field, tests in by_field.items():
        if len(tests) > 1 and _excluded(tests):
            said = ", ".join(f"{test.op}: {shown(test.wanted)}" for test in tests)
            name = ".".join(field[1:])
            problems.add(
                path, "impossible-condition", f"no value of '{name}' satisfies {said}", "see 'any' for either-or"
            )


def _excluded(tests: list[Test]) -> bool:
    """Tell whether no value satisfies all *tests* of one field."""
    wanted_absent = any(test.op == "exists" and test.wanted is False for test in tests)
    needs_value = any(test.op not in NEGATIONS and not (test.op == "exists" and test.wanted is False) for test in tests)
    if wanted_absent and needs_value:
        return True
    choices: list[Value] | None = None
    for test in tests:
        if test.op in ("eq", "in"):
            choices = test.wanted if test.op == "in" else [test.wanted]
            break
    if choices is not None:
        checked = [test for test in tests if test.op not in TIMED]
        if len(checked) * len(choices) > SATISFYING_TRIES_MAX:
            return False
        return not any(all(_satisfies(test, choice) for test in checked) for choice in choices)
    return _empty_range(tests)


def _satisfies(test: Test, value: Value) -> bool:
    positive = NEGATIONS.get(test.op)
    return not TESTS[positive](value, test.wanted, 0) if positive else TESTS[test.op](value, test.wanted, 0)


def _empty_range(tests: list[Test]) -> bool:
    lows: list[tuple[Value, bool]] = []  # (bound, whether it is excluded itself)
    highs: list[tuple[Value, bool]] = []
    for test in tests:
        if test.op in ("gt", "gte"):
            lows.append((test.wanted, test.op == "gt"))
        elif test.op in ("lt", "lte"):
            highs.append((test.wanted, test.op == "lt"))
        elif test.op == "between":
            lows.append((test.wanted[0], False))
            highs.append((test.wanted[1], False))
        elif test.op == "after":
            lows.append((test.wanted, True))
        elif test.op == "before":
            highs.append((test.wanted, True))
    if not lows:
        return False
    if len({low.__class__ is str for low, _ in lows} | ({high.__class__ is str for high, _ in highs})) > 1:
        return True  # Nothing is a number and a text.
    if not highs:
        return False
    low, low_open = max(lows)
    high, closed = min((high, not high_open) for high, high_open in highs)
    return bool(low > high or (low == high and (low_open or not closed)))
