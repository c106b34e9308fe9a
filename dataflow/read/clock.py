"""The wall clock as the job uses it: without its jumps.

Late is safe and early is not: a wait that ends late still acts as of its due time, with all that came in between known,
but one that ends early overtakes the purchase. So this clock is never ahead of the wall clock, and never goes back.
When the wall clock jumps ahead, it is believed once a record's stamp says so, too; until then this clock runs on as if
nothing had happened, and a thousandth faster, so that clocks which are adjusted by small steps do not drift apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

CATCH_UP: Final = 1.001


def wall_clock_ms() -> int:
    """Return the time of day in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Return the ms of a clock that is never set, and on Linux goes on while the machine sleeps."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


class SteadyClock:
    """The time of day as far as it can be trusted; for any thread.

    Args:
        wall_ms: the time of day, which may be set while we run.
        elapsed_ms: a clock that is never set.
    """

    def __init__(self, wall_ms: Callable[[], int] = wall_clock_ms, elapsed_ms: Callable[[], int] = elapsed_ms) -> None:
        self.wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms
        self._lock = threading.Lock()
        self._at: float = wall_ms()
        self._read_at = elapsed_ms()

    def tick_ms(self) -> int:
        """Let the time that has passed since the last tick count, and return the time.

        It is never ahead of the wall clock, except where that was set back; then it stands.
        """
        with self._lock:
            self._go_on()
            return int(self._at)

    def _go_on(self) -> None:
        """Let the time that has passed since the last look count; only with the lock."""
        read_at = self._elapsed_ms()
        self._at = self._reached(read_at, self.wall_ms())
        self._read_at = read_at

    def _reached(self, read_at: int, wall_ms: int) -> float:
        """Return how far time has come at *read_at* of the clock that is never set; only with the lock."""
        return max(self._at, min(wall_ms, self._at + CATCH_UP * (read_at - self._read_at)))

    def held_back_ms(self) -> int:
        """Return how far the wall clock is ahead of what we believe."""
        with self._lock:
            wall_ms = self.wall_ms()
            return max(0, wall_ms - int(self._reached(self._elapsed_ms(), wall_ms)))

    def confirm(self, stamp_ms: int) -> None:
        """Take a record's stamp as evidence that it is at least so late, as far as the wall clock agrees."""
        with self._lock:
            self._go_on()
            self._at = max(self._at, min(stamp_ms, self.wall_ms()))
