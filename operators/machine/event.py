"""One user, one record or wake-up: everything that follows from it, in the order that the language promises.

For a record at stream time `now`: wake-ups due at or before it; duplicates are dropped; traits are merged; counters
take the event in; open journeys look at it; triggers fire. Pure: it changes the one user it is given and adds to the
outbox it is given, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Final

from operators.conditions.tree import dig
from operators.ids import is_key, key_text
from operators.language.values import DAY, HOUR
from operators.limits import COUNTERS_MAX, make_room, write_profile
from operators.machine.context import Visit
from operators.machine.deployment import Deployment, Plan, Window
from operators.machine.entry import try_to_enter
from operators.machine.journey import fail, hear, leave, wake
from operators.machine.memory import REPEAT_MS, forget_oldest_ids
from operators.machine.outbox import REFUSED, InternalError, Outbox
from operators.program.compile import Alternative, Program
from state.records import Input
from state.user import Branch, Journey, User

SEEN_PRUNED_AT: Final = 32
POSTPONED_MS: Final = HOUR


def on_record(deployment: Deployment, user: User, record: Input, out: Outbox) -> None:
    """Handle *record* for *user*; wake-ups that were due by then have been handled by `on_due`."""
    now = record.now
    if record.id_sent:
        seen, message_id = user.seen, record.message_id
        taken = seen.get(message_id)
        if taken is not None and now - taken < REPEAT_MS:
            out.duplicates += 1
            return
        if len(seen) >= SEEN_PRUNED_AT and len(seen) % SEEN_PRUNED_AT == 0:
            if forget_oldest_ids(seen, now):
                out.ids_forgotten += 1
            deployment.memory.forget_entries(user, now)
        if taken is not None:
            seen.pop(message_id, None)  # Else it would stay among the oldest, where it was.
        seen[message_id] = now
    hits = record.hits
    if hits or record.id_sent:
        user.day = now // DAY + deployment.memory.days
    if record.traits is not None and not write_profile(user.profile, record.traits):
        out.too_large += 1
    if not hits:
        return
    plan = deployment.plans.get(hits) or deployment.plan(hits)
    for window in plan.windows:
        try:
            _enter_window(user, record, window, out)
        except Exception as error:  # A mistake of ours must not take the rest of what the event does with it.
            _note(out, "window", window.program, record, error)
    fired = _fired(user, record, plan, out) if plan.triggers else None
    if user.journeys:
        _tell_journeys(deployment, user, record, out)
    if fired:
        for program in fired:
            visit = _visit(user, record, program, out)
            try:
                try_to_enter(visit)
            except Exception as error:
                _note(out, "entry", program, record, error)
                _refuse(visit, error)


def on_due(deployment: Deployment, user_id: str, user: User, now: int, out: Outbox) -> None:
    """Fire the wake-ups of *user* that are due by *now*: by due time, priority, entry; each as of its time."""
    while True:
        first: tuple[int, int, int, int] | None = None
        found: tuple[Program, Journey, Branch] | None = None
        for journey in user.journeys:
            program = deployment.program(journey.flow, journey.version)
            if program.is_paused:
                continue
            for branch in journey.branches:
                if branch.wake_ms <= now:
                    rank = (branch.wake_ms, -program.priority, journey.number, branch.number)
                    if first is None or rank < first:
                        first, found = rank, (program, journey, branch)
        if first is None or found is None:
            break
        program, journey, branch = found
        wake(Visit(user_id, user, program, first[0], out), journey, branch)
    if not user.journeys and deployment.memory.due(user) <= now:
        deployment.memory.forget(user, now)


def postpone(deployment: Deployment, user: User, now: int) -> None:
    """Put off what is due for *user* by now: waking it went wrong, before any journey was there to be failed.

    So nothing is lost and nobody else has to wait; the next software may be able to do it.
    """
    for journey in user.journeys:
        for branch in journey.branches:
            if branch.wake_ms <= now:
                branch.wake_ms = now + POSTPONED_MS
    if not user.journeys:
        user.day = now // DAY + 1 + deployment.memory.days


def _note(out: Outbox, place: str, program: Program, record: Input, error: Exception) -> None:
    out.errors.append(InternalError(place, program.label, error, record.source, record.offset))


def _refuse(visit: Visit, error: Exception) -> None:
    """Journal that entry went wrong; a journey that had begun is closed as failed."""
    if visit.journey_or_none is not None:
        fail(visit, visit.journey_or_none, error, "entry")
        return
    message_id, event = visit.heard_cause
    visit.program.tally(visit.out, f"{REFUSED}:error")
    cause = {"message_id": message_id, "event": event}
    visit.journal("refused", reason="error", detail={"error": type(error).__name__}, cause=cause)


def _visit(user: User, record: Input, program: Program, out: Outbox) -> Visit:
    visit = Visit(record.user_id, user, program, record.now, out)
    visit.heard = record.properties
    visit.heard_cause = (record.message_id, record.name)
    visit.hits = record.hits
    return visit


# ---- counters ------------------------------------------------------------------------------------------------------


def _enter_window(user: User, record: Input, window: Window, out: Outbox) -> None:
    """Let the window of a `did` take the event in: the latest times, as many as anybody asks for."""
    if window.live is not None and not window.live.holds(_visit(user, record, window.program, out)):
        return
    at = min(record.at_ms, record.now)
    times = user.windows.setdefault(window.id, [])
    assert isinstance(times, list)
    _insert(times, at, record.now - window.reach_ms)
    del times[: -window.keep]
    if not times:
        del user.windows[window.id]


def _insert(times: list[int], at: int, since: int) -> None:
    """Insert *at* into the sorted *times* and drop those at or before *since*, which no window reaches any more."""
    if not times or at >= times[-1]:
        times.append(at)
    else:
        insort(times, at)
    if times[0] <= since:
        del times[: bisect_right(times, since)]


def _fired(user: User, record: Input, plan: Plan, out: Outbox) -> list[Program] | None:
    """Return the programs whose trigger fires; every alternative that fires uses its events up."""
    fired: list[Program] | None = None
    for program, alternatives in plan.triggers:
        fires = False
        for alternative in alternatives:
            try:
                live = alternative.ask.live
                if live is not None and not live.holds(_visit(user, record, program, out)):
                    continue
                if not alternative.counter or _counted(user, record, program, alternative):
                    fires = True
            except Exception as error:
                _note(out, "trigger", program, record, error)
        if fires:
            if fired is None:
                fired = [program]
            else:
                fired.append(program)
    return fired


def _counted(user: User, record: Input, program: Program, alternative: Alternative) -> bool:
    """Count the event, and tell whether that makes the number the trigger asks for."""
    name = alternative.counter
    if program.key_path is not None:
        value = dig(record.properties, program.key_path)
        if is_key(value):
            name = f"{name}\x1f{'t' if isinstance(value, str) else 'v'}{key_text(value)}"
    windows = user.windows
    if len(windows) >= COUNTERS_MAX and name not in windows:
        make_room(windows, COUNTERS_MAX)
    if alternative.within is None:
        count = windows.get(name, 0)
        assert isinstance(count, int)
        if count + 1 < alternative.at_least:
            windows[name] = count + 1
            return False
        windows.pop(name, None)
        return True
    now, at = record.now, record.at_ms
    at = min(at, now)
    since = now - alternative.within
    times = windows.get(name)
    if times is None:
        if at <= since:
            return False  # Older than the window: it never counts.
        if alternative.at_least > 1:
            windows[name] = [at]
            return False
        return True
    assert times.__class__ is list
    _insert(times, at, since)
    if len(times) >= alternative.at_least:
        del windows[name]
        return True
    if not times:
        del windows[name]
    return False


# ---- open journeys -------------------------------------------------------------------------------------------------


def _tell_journeys(deployment: Deployment, user: User, record: Input, out: Outbox) -> None:
    """Let the open journeys of *user* take the event in: their own counts, then exits, then the steps they wait in."""
    listening: list[tuple[int, int, Journey, Visit]] = []
    failing: list[tuple[Journey, Visit, Exception]] | None = None
    for journey in user.journeys:
        program = deployment.program(journey.flow, journey.version)
        if record.name not in program.hears:
            continue
        visit = _visit(user, record, program, out)
        visit.journey_or_none = journey
        try:
            if not visit.hears_key():
                continue
            for name, ask in program.tallies:
                if visit.satisfies(ask):
                    journey.tallies[name] = journey.tallies.get(name, 0) + 1
        except Exception as error:
            failing = [*(failing or ()), (journey, visit, error)]
        else:
            listening.append((-program.priority, journey.number, journey, visit))
    for journey, visit, wrong in failing or ():  # Not while the journeys are gone through.
        fail(visit, journey, wrong, "tally")
    if len(listening) > 1:
        listening.sort(key=lambda one: one[:2])
    for _, _, journey, visit in listening:
        try:
            for rule in visit.program.exits:
                if visit.satisfies(rule.ask):
                    leave(visit, journey, rule)
                    break
            else:
                if not visit.program.is_paused:
                    hear(visit, journey)
        except Exception as error:
            fail(visit, journey, error, "exit")
