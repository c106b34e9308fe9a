"""ISO 8601 texts and epoch milliseconds: how the times of records and flows are read and written.

What is read: `YYYY-MM-DD`, or that date, `T` or a space, `HH:MM[:SS[.fraction]]`, optionally followed by `Z`,
`UTC`, `GMT`, `±HH:MM` or `±HHMM`, with or without a space before it. Without an offset it is UTC; a date alone
is its midnight; fractions are cut to milliseconds. Nothing else is a time: no week dates, no `24:00`, no second
60, no comma, no lower case, no digits of other scripts, and nothing that lies outside the years 1970..9999 of UTC.

Times are integers of milliseconds since 1970 UTC. Reading and writing are on the hot path, and most times lie
close to one another; so what repeats, minutes when reading and seconds when writing, is kept in bounded
tables.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

TIME_MS_MAX: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
NUMBER_MS_MIN: Final = 100_000_000_000  # In March 1973. A smaller number is one of seconds, from somebody's own clock.

_SECOND_MS: Final = 1000
_MINUTE_MS: Final = 60 * _SECOND_MS
_DAY_S: Final = 86_400
_DAY_MS: Final = _DAY_S * _SECOND_MS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_CYCLE_DAYS: Final = 146_097  # The calendar repeats every 400 years.

_NO_OFFSET: Final = frozenset(("Z", "UTC", "GMT"))
_HEAD: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?")
_REST: Final = re.compile(r"(?:\.([0-9]+))?(?: ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?")

# Most texts are a minute, "2026-11-23T08:00:", a second, "05", and a rest, ".123Z"; a minute is a day and a
# clock, "T08:00:". A key comes into these tables after it was checked, and whatever keys make up is valid:
# the first and the last day, which an offset could move out of 1970..9999, are not kept.
_KEPT_MAX: Final = 4096  # Days of eleven years, minutes of almost three days.
_RESTS_MAX: Final = 8192
_days: Final[dict[str, int]] = {}
_minutes: Final[dict[str, int]] = {}
_CLOCKS: Final = {
    f"{separator}{minute // 60:02d}:{minute % 60:02d}:": minute * _MINUTE_MS
    for separator in ("T", " ")
    for minute in range(24 * 60)
}
_SECONDS: Final = {f"{second:02d}": second * _SECOND_MS for second in range(60)}
_rests: Final = {f".{ms:03d}Z": ms for ms in range(1000)}
_THOUSANDTHS: Final = frozenset(rest[:-1] for rest in _rests)

_WRITTEN_MAX: Final = 8_192
_written: Final[dict[int, str]] = {}
_WRITTEN_RESTS: Final = tuple(f"{ms:03d}Z" for ms in range(1000))


def parse_iso_ms(text: str) -> int | None:
    """Return the ms since 1970 UTC of an ISO 8601 text, UTC if it has no offset; None if it is no time."""
    try:
        return _minutes[text[:17]] + _SECONDS[text[17:19]] + _rests[text[19:]]
    except KeyError:
        pass
    if text[19:23] in _THOUSANDTHS:
        cut = text[:23] + text[23:].lstrip("0123456789")
        if len(cut) < len(text):
            return parse_iso_ms(cut)
    day_ms, clock_ms = _days.get(text[:10]), _CLOCKS.get(text[10:17])
    if day_ms is not None and clock_ms is not None and text[:17] not in _minutes:
        if len(_minutes) >= _KEPT_MAX:
            _minutes.clear()
        _minutes[text[:17]] = day_ms + clock_ms
        return parse_iso_ms(text)
    found = parse_local(text)
    if found is None:
        return None
    local_ms, offset_ms = found
    return local_ms - (offset_ms or 0)


def parse_local(text: str, *, any_year: bool = False) -> tuple[int, int | None] | None:
    """Return what an ISO 8601 text shows, and its offset: without one it may mean the time in a user's zone.

    Args:
        any_year: years before 1970 count, too, from 0001 on.

    Returns:
        (local_ms, offset_ms): the date and time as written, in ms as if they were UTC, and how far the
        written offset is ahead of UTC in ms: 0 for `Z`, None where none is written. The moment is their
        difference. None if the text is no time, or, without *any_year*, if its moment (without an offset,
        `local_ms`) is outside 1970..9999.
    """
    head = _HEAD.match(text)
    local_ms = None if head is None else _head_ms(head)
    if head is None or local_ms is None or (head.end() == 10 and len(text) > 10):
        return None  # A date alone has no offset.
    rest = _REST.fullmatch(text, head.end())
    if rest is None or (rest[1] is not None and head[6] is None):
        return None
    fraction, offset = rest.groups()
    ms = 0 if fraction is None else int(fraction[:3].ljust(3, "0"))
    offset_ms = 0
    if offset is not None and offset not in _NO_OFFSET:
        if offset[1:3] > "23" or offset[-2:] > "59":
            return None
        offset_ms = (int(offset[1:3]) * 60 + int(offset[-2:])) * _MINUTE_MS
        if offset[0] == "-":
            offset_ms = -offset_ms
    if not any_year and not 0 <= local_ms + ms - offset_ms <= TIME_MS_MAX:
        return None
    if _DAY_MS <= local_ms <= TIME_MS_MAX - _DAY_MS:
        if len(_days) >= _KEPT_MAX:
            _days.clear()
        _days[text[:10]] = local_ms - local_ms % _DAY_MS
    if len(_rests) < _RESTS_MAX and (fraction is None or len(fraction) <= 3):  # Longer ones are too many.
        _rests[rest[0]] = ms - offset_ms
    return local_ms + ms, None if offset is None else offset_ms


def _head_ms(head: re.Match[str]) -> int | None:
    """Return the ms of what `_HEAD` has matched, as if it were UTC; None if there is no such date or time."""
    year, month, day, hour, minute, second = head.groups()
    try:
        local_ms = (date(int(year), int(month), int(day)).toordinal() - _EPOCH_ORDINAL) * _DAY_MS
    except ValueError:
        return None
    if hour is not None:
        if hour > "23" or minute > "59":
            return None
        local_ms += (int(hour) * 60 + int(minute)) * _MINUTE_MS
        if second is not None:
            if second > "59":
                return None
            local_ms += int(second) * _SECOND_MS
    return local_ms


def parse_time_value(value: object) -> int | None:
    """Return the ms of a time in a record: an ISO 8601 text, or a number of ms since 1970, cut to an integer.

    None for anything else: a boolean, null, an object, a text of digits, what lies outside 1970..9999, NaN, and a
    number that is surely one of seconds.
    """
    if isinstance(value, str):
        return parse_iso_ms(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if NUMBER_MS_MIN <= value <= TIME_MS_MAX else None
    if isinstance(value, float):
        return int(value) if NUMBER_MS_MIN <= value < TIME_MS_MAX + 1 else None
    return None


def looks_like_seconds(value: object) -> bool:
    """Tell whether *value*, which is no time, is a number of seconds since 1970."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < NUMBER_MS_MIN


