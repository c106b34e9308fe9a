"""An event that somebody wants: a trigger, an exit, a step that waits, or a counter."""

from __future__ import annotations

from dataclasses import dataclass

from operators.conditions.base import Condition, Where, identity


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event, and what is asked of it.

    `fixed` is the half of the condition that depends on the event alone; `live` the half that depends on whom it is
    judged for, and when. `interest` identifies event and fixed half: whoever wants the same has the same interest, and
    the match index answers it once for all of them.
    """

    event: str
    fixed: Condition | None
    live: Condition | None
    interest: str


def wanted(event: str, where: Where) -> Wanted:
    """Return the event *event* as it is wanted with *where*."""
    return Wanted(event, where.fixed, where.live, f"{event}\x1f{identity(where.fixed)}")
