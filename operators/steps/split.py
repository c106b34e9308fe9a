"""The `split` step: each user takes one of several arms by a stable hash, the same one every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final

from pydantic import Field

from operators.language.model import RawArms
from operators.language.values import Name, Percent
from operators.shares import Shares
from operators.steps.base import Node, Outcome, Step, To
from operators.steps.build import Build, StepModel
from operators.visit import Visit

ARMS_MIN: Final = 2
ARMS_MAX: Final = 30


class SplitModel(StepModel):
    """Send a fixed share of the users down each arm."""

    kind: ClassVar[str] = "split"
    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("arms", "steps", "branches"), "then"),
        "else": "an arm for them: split: {a: 50%, rest: 50%}",
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "split": "split: {a: 50%, b: 50%}, where a and b are labels of your own",
        "then": "then: {a: [..], b: [..]}",
    }
    may_wait: ClassVar[bool] = False
    split: Annotated[
        dict[Name, Percent],
        Field(
            min_length=ARMS_MIN,
            max_length=ARMS_MAX,
            description="2 to 30 labels with a share each; together 100%. In this order they are filled.",
        ),
    ]
    then: Annotated[
        RawArms, Field(description="What happens next, by label. Labels that are not here just go on.")
    ] = {}

    def build(self, build: Build) -> Step | None:
        build.known_labels(self.then, [*self.split])
        build.note_order(self.split, "split", since_ever=True)
        arms = {label: build.arm(self.then, label) for label in self.split}
        if not build.is_whole(self.split, "split"):
            return None
        return SplitStep(Shares(self.split), arms)


class SplitStep(Step):
    __slots__ = ("_arms", "_shares")
    kind: ClassVar[str] = "split"

    def __init__(self, shares: Shares, arms: dict[str, Node | None]) -> None:
        self._shares = shares
        self._arms = arms

    def enter(self, visit: Visit) -> Outcome:
        label = self._shares.arm_of(visit.flow, visit.user_id, visit.step)
        visit.journal("moved", reason=label)
        return To(self._arms[label])

    def ways(self, node: Node) -> Iterator[Node | None]:
        yield from self._arms.values()
