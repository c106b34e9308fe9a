"""What a ledger is: notes about actions, each made by the rules of `state/ledger.py` or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from state import ledger
from state.delivery import Entry, Outcome
from state.errors import Failed

KEPT_MS: Final = 30 * 24 * 3_600_000
"""For so long after its outcome an action is known."""


class LedgerAway(Failed):
    """A ledger cannot be read or written now; nothing may be called until it can."""


class LedgerRefuses(LedgerAway):
    """A ledger does not let us in, and will not until somebody changes a setting; the message says which."""


class Noted(NamedTuple):
    """What the ledger says of a note: what it has now, and whether that is the note.

    `wait_ms` is how long to wait for the account's rate, where it keeps one for all processes; then nothing was noted.
    """

    entry: Entry | None
    is_taken: bool
    wait_ms: int = 0


class ToBegin(NamedTuple):
    """An attempt is to begin for a user's action."""

    action_id: str
    attempt: int
    user_id: str
    lease_ms: int


class ToFree(NamedTuple):
    """An attempt has sent nothing."""

    action_id: str
    attempt: int


class ToSettle(NamedTuple):
    """An attempt has shown what becomes of a user's action."""

    action_id: str
    attempt: int
    user_id: str
    outcome: Outcome


class ToReopen(NamedTuple):
    """An action that is unknown is to be sent again: somebody has decided so."""

    action_id: str


class ToTold(NamedTuple):
    """The receipt of an outcome that was noted late is written."""

    action_id: str
    outcome: Outcome


class ToLook(NamedTuple):
    """What is there of an action?"""

    action_id: str


Note = ToBegin | ToFree | ToSettle | ToReopen | ToTold | ToLook


def made_of(entry: Entry | None, note: Note, owner: str, now: int) -> Entry | None:
    """Return what *note* of *owner* makes of what is known of its action; None where it makes nothing of it."""
    match note:
        case ToBegin(_, attempt, user_id, lease_ms):
            return ledger.begin(entry, attempt, user_id, owner, lease_ms, now)
        case ToFree(_, attempt):
            return ledger.free(entry, attempt, owner)
        case ToSettle(_, attempt, user_id, outcome):
            return ledger.settle(entry, attempt, user_id, owner, outcome, now)
        case ToReopen():
            return ledger.reopen(entry, now)
        case ToTold(_, outcome):
            return ledger.told(entry, outcome)
        case ToLook():
            return None


class Unsettled(NamedTuple):
    """What has no final outcome: how many actions are open and how many are unknown, and the oldest of them."""

    open: int
    unknown: int
    oldest: Sequence[tuple[str, Entry]]


class Ledger(Protocol):
    """The ledger, as one process of one channel has it open."""

    async def note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        """Make *notes* in their order, and return what came of each once all that was noted cannot be lost.

        Raises:
            LedgerAway: it may have been noted, or not; the same notes may be made again.
        """
        ...

    async def find(self, provider_id: str) -> tuple[str, Entry] | None:
        """Return the action that the provider calls so, with what is known of it, None where nothing is.

        Raises:
            LedgerAway: it cannot be read now.
        """
        ...

    async def unsettled(self, most: int) -> Unsettled:
        """Return what of this channel has no final outcome, *most* actions at most.

        Raises:
            LedgerAway: it cannot be read now.
        """
        ...

    async def untold(self, most: int) -> Sequence[tuple[str, Entry]]:
        """Return actions of this channel whose outcome was noted late and may have no receipt, *most* at most.

        Raises:
            LedgerAway: it cannot be read now.
        """
        ...

    async def forget(self, before_ms: int) -> int:
        """Forget actions whose outcome is older, and return how many."""
        ...

    async def concerns(self) -> list[str]:
        """Return which settings of what keeps it can lose notes, each with what to set.

        Raises:
            LedgerAway: it cannot be read now.
        """
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
