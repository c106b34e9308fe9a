"""The `wait_for` step: hold a journey until the first of several events, or until a deadline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

from operators.conditions.implied import first_implied
from operators.conditions.wanted import Wanted
from operators.language.model import EventModel, RawArms
from operators.language.values import Name, WaitDuration
from operators.steps.base import STAY, Heard, Hold, Node, Outcome, Step, To
from operators.steps.build import Build, StepModel
from operators.visit import Visit

LABELS_MAX: Final = 8
TIMEOUT: Final = "timeout"


class AwaitedModel(EventModel):
    """An event to wait for, and how many of it."""

    at_least: Annotated[StrictInt, Field(ge=1, description="So many of them.")] = 1


def _must_have_labels(raw: Any) -> Any:
    if isinstance(raw, dict) and isinstance(raw.get("event"), str):
        hint = f"give the event a label of your own: wait_for: {{done: {{event: {raw['event']}}}}}"
        text = "'event' stands where a label is needed"
        raise PydanticCustomError("wrong-type", "{text}", {"text": text, "hint": hint})
    return raw


class WaitForModel(StepModel):
    """Wait for the first of up to 8 events, at most until the timeout."""

    kind: ClassVar[str] = "wait_for"
    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("within", "for", "until"), "timeout"),
        "else": "then: {timeout: [..]}",
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "wait_for": "wait_for: {paid: {event: purchase}}, where paid is a label of your own",
        "then": "then: {paid: [..], timeout: [..]}",
    }
    wait_for: Annotated[
        dict[Name, AwaitedModel],
        Field(
            min_length=1,
            max_length=LABELS_MAX,
            description="Up to 8 labels with an event each; the first that comes wins.",
        ),
        BeforeValidator(_must_have_labels),
    ]
    timeout: Annotated[WaitDuration, Field(description="The most to wait. At most 366d.")]
    then: Annotated[
        RawArms,
        Field(description="What happens next, by label, or at timeout. Labels that are not here just go on."),
    ] = {}

    def build(self, build: Build) -> Step | None:
        if TIMEOUT in self.wait_for:
            build.problem(
                "reserved-label", f"'{TIMEOUT}' is not free as a label", "choose another", "wait_for", TIMEOUT
            )
            return None
        build.known_labels(self.then, [*self.wait_for, TIMEOUT])
        self._note_order(build)
        awaited = []
        for label, written in self.wait_for.items():
            wanted = build.wanted(written, "wait_for", label)
            awaited.append(Awaited(label, wanted, written.at_least, build.arm(self.then, label)))
        return WaitForStep(awaited, self.timeout, build.arm(self.then, TIMEOUT))

    def _note_order(self, build: Build) -> None:
        """Of labels with the same event the first wins, so their order is part of what the flow does."""
        of_events = Counter(one.event for one in self.wait_for.values())
        together = [label for label, one in self.wait_for.items() if of_events[one.event] > 1]
        if together:
            build.note_order(together, "wait_for")


@dataclass(frozen=True, slots=True)
class Awaited:
    """One label: the event, how many of it, and where the journey goes on when they have come."""

    label: str
    wanted: Wanted
    at_least: int
    then: Node | None


def _asks_for_no_less(one: Wanted, other: Wanted) -> bool:
    """Tell whether every event that *one* wants is wanted by *other*, too."""
    return one.event == other.event and all(
        theirs is None or (ours is not None and any(first_implied([theirs, ours])))
        for ours, theirs in ((one.fixed, other.fixed), (one.live, other.live))
    )


class WaitForStep(Step):
    __slots__ = ("_awaited", "_late", "_timeout_ms")
    kind: ClassVar[str] = "wait_for"
    holds: ClassVar[bool] = True

    def __init__(self, awaited: list[Awaited], timeout_ms: int, late: Node | None) -> None:
        self._awaited = awaited
        self._timeout_ms = timeout_ms
        self._late = late

    def enter(self, visit: Visit) -> Outcome:
        return Hold(visit.now + self._timeout_ms, memo={})

    def wake(self, visit: Visit) -> Outcome:
        visit.journal("moved", reason=TIMEOUT)
        return To(self._late)

    def hears(self) -> Iterator[str]:
        return (one.wanted.event for one in self._awaited)

    def hear(self, visit: Visit) -> Heard:
        if not visit.hears_key():
            return STAY
        counts: dict[str, Any] = visit.branch.memo
        won: Awaited | None = None
        for one in self._awaited:
            if visit.satisfies(one.wanted):
                counts[one.label] = counts.get(one.label, 0) + 1
                if won is None and counts[one.label] >= one.at_least:
                    won = one
        if won is None:
            return STAY
        visit.moved_by_event()
        visit.journal("moved", reason=won.label)
        return To(won.then)

    def has_lost_its_memo(self, memo: Any) -> bool:
        return memo.__class__ is not dict  # The events that were counted so far, by label.

    def never_taken(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for index, one in enumerate(self._awaited):
            for earlier in self._awaited[:index]:
                if earlier.at_least <= one.at_least and _asks_for_no_less(one.wanted, earlier.wanted):
                    yield ("wait_for", one.label), earlier.label
                    break

    def ways(self, node: Node) -> Iterator[Node | None]:
        for one in self._awaited:
            yield one.then
        yield self._late
