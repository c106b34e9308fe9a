"""The `end` step: end the journey, with or without a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from operators.language.values import Name
from operators.steps.base import End, Node, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.visit import Visit


class EndModel(StepModel):
    """End the journey here."""

    kind: ClassVar[str] = "end"
    may_wait: ClassVar[bool] = False
    end: Annotated[Name | None, Field(description="A label for the journal; may be left out.")] = None

    def build(self, build: Build) -> Step:
        return EndStep(self.end)


class EndStep(Step):
    __slots__ = ("_label",)
    kind: ClassVar[str] = "end"

    def __init__(self, label: str | None) -> None:
        self._label = label

    def enter(self, visit: Visit) -> Outcome:
        return End(self._label)

    def ways(self, node: Node) -> Iterator[Node | None]:
        return iter(())
