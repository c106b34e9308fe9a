"""The `result_of` step: hold a journey until the channel says what became of an action that it has sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final

from pydantic import Field, WithJsonSchema

from operators.language.channels import STATUSES, SUPPRESSED, may_report
from operators.language.model import RawSteps
from operators.language.problems import did_you_mean
from operators.language.values import WaitDuration, shown
from operators.steps.base import STAY, Heard, Hold, Node, Outcome, Step, To
from operators.steps.build import Build, Reference, StepModel
from operators.steps.send import SendStep
from operators.visit import Visit

OTHER: Final = "other"
STATUS_MAX: Final = 128

_THEN = {"type": "object", "additionalProperties": {"type": "array", "items": {"$ref": "#/$defs/Step"}}}


class ResultOfModel(StepModel):
    """Wait for what becomes of an action, at most so long."""

    kind: ClassVar[str] = "result_of"
    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("timeout", "for", "until"), "within"),
        **dict.fromkeys(("else", "timed_out"), "then: {other: [..]}"),
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "result_of": "result_of: remind, where remind is the id of an earlier send",
        "then": "then: {failed: [..], other: [..]}",
    }
    result_of: Annotated[str, Field(strict=True, description="The id of an earlier send.")]
    within: Annotated[WaitDuration, Field(description="The most to wait, from here on. At most 366d.")]
    then: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=STATUS_MAX)], RawSteps],
        WithJsonSchema(_THEN),
        Field(
            description="What happens next, by status: accepted, delivered, failed, suppressed, ..; other: none of "
            "these came in time."
        ),
    ] = {}

    def build(self, build: Build) -> Step | None:
        arms = {status: build.arm(self.then, status) for status in self.then if status != OTHER}
        step = ResultOfStep(
            build.earlier_send(self.result_of, "result_of"), self.within, arms, build.arm(self.then, OTHER)
        )
        build.at_the_end(lambda: step.connect(build))
        return step


class ResultOfStep(Step):
    __slots__ = ("_arms", "_events", "_of", "_other", "_path", "_within_ms")
    kind: ClassVar[str] = "result_of"
    holds: ClassVar[bool] = True

    def __init__(self, of: Reference, within_ms: int, arms: dict[str, Node | None], other: Node | None) -> None:
        self._of = of
        self._within_ms = within_ms
        self._arms = arms
        self._other = other
        self._events: tuple[str, ...] = ()

    def connect(self, build: Build) -> None:
        """Ask to hear of the receipts, now that it is known what sends."""
        sending = None if self._of.node is None else self._of.node.step
        if not isinstance(sending, SendStep):
            return
        self._events = tuple(build.receipt(sending.channel, status).event for status in self._arms)
        for status in self._arms:
            if not may_report(sending.channel, status) and status != SUPPRESSED:
                said = f"no receipt of {sending.channel} has the status {shown(status)}"
                path = (*self._of.path[:-1], "then", status)
                build.problems.warn(path, "unknown-status", said, did_you_mean(status, STATUSES), at_key=True)

    def enter(self, visit: Visit) -> Outcome:
        assert self._of.node is not None, "what is named is a step"
        for status in visit.journey.results.get(self._of.node.id, ()):
            if status in self._arms:
                return self._leave(visit, status)
        return Hold(visit.now + self._within_ms)

    def wake(self, visit: Visit) -> Outcome:
        visit.journal("moved", reason=OTHER)
        return To(self._other)

    def hears(self) -> Iterator[str]:
        return iter(self._events)

    def hear(self, visit: Visit) -> Heard:
        assert self._of.node is not None, "what is named is a step"
        status = visit.answered(self._of.node.id)
        if status is None or status not in self._arms:
            return STAY
        visit.moved_by_event()
        return self._leave(visit, status)

    def asks(self) -> Iterator[tuple[str, str]]:
        if self._of.node is not None:
            for status in self._arms:
                yield self._of.node.id, status

    def ways(self, node: Node) -> Iterator[Node | None]:
        yield from self._arms.values()
        yield self._other

    def _leave(self, visit: Visit, status: str) -> To:
        visit.journal("moved", reason=status)
        return To(self._arms[status])
