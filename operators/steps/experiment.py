"""The `experiment` step: arms by a stable hash until so many users are in, then the one that has won for everybody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, Final

from pydantic import Field

from operators.conditions.wanted import Wanted
from operators.language.model import EventModel, Model, PositiveInt, RawArms
from operators.language.problems import did_you_mean
from operators.language.values import Duration, Name, Percent
from operators.shares import Shares
from operators.steps.base import Node, Outcome, Step, To
from operators.steps.build import Build, StepModel
from operators.steps.split import ARMS_MAX, ARMS_MIN
from operators.visit import Visit
from state.register import ArmCounts, Decide

BEST: Final = "best"


class GoalModel(EventModel):
    """The event that makes a user count as converted."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **EventModel.mistaken,
        **dict.fromkeys(("timeout", "for", "window", "last"), "within"),
    }

    within: Annotated[Duration, Field(description="So long after the user's first passage.")]


class TrialModel(Model):
    """Arms with their shares, what counts as success, and when it is over."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("split", "variants", "groups"), "arms"),
        **dict.fromkeys(("users", "sample", "limit", "stop", "after"), "stop_after"),
        **dict.fromkeys(("metric", "success", "event"), "goal"),
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "arms": "arms: {a: 50%, b: 50%}",
        "goal": "goal: {event: purchase, within: 3d}",
        "stop_after": "stop_after: 1000",
    }

    arms: Annotated[
        dict[Name, Percent],
        Field(
            min_length=ARMS_MIN,
            max_length=ARMS_MAX,
            description="2 to 30 labels with a share each; together 100%. In this order they are filled.",
        ),
    ]
    goal: Annotated[GoalModel, Field(description="What counts as success.")]
    stop_after: Annotated[
        PositiveInt, Field(description="Once so many users are in, the arm that has won is decided, for ever.")
    ]
    winner: Annotated[
        str, Field(description="best: the arm with the highest share of converted users; or the name of an arm.")
    ]


class ExperimentModel(StepModel):
    """Try arms out on so many users; then everybody takes the one that has won."""

    kind: ClassVar[str] = "experiment"
    mistaken: ClassVar[Mapping[str, str]] = {"else": "then"}
    belongs: ClassVar[Mapping[str, str]] = dict.fromkeys(("arms", "goal", "stop_after", "winner"), "'experiment'")
    shapes: ClassVar[Mapping[str, str]] = {
        "experiment": "experiment: {arms: {a: 50%, b: 50%}, goal: {event: purchase, within: 3d}, stop_after: 1000, "
        "winner: best}",
        "then": "then: {a: [..], b: [..]}",
    }
    may_wait: ClassVar[bool] = False
    experiment: Annotated[TrialModel, Field(description="The arms, the goal, and when it is over.")]
    then: Annotated[RawArms, Field(description="What happens next, by arm. Arms that are not here just go on.")] = {}

    def build(self, build: Build) -> Step | None:
        trial = self.experiment
        labels = list(trial.arms)
        build.known_labels(self.then, labels)
        build.note_order(labels, "experiment", "arms", since_ever=True)
        arms = {label: build.arm(self.then, label) for label in labels}
        is_sound = build.is_whole(trial.arms, "experiment", "arms")
        goal = build.wanted(trial.goal, "experiment", "goal")
        if trial.winner != BEST and trial.winner not in labels:
            message = f"'{trial.winner}' is not an arm of this experiment"
            build.problem("unknown-label", message, did_you_mean(trial.winner, [BEST, *labels]), "experiment", "winner")
            return None
        if not is_sound:
            return None
        return ExperimentStep(
            Shares(trial.arms),
            arms,
            build.arm({}, ""),
            goal,
            trial.goal.within,
            trial.stop_after,
            None if trial.winner == BEST else trial.winner,
        )


def best_of(labels: tuple[str, ...], counts: Mapping[str, ArmCounts]) -> str:
    """Return the arm with the highest share of converted users; of equal ones the first as written."""
    best, its = labels[0], counts.get(labels[0], ArmCounts(0, 0))
    for label in labels[1:]:
        one = counts.get(label, ArmCounts(0, 0))
        # converted / entered, compared exactly; where nobody has entered it is 0.
        if one.converted * max(its.entered, 1) > its.converted * max(one.entered, 1):
            best, its = label, one
    return best


class ExperimentStep(Step):
    """The runtime step.

    Args:
        after: where a journey goes on whose arm this version of the flow does not have.
        winner: the arm that was named to win; None: the best.
    """

    __slots__ = ("_after", "_arms", "_decide", "_shares", "_stop_after", "goal", "within_ms")
    kind: ClassVar[str] = "experiment"

    def __init__(
        self,
        shares: Shares,
        arms: dict[str, Node | None],
        after: Node | None,
        goal: Wanted,
        within_ms: int,
        stop_after: int,
        winner: str | None,
    ) -> None:
        self.goal = goal
        self.within_ms = within_ms
        self._shares = shares
        self._arms = arms
        self._after = after
        self._stop_after = stop_after
        self._decide: Decide = partial(best_of, tuple(arms)) if winner is None else lambda _: winner

    def enter(self, visit: Visit) -> Outcome:
        own = self._shares.arm_of(visit.flow, visit.user_id, visit.step)
        # Only a goal that is judged by the journey needs to know it when it is over.
        taken = visit.try_out(own, self._stop_after, self._decide, keeps_fields=self.goal.live is not None)
        visit.journal("moved", reason=taken)
        return To(self._arms.get(taken, self._after))

    def ways(self, node: Node) -> Iterator[Node | None]:
        yield from self._arms.values()
