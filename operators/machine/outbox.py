"""What comes out of a user's step: actions, journal records and counts, in the order in which they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, get_args

from operators.machine.totals import Totals
from state.outgoing import Action, JournalRecord
from state.register import Register

Place = Literal["step", "tally", "exit", "entry", "trigger", "window", "record", "wake-up", "run"]
"""What was being done when a mistake of ours showed."""
PLACES: Final[tuple[Place, ...]] = get_args(Place)


class Mistake(NamedTuple):
    """A mistake of ours in the handling of one user, without anything of that user.

    `place` says what was being done, `flow` for which flow, "" for none; `source` and `offset` which record it was
    about, -1 for a wake-up.
    """

    place: Place
    flow: str
    error: BaseException
    source: int = -1
    offset: int = -1


class Keeper(Protocol):
    """Keeps what was sent, for the receipts that say what became of it."""

    def note(self, user_id: str, journey: int, action: Action) -> None:
        """Note that *action* is sent by the user's journey number *journey*."""
        ...

    def close(self, user_id: str, journey: int, closed_ms: int, action_ids: Sequence[str]) -> None:
        """Note that a journey has closed, which may have sent *action_ids* and nothing else."""
        ...


class Outbox:
    """Collects what users' steps emit, until whoever runs them takes it.

    Args:
        totals: the counts to go on from; shared with whoever keeps them.
        counted: the labels whose counts have changed; shared with whoever keeps them.
        news: what is counted from now on; several outboxes may share it.
        register: answers what no single user decides; None where no flow asks.
        keeper: keeps what was sent; None where no receipts come.
    """

    __slots__ = (
        "actions", "counted", "duplicates", "ids_forgotten", "journal", "keeper", "memberships_cut", "mistakes", "news",
        "parked", "register", "too_large", "totals", "unknown_receipts",
    )  # fmt: skip

    def __init__(
        self,
        totals: Totals | None = None,
        counted: set[str] | None = None,
        news: Totals | None = None,
        register: Register | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.actions: list[Action] = []
        self.journal: list[JournalRecord] = []
        self.totals: Totals = {} if totals is None else totals
        self.counted: set[str] = set() if counted is None else counted
        self.news: Totals = {} if news is None else news
        self.register = register
        self.parked: list[tuple[str, str]] = []  # Label of a paused flow, and a user of whom a wake-up fell due there.
        self.keeper = keeper
        self.duplicates = 0
        self.unknown_receipts = 0  # Of actions that nobody knows to have been sent to that user.
        self.mistakes: list[Mistake] = []
        self.ids_forgotten = 0  # How often a user had so many message ids within a day that the oldest had to go.
        self.memberships_cut = 0  # Memberships of which something was left out, since it was too large or too many.
        self.too_large = 0  # Profile updates that would have made a profile too large.

    def count(self, flow: str, key: str) -> None:
        """Count *key* for *flow*, as `operators/machine/totals.py` says."""
        for totals in (self.totals, self.news):
            counts = totals.get(flow)
            if counts is None:
                counts = totals[flow] = {}
            counts[key] = counts.get(key, 0) + 1
        self.counted.add(flow)
