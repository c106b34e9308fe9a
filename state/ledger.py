"""The rules of the ledger: which note may be made on top of which. Whoever keeps it applies them in one step.

    nothing -> begun -> outcome             an attempt begins, and shows something
               begun -> free -> begun       it has sent nothing: another may begin
               begun -> begun               its lease is over, or it is the owner's own: nobody knows what it has sent
               unknown -> accepted, ..      what an attempt shows in the end counts, whoever has given it up; it is
                                            untold until somebody has noted that its receipt is written
               unknown -> free              somebody has decided that it is to be sent again; untold, likewise

Every note names the attempt that it is about, and a begun one its owner. So of two processes that have the same action
one is refused, whatever each of them believes. A note that is made again, since nobody knows whether it was made, is
made once.
"""

from __future__ import annotations

from dataclasses import replace

from state.delivery import UNKNOWN, Entry, Outcome


def begin(found: Entry | None, attempt: int, user_id: str, owner: str, lease_ms: int, now: int) -> Entry | None:
    """Return what is noted where *owner* begins *attempt*, None where that is refused."""
    if found is None:
        return Entry(attempt, now, user_id, owner, lease_ms) if attempt == 1 else None
    if found.outcome is not None:
        return None
    if (found.attempt, found.owner) == (attempt, owner):
        return found
    if found.attempt != attempt - 1:
        return None
    if found.owner and found.owner != owner and found.lease_ms > now:
        return None
    return Entry(attempt, found.since_ms, user_id, owner, lease_ms, is_untold=found.is_untold)


def free(found: Entry | None, attempt: int, owner: str) -> Entry | None:
    """Return what is noted where *attempt* of *owner* has sent nothing, None where it is not the one that has begun."""
    if found is None or found.outcome is not None or found.attempt != attempt or found.owner not in ("", owner):
        return None
    return replace(found, owner="", lease_ms=0)


def reopen(found: Entry | None, now: int) -> Entry | None:
    """Return what is noted where somebody lets an unknown action be sent again, None where it is not unknown."""
    if found is None or found.outcome is None or found.outcome.status != UNKNOWN:
        return None
    return Entry(found.attempt, now, found.user_id, is_untold=True)


def settle(found: Entry | None, attempt: int, user_id: str, owner: str, outcome: Outcome, now: int) -> Entry | None:
    """Return what is noted where *owner* knows the *outcome* by *attempt*, None where that is refused."""
    if found is None:
        return Entry(0, now, user_id, owner, 0, outcome) if attempt == 0 else None
    if found.attempt != attempt:
        return None
    if found.outcome == outcome:
        return found
    if found.outcome is not None:
        is_later = found.outcome.status == UNKNOWN and outcome.status != UNKNOWN and found.owner == owner
        # Whoever noted that it is unknown may have told that and committed its record: nobody reads that any more.
        return replace(found, outcome=outcome, is_untold=True) if is_later else None
    if found.owner and found.owner != owner and found.lease_ms > now:
        return None
    return replace(found, outcome=outcome)


def told(found: Entry | None, outcome: Outcome) -> Entry | None:
    """Return what is noted where the receipt of *outcome* is written, None where the action has another outcome."""
    if found is None or found.outcome != outcome:
        return None
    return replace(found, is_untold=False)
