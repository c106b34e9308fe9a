"""What a template sees: `profile`, `entry`, `event`, `flow` and `now`."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Protocol

from operators.templates.errors import TemplateFailed
from state.iso import format_ms


class Scope(Protocol):
    """Where the values come from: JSON objects, the flow's name, and stream time (ms since 1970 UTC)."""

    @property
    def profile(self) -> dict[str, Any]: ...
    @property
    def entry(self) -> dict[str, Any]: ...
    @property
    def event(self) -> dict[str, Any]: ...
    @property
    def flow(self) -> str: ...
    @property
    def now_ms(self) -> int: ...


def _now(scope: Scope) -> str:
    try:
        return format_ms(scope.now_ms)
    except (ValueError, OverflowError):
        raise TemplateFailed("the year has more than four digits") from None


READ_ROOT: Final[dict[str, Callable[[Scope], object]]] = {
    "profile": attrgetter("profile"),
    "entry": attrgetter("entry"),
    "event": attrgetter("event"),
    "flow": attrgetter("flow"),
    "now": _now,
}
"""How each root is read off a scope. `now` is stream time as text."""

ROOTS: Final = tuple(READ_ROOT)
"""The names that a reference can begin with."""
