"""Schedules: the moments at which something is planned, once or again and again.

A schedule has no memory. `first_from` answers for any moment which planned time is the first at or after it, so whoever
keeps the last one that is done can go on from there. All times are ms since 1970 UTC.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from operators.language.localtime import local_date_and_time, moment_of_local, weekday_of
from operators.language.problems import BadValue, did_you_mean
from state.iso import TIME_MS_MAX


class Schedule(Protocol):
    """When something is planned."""

    @property
    def is_recurring(self) -> bool:
        """Whether there is more than one planned time."""
        ...

    def first_from(self, at_ms: int, begin_ms: int) -> int | None:
        """Return the first planned time at or after *at_ms*, None where there is none.

        Args:
            begin_ms: when the schedule was put in force.
        """
        ...


@dataclass(frozen=True, slots=True)
class Now:
    """Once, a millisecond after it was put in force: what is there from the beginning is in."""

    is_recurring = False

    def first_from(self, at_ms: int, begin_ms: int) -> int | None:
        return begin_ms + 1 if at_ms <= begin_ms + 1 else None


@dataclass(frozen=True, slots=True)
class At:
    """Once, at a moment."""

    moment_ms: int
    is_recurring = False

    def first_from(self, at_ms: int, begin_ms: int) -> int | None:
        return self.moment_ms if at_ms <= self.moment_ms else None


@dataclass(frozen=True, slots=True)
class Every:
    """At a moment, and then again and again after the same time, whatever the clocks on the wall show."""

    from_ms: int
    every_ms: int
    is_recurring = True

    def first_from(self, at_ms: int, begin_ms: int) -> int | None:
        found = self.from_ms + max(0, -(-(at_ms - self.from_ms) // self.every_ms)) * self.every_ms
        return found if found <= TIME_MS_MAX else None


@dataclass(frozen=True, slots=True)
class Cron:
    """At local times of a zone that five fields describe.

    `times` are the times of day in seconds, in their order; `days`, `months` and `weekdays` what the fields allow,
    weekdays from 0 for Monday. `either` says that a day counts if its number or its weekday is allowed, else both must
    be.
    """

    zone: ZoneInfo
    times: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    is_recurring = True

    def first_from(self, at_ms: int, begin_ms: int) -> int | None:
        # As in `first_time_of_day_from`: what is not over belongs to the local date just before, or to a later one.
        ordinal, _ = local_date_and_time(max(at_ms, 1) - 1, self.zone)
        while ordinal <= _LAST_ORDINAL:
            on = date.fromordinal(ordinal)
            if on.month not in self.months:
                ordinal += monthrange(on.year, on.month)[1] - on.day + 1
                continue
            if self._allows(on, ordinal):
                # A later local time never comes first, so the moments are in the order of the times.
                index = bisect_left(self.times, at_ms, key=lambda at_s: moment_of_local(self.zone, ordinal, at_s))
                if index < len(self.times):
                    found = moment_of_local(self.zone, ordinal, self.times[index])
                    return found if found <= TIME_MS_MAX else None
            ordinal += 1
        return None

    def _allows(self, on: date, ordinal: int) -> bool:
        by_number, by_weekday = on.day in self.days, weekday_of(ordinal) in self.weekdays
        return (by_number or by_weekday) if self.either else (by_number and by_weekday)


_LAST_ORDINAL: Final = date(9999, 12, 31).toordinal()
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _WEEKDAYS),
)
_PART: Final = re.compile(r"(?:(\*)|([0-9]{1,4}|[a-z]+)(?:-([0-9]{1,4}|[a-z]+))?)(?:/([0-9]{1,4}))?")
_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def parse_cron(value: object, zone: ZoneInfo) -> Cron:
    """Return the schedule that a cron expression describes, in local times of *zone*.

    Raises:
        BadValue: it is none, or one that never fires.
    """
    if not isinstance(value, str):
        raise BadValue("bad-cron", f"{value!r} is not a cron expression", 'write "0 10 * * mon", quoted')
    written = value.strip().lower()
    if written in _NICKNAMES:
        raise BadValue("bad-cron", f"'{value}' has to be written out", f'write "{_NICKNAMES[written]}"')
    fields = written.split()
    if len(fields) != len(_FIELDS):
        hint = 'minute, hour, day of the month, month, day of the week: "0 10 * * mon" is Mondays at 10:00'
        if len(fields) == len(_FIELDS) + 1:
            hint = f'there are no seconds: write "{" ".join(fields[1:])}" if the first field is one'
        raise BadValue("bad-cron", f"a cron expression has five fields, this one has {len(fields)}", hint)
    minutes, hours, days, months, weekdays = (
        _parse_field(text, *field) for text, field in zip(fields, _FIELDS, strict=True)
    )
    weekdays = frozenset((day + 6) % 7 for day in weekdays)  # From Sunday, which is 0 and 7, to Monday.
    either = len(days) < _FIELDS[2][2] and len(weekdays) < len(_WEEKDAYS)
    if not either and not any(_days_in(month) >= min(days) for month in months):
        longest = max(map(_days_in, months))
        hint = f"none of these months has more than {longest} days"
        raise BadValue("never-fires", f"'{value}' never comes", hint)
    times = tuple(sorted(hour * 3600 + minute * 60 for hour in hours for minute in minutes))
    return Cron(zone, times, days, months, weekdays, either)


def _days_in(month: int) -> int:
    return monthrange(2000, month)[1]  # Of a leap year.


def _parse_field(text: str, what: str, low: int, high: int, names: tuple[str, ...]) -> frozenset[int]:
    """Return the values that one field allows."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            hint = "write a number, a range 1-5, a list 1,3,5, or a step */15"
            raise BadValue("bad-cron", f"'{part}' is no {what}", hint)
        star, first, last, step = match.groups()
        start = low if star else _value(first, what, low, high, names)
        end = start
        if last:
            end = _value(last, what, low, high, names)
            if names is _WEEKDAYS and end == 0 < start:
                end = high  # Sunday ends a week as well as it begins one.
        elif star or step:
            end = max(start, 6 if names is _WEEKDAYS else high)  # 7 is Sunday once more.
        if end < start:
            raise BadValue("bad-cron", f"the range '{part}' goes backwards", f"write {first}-{high},{low}-{last}")
        if step and int(step) == 0:
            raise BadValue("bad-cron", f"'{part}' has a step of 0", "write a step of at least 1")
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def _value(text: str, what: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + (1 if names is _MONTHS else 0)
    if not text.isdigit():
        raise BadValue("bad-cron", f"'{text}' is no {what}", did_you_mean(text, names) if names else "write a number")
    number = int(text)
    if not low <= number <= high:
        raise BadValue("bad-cron", f"{number} is no {what}", f"from {low} to {high}")
    return number
