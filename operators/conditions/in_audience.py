"""The condition that a user is in an audience."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators.conditions.base import Context
from operators.limits import told


@dataclass(frozen=True, slots=True)
class InAudience:
    """Holds when the user is in any of the audiences."""

    names: tuple[str, ...]

    def holds(self, context: Context) -> bool:
        audiences = context.audiences
        return any(name in audiences for name in self.names)

    def key(self) -> list[Any]:
        return ["audience", *sorted(self.names)]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        return {"path": "audience", "test": {"in": list(self.names)}, "value": told(sorted(context.audiences))}
