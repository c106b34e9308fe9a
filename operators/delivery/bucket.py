"""How fast calls may follow one another."""

from __future__ import annotations

from typing import Final

HOLDS_MS: Final = 100


class TokenBucket:
    """Lets at most *rate* calls through per second; who comes after a pause finds what 0.1 s brings, at least one.

    It begins empty, so the first second has no more than any other.
    """

    def __init__(self, rate: float, now: int) -> None:
        self._rate = rate / 1000
        self._most = max(1.0, self._rate * HOLDS_MS)
        self._tokens = 0.0
        self._at = now

    def take(self, now: int) -> int:
        """Take a token and return 0, or return in how many ms there will be one."""
        if now > self._at:
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
            self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        return max(1, int((1.0 - self._tokens) / self._rate) + 1)
