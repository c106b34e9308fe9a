"""A record of one user: everything that follows from it, in the order that the language promises.

Wake-ups due by then have fired (`operators/machine/wakeup.py`). Then duplicates are dropped; traits are merged;
counters take the event in; experiments look for their goals; open journeys look at it; triggers fire. A membership
moves no journey. Pure: it changes the one user it is given and adds to the outbox it is given, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from operators.conditions.values import dig
from operators.ids import Key, is_key
from operators.language.values import DAY
from operators.limits import write_profile
from operators.machine.context import InJourney, Moment
from operators.machine.deployment import Deployment, Reaction, Window
from operators.machine.entry import refuse_for_error, try_to_enter
from operators.machine.journey import fail, hear, leave
from operators.machine.membership import take_membership
from operators.machine.memory import REPEAT_MS, forget_oldest_ids
from operators.machine.outbox import Mistake, Outbox, Place
from operators.machine.trials import hear_goal
from operators.program.program import Exit, Program
from operators.triggers.event import Alternative, counts_up
from operators.windows import insert
from state.records import EVENT, MEMBERSHIP, RECEIPT, Input
from state.user import User

SEEN_PRUNED_AT: Final = 32


def on_record(deployment: Deployment, user: User, record: Input, out: Outbox) -> None:
    """Handle *record* for *user*; wake-ups that were due by then have been handled by `on_due`."""
    if record.id_sent and is_repeat(deployment, user, record, out):
        return
    take_in(deployment, user, record, out)


def is_repeat(deployment: Deployment, user: User, record: Input, out: Outbox) -> bool:
    """Tell whether *record*, whose id was sent, has come before; from now on it has."""
    now, seen, message_id = record.now, user.seen, record.message_id
    taken = seen.get(message_id)
    if taken is not None and now - taken < REPEAT_MS:
        out.duplicates += 1
        return True
    if len(seen) >= SEEN_PRUNED_AT and len(seen) % SEEN_PRUNED_AT == 0:
        if forget_oldest_ids(seen, now):
            out.ids_forgotten += 1
        deployment.memory.forget_entries(user, now)
    if taken is not None:
        seen.pop(message_id, None)  # Else it would stay among the oldest, where it was.
    seen[message_id] = now
    return False


def take_in(deployment: Deployment, user: User, record: Input, out: Outbox) -> None:
    """Let *user* take in *record*, which is no repeat: traits, counters, open journeys, triggers."""
    now = record.now
    hits = record.hits
    if hits or record.id_sent:
        user.day = now // DAY + deployment.memory.days
    kind = record.kind
    if kind != EVENT and kind == MEMBERSHIP:
        assert record.fields is not None, "it says which audience"
        out.memberships_cut += not take_membership(user, record.fields)
        return
    if record.traits is not None and not write_profile(user.profile, record.traits):
        out.too_large += 1
    if not hits:
        return
    reaction = deployment.reactions.get(hits) or deployment.reaction(hits)
    for window in reaction.windows:
        try:
            _enter_window(user, record, reaction, window, out)
        except Exception as error:  # A mistake of ours must not take the rest of what the event does with it.
            _note(out, "window", window.program, record, error)
    if reaction.goals and user.trials:
        for program, goal in reaction.goals:
            try:
                hear_goal(deployment, user, program, goal, record, reaction, out)
            except Exception as error:
                _note(out, "exit", program, record, error)
    fired = _fired(user, record, reaction, out) if reaction.triggers else None
    if user.journeys:
        _tell_journeys(deployment, user, record, reaction, out)
    if fired:
        for program in fired:
            moment = Moment(record.user_id, user, program, now, out, record, reaction.satisfied)
            begun = user.journeys_begun
            try:
                try_to_enter(moment)
            except Exception as error:
                _note(out, "entry", program, record, error)
                refuse_for_error(moment, error, begun)


def _note(out: Outbox, place: Place, program: Program, record: Input, error: Exception) -> None:
    out.mistakes.append(Mistake(place, program.label, error, record.source, record.offset))


# ---- counters ------------------------------------------------------------------------------------------------------


def _enter_window(user: User, record: Input, reaction: Reaction, window: Window, out: Outbox) -> None:
    """Let the window of a `did` take the event in: the latest times, as many as anybody asks for."""
    if window.live is not None:
        moment = Moment(record.user_id, user, window.program, record.now, out, record, reaction.satisfied)
        if not window.live.holds(moment):
            return
    times = user.windows.setdefault(window.id, [])
    assert isinstance(times, list)
    insert(times, min(record.at_ms, record.now), record.now - window.reach_ms)
    del times[: -window.keep]
    if not times:
        del user.windows[window.id]


def _fired(user: User, record: Input, reaction: Reaction, out: Outbox) -> list[Program] | None:
    """Return the programs whose trigger fires; every alternative that fires uses its events up."""
    fired: list[Program] | None = None
    for program, alternatives in reaction.triggers:
        fires = False
        for alternative in alternatives:
            try:
                fires |= _fires(user, record, reaction, program, alternative, out)
            except Exception as error:
                _note(out, "trigger", program, record, error)
        if fires:
            if fired is None:
                fired = [program]
            else:
                fired.append(program)
    return fired


def _fires(
    user: User, record: Input, reaction: Reaction, program: Program, alternative: Alternative, out: Outbox
) -> bool:
    live = alternative.wanted.live
    if live is not None:
        moment = Moment(record.user_id, user, program, record.now, out, record, reaction.satisfied)
        if not live.holds(moment):
            return False
    if not alternative.counter:
        return True
    key: Key = None
    if program.key_path is not None:
        value = dig(record.parse_properties(), program.key_path)
        key = value if is_key(value) else None
    return counts_up(user.windows, alternative, key, record.now, min(record.at_ms, record.now))


# ---- open journeys -------------------------------------------------------------------------------------------------


def _tell_journeys(deployment: Deployment, user: User, record: Input, reaction: Reaction, out: Outbox) -> None:
    """Let the open journeys of *user* take the event in: their own counts, then exits, then the steps they wait in."""
    listening: list[tuple[int, int, InJourney, Sequence[Exit]]] = []
    failing: list[tuple[InJourney, Exception]] | None = None
    for journey in user.journeys:
        program = deployment.program(journey.flow, journey.version)
        if record.name not in program.hears:
            continue
        inside = InJourney(record.user_id, user, program, record.now, out, journey, record, reaction.satisfied)
        try:
            exits: Sequence[Exit] = ()
            if inside.hears_key():
                exits = program.exits
                for tally in program.tallies:
                    if inside.satisfies(tally.wanted):
                        journey.tallies[tally.name] = journey.tallies.get(tally.name, 0) + 1
            elif record.kind != RECEIPT:  # A step may wait for the receipt of what its journey has sent.
                continue
        except Exception as error:
            failing = [*(failing or ()), (inside, error)]
        else:
            listening.append((-program.priority, journey.number, inside, exits))
    for inside, wrong in failing or ():  # Not while the journeys are gone through.
        fail(inside, wrong, "tally")
    if len(listening) > 1:
        listening.sort(key=lambda one: one[:2])
    for _, _, inside, exits in listening:
        try:
            for rule in exits:
                if inside.satisfies(rule.wanted):
                    leave(inside, rule)
                    break
            else:
                hear(inside)
        except Exception as error:
            fail(inside, error, "exit")
