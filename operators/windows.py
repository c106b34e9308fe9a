"""Rolling windows: the sorted times of the latest events, as a user's row keeps them."""

from __future__ import annotations

from bisect import bisect_right, insort


def insert(times: list[int], at: int, since: int) -> None:
    """Insert *at* into the sorted *times* and drop those at or before *since*, which no window reaches any more."""
    if not times or at >= times[-1]:
        times.append(at)
    else:
        insort(times, at)
    drop(times, since)


def drop(times: list[int], since: int) -> None:
    """Drop those of the sorted *times* that are at or before *since*."""
    if times and times[0] <= since:
        del times[: bisect_right(times, since)]
