"""Turn conditions on an event's properties into Python functions.

A generated function is several times faster than walking the tree. Values never enter the source text: they are
bound as names, so nothing an author writes is executed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from operators.conditions.base import Condition
from operators.conditions.tests import TESTS
from operators.conditions.tree import All, Not, Some, Test
from operators.conditions.values import dig

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
        self.names: dict[str, Any] = {"dig": dig}
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
        kind = TESTS[condition.op]
        if kind.needs_time:
            raise TypeError(f"cannot be compiled: {condition}")
        v = self._value(condition.path)
        if kind.code is not None:
            return kind.code(self._bind, v, condition.wanted)
        return f"{self._bind(kind.holds)}({v}, {self._bind(condition.wanted)}, 0)"

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
