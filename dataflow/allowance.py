"""How much mass work a process does in one turn, so that events never wait for it.

At eight in the morning a million wake-ups can fall due at once. They are worked off in slices: some in each turn of the
process, and between two turns the sources are read and what has come is handled. One allowance serves all shards of a
process. In which slices work is done does not change what is decided: a user's wake-ups come before their next record,
and act as of their own time, whenever that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

USERS_AT_ONCE: Final = 50
TURN_S: Final = 0.02


class Allowance(Protocol):
    """Grants work on users, some at a time."""

    def enter(self) -> None:
        """Begin to work: the time until then was spent on something else."""
        ...

    def grant(self) -> int:
        """Return how many more users may be worked on now, 0 when the turn is over."""
        ...


class Unlimited:
    """Grants everything."""

    def enter(self) -> None:
        pass

    def grant(self) -> int:
        return USERS_AT_ONCE


class Turns:
    """Grants work for a while in each turn, and once at least.

    Whoever reads a source begins the turns. Where nobody does, in a process without a source of its own or behind the
    end of all of them, a turn ends by itself after a while.

    What the work sends must not keep others waiting either: while the sink is behind nothing is granted.

    Args:
        monotonic_s: says how long something took.
        is_behind: tells whether the sink is.
        turn_s: how long mass work may take in one turn.
        users: how many users are granted at once.
    """

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        turn_s: float = TURN_S,
        users: int = USERS_AT_ONCE,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._is_behind = is_behind
        self._hurries = False
        self._turn_s = turn_s
        self._users = users
        self._lasts_s = 2 * turn_s
        self._begin()

    def _begin(self) -> None:
        self._began_s = self._entered_s = self._monotonic_s()
        self._spent_s = 0.0
        self._granted = False

    def begin(self, *, hurries: bool = False) -> None:
        """Begin a turn: whoever was waiting has been served.

        Args:
            hurries: nobody else is waiting, so it does not matter whether the sink is behind.
        """
        self._lasts_s = 5 * self._turn_s
        self._hurries = hurries
        self._begin()

    def enter(self) -> None:
        self._entered_s = self._monotonic_s()
        if self._entered_s - self._began_s >= self._lasts_s:
            self._begin()

    def grant(self) -> int:
        now_s = self._monotonic_s()
        self._spent_s += now_s - self._entered_s
        self._entered_s = now_s
        if self._granted and self._spent_s >= self._turn_s:
            return 0
        if not self._hurries and self._is_behind():
            return 0
        self._granted = True
        return self._users
