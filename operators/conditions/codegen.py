"""Turn conditions on an event's properties into Python functions.

A generated function is several times faster than walking the tree. Values never enter the source text: they are
bound as names, so nothing an author writes is executed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from operators.conditions.tree import (
    NEGATIONS,
    TESTS,
    All,
    Condition,
    Not,
    Some,
    Test,
    contains,
    dig,
    iso_time,
    matches,
    pattern,
)

Judge = Callable[[dict[str, Any]], bool]


def compile_condition(condition: Condition) -> Judge:
    """Return a function that tells whether *condition* holds for an event's properties.

    Raises:
        TypeError: the condition has templates or asks for the time.
    """
    writer = _Writer()
    expression = writer.expression(condition)
    source = "def judge(p):\n" + "".join(f"    {line}\n" for line in writer.lines) + f"    return {expression}\n"
    exec(compile(source, "<condition>", "exec"), writer.names)  # noqa: S102 - built from our own tokens only.
    judge: Judge = writer.names["judge"]
    return judge


class _Writer:
    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "NUMBERS": frozenset((int, float)),
            "dig": dig,
            "contains": contains,
            "matches": matches,
            "iso": iso_time,
            "TESTS": TESTS,
        }
        self.lines: list[str] = []
        self._values: dict[tuple[str, ...], str] = {}

    def expression(self, condition: Condition) -> str:
        if isinstance(condition, All):
            return "(" + " and ".join(self.expression(item) for item in condition.items) + ")"
        if isinstance(condition, Some):
            return "(" + " or ".join(self.expression(item) for item in condition.items) + ")"
        if isinstance(condition, Not):
            return f"(not {self.expression(condition.item)})"
        if not isinstance(condition, Test) or condition.templated or condition.root != "properties":
            raise TypeError(f"cannot be compiled: {condition}")
        positive = NEGATIONS.get(condition.op)
        if positive is not None:
            return f"(not {self._test(positive, condition)})"
        return self._test(condition.op, condition)

    def _bind(self, value: Any) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def _value(self, path: tuple[str, ...]) -> str:
        """Return the name of the local variable that holds the property at *path*."""
        name = self._values.get(path)
        if name is None:
            name = self._values[path] = f"v{len(self._values)}"
            bound = self._bind(path[0] if len(path) == 1 else path)
            self.lines.append(f"{name} = p.get({bound})" if len(path) == 1 else f"{name} = dig(p, {bound})")
        return name

    def _test(self, op: str, test: Test) -> str:
        v, wanted = self._value(test.path), test.wanted
        if op == "eq":
            return self._equal(v, wanted)
        if op == "in":
            return self._member(v, wanted)
        if op in ("gt", "gte", "lt", "lte"):
            sign = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[op]
            kind = f"{v}.__class__ is str" if isinstance(wanted, str) else f"{v}.__class__ in NUMBERS"
            return f"({kind} and {v} {sign} {self._bind(wanted)})"
        if op == "between":
            kind = f"{v}.__class__ is str" if isinstance(wanted[0], str) else f"{v}.__class__ in NUMBERS"
            return f"({kind} and {self._bind(wanted[0])} <= {v} <= {self._bind(wanted[1])})"
        if op == "contains":
            return f"contains({v}, {self._bind(wanted)})"
        if op == "starts_with":
            return f"({v}.__class__ is str and {v}.startswith({self._bind(wanted)}))"
        if op == "ends_with":
            return f"({v}.__class__ is str and {v}.endswith({self._bind(wanted)}))"
        if op == "matches":
            return f"matches({v}, {self._bind(pattern(wanted))})"
        if op == "exists":
            return f"({v} is not None)" if wanted else f"({v} is None)"
        if op in ("before", "after"):
            return f"TESTS[{self._bind(op)}]({v}, {self._bind(wanted)}, 0)"
        raise TypeError(f"cannot be compiled: {op}")

    def _equal(self, v: str, wanted: Any) -> str:
        if isinstance(wanted, bool):
            return f"({v} is {wanted})"
        if isinstance(wanted, str):
            return f"({v} == {self._bind(wanted)})"
        return f"({v}.__class__ in NUMBERS and {v} == {self._bind(wanted)})"

    def _member(self, v: str, wanted: list[Any]) -> str:
        texts = frozenset(one for one in wanted if isinstance(one, str))
        truths = [one for one in wanted if isinstance(one, bool)]
        numbers = frozenset(one for one in wanted if not isinstance(one, str | bool))
        ways = []
        if texts:
            ways.append(f"({v}.__class__ is str and {v} in {self._bind(texts)})")
        if numbers:
            ways.append(f"({v}.__class__ in NUMBERS and {v} in {self._bind(numbers)})")
        ways.extend(f"({v} is {truth})" for truth in truths)
        return "(" + " or ".join(ways) + ")"
