"""What is counted per version of a flow, and what of it must add up: conservation.

The counts are kept in the state of each shard: per flow version, under its label (`<flow> 0x1F <version>`), a mapping
of keys to numbers. A key is a kind, or a kind with a detail behind a colon: `entered`, `ended:cold`, `sent:email`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

ENTERED: Final = "entered"
CONVERTED: Final = "converted"
ENDED: Final = "ended"
EXITED: Final = "exited"
FAILED: Final = "failed"
REFUSED: Final = "refused"
SENT: Final = "sent"
SUPPRESSED: Final = "suppressed"
POSTPONED: Final = "postponed"
INSIDE: Final = "inside"
"""Not counted, but what is left of the others."""

_OVER: Final = frozenset({ENDED, EXITED, FAILED})
LOOP: Final = "loop"
"""A journey failed since it came to one step too often."""
ERROR: Final = "error"
"""A journey failed by a mistake of ours."""
FAILURES: Final = (LOOP, ERROR)

Totals = dict[str, dict[str, int]]
"""By the label of the flow, then by key."""


def key_of(kind: str, detail: str | None) -> str:
    """Return the key under which *kind* is counted, with *detail* if there is one."""
    return kind if detail is None else f"{kind}:{detail}"


def add_totals(to: Totals, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add *more* to *to*."""
    for flow, counts in more.items():
        kept = to.setdefault(flow, {})
        for key, number in counts.items():
            kept[key] = kept.get(key, 0) + number


def inside_by(counts: Mapping[str, int]) -> int:
    """Return how many journeys are open by the *counts* of one flow version: who entered and is not over."""
    inside = 0
    for key, number in counts.items():
        if key == ENTERED:
            inside += number
        elif key.partition(":")[0] in _OVER:
            inside -= number
    return inside


class FlowTotals(msgspec.Struct):
    """The counts of one flow version, read; its fields have the names of the kinds.

    `ended` and `exited` are by label, `failed`, `refused` and `suppressed` by reason, `sent` and `postponed` by
    channel; "" for none.
    """

    entered: int = 0
    converted: int = 0
    ended: dict[str, int] = {}
    exited: dict[str, int] = {}
    failed: dict[str, int] = {}
    refused: dict[str, int] = {}
    sent: dict[str, int] = {}
    suppressed: dict[str, int] = {}
    postponed: dict[str, int] = {}

    @classmethod
    def read(cls, counts: Mapping[str, int]) -> FlowTotals:
        """Return what *counts* say; a key that nobody here knows is left out."""
        found = cls()
        found.add(counts)
        return found

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of another shard."""
        for key, number in counts.items():
            kind, _, detail = key.partition(":")
            if kind == ENTERED:
                self.entered += number
            elif kind == CONVERTED:
                self.converted += number
            elif kind in _DETAILED:
                by_detail: dict[str, int] = getattr(self, kind)
                by_detail[detail] = by_detail.get(detail, 0) + number

    def balance(self) -> dict[str, int]:
        """Return how many journeys were entered and what became of them.

        Conservation: who entered has ended, has exited, has failed, or is inside. By these counts that is so by
        definition; who is inside must be held by the users, too (`operators/machine/invariants.py`).
        """
        over = {kind: sum(getattr(self, kind).values()) for kind in (ENDED, EXITED, FAILED)}
        return {ENTERED: self.entered, **over, INSIDE: self.entered - sum(over.values())}

    @property
    def inside(self) -> int:
        """How many journeys are open."""
        return self.balance()[INSIDE]


_DETAILED: Final = (ENDED, EXITED, FAILED, REFUSED, SENT, SUPPRESSED, POSTPONED)


def read_totals(totals: Mapping[str, Mapping[str, int]], flows: Iterable[str] = ()) -> dict[str, FlowTotals]:
    """Return *totals* read, by the label of the flow; also of *flows*, of which nothing may have been counted."""
    found = {flow: FlowTotals() for flow in flows}
    for flow, counts in totals.items():
        found.setdefault(flow, FlowTotals()).add(counts)
    return found
