"""The `audience` step: let the user be in audiences, or no longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, WithJsonSchema

from operators.conditions.audience import NAMES_SCHEMA
from operators.language.model import Model
from operators.steps.base import GO_ON, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.visit import Visit

_Names = Annotated[Any, WithJsonSchema(NAMES_SCHEMA)]


class AudienceChange(Model):
    """Audiences that the user comes into and leaves."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("join", "create", "in", "enter"), "add"),
        **dict.fromkeys(("leave", "delete", "out", "exit"), "remove"),
    }

    add: Annotated[_Names, Field(description="The user is in these from now on; done first.")] = None
    remove: Annotated[_Names, Field(description="The user is in these no longer.")] = None


class AudienceModel(StepModel):
    """Change the audiences that the user is in."""

    kind: ClassVar[str] = "audience"
    belongs: ClassVar[Mapping[str, str]] = dict.fromkeys(("add", "remove"), "'audience'")
    shapes: ClassVar[Mapping[str, str]] = {"audience": "audience: {add: vip}"}
    may_wait: ClassVar[bool] = False
    parts: ClassVar[tuple[type[Model], ...]] = (AudienceChange,)
    audience: Annotated[AudienceChange, Field(description="The audiences that the user comes into and leaves.")]

    def build(self, build: Build) -> Step | None:
        change = self.audience
        add = build.added_audiences(change.add, "audience", "add") if _is_said(change.add) else []
        remove = build.audiences(change.remove, "audience", "remove") if _is_said(change.remove) else []
        if not (_is_said(change.add) or _is_said(change.remove)):
            hint = "write audience: {add: vip}, or remove"
            build.problem("too-few", "this step names no audience", hint, "audience")
            return None
        for name in add:
            if name in remove:
                said = f"'{name}' is in 'add' and in 'remove', which is done last: the user is in it no longer"
                build.advise("duplicate-audience", said, "remove one of them", "audience", "remove")
        return AudienceStep(add, remove)


def _is_said(names: Any) -> bool:
    return names is not None and names != []


class AudienceStep(Step):
    __slots__ = ("_add", "_remove")
    kind: ClassVar[str] = "audience"

    def __init__(self, add: list[str], remove: list[str]) -> None:
        self._add = add
        self._remove = remove

    def enter(self, visit: Visit) -> Outcome:
        audiences = visit.user.audiences
        added: list[str] = []
        left_out: list[str] = []
        for name in self._add:
            if name not in audiences:
                (added if visit.join(name) else left_out).append(name)
        removed = [name for name in self._remove if audiences.pop(name, None) is not None]
        detail = {"added": added, "removed": removed}
        if left_out:
            detail["left_out"] = left_out
        visit.journal("audience", detail=detail)
        return GO_ON