def format_ms(ms: int) -> str:
    """Return *ms* since 1970 UTC as ISO 8601 with milliseconds, `2026-11-23T08:00:00.123Z`.

    Every integer can be written, since a wait may end after the last time that can be read. Years outside
    0..9999 have a sign and at least six digits, as in ECMAScript: `+010000-01-01T00:00:00.000Z`.
    """
    try:
        return _written[ms // 1000] + _WRITTEN_RESTS[ms % 1000]
    except KeyError:
        second = _format_second(ms // 1000)
    if len(_written) >= _WRITTEN_MAX:
        _written.clear()
    _written[ms // 1000] = second
    return second + _WRITTEN_RESTS[ms % 1000]


def _format_second(at_s: int) -> str:
    """Return the text of the second *at_s* since 1970, up to and including the point before the ms."""
    days, in_day_s = divmod(at_s, _DAY_S)
    minutes, second = divmod(in_day_s, 60)
    return f"{_format_day(days)}T{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}."


@lru_cache(maxsize=_KEPT_MAX)
def _format_day(days: int) -> str:
    """Return the text of a day, counted from 1970."""
    cycles, days = divmod(days + _EPOCH_ORDINAL - 1, _CYCLE_DAYS)
    day = date.fromordinal(days + 1)
    year = day.year + 400 * cycles
    written = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"
    return f"{written}-{day.month:02d}-{day.day:02d}"
