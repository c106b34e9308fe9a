"""What `parallel` and `times` have in common: one branch of a journey becomes several, and these become one again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from operators.steps.base import FORK, Lane, Node, Outcome, Step, To
from operators.visit import Visit

LANES_MAX: Final = 10


class ForkStep(Step):
    """A step whose branches run side by side, each down a lane of its own.

    The machine replaces the branch that comes here by one per lane, and calls `start` for each of them, one after the
    other.
    """

    __slots__ = ("lanes",)

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes

    def enter(self, visit: Visit) -> Outcome:
        return FORK

    def start(self, visit: Visit) -> Outcome:
        """Begin the lane of the visiting branch."""
        return To(self.lanes[self.index_of(visit)].first)

    def index_of(self, visit: Visit) -> int:
        """Return which of the lanes, from 0, the visiting branch goes down."""
        return next(index for index, lane in enumerate(self.lanes) if lane.number == visit.branch.number)

    def ways(self, node: Node) -> Iterator[Node | None]:
        for lane in self.lanes:
            yield lane.first
        yield node.next
