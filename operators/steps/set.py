"""The `set` step: write attributes of the user's profile."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from operators.language.flow import JsonValue
from operators.limits import told, write_profile
from operators.machine.context import Visit
from operators.program.build import Build, Value
from operators.steps.base import GO_ON, Outcome, Step, StepModel
from operators.templates import MISSING


class SetModel(StepModel):
    """Write profile attributes; null removes one."""

    kind: ClassVar[str] = "set"
    set: Annotated[dict[str, JsonValue], Field(min_length=1)]

    def build(self, build: Build) -> Step:
        values = []
        for name, raw in self.set.items():
            if not name or "." in name:
                hint = "write a plain name; nested values can be given as a mapping"
                build.problem("bad-name", f"'{name}' is not the name of an attribute", hint, "set", name)
            values.append((name, build.value(raw, "set", name)))
        return SetStep(values)


class SetStep(Step):
    __slots__ = ("_values",)
    kind: ClassVar[str] = "set"

    def __init__(self, values: list[tuple[str, Value]]) -> None:
        self._values = values

    def enter(self, visit: Visit) -> Outcome:
        written: dict[str, Any] = {}
        for name, value in self._values:
            rendered = value.rendered(visit)
            if rendered is MISSING:
                continue  # The attribute stays as it is.
            if not write_profile(visit.user.profile, {name: rendered}):
                visit.out.too_large += 1
                rendered = "too large: the attribute stays as it is"
            written[name] = told(rendered)
        visit.journal("set", detail=written)
        return GO_ON
