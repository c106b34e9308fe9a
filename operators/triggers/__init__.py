"""The kinds of triggers, one file each; a new kind is one more file and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from operators.language.flow import Flow
from operators.language.values import shown
from operators.steps.build import Build
from operators.triggers import audience, event
from operators.triggers.audience import Runs, TriggerAudience
from operators.triggers.event import Alternative, Trigger, TriggerAny

Triggers = list[Alternative] | Runs
"""What starts journeys: one of several events, or runs over audiences."""

Builder = Callable[[dict[str, Any], Flow, Build], Triggers | None]

KINDS: Final[dict[str, Builder]] = {"audience": audience.build, "event": event.build}
"""By the key that tells the kind."""

MODELS: Final = (Trigger, TriggerAny, TriggerAudience)
"""What may be written behind `trigger`."""


def build_trigger(flow: Flow, build: Build) -> Triggers:
    """Return what can start a journey of *flow*, after noting every problem."""
    raw = flow.trigger
    if raw is None:
        if not build.problems.has_errors:  # Else it is missing, or wrong in a way that has been told.
            build.problems.add(
                ("trigger",), "wrong-type", "a trigger names an event or an audience", "write {event: add_to_cart}"
            )
        return []
    if isinstance(raw, list | str):
        hint = (
            f"write trigger: {{event: {raw}}}"
            if isinstance(raw, str)
            else "write trigger: {any: [{event: a}, {event: b}]}"
        )
        build.problems.add(("trigger",), "wrong-type", f"a trigger is a mapping, not {shown(raw)}", hint)
        return []
    kind = next((kind for kind in KINDS if kind in raw), "event") if isinstance(raw, dict) else "event"
    return KINDS[kind](raw, flow, build) or []
