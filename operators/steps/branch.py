"""The `branch` step: the first arm whose condition holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, WithJsonSchema

from operators.conditions.base import Condition
from operators.conditions.implied import first_implied
from operators.language.model import Model, RawSteps, RawWhen, sound_part
from operators.language.values import Name
from operators.steps.base import GO_ON, Node, Outcome, Step, To
from operators.steps.build import Build, StepModel
from operators.visit import Visit

_STEPS: Final = "a list of steps, one after the other"


class ArmModel(Model):
    """One arm: a condition and what to do when it holds."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("then", "do", "actions"), "steps"),
        **dict.fromkeys(("if", "where", "condition"), "when"),
        **dict.fromkeys(("id", "name"), "label"),
    }
    shapes: ClassVar[Mapping[str, str]] = {"steps": "steps: [{send: sms, template: hello}]"}

    when: Annotated[RawWhen, Field(description="The condition.")]
    label: Annotated[
        Name | None, Field(description="The name of this arm in the journal. Default: its number from 0.")
    ] = None
    steps: Annotated[RawSteps, Field(description=_STEPS)] = []


class ElseModel(Model):
    """The last arm: what to do when no condition holds."""

    shapes: ClassVar[Mapping[str, str]] = {"else": "else: [{send: sms, template: hello}]"}

    else_: Annotated[RawSteps, Field(alias="else", description=_STEPS)]


_ARMS = {"type": "array", "minItems": 1, "items": {"anyOf": [{"$ref": "#/$defs/Arm"}, {"$ref": "#/$defs/Else"}]}}


class BranchModel(StepModel):
    """Go down the first arm whose condition holds."""

    kind: ClassVar[str] = "branch"
    belongs: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("when", "steps", "else", "label"), "an arm in the list of 'branch'"
    )
    shapes: ClassVar[Mapping[str, str]] = {
        "branch": "branch: [{when: {profile.tier: gold}, steps: [..]}, {else: [..]}]"
    }
    may_wait: ClassVar[bool] = False
    parts: ClassVar[tuple[type[Model], ...]] = (ArmModel, ElseModel)
    branch: Annotated[
        list[Any],
        WithJsonSchema(_ARMS),
        Field(
            min_length=1,
            description="Arms with a condition each; the first that holds wins. The last may be else.",
        ),
    ]

    def build(self, build: Build) -> Step | None:
        arms: list[tuple[str, Condition | None, Node | None]] = []
        labels: set[str] = set()
        sound = True
        for index, raw in enumerate(self.branch):
            place = ("branch", index)
            if isinstance(raw, dict) and "else" in raw:
                otherwise = build.checked(ElseModel, raw, *place)
                if otherwise is None:
                    sound = False
                    continue
                if index != len(self.branch) - 1:
                    build.problem("unreachable-step", "nothing comes after 'else'", "move it to the end", *place)
                    sound = False
                arms.append(("else", None, build.steps(otherwise.else_, *place, "else")))
                continue
            arm = build.checked(ArmModel, raw, *place)
            if arm is None:
                sound = False
                arm = sound_part(ArmModel, raw)
            if arm is None:
                continue
            label = arm.label or str(index)
            if label == "else":
                build.problem("reserved-label", "'else' is not free as a label", "choose another", *place, "label")
            elif label in labels:
                build.problem("duplicate-label", f"two arms are labelled '{label}'", "rename one", *place, "label")
            labels.add(label)
            when = build.when(arm.when, *place, "when")
            arms.append((label, when, build.steps(arm.steps, *place, "steps")))
            sound = sound and when is not None
        return BranchStep(arms) if sound else None


class BranchStep(Step):
    __slots__ = ("_arms",)
    kind: ClassVar[str] = "branch"

    def __init__(self, arms: list[tuple[str, Condition | None, Node | None]]) -> None:
        self._arms = arms

    def enter(self, visit: Visit) -> Outcome:
        for label, when, node in self._arms:
            if when is None or when.holds(visit):
                visit.journal("moved", reason=label)
                return To(node)
        visit.journal("moved", reason="none")
        return GO_ON

    def never_taken(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for index, before in first_implied([when for _, when, _ in self._arms]):
            yield ("branch", index), self._arms[before][0]

    def ways(self, node: Node) -> Iterator[Node | None]:
        for _, _, arm in self._arms:
            yield arm
        if not self._arms or self._arms[-1][1] is not None:
            yield node.next
