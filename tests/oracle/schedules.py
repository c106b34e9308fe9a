"""When the runs of an audience trigger are planned, by looking at every minute."""

from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle.values import duration_ms, local_to_ms, ms_to_local, parse_iso

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CRON_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # U6: "0 and 7 are Sunday".


def planned_times(schedule: dict[str, Any], zone: ZoneInfo, beginning: int, last: int) -> Iterator[int]:
    """The planned times from *beginning* (U2: "one exactly at it is" run) to *last*, both included.

    Args:
        zone: that of the flow.
        beginning: U2: "the stream time of the first record".
    """
    for at in all_times(schedule, zone, beginning):
        if at > last:
            return
        if at >= beginning:
            yield at


def all_times(schedule: dict[str, Any], zone: ZoneInfo, beginning: int) -> Iterator[int]:
    """Every planned time in its order, some before *beginning* perhaps."""
    if "now" in schedule:
        yield beginning + 1  # U1: "one millisecond after the stream time of the first record".
    elif "at" in schedule:
        at = parse_iso(schedule["at"], zone)  # V11
        assert at is not None
        yield at
    elif "every" in schedule:  # U7: "`every` is absolute time: from + k · every".
        at = parse_iso(schedule["from"], zone)
        assert at is not None
        every = duration_ms(schedule["every"])
        at += max(0, beginning - at) // every * every
        while True:
            yield at
            at += every
    else:
        yield from cron_times(schedule["cron"], zone, beginning)


def cron_times(written: str, zone: ZoneInfo, beginning: int) -> Iterator[int]:
    """U6: "Local times by the DST rule; equal moments are one run; what occurs twice runs at the first"."""
    minutes, hours, *day_fields = written.split()
    latest = -1
    day = ms_to_local(beginning, zone).date() - timedelta(days=2)
    while True:
        if day_matches(day_fields, day.day, day.month, (day.weekday() + 1) % 7):
            for minute in range(24 * 60):
                if matches(hours, minute // 60, 0, 23) and matches(minutes, minute % 60, 0, 59):
                    local = datetime.combine(day, time(minute // 60, minute % 60))
                    at = local_to_ms(local, zone)
                    if at > latest:
                        yield at
                        latest = at
        day += timedelta(days=1)


def day_matches(fields: list[str], day: int, month: int, weekday: int) -> bool:
    """U6: "day-of-month and day-of-week both restricted: either matches"."""
    days, months, weekdays = fields
    if not matches(months, month, 1, 12, MONTHS, 1):
        return False
    on_day = matches(days, day, 1, 31)
    on_weekday = matches(weekdays, weekday, 0, 7, CRON_DAYS) or (weekday == 0 and matches(weekdays, 7, 0, 7, CRON_DAYS))
    # A field that allows every day restricts nothing, however it is written.
    all_days = all(matches(days, number, 1, 31) for number in range(1, 32))
    all_weekdays = all(
        matches(weekdays, number, 0, 7, CRON_DAYS) or (number == 0 and matches(weekdays, 7, 0, 7, CRON_DAYS))
        for number in range(7)
    )
    if not all_days and not all_weekdays:
        return on_day or on_weekday
    return on_day and on_weekday


def matches(written: str, value: int, least: int, most: int, names: tuple[str, ...] = (), base: int = 0) -> bool:
    """One field: "names, lists, ranges, `/`"."""

    def number(text: str) -> int:
        return base + names.index(text.lower()) if text.lower() in names else int(text)

    for part in written.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = least, most
        elif "-" in span:
            first, last = (number(one) for one in span.split("-"))
        else:
            first = number(span)
            last = most if step else first  # As everywhere: `5/10` begins at 5.
        if first <= value <= last and (value - first) % int(step or 1) == 0:
            return True
    return False
