"""How far the records of a file are out of order: how many had to be raised, and which one moved time away from others.

Stream time never goes back, so one record with a wrong date raises all that come after it. Whoever recorded the file
should know, since waits and windows of the raised ones mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from connectors.sources import Batch
from operators.language.values import DAY
from state.iso import format_ms

JUMP_MS: Final = DAY
SURELY_WRONG_MS: Final = 366 * DAY  # So far ahead of the record before it, it need not raise another one to be told.


@dataclass(slots=True)
class Jump:
    """A record that moved time a day or more ahead of the one before it; `raised` counts the later ones left behind."""

    offset: int
    user_id: str
    from_ms: int
    to_ms: int
    raised: int = 0


@dataclass(slots=True)
class Disorder:
    """What was found so far: `raised` records, by `most_ms` at most, and `jumps` that look like wrong dates."""

    raised: int = 0
    most_ms: int = 0
    _now_ms: int = -1
    _jumps: list[Jump] = field(default_factory=list)

    @property
    def jumps(self) -> list[Jump]:
        """The records that moved time away from their neighbours."""
        return [one for one in self._jumps if _is_told(one)]

    def look(self, batch: Batch, dead: Container[int], times: Callable[[bytes], Iterable[tuple[str, int]]]) -> None:
        """Look at a batch of records that say themselves when they came, without those at the offsets *dead*.

        Args:
            times: of what is in a record, the user and the time.
        """
        for offset, value in zip(batch.offsets, batch.values, strict=True):
            if offset not in dead:
                for user_id, at_ms in times(value):
                    self._see(offset, user_id, at_ms)

    def _see(self, offset: int, user_id: str, at_ms: int) -> None:
        if at_ms < self._now_ms:
            self.raised += 1
            self.most_ms = max(self.most_ms, self._now_ms - at_ms)
            if self._jumps and at_ms <= self._jumps[-1].to_ms - JUMP_MS:
                self._jumps[-1].raised += 1
            return
        if 0 <= self._now_ms <= at_ms - JUMP_MS:
            if self._jumps and not _is_told(self._jumps[-1]):
                self._jumps.pop()  # It was a quiet day, and no mistake.
            self._jumps.append(Jump(offset, user_id, self._now_ms, at_ms))
        self._now_ms = at_ms


def _is_told(jump: Jump) -> bool:
    return jump.raised > 0 or jump.to_ms - jump.from_ms >= SURELY_WRONG_MS


def said(jumps: Iterable[Jump], file: str, most: int = 3) -> Iterable[str]:
    """Yield a sentence for each of *jumps*, up to *most* of them."""
    told = list(jumps)
    for one in told[:most]:
        raised = f"{one.raised} later record{'s were' if one.raised != 1 else ' was'} raised to it"
        yield (
            f"{file}: line {one.offset} (user {one.user_id}) moves time from {format_ms(one.from_ms)} to "
            f"{format_ms(one.to_ms)}, and {raised}: is its time right?"
        )
    if len(told) > most:
        yield f"{file}: {len(told) - most} more records move time a day or more ahead of their neighbours"
