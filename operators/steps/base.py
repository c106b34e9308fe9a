"""What a kind of step is: a model of what may be written, and a runtime step that the journey machine drives.

A runtime step is built once per program. It holds no state: what a visit has to remember is in the journey. The
machine calls `enter` when a journey begins the step, `wake` when a wake-up of the step has fallen due, and `hear` for
each event while the journey stands in it. Each answers with an outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from msgspec import Struct
from pydantic import Field

from operators.language.flow import Model
from operators.language.values import Name

if TYPE_CHECKING:
    from operators.machine.context import Visit
    from operators.program.build import Build


class Hold(Struct, frozen=True, gc=False):
    """Stand here until *until_ms* (stream time), or until `hear` moves the journey."""

    until_ms: int
    memo: Any = None


class To(Struct, frozen=True, gc=False):
    """Go on at a node; None is the end of the flow."""

    node: Node | None


class End(Struct, frozen=True, gc=False):
    """End the journey, with a label or reason."""

    reason: str | None = None


class _GoOn:
    """Go on with the step after this one."""


class _Stay:
    """Nothing changes: only an answer of `hear`."""


GO_ON: Final = _GoOn()
STAY: Final = _Stay()

Outcome = Hold | To | End | _GoOn
Heard = Hold | To | End | _GoOn | _Stay


class Step:
    """A runtime step."""

    __slots__ = ()

    kind: ClassVar[str]
    holds: ClassVar[bool] = False  # Whether a loop through this step waits.

    def enter(self, visit: Visit) -> Outcome:
        """Begin the step."""
        raise NotImplementedError

    def wake(self, visit: Visit) -> Outcome:
        """Go on, since the wake-up that the step asked for has fallen due."""
        return GO_ON

    def hear(self, visit: Visit) -> Heard:
        """Look at the event `visit.heard` while standing here."""
        return STAY

    def hears(self) -> Iterator[str]:
        """Yield the names of the events that `hear` wants."""
        return iter(())

    def ways(self, node: Node) -> Iterator[Node | None]:
        """Yield every node at which a journey may go on after this step; None is the end of the flow."""
        yield node.next


class Node:
    """A step at its place in a program: its id, and the node after it, None at the end of the flow."""

    __slots__ = ("id", "next", "path", "step")

    def __init__(self, step: Step, id: str, path: tuple[str | int, ...], next: Node | None) -> None:
        self.step = step
        self.id = id
        self.path = path
        self.next = next

    def __repr__(self) -> str:
        return f"<{self.step.kind} {self.id}>"


class StepModel(Model):
    """What may be written for one kind of step; the kind is the name of its first key."""

    kind: ClassVar[str]
    id: Annotated[Name | None, Field(description="unique in the flow; default: the path of the step")] = None

    def build(self, build: Build) -> Step | None:
        """Return the runtime step, or None after noting why not."""
        raise NotImplementedError
