"""The journey machine: begins a journey, moves it from step to step until it holds, and closes it.

It is driven by three things: a trigger (`begin`), a wake-up that has fallen due (`wake`), and an event (`hear`). What a
step does is the step's; what a journey is, how often a step may be visited and how a journey ends is decided here.
"""

from __future__ import annotations

from typing import Any, Final

from operators.ids import Key, journey_id
from operators.machine.context import Visit
from operators.machine.outbox import CONVERTED, ENDED, ENTERED, EXITED, FAILED, InternalError
from operators.program.compile import Exit
from operators.steps.base import GO_ON, STAY, End, Heard, Hold, Node, Outcome, To
from state.iso import TIME_MS_MAX, format_ms
from state.user import NEVER, Branch, Journey

VISITS_MAX: Final = 1000


def begin(visit: Visit, key: Key) -> None:
    """Begin a journey for the trigger that *visit* has heard, and run it until it holds or ends."""
    user, program = visit.user, visit.program
    user.journeys_begun += 1
    message_id, _ = visit.heard_cause
    visit.journey_or_none = Journey(
        flow=program.name,
        version=program.version,
        id=journey_id(program.name, visit.user_id, key, message_id),
        key=key,
        number=user.journeys_begun,
        entered_ms=visit.now,
        entry=visit.heard,
        event=None,
        cause=visit.heard_cause,
        branches=[Branch(0, "", NEVER, visit.now)],
        visits={},
        tallies={},
    )
    user.journeys.append(visit.journey)
    visit.branch = visit.journey.branches[0]
    program.tally(visit.out, ENTERED)
    visit.journal("entered", cause=visit.cause(), step=False)
    _guarded(visit, To(program.first))


def wake(visit: Visit, journey: Journey, branch: Branch) -> None:
    """Go on from the step in which *branch* stands: its wake-up falls due now."""
    visit.journey_or_none = journey
    try:
        _stand(visit, journey, branch)
        branch.wake_ms = NEVER
        outcome = visit.node.step.wake(visit)
    except Exception as error:  # One user's step must never stop the others.
        _fail(visit, error)
        return
    _guarded(visit, outcome)


def hear(visit: Visit, journey: Journey) -> None:
    """Let each open branch of *journey* look at the event; it moves a branch at most once."""
    for branch in list(journey.branches):
        if branch not in journey.branches or journey not in visit.user.journeys:
            return
        try:
            _stand(visit, journey, branch)
            outcome: Heard = visit.node.step.hear(visit)
        except Exception as error:
            _fail(visit, error)
            return
        if outcome is not STAY:
            _guarded(visit, outcome)  # type: ignore[arg-type]


def leave(visit: Visit, journey: Journey, rule: Exit) -> None:
    """End *journey* since *rule* says so: a goal counts as converted."""
    visit.journey_or_none = journey
    message_id, event = visit.heard_cause
    by = {"by": {"message_id": message_id, "event": event}}
    if rule.goal:
        visit.program.tally(visit.out, CONVERTED)
        visit.journal("converted", reason=rule.label, detail=by, cause=visit.cause(), step=False)
    _close(visit, "exited", EXITED, rule.label, detail=by, cause=visit.cause())


def _stand(visit: Visit, journey: Journey, branch: Branch) -> None:
    visit.node = visit.program.nodes[branch.step]
    visit.journey_or_none = journey
    visit.branch = branch


def _guarded(visit: Visit, outcome: Outcome) -> None:
    try:
        _run(visit, outcome)
    except Exception as error:
        _fail(visit, error)


def _run(visit: Visit, outcome: Outcome) -> None:
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
            visit.journal("waiting", detail={"until": format_ms(branch.wake_ms)})
            return
        else:
            assert isinstance(outcome, End)
            _close(visit, "ended", ENDED, outcome.reason)
            return
        if node is None:
            _close(visit, "ended", ENDED, None)
            return
        visit.node = node
        times = visits.get(node.id, 0) + 1
        if times > VISITS_MAX:
            _close(visit, "failed", FAILED, "loop", step=True)
            return
        visits[node.id] = times
        branch.step = node.id
        branch.begun_ms = visit.now
        branch.memo = None
        outcome = node.step.enter(visit)


def fail(visit: Visit, journey: Journey, error: Exception, place: str) -> None:
    """Close *journey*, since looking after it went wrong at *place*, a mistake of ours; nothing to close is fine."""
    visit.journey_or_none = journey
    if journey in visit.user.journeys:
        _fail(visit, error, place)


def _fail(visit: Visit, error: Exception, place: str = "step") -> None:
    visit.out.errors.append(InternalError(place, visit.program.label, error))
    detail = {"error": f"{type(error).__name__}: {error}"[:500]}
    # Before a journey has come to its first step there is no step to name.
    _close(visit, "failed", FAILED, "error", detail=detail, step=hasattr(visit, "node"))


def _close(
    visit: Visit,
    kind: str,
    total: str,
    reason: str | None,
    *,
    cause: dict[str, str | None] | None = None,
    detail: dict[str, Any] | None = None,
    step: bool = False,
) -> None:
    """End the journey: exactly once, and for a reason that the journal has."""
    visit.user.journeys.remove(visit.journey)
    visit.program.tally(visit.out, total if reason is None else f"{total}:{reason}")
    visit.journal(kind, reason=reason, cause=cause, detail=detail, step=step)
