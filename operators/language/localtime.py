"""Local time: the moments at which a zone's clocks and calendars say something, and what they say at a moment.

Units and shapes: a moment is an integer of milliseconds since 1970 UTC (`_ms`); a time of day is an integer of seconds
since local midnight as the clock on the wall shows them, 0..86399; a date is its ordinal (`datetime.date.toordinal`,
1 = 0001-01-01); a weekday is 0 for Monday .. 6 for Sunday.

One rule for clock changes, everywhere: a local time that a change skips means the first moment after the gap; one that
occurs twice means the first. A gap can be 30 minutes (Lord Howe), cross midnight, or swallow a whole date (Apia,
2011-12-30); such a date still has its times of day, all of them at the first moment after it.

Moments from the year 1 on are fine, without an upper end: calendar and rules repeat every 400 years, so what `datetime`
cannot hold is computed 400 years earlier.
"""

from __future__ import annotations

from calendar import isleap
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from io import BytesIO
from pkgutil import get_data
from typing import Final
from zoneinfo import ZoneInfo

DAY_S: Final = 86_400

_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_CYCLE_DAYS: Final = 146_097  # The Gregorian calendar repeats after 400 years, a whole number of weeks.
_CYCLE_MS: Final = _CYCLE_DAYS * DAY_S * 1000
# From here on we compute a cycle earlier. A thousand years of room below `datetime.max`, and far above the last change
# that any zone has written out instead of as a rule.
_FAR_ORDINAL: Final = date(9000, 1, 1).toordinal()
_EARLY_MS: Final = (date(2, 1, 1).toordinal() - _EPOCH_ORDINAL) * DAY_S * 1000  # A year of room above `datetime.min`.
_FAR_MS: Final = (_FAR_ORDINAL - _EPOCH_ORDINAL) * DAY_S * 1000

_zones: Final[dict[str, ZoneInfo]] = {}


def zone_of(name: object) -> ZoneInfo | None:
    """Return the zone with the IANA name *name*, spelled exactly, or None for anything else that may stand there.

    Both the list of names and the rules come from the `tzdata` package, not from the machine, so that every process of
    the job, and a later simulation, agree. A zone is read once; None costs a look-up, whatever was sent.
    """
    if not isinstance(name, str):
        return None
    zone = _zones.get(name)
    if zone is None and name in zone_names():
        zone = _zones[name] = ZoneInfo.from_file(BytesIO(_tzdata(f"zoneinfo/{name}")), key=name)
    return zone


@cache
def zone_names() -> frozenset[str]:
    """Return all names that `zone_of` knows."""
    return frozenset(_tzdata("zones").decode().split())


def moment_of_local(zone: ZoneInfo, ordinal: int, time_of_day_s: int) -> int:
    """Return the moment (ms) at which it is *time_of_day_s* on the date *ordinal* in *zone*."""
    return _moment_of_local(zone, ordinal, time_of_day_s)


@lru_cache(maxsize=8192)  # Many users of one zone wait for the same time of the same day.
def _moment_of_local(zone: ZoneInfo, ordinal: int, time_of_day_s: int) -> int:
    cycles = 0
    if ordinal >= _FAR_ORDINAL:
        cycles = (ordinal - _FAR_ORDINAL) // _CYCLE_DAYS + 1
        ordinal -= cycles * _CYCLE_DAYS
    wall = datetime.fromordinal(ordinal) + timedelta(0, time_of_day_s)
    wall_s = (ordinal - _EPOCH_ORDINAL) * DAY_S + time_of_day_s
    # zoneinfo: in a gap fold=0 has the offset from before the change and fold=1 the one from after it, which is
    # greater; where a time occurs twice they have the first and the second one.
    first = _seconds(zone.utcoffset(wall))
    second = _seconds(zone.utcoffset(wall.replace(fold=1)))
    moment_s = wall_s - first if first >= second else _end_of_gap_s(zone, wall_s, wall_s - second, wall_s - first)
    return moment_s * 1000 + cycles * _CYCLE_MS


def moment_of_wall(zone: ZoneInfo, wall_ms: int) -> int:
    """Return the moment (ms) at which the clocks of *zone* show *wall_ms*: what an ISO text without offset means.

    Args:
        wall_ms: the date and time shown, written as ms since 1970-01-01T00:00 on the same clock; that is, the text
            read as if it were UTC.
    """
    wall_s, rest_ms = divmod(wall_ms, 1000)
    days, time_of_day_s = divmod(wall_s, DAY_S)
    moment_ms = moment_of_local(zone, _EPOCH_ORDINAL + days, time_of_day_s)
    if not rest_ms or _wall_s(moment_ms, zone) != wall_s:  # In a gap there is nothing to add: it means its end.
        return moment_ms
    return moment_ms + rest_ms


def next_time_of_day(now_ms: int, zone: ZoneInfo, time_of_day_s: int, days: AbstractSet[int] | None = None) -> int:
    """Return the first moment (ms) strictly later than *now_ms* at which it is *time_of_day_s* in *zone*.

    Args:
        days: weekdays of the dates that count, by the date in question, also where that time was skipped and its
            moment falls on the next one. None: every day.

    Raises:
        ValueError: *days* is empty, so there is no such moment.
    """
    return first_time_of_day_from(now_ms + 1, zone, time_of_day_s, days)


