"""What comes out of a user's step: actions, journal records and counts, in the order in which they were made."""

from __future__ import annotations

from typing import NamedTuple

from state.outgoing import Action, JournalRecord

# What is counted per flow and version, as `what` or `what:detail`. Conservation is
# entered = ended + exited + failed + inside.
ENTERED = "entered"
ENDED = "ended"
EXITED = "exited"
FAILED = "failed"
CONVERTED = "converted"
REFUSED = "refused"
SENT = "sent"
SUPPRESSED = "suppressed"

Totals = dict[str, dict[str, int]]


class InternalError(NamedTuple):
    """A mistake of ours in the handling of one user, without anything of that user.

    `place` says what was being done, `flow` for which flow, "" for none; `source` and `offset` which record it was
    about, -1 for a wake-up.
    """

    place: str
    flow: str
    error: BaseException
    source: int = -1
    offset: int = -1


class Outbox:
    """Collects what users' steps emit, until whoever runs them takes it.

    `totals` maps `<flow> 0x1F <version>` to counts; it may be shared with whoever keeps them.
    """

    __slots__ = ("actions", "duplicates", "errors", "ids_forgotten", "journal", "too_large", "totals")

    def __init__(self, totals: Totals | None = None) -> None:
        self.actions: list[Action] = []
        self.journal: list[JournalRecord] = []
        self.totals: Totals = {} if totals is None else totals
        self.duplicates = 0
        self.errors: list[InternalError] = []
        self.ids_forgotten = 0  # How often a user had so many message ids within a day that the oldest had to go.
        self.too_large = 0  # Profile updates that would have made a profile too large.

    def count(self, flow: str, what: str) -> None:
        """Count *what* for *flow*, `<flow> 0x1F <version>`."""
        counts = self.totals.get(flow)
        if counts is None:
            counts = self.totals[flow] = {}
        counts[what] = counts.get(what, 0) + 1


def inside(counts: dict[str, int]) -> int:
    """Return how many journeys of a flow are open, by its counts."""
    total = 0
    for what, number in counts.items():
        kind = what.partition(":")[0]
        if kind == ENTERED:
            total += number
        elif kind in (ENDED, EXITED, FAILED):
            total -= number
    return total
