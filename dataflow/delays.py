"""How long it took from an event to the action that it led to, as a histogram.

Only actions are measured, so an event that leads to none costs nothing. Of many actions that go out together, which is
where speed matters, a few are measured and stand for the others: to read the time of each would cost a third of writing
it as JSON.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from state.iso import parse_iso_ms
from state.outgoing import Action

BOUNDS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0, 3600.0)
MEASURED_MAX: Final = 8  # Of the actions that are handed over together.

_BOUNDS_MS: Final = tuple(int(1000 * bound_s) for bound_s in BOUNDS_S)
_NONE: Final = (0,) * (len(BOUNDS_S) + 1)


class Delayed(msgspec.Struct, frozen=True):
    """How many actions took how long.

    `counts` has one number for each of `BOUNDS_S`, of those that took no longer and longer than the bound before, and
    one for the rest; `total_ms` is the sum.
    """

    counts: tuple[int, ...] = _NONE
    total_ms: int = 0

    def __add__(self, other: Delayed) -> Delayed:
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Delayed(counts, self.total_ms + other.total_ms)


class Delays:
    """Measures how long it took to actions that go out now.

    Args:
        now_ms: the time of day, by the clock that stamps of records are compared with.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._counts = list(_NONE)
        self._total_ms = 0

    def note(self, actions: Sequence[Action]) -> None:
        """Note that *actions*, of which there is at least one, were handed to the sink.

        The stream time of an action is when its event arrived, or when the wait ended that it came after.
        """
        now_ms, left = self._now_ms(), len(actions)
        step = -(-left // MEASURED_MAX)
        for action in actions[::step]:
            took_ms, stands_for = max(0, now_ms - (parse_iso_ms(action.at) or 0)), min(step, left)
            left -= stands_for
            self._counts[bisect_left(_BOUNDS_MS, took_ms)] += stands_for
            self._total_ms += took_ms * stands_for

    def so_far(self) -> Delayed:
        """Return what was noted since the start."""
        return Delayed(tuple(self._counts), self._total_ms)
