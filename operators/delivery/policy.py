"""How one channel is delivered to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PARK: Final = "park"
"""What may have been sent is not sent again."""
AGAIN: Final = "retry"
"""What may have been sent is sent again."""

BACKOFF_FIRST_MS: Final = 500
BACKOFF_MOST_MS: Final = 60_000
PROBE_MS: Final = 30_000
"""How often one action is tried while all others wait for somebody to mend the channel."""
LOOK_AGAIN_MS: Final = 1_000
LEASE_MARGIN_MS: Final = 30_000
"""So much longer than a call may take does its lease last: clocks differ, and a process may stand still."""
CLOCKS_DIFFER_MS: Final = 10_000
"""By so much at most the clocks of two machines may differ."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one channel is delivered to; times in ms.

    `drops_repeats` says that the provider takes a second call with the same id for the first one, for so long after the
    first attempt as `repeats_dropped_for_ms` says, if that is not None; `can_be_asked` that it tells what became of a
    call; believed that there was none only `ask_after_ms` after it. Where neither is so, `on_unknown` decides. `rate`
    is in calls per second, None for no limit here.
    """

    call_ms: int = 10_000
    concurrency: int = 50
    rate: float | None = None
    give_up_after_ms: int = 3_600_000
    open_max: int = 10_000
    drops_repeats: bool = False
    repeats_dropped_for_ms: int | None = None
    can_be_asked: bool = False
    ask_after_ms: int = 30_000
    on_unknown: str = PARK

    @property
    def lease_ms(self) -> int:
        """How long a call is nobody else's business."""
        return self.call_ms + LEASE_MARGIN_MS

    def may_call_again(self, since_ms: int, now: int) -> bool:
        """Tell whether what may have been sent since *since_ms* is called again without being asked for."""
        most_ms = self.repeats_dropped_for_ms
        if self.drops_repeats and (most_ms is None or now - since_ms < most_ms):
            return True
        return self.on_unknown == AGAIN and not self.can_be_asked
