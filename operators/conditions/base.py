"""What a condition is, what it may ask, and the two things it asks about: an event's properties, and past events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import orjson

from operators.conditions.values import Json
from operators.templates.template import Template


class Context(Protocol):
    """What a condition may ask while it is judged. Conditions on events ask for values and templates only."""

    now: int

    @property
    def audiences(self) -> Mapping[str, Any]:
        """The audiences that the user is in."""
        ...

    @property
    def sends(self) -> Mapping[str, list[int]]:
        """The times of the user's latest marketing messages, as `operators/caps.py` has them."""
        ...

    def value(self, root: str, path: tuple[str, ...]) -> Json:
        """Return the value at *path* of `properties`, `profile` or `entry`, None when there is none."""
        ...

    def render(self, template: Template) -> Json:
        """Return what *template* gives now, or `MISSING`; raises `TemplateFailed`."""
        ...

    def count(self, clause: Clause) -> int:
        """Return how many of the clause's events count now; may stop counting at `clause.enough`."""
        ...

    def zone(self) -> ZoneInfo:
        """Return the user's time zone."""
        ...


class Condition(Protocol):
    """A node of the tree. Judging cannot raise, whatever a user sent."""

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


@dataclass(frozen=True, slots=True)
class Where:
    """What is asked of an event, in two halves: `fixed` depends on the event alone, `live` on who it is judged for.

    The fixed half is answered by the match index, once per event for all flows; the live half, which has templates
    or asks for the time, by the journey that it concerns.
    """

    fixed: Condition | None
    live: Condition | None


@dataclass(frozen=True, slots=True, eq=False)
class Clause:
    """One `did`: an event, what is asked of it, and how many are wanted.

    `within` is the rolling window in ms; `window_id` names the user's window that answers it. With `since: entry`
    both are empty, and the journey keeps a tally of its own.
    """

    event: str
    where: Where
    low: int
    high: int | None
    within: int | None
    window_id: str = ""

    @property
    def enough(self) -> int:
        """How many events have to be told apart from more."""
        return max(1, self.low, 0 if self.high is None else self.high + 1)


def identity(condition: Condition | None) -> str:
    """Return a text that is equal for equal conditions; "" for none."""
    return "" if condition is None else orjson.dumps(condition.key()).decode()
