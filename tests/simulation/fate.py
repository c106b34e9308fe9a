"""When something goes wrong: every touch of the outside is a moment at which a process, or the machine, may die."""

from __future__ import annotations

from random import Random


class Killed(BaseException):
    """The process that touches the outside is no more. Not an `Exception`: nothing may catch it and go on."""


class Fate:
    """Counts the touches of the outside and kills at one of them.

    `kill_at` is the number of the touch that is the last one, None to let live.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.touches = 0
        self.kill_at: int | None = None
        self.is_dying = False
        self.trace: list[str] = []
        self.keeps_trace = False
        self.last = ""

    def touch(self, what: str) -> None:
        """A moment at which a process may die: before or after *what*.

        Raises:
            Killed: it does.
        """
        self.touches += 1
        if self.keeps_trace:
            self.trace.append(what)
        if self.kill_at is not None and self.touches >= self.kill_at and not self.is_dying:
            self.last = what
            self.is_dying = True
            raise Killed(what)

    def next_life(self, kill_at: int | None) -> None:
        self.touches = 0
        self.kill_at = kill_at
        self.is_dying = False
