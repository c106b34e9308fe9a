"""What a template sees; in a flow that is `profile`, `entry`, `event`, `flow` and `now`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol

from operators.templates.bounds import OUTPUT_MAX_BYTES, SOURCE_MAX_CHARS
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


@dataclass(frozen=True, eq=False)
class View:
    """What templates of one kind see, and how large they may be.

    Attributes:
        roots: how each name that a reference can begin with is read off what is rendered.
        keeps_types: a template that is exactly one reference gives its value; otherwise all give text.
        is_html: what is written out is escaped, but for what `safe` or an escaping filter gives.
    """

    roots: Mapping[str, Callable[[Any], object]]
    source_max_chars: int = SOURCE_MAX_CHARS
    output_max_bytes: int = OUTPUT_MAX_BYTES
    keeps_types: bool = True
    is_html: bool = False


OF_FLOWS: Final = View(READ_ROOT)
"""The templates that stand in flows."""
