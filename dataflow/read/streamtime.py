"""The stream time of one source partition: it never goes back, and in a replay it comes as it came before."""

from __future__ import annotations

from collections.abc import Iterable


class StreamTime:
    """Owns the stream time of a source partition, in ms; -1 before anything was read.

    Args:
        now_ms: the time at which to go on.
        noted: (offset, stream time) pairs: from this offset on time had come at least so far in an earlier attempt, and
            what was decided then must come out the same.
    """

    def __init__(self, now_ms: int = -1, noted: Iterable[tuple[int, int]] = ()) -> None:
        self._now_ms = now_ms
        self._noted = sorted(noted, reverse=True)  # The next one is last.

    @property
    def now_ms(self) -> int:
        """The time that has been reached."""
        return self._now_ms

    @property
    def is_replayed(self) -> bool:
        """Whether an earlier attempt has noted times that are still to come."""
        return bool(self._noted)

    def reach(self, at_ms: int) -> int:
        """Let time be at least *at_ms*, and return what it is: an earlier record is raised to it."""
        self._now_ms = max(self._now_ms, at_ms)
        return self._now_ms

    def reach_at(self, position: int) -> None:
        """Let time be what it had come to at *position* in an earlier attempt."""
        noted = self._noted
        while noted and noted[-1][0] <= position:
            self.reach(noted.pop()[1])
