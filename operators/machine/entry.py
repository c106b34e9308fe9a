"""Who may enter a flow: the checks in their order, and what is remembered for the next time."""

from __future__ import annotations

from typing import Any

from operators.conditions.values import dig, equal
from operators.ids import Key, is_key, key_name, share_of
from operators.language.flow import ReentryAfter, ReentryAtMost
from operators.limits import ENTRIES_MAX, JOURNEYS_MAX, TOLD_BYTES_MAX, fits, make_room, told
from operators.machine.context import InJourney, Moment
from operators.machine.journey import begin, fail
from operators.machine.totals import REFUSED
from operators.program.program import Program
from state.iso import format_ms
from state.outgoing import EntryReason
from state.user import User


def try_to_enter(moment: Moment) -> None:
    """Begin a journey for the trigger that *moment* has heard, or journal the first reason why not."""
    program, user = moment.program, moment.user
    key = _key(moment)
    refusal = _refusal(moment, key)
    if refusal is None:
        _remember(user, program, key, moment.now)
        begin(moment, key)
        return
    reason, detail = refusal
    _refuse(moment, reason, detail)


def refuse_for_error(moment: Moment, error: Exception, begun: int) -> None:
    """Journal that entry went wrong, a mistake of ours; a journey that had begun is closed as failed.

    Args:
        begun: how many journeys of the user had begun before entry was tried.
    """
    for journey in moment.user.journeys:
        if journey.number > begun:
            inside = InJourney(moment.user_id, moment.user, moment.program, moment.now, moment.out, journey)
            fail(inside, error, "entry")
            return
    _refuse(moment, "error", {"error": type(error).__name__})


def _refuse(moment: Moment, reason: EntryReason, detail: dict[str, Any] | None) -> None:
    moment.tally(REFUSED, reason)
    moment.note("refused", reason=reason, detail=detail, cause=moment.heard_cause)


def _key(moment: Moment) -> Key:
    path = moment.program.key_path
    if path is None:
        return None
    value = dig(moment.heard, path)
    return value if is_key(value) else None


def _refusal(moment: Moment, key: Key) -> tuple[EntryReason, dict[str, Any] | None] | None:
    """Return the first reason against entry with what was compared, or None."""
    program, user, now = moment.program, moment.user, moment.now
    if program.is_paused:
        return "paused", None
    if program.active_from is not None and now < program.active_from:
        return "inactive", {"active_from": format_ms(program.active_from)}
    if program.active_until is not None and now >= program.active_until:
        return "inactive", {"active_until": format_ms(program.active_until)}
    if program.key_path is not None and key is None:
        return "no_key", {"path": ".".join(program.key_path), "value": told(dig(moment.heard, program.key_path))}
    rules = program.entry_rules
    if rules.when is not None and not rules.when.holds(moment):
        failure = rules.when.failure(moment)
        if not fits(failure, TOLD_BYTES_MAX):
            failure = {"left_out": f"what was found has more than {TOLD_BYTES_MAX} bytes"}
        return "condition", failure
    if rules.reentry != "always":
        against = _against_reentry(user.entries.get(memory_key(program, key), []), rules.reentry, now)
        if against is not None:
            return "reentry", against
    open_journeys = 0
    for journey in user.journeys:
        if journey.flow == program.name and (program.key_path is None or equal(journey.key, key)):
            open_journeys += 1
    if open_journeys >= rules.concurrent:
        return "already_inside", {"open": open_journeys, "concurrent": rules.concurrent}
    if len(user.journeys) >= JOURNEYS_MAX:
        return "already_inside", {"open_in_all_flows": len(user.journeys), "at_most": JOURNEYS_MAX}
    is_held_out = bool(rules.holdout) and share_of(program.name, moment.user_id, "holdout") < rules.holdout
    if rules.limit is not None:
        # Last of all: whoever is let in here does enter. Who is held out looks, and takes no place.
        ask = moment.register.look if is_held_out else moment.register.enter
        taken = ask(program.name, moment.user_id, user.seq, rules.limit)
        if taken is not None:
            return "limit", {"entries": taken, "limit": rules.limit}
    return ("holdout", None) if is_held_out else None


def _against_reentry(entries: list[int], rule: str | ReentryAfter | ReentryAtMost, now: int) -> dict[str, Any] | None:
    """Return what stands against another entry at *now*, or None."""
    if not entries:
        return None
    if isinstance(rule, ReentryAtMost):
        counted = sum(1 for at in entries if at > now - rule.within)
        return {"entries": counted, "at_most": rule.at_most} if counted >= rule.at_most else None
    last = entries[-1]
    if isinstance(rule, ReentryAfter):
        allowed_at = last + rule.after
        return {"last_entry": format_ms(last), "allowed_at": format_ms(allowed_at)} if now < allowed_at else None
    return {"last_entry": format_ms(last), "reentry": "never"}


def memory_key(program: Program, key: Key) -> str:
    """Return the name under which a user remembers entries: per flow, or per flow and key value."""
    if program.key_path is None:
        return program.name
    return f"{program.name}\x1f{key_name(key)}"


def _remember(user: User, program: Program, key: Key, now: int) -> None:
    """Remember this entry, as far as any rule on re-entry could ask for it.

    A flow with a key has as many memories as there are key values, so there only what its rule asks for is kept.
    """
    rule = program.entry_rules.reentry
    if rule == "always" and program.key_path is not None:
        return
    keep = rule.at_most if isinstance(rule, ReentryAtMost) else 1
    name = memory_key(program, key)
    if len(user.entries) >= ENTRIES_MAX and name not in user.entries:
        make_room(user.entries, ENTRIES_MAX)
    user.entries[name] = [*user.entries.get(name, []), now][-keep:]
