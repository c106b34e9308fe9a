"""The `set` step: write attributes of the user's profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from operators.language.model import JsonValue
from operators.limits import told
from operators.steps.base import GO_ON, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.templates.json_template import JsonTemplate
from operators.templates.missing import MISSING
from operators.visit import Visit


class SetModel(StepModel):
    """Write profile attributes; null removes one."""

    kind: ClassVar[str] = "set"
    shapes: ClassVar[Mapping[str, str]] = {"set": "set: {tier: vip}"}
    may_wait: ClassVar[bool] = False
    set: Annotated[
        dict[str, JsonValue],
        Field(
            min_length=1,
            description="Attributes of the profile; null removes one.",
            json_schema_extra={"propertyNames": {"pattern": r"^[^.]+$"}},
        ),
    ]

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

    def __init__(self, values: list[tuple[str, JsonTemplate]]) -> None:
        self._values = values

    def enter(self, visit: Visit) -> Outcome:
        written: dict[str, Any] = {}
        for name, value in self._values:
            rendered = value.rendered(visit)
            if rendered is MISSING:
                continue  # The attribute stays as it is.
            if not visit.write_profile({name: rendered}):
                rendered = "too large: the attribute stays as it is"
            written[name] = told(rendered)
        visit.journal("set", detail=written)
        return GO_ON
