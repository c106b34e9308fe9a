"""The `parallel` step: the journey goes down several branches at once, and on when all have finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from operators.language.model import RawSteps
from operators.steps.build import Build, StepModel
from operators.steps.fork import LANES_MAX, ForkStep


class ParallelModel(StepModel):
    """Go down all branches at once; the next step runs when all have finished."""

    kind: ClassVar[str] = "parallel"
    mistaken: ClassVar[Mapping[str, str]] = {
        "then": "the next step under it, not in it: it runs when all branches have finished"
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "parallel": "parallel: [[{send: sms, template: hello}], [{wait: 1d}, {send: email, template: hello}]]"
    }
    parallel: Annotated[
        list[RawSteps],
        Field(min_length=1, max_length=LANES_MAX, description="Up to 10 lists of steps, one per branch."),
    ]

    def build(self, build: Build) -> ParallelStep:
        return ParallelStep([build.lane(steps, "parallel", index) for index, steps in enumerate(self.parallel)])


class ParallelStep(ForkStep):
    __slots__ = ()
    kind: ClassVar[str] = "parallel"
