"""The `goto` step: continue at another step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from operators.steps.base import Node, Outcome, Step, To
from operators.steps.build import Build, Reference, StepModel
from operators.visit import Visit


class GotoModel(StepModel):
    """Continue at the step with this id."""

    kind: ClassVar[str] = "goto"
    may_wait: ClassVar[bool] = False
    goto: Annotated[str, Field(strict=True, description="The id of the step to go on at. A loop needs a wait on it.")]

    def build(self, build: Build) -> Step:
        return GotoStep(build.jump(self.goto, "goto"))


class GotoStep(Step):
    __slots__ = ("_target",)
    kind: ClassVar[str] = "goto"

    def __init__(self, target: Reference) -> None:
        self._target = target

    def enter(self, visit: Visit) -> Outcome:
        return To(self._target.node)

    def ways(self, node: Node) -> Iterator[Node | None]:
        if self._target.node is not None:
            yield self._target.node
