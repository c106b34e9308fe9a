"""What one channel has done since the start of the process, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final, NamedTuple

BOUNDS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class ChannelLook(NamedTuple):
    """One look at a channel.

    `answers` has how many calls were answered so, `outcomes` how many receipts say so; `seconds` counts calls by
    `BOUNDS_S` and one more for the rest; `oldest_s` is the age of the oldest open action since it was decided, 0 where
    none is open.
    """

    name: str
    calls: int = 0
    retries: int = 0
    answers: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    seconds: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    seconds_total: float = 0.0
    dead: int = 0
    open: int = 0
    oldest_s: float = 0.0
    partitions: int = 0
    is_stopped: bool = False
    is_ledger_away: bool = False


class Counts:
    """Counts calls of one channel."""

    def __init__(self) -> None:
        self.calls = self.retries = self.dead = 0
        self.answers: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.seconds = [0] * (len(BOUNDS_S) + 1)
        self.seconds_total = 0.0

    def called(self, kind: str, lasted_s: float, attempt: int) -> None:
        """Note a call that was answered."""
        self.calls += 1
        self.retries += attempt > 1
        self.answers[kind] += 1
        self.seconds[bisect_left(BOUNDS_S, lasted_s)] += 1
        self.seconds_total += lasted_s
