"""What a step is while it runs, and how its answers move a journey.

A runtime step is built once per program. It holds no state: what a visit has to remember is in the journey. The
machine calls `enter` when a journey begins the step, `wake` when a wake-up of the step has fallen due, and `hear` for
each event while the journey stands in it. Each answers with an outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from msgspec import Struct

from operators.visit import Visit


class Hold(Struct, frozen=True, gc=False):
    """Stand here until *until_ms* (stream time), or until `hear` moves the journey.

    With *still* the journal has it already: it stood here before, or another record says that it does.
    """

    until_ms: int
    memo: Any = None
    still: bool = False


class To(Struct, frozen=True, gc=False):
    """Go on at a node; None is the end of the lane: of the flow, or of one of several branches."""

    node: Node | None


class End(Struct, frozen=True, gc=False):
    """End the journey, with a label or reason."""

    reason: str | None = None


class GoOn(Struct, frozen=True, gc=False):
    """Go on with the step after this one."""


class Stay(Struct, frozen=True, gc=False):
    """Nothing changes: only an answer of `hear`."""


class Fork(Struct, frozen=True, gc=False):
    """Go down all lanes of the step at once: only an answer of `enter`, and only of one that has lanes."""


GO_ON: Final = GoOn()
STAY: Final = Stay()
FORK: Final = Fork()

Outcome = Hold | To | End | GoOn | Fork
Heard = Hold | To | End | GoOn | Stay


class Step:
    """A runtime step."""

    __slots__ = ()

    kind: ClassVar[str]
    holds: ClassVar[bool] = False  # Whether a journey surely waits here, every time round a loop.
    hears_when_paused: ClassVar[bool] = False

    def enter(self, visit: Visit) -> Outcome:
        """Begin the step."""
        raise NotImplementedError

    def wake(self, visit: Visit) -> Outcome:
        """Go on, since the wake-up that the step asked for has fallen due."""
        return GO_ON

    def hear(self, visit: Visit) -> Heard:
        """Look at the event that is being handled while standing here."""
        return STAY

    def hears(self) -> Iterator[str]:
        """Yield the names of the events that `hear` wants."""
        return iter(())

    def asks(self) -> Iterator[tuple[str, str]]:
        """Yield the id of a step that sends, and a status that this step wants to know of what is sent there."""
        return iter(())

    def has_lost_its_memo(self, memo: Any) -> bool:
        """Tell whether *memo* is not what this step remembers while it holds."""
        return False

    def never_taken(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the place of each way out of the step that an earlier one always takes, and what that one is called."""
        return iter(())

    def ways(self, node: Node) -> Iterator[Node | None]:
        """Yield every node at which a journey may go on after this step; None is the end of its lane."""
        yield node.next


class Lane:
    """A list of steps with all that is nested in it, down which one branch of a journey goes: the flow itself, or one
    of those into which a step forks.

    Lanes have numbers from 0, which is the flow. Those of a step rise in written order, and the lanes inside a lane
    have the next numbers, up to its `last`. So the branches of a journey by their numbers are in written order.
    `parent` and `fork` are the lane and the step that it begins at, None for the flow; `forks` the steps in it at which
    others begin.
    """

    __slots__ = ("first", "fork", "forks", "last", "number", "parent")

    def __init__(self, parent: Lane | None) -> None:
        self.parent = parent
        self.number = 0
        self.last = 0
        self.first: Node | None = None
        self.fork: Node | None = None
        self.forks: list[Node] = []

    @property
    def scope(self) -> str:
        """The id of the step that it begins at, "" for the flow."""
        return "" if self.fork is None else self.fork.id


class Node:
    """A step at its place in a program: its id, its lane, and the node after it, None at the end of the lane."""

    __slots__ = ("id", "lane", "next", "path", "step")

    def __init__(self, step: Step, id: str, path: tuple[str | int, ...], lane: Lane, next: Node | None) -> None:
        self.step = step
        self.id = id
        self.path = path
        self.lane = lane
        self.next = next

    def __repr__(self) -> str:
        return f"<{self.step.kind} {self.id}>"
