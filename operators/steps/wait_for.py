"""The `wait_for` step: hold a journey until the first of several events, or until a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, StrictInt, WithJsonSchema

from operators.language.flow import Asked, RawSteps
from operators.language.values import Name, WaitDuration
from operators.machine.context import Visit
from operators.program.build import Ask, Build
from operators.steps.base import STAY, Heard, Hold, Node, Outcome, Step, StepModel, To

LABELS_MAX: Final = 8
TIMEOUT: Final = "timeout"

_THEN = {"type": "object", "additionalProperties": {"type": "array", "items": {"$ref": "#/$defs/Step"}}}


class AwaitedModel(Asked):
    """An event to wait for, and how many of it."""

    at_least: Annotated[StrictInt, Field(ge=1)] = 1


class WaitForModel(StepModel):
    """Wait for the first of up to 8 events, at most until the timeout."""

    kind: ClassVar[str] = "wait_for"
    wait_for: Annotated[dict[Name, AwaitedModel], Field(min_length=1, max_length=LABELS_MAX)]
    timeout: WaitDuration
    then: Annotated[dict[str, RawSteps], WithJsonSchema(_THEN)] = {}

    def build(self, build: Build) -> Step | None:
        if TIMEOUT in self.wait_for:
            build.problem(
                "reserved-label", f"'{TIMEOUT}' is not free as a label", "choose another", "wait_for", TIMEOUT
            )
            return None
        build.known_labels(self.then, [*self.wait_for, TIMEOUT])
        awaited = []
        for label, asked in self.wait_for.items():
            ask = build.ask(asked, "wait_for", label)
            awaited.append((label, ask, asked.at_least, build.arm(self.then, label)))
        return WaitForStep(awaited, self.timeout, build.arm(self.then, TIMEOUT))


class WaitForStep(Step):
    __slots__ = ("_awaited", "_late", "_timeout_ms")
    kind: ClassVar[str] = "wait_for"
    holds: ClassVar[bool] = True

    def __init__(self, awaited: list[tuple[str, Ask, int, Node | None]], timeout_ms: int, late: Node | None) -> None:
        self._awaited = awaited
        self._timeout_ms = timeout_ms
        self._late = late

    def enter(self, visit: Visit) -> Outcome:
        return Hold(visit.now + self._timeout_ms, memo={})

    def wake(self, visit: Visit) -> Outcome:
        visit.journal("moved", reason=TIMEOUT)
        return To(self._late)

    def hears(self) -> Iterator[str]:
        return (ask.interest.event for _, ask, _, _ in self._awaited)

    def hear(self, visit: Visit) -> Heard:
        if not visit.hears_key():
            return STAY
        counts: dict[str, Any] = visit.branch.memo
        won: tuple[str, Node | None] | None = None
        for label, ask, at_least, node in self._awaited:
            if visit.satisfies(ask):
                counts[label] = counts.get(label, 0) + 1
                if won is None and counts[label] >= at_least:
                    won = label, node
        if won is None:
            return STAY
        visit.moved_by_event()
        visit.journal("moved", reason=won[0])
        return To(won[1])

    def ways(self, node: Node) -> Iterator[Node | None]:
        for _, _, _, arm in self._awaited:
            yield arm
        yield self._late
