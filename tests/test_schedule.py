"""Planned times: cron against a look at every minute, and what else a schedule can be."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.language.localtime import zone_of
from operators.language.problems import BadValue
from operators.language.schedule import At, Every, Now, Schedule, parse_cron
from operators.language.values import DAY, HOUR, MINUTE
from state.iso import TIME_MS_MAX, format_ms, parse_iso_ms

UTC_ZONE = zone_of("UTC")
assert UTC_ZONE is not None


def ms(text: str) -> int:
    found = parse_iso_ms(text)
    assert found is not None
    return found


def zone(name: str) -> ZoneInfo:
    found = zone_of(name)
    assert found is not None
    return found


def times(schedule: Schedule, start: str, number: int, begin: str = "2026-01-01") -> list[str]:
    """Return the first planned times from *start* on."""
    found: list[str] = []
    at: int | None = ms(start)
    while at is not None and len(found) < number:
        at = schedule.first_from(at, ms(begin))
        if at is not None:
            found.append(format_ms(at).removesuffix(":00.000Z"))
            at += 1
    return found


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 10 * * mon", ["2026-11-30T10:00", "2026-12-07T10:00", "2026-12-14T10:00"]),
        ("*/20 9-10 * * *", ["2026-11-24T09:00", "2026-11-24T09:20", "2026-11-24T09:40"]),
        ("5,35 0 * * *", ["2026-11-24T00:05", "2026-11-24T00:35", "2026-11-25T00:05"]),
        ("0 12 1-3/2 JAN,mar *", ["2027-01-01T12:00", "2027-01-03T12:00", "2027-03-01T12:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00", "2036-02-29T00:00"]),
        ("0 0 * * 0", ["2026-11-29T00:00", "2026-12-06T00:00", "2026-12-13T00:00"]),
        ("0 0 * * 7", ["2026-11-29T00:00", "2026-12-06T00:00", "2026-12-13T00:00"]),
        ("0 0 * * fri-sun", ["2026-11-27T00:00", "2026-11-28T00:00", "2026-11-29T00:00"]),
        ("0 0 * * */3", ["2026-11-25T00:00", "2026-11-28T00:00", "2026-11-29T00:00"]),
        ("0 0 * * 5/1", ["2026-11-27T00:00", "2026-11-28T00:00", "2026-12-04T00:00"]),
        ("10/25 8 * * *", ["2026-11-24T08:10", "2026-11-24T08:35", "2026-11-25T08:10"]),
        # Both restricted: either. A field that allows everything restricts nothing.
        ("0 0 1 * wed", ["2026-11-25T00:00", "2026-12-01T00:00", "2026-12-02T00:00"]),
        ("0 0 */1 * wed", ["2026-11-25T00:00", "2026-12-02T00:00", "2026-12-09T00:00"]),
        ("0 0 1 * 0-6", ["2026-12-01T00:00", "2027-01-01T00:00", "2027-02-01T00:00"]),
        ("0 0 30 2 mon", ["2027-02-01T00:00", "2027-02-08T00:00", "2027-02-15T00:00"]),
    ],
)
def test_a_cron_expression_fires_at(cron: str, expected: list[str]) -> None:
    assert times(parse_cron(cron, UTC_ZONE), "2026-11-23T12:00:00Z", 3) == expected


def test_a_planned_time_is_the_first_from_itself_on() -> None:
    daily = parse_cron("0 10 * * *", UTC_ZONE)
    assert daily.first_from(ms("2026-11-23T10:00:00Z"), 0) == ms("2026-11-23T10:00:00Z")
    assert daily.first_from(ms("2026-11-23T10:00:00.001Z"), 0) == ms("2026-11-24T10:00:00Z")


def test_cron_times_are_local_times_of_the_zone() -> None:
    assert times(parse_cron("0 10 * * *", zone("Asia/Shanghai")), "2026-11-23T12:00:00Z", 1) == ["2026-11-24T02:00"]


def test_what_a_clock_change_skips_comes_at_its_end_once() -> None:
    # 2026-03-29, Berlin: from 02:00 to 03:00, which is 01:00 UTC.
    found = times(parse_cron("*/30 * * * *", zone("Europe/Berlin")), "2026-03-29T00:00:00Z", 5)
    assert found == ["2026-03-29T00:00", "2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30", "2026-03-29T02:00"]
    assert times(parse_cron("15 2 * * *", zone("Europe/Berlin")), "2026-03-28T12:00:00Z", 2) == [
        "2026-03-29T01:00",
        "2026-03-30T00:15",
    ]


def test_what_comes_twice_at_a_clock_change_fires_at_the_first() -> None:
    # 2026-10-25, Berlin: at 03:00, which is 01:00 UTC, back to 02:00.
    found = times(parse_cron("*/30 * * * *", zone("Europe/Berlin")), "2026-10-24T23:30:00Z", 5)
    assert found == ["2026-10-24T23:30", "2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T02:00", "2026-10-25T02:30"]


@cache
def walls(name: str, start: int, minutes: int) -> tuple[datetime, ...]:
    """Return what the clocks show, minute by minute."""
    here = zone(name)
    return tuple(
        datetime.fromtimestamp(start // 1000 + 60 * n, UTC).astimezone(here).replace(tzinfo=None)
        for n in range(minutes)
    )


CHANGES = [
    ("Europe/Berlin", "2026-03-28T12:00:00Z"),
    ("Europe/Berlin", "2026-10-24T12:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T06:00:00Z"),  # Half an hour.
    ("Australia/Lord_Howe", "2026-04-04T06:00:00Z"),
    ("America/Santiago", "2026-04-04T12:00:00Z"),  # Back across midnight.
    ("America/Santiago", "2026-09-05T12:00:00Z"),  # A gap at midnight.
    ("Pacific/Apia", "2011-12-29T00:00:00Z"),  # A whole day.
    ("Asia/Shanghai", "2026-02-27T12:00:00Z"),
]
PLACES = st.sampled_from(CHANGES)


def field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """Return a field's text and what it allows."""
    pairs = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    parts = st.one_of(
        st.integers(low, high).map(lambda one: (str(one), {one})),
        pairs.map(lambda two: (f"{two[0]}-{two[1]}", set(range(two[0], two[1] + 1)))),
        st.tuples(pairs, st.integers(1, 20)).map(
            lambda both: (f"{both[0][0]}-{both[0][1]}/{both[1]}", set(range(both[0][0], both[0][1] + 1, both[1])))
        ),
        st.integers(1, 20).map(lambda step: (f"*/{step}", set(range(low, high + 1, step)))),
    )
    lists = st.lists(parts, min_size=1, max_size=3).map(
        lambda some: (",".join(text for text, _ in some), frozenset().union(*(allowed for _, allowed in some)))
    )
    return st.one_of(st.just(("*", frozenset(range(low, high + 1)))), lists)


