"""The journey machine: begins a journey, moves it from step to step until it holds, and closes it.

It is driven by three things: a trigger (`begin`), a wake-up that has fallen due (`wake`), and an event (`hear`). What a
step does is the step's; what a journey is, how often a step may be visited and how a journey ends is decided here.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, UnsetType

from operators.ids import Key, action_id, journey_id
from operators.machine.context import AtStep, InJourney, Moment
from operators.machine.outbox import Keeper, Mistake, Place
from operators.machine.totals import CONVERTED, ENDED, ENTERED, ERROR, EXITED, FAILED, LOOP
from operators.program.program import Exit
from operators.steps.base import GO_ON, End, Hold, Node, Outcome, Stay, To
from state.iso import TIME_MS_MAX, format_ms
from state.outgoing import Cause, JournalKind
from state.user import NEVER, Branch, Journey

VISITS_MAX: Final = 1000


def begin(moment: Moment, key: Key) -> None:
    """Begin a journey for the trigger that *moment* has heard, and run it until it holds or ends."""
    user, program, record = moment.user, moment.program, moment.record
    assert record is not None, "a journey begins with an event"
    assert program.first is not None, "a flow has a step"
    user.journeys_begun += 1
    journey = Journey(
        flow=program.name,
        version=program.version,
        id=journey_id(program.name, moment.user_id, key, record.message_id),
        key=key,
        number=user.journeys_begun,
        entered_ms=moment.now,
        entry=moment.heard,
        event=None,
        cause=(record.message_id, record.name or None),
        branches=[Branch(0, "", NEVER, moment.now)],
        visits={},
        tallies={},
    )
    inside = InJourney(moment.user_id, user, program, moment.now, moment.out, journey, record, moment.satisfied)
    user.journeys.append(journey)
    inside.tally(ENTERED)
    inside.note("entered", cause=inside.cause())
    _guarded(AtStep(inside, journey.branches[0], program.first), To(program.first))


def wake(inside: InJourney, branch: Branch) -> None:
    """Go on from the step in which *branch* stands: its wake-up falls due now."""
    try:
        visit = AtStep(inside, branch, inside.program.nodes[branch.step])
        branch.wake_ms = NEVER
        outcome = visit.node.step.wake(visit)
    except Exception as error:  # One user's step must never stop the others.
        fail(inside, error, "step", step=branch.step)
        return
    _guarded(visit, outcome)


def hear(inside: InJourney) -> None:
    """Let each open branch of the journey look at the event; it moves a branch at most once.

    While the flow is paused nothing moves, and only steps that want it look.
    """
    journey, nodes, is_paused = inside.journey, inside.program.nodes, inside.program.is_paused
    for branch in list(journey.branches):
        if branch not in journey.branches or journey not in inside.user.journeys:
            return
        try:
            visit = AtStep(inside, branch, nodes[branch.step])
            if is_paused and not visit.node.step.hears_when_paused:
                continue
            outcome = visit.node.step.hear(visit)
        except Exception as error:
            fail(inside, error, "step", step=branch.step)
            return
        if not isinstance(outcome, Stay):
            _guarded(visit, outcome)


def leave(inside: InJourney, rule: Exit) -> None:
    """End the journey since *rule* says so: a goal counts as converted."""
    heard = inside.heard_cause
    by = {"by": {"message_id": heard.message_id, "event": heard.event}}
    if rule.goal:
        inside.tally(CONVERTED)
        inside.note("converted", reason=rule.label, detail=by, cause=inside.cause())
    _close(inside, "exited", EXITED, rule.label, detail=by, cause=inside.cause())


def fail(inside: InJourney, error: Exception, place: Place, step: str | UnsetType = UNSET) -> None:
    """Close the journey, since looking after it went wrong at *place*, a mistake of ours; nothing to close is fine."""
    inside.out.mistakes.append(Mistake(place, inside.program.label, error))
    if inside.journey not in inside.user.journeys:
        return
    detail = {"error": f"{type(error).__name__}: {error}"[:500]}
    _close(inside, "failed", FAILED, ERROR, detail=detail, step=step)


def _guarded(visit: AtStep, outcome: Outcome) -> None:
    try:
        _run(visit, outcome)
    except Exception as error:
        fail(visit, error, "step", step=visit.node.id)


def _run(visit: AtStep, outcome: Outcome) -> None:
    """Follow *outcome*, and whatever the steps on the way answer, until the branch holds or the journey ends."""
    branch, visits = visit.branch, visit.journey.visits
    while True:
        node: Node | None
        if outcome is GO_ON:
            node = visit.node.next
        elif isinstance(outcome, To):
            node = outcome.node
        elif isinstance(outcome, Hold):
            branch.wake_ms = min(outcome.until_ms, TIME_MS_MAX)
            branch.memo = outcome.memo
            if not outcome.still:
                visit.journal("waiting", detail={"until": format_ms(branch.wake_ms)})
            return
        else:
            assert isinstance(outcome, End)
            _close(visit, "ended", ENDED, outcome.reason, step=visit.step)
            return
        if node is None:
            _close(visit, "ended", ENDED, None, step=visit.step)
            return
        visit.node = node
        times = visits.get(node.id, 0) + 1
        if times > VISITS_MAX:
            _close(visit, "failed", FAILED, LOOP, step=node.id)
            return
        visits[node.id] = times
        branch.step = node.id
        branch.begun_ms = visit.now
        branch.memo = None
        outcome = node.step.enter(visit)


def _close(
    inside: InJourney,
    kind: JournalKind,
    total: str,
    reason: str | None,
    *,
    cause: Cause | None = None,
    detail: dict[str, Any] | None = None,
    step: str | UnsetType = UNSET,
) -> None:
    """End the journey: exactly once, and for a reason that the journal has."""
    inside.user.journeys.remove(inside.journey)
    if inside.out.keeper is not None:
        _let_go(inside, inside.out.keeper)
    inside.tally(total, reason)
    inside.note(kind, reason=reason, cause=cause, detail=detail, step=step)


def _let_go(inside: InJourney, keeper: Keeper) -> None:
    """Say what the journey may have sent, so that it is known for a while, and then no longer."""
    journey = inside.journey
    ids = [
        action_id(journey.id, step, visit)
        for step in inside.program.sends
        for visit in range(1, journey.visits.get(step, 0) + 1)
    ]
    if ids:
        keeper.close(inside.user_id, journey.number, inside.now, ids)
