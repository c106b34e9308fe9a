"""What a ledger is: notes about actions, each made by the rules of `state/ledger.py` or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from state.delivery import Entry, Outcome
from state.errors import Failed

KEPT_MS: Final = 30 * 24 * 3_600_000
"""For so long after its outcome an action is known."""


class LedgerAway(Failed):
    """A ledger cannot be read or written now; nothing may be called until it can."""


class Noted(NamedTuple):
    """What the ledger says of a note: what it has now, and whether that is the note.

    `wait_ms` is how long to wait for the account's rate, where it keeps one for all processes; then nothing was noted.
    """

    entry: Entry | None
    is_taken: bool
    wait_ms: int = 0


class ToBegin(NamedTuple):
    """An attempt is to begin."""

    action_id: str
    attempt: int
    lease_ms: int


class ToFree(NamedTuple):
    """An attempt has sent nothing."""

    action_id: str
    attempt: int


class ToSettle(NamedTuple):
    """An attempt has shown what becomes of the action, which goes to *user_id* on *channel*."""

    action_id: str
    attempt: int
    outcome: Outcome


class ToLook(NamedTuple):
    """What is there of an action?"""

    action_id: str


Note = ToBegin | ToFree | ToSettle | ToLook


class Ledger(Protocol):
    """The ledger, as one process of one channel has it open."""

    async def note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        """Make *notes* in their order, and return what came of each once all that was noted cannot be lost.

        Raises:
            LedgerAway: it may have been noted, or not; the same notes may be made again.
        """
        ...

    async def forget(self, before_ms: int) -> int:
        """Forget actions whose outcome is older, and return how many."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
