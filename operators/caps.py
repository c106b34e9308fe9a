"""Frequency caps: how many marketing messages a user had of late, and when the next one is possible.

A user's row keeps, per channel and over all channels (`ALL`), the times of the latest messages: as many as the largest
`at_most` of a cap on it, and none where there is no cap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from operators.language.message_rules import Cap as WrittenCap
from operators.language.values import DAY, duration_text
from operators.language.workspace import Workspace
from operators.windows import insert
from state.iso import format_ms
from state.user import User

ALL: Final = ""
"""What messages of every channel count for."""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `at_most` messages of `counts` (a channel, or `ALL`) in `(now - per_ms, now]`.

    `place` says where it is written in the workspace file.
    """

    counts: str
    at_most: int
    per_ms: int
    place: str


def caps_of(workspace: Workspace, channel: str) -> tuple[Cap, ...]:
    """Return the caps that a message on *channel* has to fit in: the channel's own, then those over all."""
    written = workspace.channels.get(channel)
    own = () if written is None else _named(channel, written.caps, f"channels.{channel}.caps")
    return (*own, *_named(ALL, workspace.caps, "caps"))


def reaches_of(workspace: Workspace) -> dict[str, int]:
    """Return how far back (ms) caps ask for messages, by what these count for."""
    found: dict[str, int] = {}
    for cap in (cap for channel in (ALL, *workspace.channels) for cap in caps_of(workspace, channel)):
        found[cap.counts] = max(cap.per_ms, found.get(cap.counts, 0))
    return found


def _named(counts: str, caps: Sequence[WrittenCap], place: str) -> tuple[Cap, ...]:
    return tuple(Cap(counts, cap.at_most, cap.per, f"{place}.{index}") for index, cap in enumerate(caps))


def against(caps: Sequence[Cap], sends: Mapping[str, list[int]], now: int) -> dict[str, Any] | None:
    """Return what stands against another message at *now*: the first cap that is reached, None for none.

    `next_possible` is when all of *caps* would allow it, if nothing else is sent meanwhile.
    """
    first: dict[str, Any] | None = None
    possible = now
    for cap in caps:
        times = sends.get(cap.counts)
        # Times are sorted: the last but so many decides, and as long as it is in the window so are all later ones.
        if times is None or len(times) < cap.at_most or (free := times[-cap.at_most] + cap.per_ms) <= now:
            continue
        possible = max(possible, free)
        if first is None:
            since = now - cap.per_ms
            sent = sum(1 for at in times if at > since)
            first = {"cap": cap.place, "sent": sent, "at_most": cap.at_most, "per": duration_text(cap.per_ms)}
    return None if first is None else {**first, "next_possible": format_ms(possible)}


def counter_of(caps: Sequence[Cap]) -> Callable[[User, int], None] | None:
    """Return what notes that a user was sent a message which *caps* count, None where there are none."""
    if not caps:
        return None
    kept: dict[str, tuple[int, int]] = {}
    for cap in caps:
        keep, reach = kept.get(cap.counts, (0, 0))
        kept[cap.counts] = max(keep, cap.at_most), max(reach, cap.per_ms)
    windows = tuple((counts, keep, reach) for counts, (keep, reach) in kept.items())

    def count(user: User, now: int) -> None:
        for counts, keep, reach in windows:
            times = user.sends.setdefault(counts, [])
            insert(times, now, now - reach)
            del times[:-keep]
        if not user.day:
            user.day = now // DAY + 1  # Somebody has to look one day whether all this can go.

    return count
