"""The kinds of triggers, one file each; a new kind is one more file and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from operators.language.flow import Flow
from operators.language.values import shown
from operators.steps.build import Build
from operators.triggers import event
from operators.triggers.event import Alternative, Trigger, TriggerAny

Builder = Callable[[dict[str, Any], Flow, Build], list[Alternative]]


def _not_yet(raw: dict[str, Any], flow: Flow, build: Build) -> list[Alternative]:
    message = "a trigger on audiences is part of the language, but this version cannot run it yet"
    build.problems.add(("trigger", "audience"), "not-yet-supported", message, at_key=True)
    return []


KINDS: Final[dict[str, Builder]] = {"audience": _not_yet, "event": event.build}
"""By the key that tells the kind."""

MODELS: Final = (Trigger, TriggerAny)
"""What may be written behind `trigger`."""


def build_trigger(flow: Flow, build: Build) -> list[Alternative]:
    """Return what can start a journey of *flow*, after noting every problem."""
    raw = flow.trigger
    if raw is None:
        if not build.problems.has_errors:  # Else it is missing, or wrong in a way that has been told.
            build.problems.add(("trigger",), "wrong-type", "a trigger names an event", "write {event: add_to_cart}")
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
    return KINDS[kind](raw, flow, build)
