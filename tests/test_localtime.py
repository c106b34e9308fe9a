"""Local time: clock changes of every odd kind, against tables, a search minute by minute, and zoneinfo itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.language.localtime import (
    DAY_S,
    first_time_of_day_from,
    in_local_window,
    local_date_and_time,
    local_fields,
    moment_of_local,
    moment_of_wall,
    next_anniversary,
    next_time_of_day,
    wall_of_moment,
    weekday_of,
    zone_names,
    zone_of,
)

EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

# A zone, and a moment within a day of a change of its clocks.
CHANGES = {
    "an hour forward at night": ("America/New_York", "2026-03-08T12:00Z"),
    "an hour back at night": ("America/New_York", "2026-11-01T12:00Z"),
    "an hour forward at midnight": ("America/Sao_Paulo", "2018-11-04T12:00Z"),
    "an hour back across midnight": ("America/Sao_Paulo", "2018-02-18T02:00Z"),
    "forward at midnight, each spring": ("Asia/Beirut", "2026-03-28T22:00Z"),
    "back across midnight, each autumn": ("Asia/Beirut", "2026-10-24T21:00Z"),
    "back across midnight, at 00:01": ("America/St_Johns", "2010-11-07T02:31Z"),
    "half an hour forward": ("Australia/Lord_Howe", "2026-10-03T15:30Z"),
    "half an hour back": ("Australia/Lord_Howe", "2026-04-04T15:00Z"),
    "two hours forward": ("Antarctica/Troll", "2026-03-29T01:00Z"),
    "a whole date skipped": ("Pacific/Apia", "2011-12-30T10:00Z"),
    "a whole date skipped, from the west": ("Pacific/Kwajalein", "1993-08-21T12:00Z"),
    "a quarter of an hour, for ever": ("Asia/Kathmandu", "1985-12-31T18:30Z"),
    "half an hour back, for ever": ("Asia/Pyongyang", "2015-08-14T15:00Z"),
    "negative summer time": ("Europe/Dublin", "2026-10-25T01:00Z"),
    "twice in two months": ("Africa/Casablanca", "2026-02-15T02:00Z"),
}


def at(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def zone(name: str) -> ZoneInfo:
    found = zone_of(name)
    assert found is not None
    return found


def tod(text: str) -> int:
    hours, minutes, seconds = [int(part) for part in [*text.split(":"), "0"]][:3]
    return hours * 3600 + minutes * 60 + seconds


def ordinal(text: str) -> int:
    return date.fromisoformat(text).toordinal()


class TestZoneOf:
    @pytest.mark.parametrize("name", ["UTC", "Asia/Shanghai", "America/Argentina/Buenos_Aires", "Etc/GMT+12", "GMT"])
    def test_a_name_of_the_iana_list_is_a_zone(self, name: str) -> None:
        assert zone(name).key == name
        assert zone_of(name) is zone_of(name)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            " UTC",
            "UTC ",
            "utc",
            "asia/shanghai",
            "Asia/shanghai",
            "Asia",
            "Asia/",
            "/Asia/Shanghai",
            "Asia//Shanghai",
            "Asia/../Asia/Shanghai",
            "./UTC",
            "../../etc/passwd",
            "/etc/passwd",
            "..",
            "zones",
            "zone.tab",
            "tzdata.zi",
            "__init__.py",
            "localtime",
            "posixrules",
            "+08:00",
            "UTC+8",
            "CST",
            "UTC\0",
            "Asia/Shanghai\n",
            "\ud800",
            "A" * 1_000_000,
            None,
            True,
            0,
            8,
            1.5,
            b"UTC",
            [],
            ["UTC"],
            {"UTC": 1},
            float("nan"),
        ],
    )
    def test_anything_else_is_as_absent(self, name: object) -> None:
        assert zone_of(name) is None

    @given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())))
    def test_nothing_raises(self, name: object) -> None:
        found = zone_of(name)
        assert found is None or name in zone_names()

    def test_every_name_is_readable(self) -> None:
        assert len(zone_names()) > 500
        for name in zone_names():
            weekday, time = local_fields(at("2026-07-01T12:00Z"), zone(name))
            assert weekday in {1, 2, 3}
            assert 0 <= time < DAY_S

    def test_the_zone_of_the_machine_plays_no_part(self) -> None:
        code = "from operators.language.localtime import *; print(next_time_of_day(0, zone_of('Asia/Tokyo'), 0))"
        for machine in ("UTC", "America/New_York"):
            ran = subprocess.run(
                [sys.executable, "-c", code],
                env={"TZ": machine, "PYTHONTZPATH": "/nowhere"},
                capture_output=True,
                text=True,
                check=True,
            )
            assert int(ran.stdout) == at("1970-01-02T00:00+09:00")


class TestTheRule:
    @pytest.mark.parametrize(
        ("name", "day", "time", "moment"),
        [
            ("UTC", "1970-01-01", "00:00", "1970-01-01T00:00Z"),
            ("Asia/Shanghai", "2026-11-23", "09:00", "2026-11-23T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23", "23:59:59", "2026-11-23T23:59:59+08:00"),
            ("Asia/Kolkata", "2026-11-23", "09:00", "2026-11-23T09:00+05:30"),
            # Skipped: the first moment after the gap, not as far behind it as the time was inside.
            ("America/New_York", "2026-03-08", "01:59:59", "2026-03-08T01:59:59-05:00"),
            ("America/New_York", "2026-03-08", "02:00", "2026-03-08T03:00-04:00"),
            ("America/New_York", "2026-03-08", "02:30", "2026-03-08T03:00-04:00"),
            ("America/New_York", "2026-03-08", "02:59:59", "2026-03-08T03:00-04:00"),
            ("America/New_York", "2026-03-08", "03:00", "2026-03-08T03:00-04:00"),
            ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29T03:00+02:00"),
            # Twice: the first.
            ("America/New_York", "2026-11-01", "01:00", "2026-11-01T01:00-04:00"),
            ("America/New_York", "2026-11-01", "01:59:59", "2026-11-01T01:59:59-04:00"),
            ("America/New_York", "2026-11-01", "02:00", "2026-11-01T02:00-05:00"),
            ("Europe/Dublin", "2026-10-25", "01:30", "2026-10-25T01:30+01:00"),
            # At midnight: the day begins at one.
            ("America/Sao_Paulo", "2018-11-04", "00:00", "2018-11-04T01:00-02:00"),
            ("America/Sao_Paulo", "2018-11-04", "00:30", "2018-11-04T01:00-02:00"),
            ("America/Sao_Paulo", "2018-11-03", "23:59:59", "2018-11-03T23:59:59-03:00"),
            ("Asia/Beirut", "2026-03-29", "00:00", "2026-03-29T01:00+03:00"),
            # Across midnight: the last hour of the day comes twice.
            ("America/Sao_Paulo", "2018-02-17", "23:30", "2018-02-17T23:30-02:00"),
            ("America/Sao_Paulo", "2018-02-18", "00:00", "2018-02-18T00:00-03:00"),
            ("America/St_Johns", "2010-11-07", "00:00:30", "2010-11-07T00:00:30-02:30"),
            ("America/St_Johns", "2010-11-07", "00:01", "2010-11-07T00:01-03:30"),
            # Half an hour.
            ("Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-04T02:30+11:00"),
            ("Australia/Lord_Howe", "2026-04-05", "01:45", "2026-04-05T01:45+11:00"),
            # A date that never was.
            ("Pacific/Apia", "2011-12-29", "23:59:59", "2011-12-29T23:59:59-10:00"),
            ("Pacific/Apia", "2011-12-30", "00:00", "2011-12-31T00:00+14:00"),
            ("Pacific/Apia", "2011-12-30", "18:00", "2011-12-31T00:00+14:00"),
            ("Pacific/Apia", "2011-12-31", "00:00", "2011-12-31T00:00+14:00"),
            # Offsets with seconds.
            ("Africa/Monrovia", "1971-06-01", "12:00", "1971-06-01T12:00-00:44:30"),
            ("Africa/Monrovia", "1972-01-07", "00:00", "1972-01-07T00:44:30Z"),
            ("Africa/Monrovia", "1972-01-07", "00:44", "1972-01-07T00:44:30Z"),
            # The ends of the calendar.
            ("America/Los_Angeles", "9999-12-31", "23:59:59", "9999-12-31T23:59:59-08:00"),
            ("Pacific/Kiritimati", "1970-01-01", "00:00", "1970-01-01T00:00-10:40"),
        ],
    )
    def test_of_skipped_and_repeated_times(self, name: str, day: str, time: str, moment: str) -> None:
        assert moment_of_local(zone(name), ordinal(day), tod(time)) == at(moment)

    @pytest.mark.parametrize("kind", CHANGES)
    def test_against_a_search_minute_by_minute(self, kind: str) -> None:
        name, near = CHANGES[kind]
        shown = walls_around(name, at(near))
        first: dict[int, int] = {}
        for moment, wall in shown:
            first.setdefault(wall, moment)
        changed = 0
        for (_, before), (moment, after) in pairwise(shown):
            changed += after != before + MINUTE
            for wall in range(before + MINUTE, after, MINUTE):
                first.setdefault(wall, moment)  # Jumped over: the first moment after the gap.
        assert changed == 1
        assert len(first) > 40 * 60
        for wall, moment in first.items():
            days, time = divmod(wall // 1000, DAY_S)
            assert moment_of_local(zone(name), EPOCH_ORDINAL + days, time) == moment
            assert moment_of_wall(zone(name), wall) == moment

    @given(
        st.sampled_from(sorted(zone_names())),
        st.integers(ordinal("1970-01-02"), ordinal("2100-01-01")),
        st.integers(0, DAY_S - 1),
    )
    def test_against_the_folds_of_zoneinfo(self, name: str, day: int, time: int) -> None:
        local = datetime.fromordinal(day) + timedelta(seconds=time)
        first, second = (
            local.replace(tzinfo=zone(name), fold=fold).astimezone(UTC).timestamp() * 1000 for fold in (0, 1)
        )
        moment = moment_of_local(zone(name), day, time)
        if first <= second:  # Once, or twice.
            assert moment == first
            assert local_date_and_time(moment, zone(name)) == (day, time)
        else:  # zoneinfo gives moments on both sides of the gap.
            assert second < moment <= first
            assert local_date_and_time(moment, zone(name)) > (day, time)
            assert local_date_and_time(moment - 1, zone(name)) < (day, time)

    @given(
        st.sampled_from(sorted(zone_names())),
        st.lists(st.tuples(st.integers(719_163, 800_000), st.integers(0, DAY_S - 1)), min_size=2, max_size=2),
    )
    def test_a_later_local_time_is_never_an_earlier_moment(self, name: str, times: list[tuple[int, int]]) -> None:
        earlier, later = sorted(times)
        assert moment_of_local(zone(name), *earlier) <= moment_of_local(zone(name), *later)

    def test_a_wall_time_keeps_its_milliseconds_except_in_a_gap(self) -> None:
        new_york = zone("America/New_York")
        assert moment_of_wall(new_york, at("2026-07-01T09:00:00.250Z")) == at("2026-07-01T09:00:00.250-04:00")
        assert moment_of_wall(new_york, at("2026-03-08T02:30:00.250Z")) == at("2026-03-08T03:00-04:00")
        assert moment_of_wall(new_york, at("2026-11-01T01:30:00.250Z")) == at("2026-11-01T01:30:00.250-04:00")

    def test_beyond_what_datetime_holds_rules_go_on(self) -> None:
        new_york, year = zone("America/New_York"), date(9996, 7, 1).toordinal()
        for later in range(0, 50 * 365, 61):
            moment = moment_of_local(new_york, year + later, tod("09:00"))
            assert local_date_and_time(moment, new_york) == (year + later, tod("09:00"))
            assert next_time_of_day(moment - 1, new_york, tod("09:00")) == moment
        far = 10**18
        assert far < next_time_of_day(far, new_york, 0, frozenset({6})) < far + 8 * DAY


class TestTheNextTimeOfDay:
    @pytest.mark.parametrize(
        ("name", "now", "time", "days", "moment"),
        [
            ("Asia/Shanghai", "2026-11-23T08:59:59.999+08:00", "09:00", None, "2026-11-23T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23T09:00:00+08:00", "09:00", None, "2026-11-24T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23T09:00:00.001+08:00", "09:00", None, "2026-11-24T09:00+08:00"),
            # The 23rd is a Monday. Days are those of the user, not of UTC.
            ("Asia/Shanghai", "2026-11-23T00:30+08:00", "09:00", {0}, "2026-11-23T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23T09:30+08:00", "09:00", {0}, "2026-11-30T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23T09:30+08:00", "09:00", {0, 4}, "2026-11-27T09:00+08:00"),
            ("Asia/Shanghai", "2026-11-23T09:30+08:00", "00:00", {1}, "2026-11-24T00:00+08:00"),
            ("America/New_York", "2026-03-08T01:59-05:00", "02:30", None, "2026-03-08T03:00-04:00"),
            ("America/New_York", "2026-03-08T03:00-04:00", "02:30", None, "2026-03-09T02:30-04:00"),
            # The second 01:30 is over for today.
            ("America/New_York", "2026-11-01T01:30-04:00", "01:30", None, "2026-11-02T01:30-05:00"),
            ("America/New_York", "2026-11-01T01:10-05:00", "01:30", None, "2026-11-02T01:30-05:00"),
            # In the second last half hour of the day: tomorrow's first seconds have been, too.
            ("America/St_Johns", "2010-11-06T23:30-03:30", "00:00:30", None, "2010-11-08T00:00:30-03:30"),
            # The date that never was: its time is the first moment after it, and its weekday its own, a Friday.
            ("Pacific/Apia", "2011-12-29T10:00-10:00", "09:00", None, "2011-12-31T00:00+14:00"),
            ("Pacific/Apia", "2011-12-29T10:00-10:00", "09:00", {4}, "2011-12-31T00:00+14:00"),
            ("Pacific/Apia", "2011-12-29T10:00-10:00", "09:00", {5}, "2011-12-31T09:00+14:00"),
            ("Pacific/Apia", "2011-12-31T00:00+14:00", "09:00", None, "2011-12-31T09:00+14:00"),
            ("Pacific/Apia", "2011-12-29T23:59:59.999-10:00", "09:00", {4}, "2011-12-31T00:00+14:00"),
            # A gap across the weekday.
            ("America/Sao_Paulo", "2018-11-03T12:00-03:00", "00:30", {6}, "2018-11-04T01:00-02:00"),
        ],
    )
    def test_is_strictly_later(self, name: str, now: str, time: str, days: set[int] | None, moment: str) -> None:
        assert next_time_of_day(at(now), zone(name), tod(time), days) == at(moment)

    @pytest.mark.parametrize(
        ("name", "now", "time", "days", "moment"),
        [
            ("Asia/Shanghai", "2026-11-30T12:00+08:00", "12:00", None, "2026-11-30T12:00+08:00"),
            ("Asia/Shanghai", "2026-11-30T12:00:00.001+08:00", "12:00", None, "2026-12-01T12:00+08:00"),
            ("Asia/Shanghai", "2026-11-30T12:00+08:00", "12:00", {1}, "2026-12-01T12:00+08:00"),
            ("America/New_York", "2026-03-08T03:00-04:00", "02:30", None, "2026-03-08T03:00-04:00"),
            ("America/New_York", "2026-11-01T01:30-05:00", "01:30", None, "2026-11-02T01:30-05:00"),
            ("Pacific/Apia", "2011-12-31T00:00+14:00", "09:00", {4}, "2011-12-31T00:00+14:00"),
        ],
    )
    def test_from_a_moment_on_may_be_that_moment(
        self, name: str, now: str, time: str, days: set[int] | None, moment: str
    ) -> None:
        assert first_time_of_day_from(at(now), zone(name), tod(time), days) == at(moment)

    @pytest.mark.parametrize("days", [frozenset[int](), frozenset({7})])
    def test_without_a_day_there_is_none(self, days: frozenset[int]) -> None:
        with pytest.raises(ValueError, match="no weekday"):
            next_time_of_day(0, zone("UTC"), 0, days)

    @given(
        st.sampled_from(sorted(CHANGES)),
        st.integers(-40 * 60, 40 * 60).map(lambda minutes: minutes * MINUTE),
        st.sampled_from([-1, 0, 1, 499]),
        st.integers(0, DAY_S // 60 - 1).map(lambda minutes: minutes * 60),
        st.none() | st.frozensets(st.integers(0, 6), min_size=1),
    )
    @example("a whole date skipped", 0, 0, 0, frozenset({4}))
    @example("back across midnight, at 00:01", 0, 0, 0, None)
    @settings(max_examples=400)
    def test_is_the_first_of_the_moments_of_all_dates(
        self, kind: str, away: int, off: int, time: int, days: frozenset[int] | None
    ) -> None:
        name, near = CHANGES[kind]
        now = at(near) + away + off
        today = EPOCH_ORDINAL + now // DAY
        moments = [
            moment_of_local(zone(name), day, time)
            for day in range(today - 10, today + 20)
            if days is None or weekday_of(day) in days
        ]
        assert first_time_of_day_from(now, zone(name), time, days) == min(one for one in moments if one >= now)
        assert next_time_of_day(now, zone(name), time, days) == min(one for one in moments if one > now)

    @given(
        st.sampled_from(sorted(zone_names())),
        st.integers(0, 253_402_300_799_999),
        st.integers(0, DAY_S - 1),
        st.none() | st.frozensets(st.integers(0, 6), min_size=1),
    )
    def test_lies_ahead_and_at_most_nine_days(
        self, name: str, now: int, time: int, days: frozenset[int] | None
    ) -> None:
        moment = next_time_of_day(now, zone(name), time, days)
        assert now < moment <= now + 9 * DAY
        assert first_time_of_day_from(moment, zone(name), time, days) == moment
        if local_date_and_time(moment, zone(name))[1] == time and days is not None:
            assert local_fields(moment, zone(name))[0] in days


def wall(text: str) -> int:
    return at(text + "Z")


class TestTheNextAnniversary:
    @pytest.mark.parametrize(
        ("shown", "now", "moment"),
        [
            ("1984-12-01T09:00", "2026-11-23T08:00+08:00", "2026-12-01T09:00+08:00"),
            ("1984-11-23T08:00", "2026-11-23T08:00+08:00", "2027-11-23T08:00+08:00"),
            ("1984-02-29T00:00", "2026-11-23T08:00+08:00", "2027-02-28T00:00+08:00"),
            ("1984-02-29T00:00", "2027-02-28T00:00+08:00", "2028-02-29T00:00+08:00"),
            ("0001-01-01T00:00", "2026-11-23T08:00+08:00", "2027-01-01T00:00+08:00"),
            ("9999-12-31T23:59:59.999", "2026-12-31T23:59:59.998+08:00", "2026-12-31T23:59:59.999+08:00"),
        ],
    )
    def test_is_strictly_later_and_29_february_is_the_28th_elsewhere(self, shown: str, now: str, moment: str) -> None:
        assert next_anniversary(at(now), zone("Asia/Shanghai"), wall(shown)) == at(moment)

    def test_of_a_time_that_a_change_of_clocks_skips_is_the_end_of_the_gap(self) -> None:
        found = next_anniversary(at("2026-03-01T00:00Z"), zone("America/New_York"), wall("2000-03-08T02:30:00.500"))
        assert found == at("2026-03-08T07:00Z")

    @given(
        st.sampled_from(sorted(zone_names())),
        st.integers(0, 253_402_300_799_999),
        st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001
        st.integers(-366, 366).map(lambda days: days * DAY),
    )
    @settings(max_examples=300)
    def test_lies_ahead_and_none_was_passed_over(self, name: str, now: int, shown: datetime, offset: int) -> None:
        wall_ms = (shown.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        moment = next_anniversary(now, zone(name), wall_ms, offset)
        assert now < moment <= now + 368 * DAY
        assert next_anniversary(moment - 1, zone(name), wall_ms, offset) == moment
        after = next_anniversary(moment, zone(name), wall_ms, offset)
        assert 364 * DAY <= after - moment <= 368 * DAY


@given(st.sampled_from(sorted(zone_names())), st.integers(at("0001-01-01T00:00Z"), 253_402_300_799_999))
@example("America/Los_Angeles", at("0001-01-01T00:00Z"))
def test_what_clocks_show_leads_back_to_the_moment_or_to_the_first_with_that_time(name: str, now: int) -> None:
    shown = wall_of_moment(now, zone(name))
    assert abs(shown - now) <= 26 * HOUR
    if now > at("0002-01-01T00:00Z"):
        assert now - 26 * HOUR <= moment_of_wall(zone(name), shown) <= now


class TestTheWindow:
    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            ("2026-11-23T00:00+08:00", (0, "00:00")),
            ("2026-11-22T23:59:59.999+08:00", (6, "23:59:59")),
            ("2026-11-23T23:00Z", (1, "07:00")),
        ],
    )
    def test_fields_are_what_wall_and_calendar_show(self, now: str, expected: tuple[int, str]) -> None:
        assert local_fields(at(now), zone("Asia/Shanghai")) == (expected[0], tod(expected[1]))

    @pytest.mark.parametrize(
        ("time", "after", "before", "days", "holds"),
        [
            ("08:59:59.999", "09:00", "18:00", None, False),
            ("09:00", "09:00", "18:00", None, True),
            ("17:59:59.999", "09:00", "18:00", None, True),
            ("18:00", "09:00", "18:00", None, False),
            ("09:00", "09:00", None, None, True),
            ("23:59:59", "09:00", None, None, True),
            ("08:59", "09:00", None, None, False),
            ("08:59:59.999", None, "09:00", None, True),
            ("00:00", None, "09:00", None, True),
            ("09:00", None, "09:00", None, False),
            ("22:00", "22:00", "08:00", None, True),
            ("00:00", "22:00", "08:00", None, True),
            ("07:59:59", "22:00", "08:00", None, True),
            ("08:00", "22:00", "08:00", None, False),
            ("21:59", "22:00", "08:00", None, False),
            ("12:00", None, None, {0}, True),
            ("12:00", None, None, {1, 2}, False),
            ("12:00", None, None, None, True),
            # The weekday is that of the local date, after midnight the next one's.
            ("01:00", "22:00", "08:00", {0}, True),
            ("01:00", "22:00", "08:00", {6}, False),
            ("12:00", "09:00", "09:00", None, False),
        ],
    )
    def test_has_its_start_and_not_its_end(
        self, time: str, after: str | None, before: str | None, days: set[int] | None, holds: bool
    ) -> None:
        now = at(f"2026-11-23T{time}+08:00")  # A Monday; in UTC it may still be Sunday.
        after_s, before_s = (None if one is None else tod(one) for one in (after, before))
        assert in_local_window(now, zone("Asia/Shanghai"), after_s, before_s, days) is holds

    def test_goes_by_the_wall_through_a_change(self) -> None:
        new_york = zone("America/New_York")
        for now, holds in [
            ("2026-11-01T01:30-04:00", True),
            ("2026-11-01T01:30-05:00", True),
            ("2026-11-01T02:00-05:00", False),
            ("2026-03-08T01:30-05:00", True),
            ("2026-03-08T03:00-04:00", False),
        ]:
            assert in_local_window(at(now), new_york, tod("01:00"), tod("02:00"), None) is holds


@cache
def walls_around(name: str, near: int) -> list[tuple[int, int]]:
    """What the clocks show, as ms, at each minute of the days around *near*."""
    return list(_walls(zone(name), near - 30 * HOUR, near + 30 * HOUR))


def _walls(where: ZoneInfo, start: int, end: int) -> Iterator[tuple[int, int]]:
    for moment in range(start, end, MINUTE):
        offset = datetime.fromtimestamp(moment // 1000, where).utcoffset()
        assert offset is not None
        yield moment, moment + int(offset.total_seconds()) * 1000