@settings(max_examples=50, deadline=None)
@given(PLACES, field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6), st.integers(0, 3 * 1440 - 1))
def test_cron_is_what_a_look_at_every_minute_finds(
    place: tuple[str, str],
    minute: tuple[str, frozenset[int]],
    hour: tuple[str, frozenset[int]],
    day: tuple[str, frozenset[int]],
    month: tuple[str, frozenset[int]],
    weekday: tuple[str, frozenset[int]],
    begin: int,
) -> None:
    name, text = place
    with suppress(BadValue):  # 30 February, for example.
        schedule = parse_cron(" ".join(one for one, _ in (minute, hour, day, month, weekday)), zone(name))
        check(schedule, name, text, minute[1], hour[1], day[1], month[1], weekday[1], begin)


def check(
    schedule: Schedule,
    name: str,
    text: str,
    minutes: frozenset[int],
    hours: frozenset[int],
    days: frozenset[int],
    months: frozenset[int],
    weekdays: frozenset[int],
    begin: int,
) -> None:
    start, total = ms(text), 4 * 1440
    shown = walls(name, start, total)
    both = len(days) < 31 and len(weekdays) < 7

    def counts(wall: datetime) -> bool:
        by_day, by_weekday = wall.day in days, (wall.weekday() + 1) % 7 in weekdays
        on_day = (by_day or by_weekday) if both else (by_day and by_weekday)
        return on_day and wall.month in months and wall.hour in hours and wall.minute in minutes

    # A local time comes at the first minute at which the clocks show it or a later one.
    expected = set()
    latest = shown[0] - timedelta(minutes=1)
    for number, wall in enumerate(shown):
        passed = latest
        while passed < wall:
            passed += timedelta(minutes=1)
            if counts(passed):
                expected.add(start + number * MINUTE)
        latest = max(latest, wall)
    found, at = set(), start + begin * MINUTE
    end = start + (total - 1) * MINUTE
    while (one := schedule.first_from(at, 0)) is not None and one <= end:
        found.add(one)
        at = one + 1
    assert found == {one for one in expected if one >= start + begin * MINUTE}


@pytest.mark.parametrize(
    ("cron", "code", "hint"),
    [
        ("0 10 * *", "bad-cron", "day of the week"),
        ("0 0 10 * * mon", "bad-cron", '"0 10 * * mon"'),
        ("60 * * * *", "bad-cron", "from 0 to 59"),
        ("* 24 * * *", "bad-cron", "from 0 to 23"),
        ("* * 0 * *", "bad-cron", "from 1 to 31"),
        ("* * * 13 *", "bad-cron", "from 1 to 12"),
        ("* * * * 8", "bad-cron", "from 0 to 7"),
        ("* * * * mno", "bad-cron", "did you mean 'mon'?"),
        ("* * * foo *", "bad-cron", "jan"),
        ("mon * * * *", "bad-cron", "a number"),
        ("*/0 * * * *", "bad-cron", "at least 1"),
        ("* 22-4 * * *", "bad-cron", "22-23,0-4"),
        ("* * * * L", "bad-cron", ""),
        ("1,,2 * * * *", "bad-cron", "1,3,5"),
        ("@daily", "bad-cron", '"0 0 * * *"'),
        ("0 0 30 2 *", "never-fires", "29 days"),
        ("0 0 31 4,6,9,11 *", "never-fires", "30 days"),
        (5, "bad-cron", "quoted"),
    ],
)
def test_a_bad_cron_expression_says_what_to_write(cron: object, code: str, hint: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_cron(cron, UTC_ZONE)
    assert caught.value.code == code
    assert hint in caught.value.hint


def test_every_goes_on_from_its_first_time_in_absolute_time() -> None:
    start = ms("2026-11-23T08:00:00Z")
    daily = Every(start, DAY)
    assert daily.first_from(0, 0) == start
    assert daily.first_from(start, 0) == start
    assert daily.first_from(start + 1, 0) == start + DAY
    assert daily.first_from(start + 5 * DAY, 0) == start + 5 * DAY
    assert daily.first_from(start + 5 * DAY - HOUR, 0) == start + 5 * DAY
    assert daily.first_from(TIME_MS_MAX, 0) is None


def test_once_is_once() -> None:
    assert At(1000).first_from(1000, 0) == 1000
    assert At(1000).first_from(1001, 0) is None
    assert Now().first_from(500, 500) == 501
    assert Now().first_from(502, 500) is None


def test_nothing_is_planned_behind_the_end_of_time() -> None:
    assert parse_cron("0 0 1 1 *", UTC_ZONE).first_from(TIME_MS_MAX - DAY, 0) is None
