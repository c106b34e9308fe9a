"""Users in experiments: whether an event is what their experiment is about, also when the journey is long over."""

from __future__ import annotations

from operators.machine.context import InJourney
from operators.machine.deployment import Deployment, Reaction
from operators.machine.outbox import Outbox
from operators.machine.totals import CONVERTED
from operators.program.program import Goal, Program
from state.records import Input
from state.user import Journey, Trial, User


def hear_goal(
    deployment: Deployment, user: User, program: Program, goal: Goal, record: Input, reaction: Reaction, out: Outbox
) -> None:
    """Count *user* as converted if the event is *goal*, comes in time, and is the first of its kind."""
    trial = user.trials.get(goal.experiment)
    if trial is None or trial.is_over or record.now >= trial.begun_ms + goal.within_ms:
        return
    if deployment.judge(goal.experiment, trial.version) is not program:
        return  # Another version, which has another goal, perhaps.
    inside = InJourney(
        record.user_id, user, program, record.now, out, _journey_of(user, trial, program), record, reaction.satisfied
    )
    if not (inside.hears_key() and inside.satisfies(goal.wanted)):
        return
    user.trials[goal.experiment] = trial.over()
    inside.register.convert(goal.experiment, record.user_id)
    inside.tally(CONVERTED)
    heard = inside.heard_cause
    by = {"by": {"message_id": heard.message_id, "event": heard.event}}
    inside.note("converted", step=goal.step, reason=trial.arm, detail=by, cause=inside.cause())


def keep_for_goals(inside: InJourney) -> None:
    """Before its journey is closed, let the user's trials know what goals may ask of it."""
    for goal in inside.program.goals:
        trial = inside.user.trials.get(goal.experiment)
        if trial is not None and trial.journey == inside.journey.id:
            trial.cause = inside.journey.cause
            if trial.entry is not None:
                trial.event = inside.journey.event


def _journey_of(user: User, trial: Trial, program: Program) -> Journey:
    """Return the journey that passed the experiment; one that is over as far as anybody may ask for it."""
    for journey in user.journeys:
        if journey.id == trial.journey and journey.flow == program.name:
            return journey
    cause = trial.cause or ("", None)
    entry = trial.entry or {}
    return Journey(
        program.name, trial.version, trial.journey, trial.key, 0, trial.begun_ms, entry, trial.event, cause, [], {}, {}
    )
