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
from operators.machine.trials import keep_for_goals
from operators.program.program import Exit
from operators.steps.base import GO_ON, End, Hold, Node, Outcome, Stay, To
from operators.steps.fork import ForkStep
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
    """Follow *outcome*, and whatever the steps on the way answer, until the branch holds or the journey ends.

    Where it forks, the branches run one after the other, each until it holds or has finished.
    """
    visits = visit.journey.visits
    unstarted: list[Branch] = []  # The next one is the last.
    while True:
        node: Node | None
        if outcome is GO_ON:
            node = visit.node.next
        elif isinstance(outcome, To):
            node = outcome.node
        elif isinstance(outcome, Hold):
            branch = visit.branch
            branch.wake_ms = min(outcome.until_ms, TIME_MS_MAX)
            branch.memo = outcome.memo
            if not outcome.still:
                visit.journal("waiting", detail={"until": format_ms(branch.wake_ms)})
            if not unstarted:
                return
            outcome = _start(visit, unstarted.pop())
            continue
        elif isinstance(outcome, End):
            _close(visit, "ended", ENDED, outcome.reason, step=visit.step)
            return
        else:
            unstarted += _fork(visit)
            outcome = _start(visit, unstarted.pop())
            continue
        if node is None:
            if not visit.branch.scope:
                _close(visit, "ended", ENDED, None, step=visit.step)
                return
            joined = _join(visit)
            if joined is not None:
                outcome = joined
            elif unstarted:
                outcome = _start(visit, unstarted.pop())
            else:
                return
            continue
        visit.node = node
        times = visits.pop(node.id, 0) + 1
        if times > VISITS_MAX:
            _close(visit, "failed", FAILED, LOOP, step=node.id)
            return
        visits[node.id] = times
        branch = visit.branch
        branch.step = node.id
        branch.begun_ms = visit.now
        branch.memo = None
        outcome = node.step.enter(visit)


# ---- branches ------------------------------------------------------------------------------------------------------


def _fork(visit: AtStep) -> list[Branch]:
    """Replace the branch by those of the step at which it stands, and return them, the first one last.

    From here on, the lane that it was in has no branch until the last of these has finished. So there is never one that
    nothing will wake.
    """
    branches, fork = visit.journey.branches, visit.node
    assert isinstance(fork.step, ForkStep), "only such a step forks"
    forked = [Branch(lane.number, fork.id, NEVER, visit.now, scope=fork.id) for lane in fork.step.lanes]
    index = branches.index(visit.branch)
    branches[index : index + 1] = forked
    return forked[::-1]


def _start(visit: AtStep, branch: Branch) -> Outcome:
    """Let *branch*, one of a step that has forked, begin."""
    visit.branch = branch
    visit.node = visit.program.nodes[branch.scope]
    assert isinstance(visit.node.step, ForkStep), "only such a step forks"
    return visit.node.step.start(visit)


def _join(visit: AtStep) -> To | None:
    """Take the branch out of the journey: it has finished. The last one of its fork goes on as the one that forked.

    Returns:
        Where it goes on, None while others are left.
    """
    branches, lane = visit.journey.branches, visit.program.lanes[visit.branch.number]
    fork, parent = lane.fork, lane.parent
    assert fork is not None, "a branch with a scope has forked"
    assert parent is not None, "a branch with a scope has forked"
    assert isinstance(fork.step, ForkStep), "only such a step forks"
    first, last = fork.step.lanes[0].number, fork.step.lanes[-1].last
    index = branches.index(visit.branch)
    if any(first <= one.number <= last for one in branches if one is not visit.branch):
        del branches[index]
        return None
    visit.branch = branches[index] = Branch(parent.number, fork.id, NEVER, visit.now, scope=parent.scope)
    # Should the journey end now, it has ended with the last step that was begun, in whatever branch.
    visit.node = visit.program.nodes[next(reversed(visit.journey.visits))]
    return To(fork.next)


# ---- the end -------------------------------------------------------------------------------------------------------


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
    if inside.program.goals:
        keep_for_goals(inside)
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