def first_time_of_day_from(
    now_ms: int, zone: ZoneInfo, time_of_day_s: int, days: AbstractSet[int] | None = None
) -> int:
    """Return the first moment (ms) at or after *now_ms* at which it is *time_of_day_s* in *zone*.

    Arguments and errors as for `next_time_of_day`.
    """
    if days is not None and days.isdisjoint(range(7)):
        raise ValueError("no weekday to wait for")
    # Before a local time comes for the first time, all local times are smaller. So what is not over yet belongs to the
    # date just before *now_ms* or to a later one; it is not the date at *now_ms* if a gap across midnight ends there.
    # That of today can be over, and so can that of tomorrow, when clocks go back across midnight.
    ordinal, _ = local_date_and_time(now_ms - 1, zone)
    while True:
        if days is None or weekday_of(ordinal) in days:
            moment_ms = _moment_of_local(zone, ordinal, time_of_day_s)
            if moment_ms >= now_ms:
                return moment_ms
        ordinal += 1


def next_anniversary(now_ms: int, zone: ZoneInfo, wall_ms: int, offset_ms: int = 0) -> int:
    """Return the first moment (ms) strictly later than *now_ms* that is *offset_ms* after an anniversary in *zone*.

    Args:
        wall_ms: a local date and time, written as for `moment_of_wall`; its year does not matter. 29 February falls on
            the 28th in other years.
    """
    days, time_of_day_ms = divmod(wall_ms, DAY_S * 1000)
    first = date.fromordinal(_EPOCH_ORDINAL + days)
    ordinal, _ = local_date_and_time(now_ms - offset_ms, zone)
    cycles = max(0, (ordinal - _FAR_ORDINAL) // _CYCLE_DAYS + 1)
    year = date.fromordinal(ordinal - cycles * _CYCLE_DAYS).year - 1  # It may be over here and not yet there.
    while True:
        day = 28 if (first.month, first.day) == (2, 29) and not isleap(year) else first.day
        ordinal = date(year, first.month, day).toordinal() + cycles * _CYCLE_DAYS
        moment_ms = moment_of_wall(zone, (ordinal - _EPOCH_ORDINAL) * DAY_S * 1000 + time_of_day_ms) + offset_ms
        if moment_ms > now_ms:
            return moment_ms
        year += 1


def wall_of_moment(moment_ms: int, zone: ZoneInfo) -> int:
    """Return what the clocks of *zone* show at *moment_ms*, written as for `moment_of_wall`."""
    if moment_ms < _EARLY_MS:
        return wall_of_moment(moment_ms + _CYCLE_MS, zone) - _CYCLE_MS
    return _wall_s(moment_ms, zone) * 1000 + moment_ms % 1000


def local_date_and_time(now_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the date (ordinal) and the time of day (seconds) that the clocks of *zone* show at *now_ms*."""
    if now_ms >= _FAR_MS:
        cycles = (now_ms - _FAR_MS) // _CYCLE_MS + 1
        ordinal, time_of_day_s = local_date_and_time(now_ms - cycles * _CYCLE_MS, zone)
        return ordinal + cycles * _CYCLE_DAYS, time_of_day_s
    local = datetime.fromtimestamp(now_ms // 1000, zone)
    return local.toordinal(), local.hour * 3600 + local.minute * 60 + local.second


def local_fields(now_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the weekday and the time of day (seconds) that the calendars and clocks of *zone* show at *now_ms*."""
    ordinal, time_of_day_s = local_date_and_time(now_ms, zone)
    return weekday_of(ordinal), time_of_day_s


def in_local_window(
    now_ms: int, zone: ZoneInfo, after_s: int | None, before_s: int | None, days: AbstractSet[int] | None
) -> bool:
    """Say whether the local time at *now_ms* is in `[after_s, before_s)` on one of *days*.

    *after_s* greater than *before_s* crosses midnight. None leaves an end open, or all days in. *days* is about the
    local date at *now_ms*, also after midnight. Equal ends hold never; `check` refuses them.
    """
    weekday, time_of_day_s = local_fields(now_ms, zone)
    if days is not None and weekday not in days:
        return False
    if after_s is None:
        return before_s is None or time_of_day_s < before_s
    if before_s is None:
        return time_of_day_s >= after_s
    if after_s > before_s:
        return time_of_day_s >= after_s or time_of_day_s < before_s
    return after_s <= time_of_day_s < before_s


def end_of_daily_span(now_ms: int, zone: ZoneInfo, from_s: int, until_s: int) -> int | None:
    """Return when a span of each day, in which *now_ms* is, is over (ms); None if it is in none.

    The span of a date begins at the moment of *from_s* and ends, excluded, at that of *until_s*: of the next date where
    that is not later in the day.
    """
    ordinal, _ = local_date_and_time(now_ms, zone)
    days = 0 if from_s < until_s else 1
    # The one that began a date ago may not be over. The next date may have begun before, if clocks went back across
    # midnight since.
    for begun in (ordinal, ordinal - 1, ordinal + 1):
        if _moment_of_local(zone, begun, from_s) <= now_ms:
            end_ms = _moment_of_local(zone, begun + days, until_s)
            if now_ms < end_ms:
                return end_ms
    return None


def weekday_of(ordinal: int) -> int:
    """Return the weekday of the date *ordinal*."""
    return (ordinal + 6) % 7


def _end_of_gap_s(zone: ZoneInfo, wall_s: int, before_s: int, after_s: int) -> int:
    """Return the first second after *before_s*, up to *after_s*, at which the clocks have jumped over *wall_s*."""
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _wall_s(middle_s * 1000, zone) < wall_s:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s


def _wall_s(now_ms: int, zone: ZoneInfo) -> int:
    ordinal, time_of_day_s = local_date_and_time(now_ms, zone)
    return (ordinal - _EPOCH_ORDINAL) * DAY_S + time_of_day_s


def _tzdata(name: str) -> bytes:
    data = get_data("tzdata", name)
    assert data is not None  # The package is a dependency, and its loader has `get_data`.
    return data


def _seconds(offset: timedelta | None) -> int:
    assert offset is not None  # A ZoneInfo always has an offset for a datetime.
    return offset.days * DAY_S + offset.seconds
