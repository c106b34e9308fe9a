"""Times: exactly the texts of rule T2 are read, to the millisecond, and what is written is read back."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from state import iso
from state.iso import TIME_MS_MAX, format_ms, parse_iso_ms, parse_local, parse_time_value

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
HOUR = 3_600_000
EIGHT = 1_795_420_800_000  # 2026-11-23T08:00:00Z

T2 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?(?: ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?"
)


def by_the_book(text: str) -> int | None:
    """Read *text* word by word as T2 says, as slow as it likes."""
    found = T2.fullmatch(text)
    if found is None:
        return None
    day, clock, second, fraction, offset = found.groups()
    try:
        at = datetime.strptime(f"{day} {clock or '00:00'}:{second or '00'} +0000", "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return None
    if second in ("60", "61"):
        return None  # To strptime these are the first seconds of the next minute.
    ms = (at - EPOCH) // MS + int(((fraction or "") + "000")[:3])
    if offset is not None and offset not in ("Z", "UTC", "GMT"):
        hours, minutes = int(offset[1:3]), int(offset[-2:])
        if hours > 23 or minutes > 59:
            return None
        ms -= (hours * 60 + minutes) * 60_000 * (1 if offset[0] == "+" else -1)
    return ms if 0 <= ms <= TIME_MS_MAX else None


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-23", EIGHT - 8 * HOUR),
        ("2026-11-23T08:00", EIGHT),
        ("2026-11-23 08:00", EIGHT),
        ("2026-11-23T08:00Z", EIGHT),
        ("2026-11-23T08:00+08:00", EIGHT - 8 * HOUR),
        ("2026-11-23T08:00:05", EIGHT + 5_000),
        ("2026-11-23T08:00:05Z", EIGHT + 5_000),
        ("2026-11-23T08:00:05.1", EIGHT + 5_100),
        ("2026-11-23T08:00:05.12Z", EIGHT + 5_120),
        ("2026-11-23T08:00:05.123Z", EIGHT + 5_123),
        ("2026-11-23 08:00:05.123Z", EIGHT + 5_123),
        ("2026-11-23T08:00:05.999999999Z", EIGHT + 5_999),
        ("2026-11-23T08:00:05.0009Z", EIGHT + 5_000),
        ("2026-11-23T08:00:05.123+08:00", EIGHT + 5_123 - 8 * HOUR),
        ("2026-11-23T08:00:05.123456+0800", EIGHT + 5_123 - 8 * HOUR),
        ("2026-11-23T08:00:05.123-0330", EIGHT + 5_123 + 7 * HOUR // 2),
        ("2026-11-23T08:00:05-00:00", EIGHT + 5_000),
        ("2026-11-23T08:00:05+23:59", EIGHT + 5_000 - 24 * HOUR + 60_000),
        ("2021-04-14 16:49:02 +0000", 1_618_418_942_000),
        ("2021-04-14 16:49:02 +00:00", 1_618_418_942_000),
        ("2021-04-14 16:49:02 UTC", 1_618_418_942_000),
        ("2021-04-14T16:49:02.5GMT", 1_618_418_942_500),
        ("2021-04-14T16:49 Z", 1_618_418_940_000),
        ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
        ("2000-02-29", 951_782_400_000),
        ("1970-01-01", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("9999-12-31T23:59:59.999Z", TIME_MS_MAX),
        ("9999-12-31T23:59:59.9999", TIME_MS_MAX),
    ],
)
def test_all_forms_of_iso_time_are_read(text: str, ms: int) -> None:
    assert parse_iso_ms(text) == ms
    assert parse_iso_ms(text) == ms  # Now perhaps from a table.
    assert parse_time_value(text) == ms
    assert by_the_book(text) == ms


NO_TIMES = [
    "",
    "now",
    "1795420800000",
    "20261123",
    "20261123T080000Z",
    "2026",
    "2026-11",
    "2026-11-23T",
    "2026-11-23Z",
    "2026-11-23+08:00",
    "2026-11-23T08",
    "2026-11-23T08Z",
    "2026-11-23T8:00",
    "2026-11-23T08:00:5",
    "2026-11-23T08:00.5",
    "2026-11-23T08:00:05.",
    "2026-11-23T08:00:05.Z",
    "2026-11-23T08:00:05,123Z",
    "2026-11-23T08:00:05.123z",
    "2026-11-23t08:00:05.123Z",
    "2026-11-23_08:00:05.123Z",
    "2026-11-23  08:00:05.123Z",
    "2026-11-23T08:00:05.123ZZ",
    "2026-11-23T08:00:05.12Z3",
    "2026-11-23T08:00:05.123Z\n",
    " 2026-11-23T08:00:05.123Z",
    "2026-11-23T08:00:05.123+08",
    "2026-11-23T08:00:05.123+8:00",
    "2026-11-23T08:00:05.123+24:00",
    "2026-11-23T08:00:05.123+08:60",
    "2026-11-23T08:00:05.123+08:00:00",
    "2026-11-23T08:00:05.123\u221208:00",  # A minus sign, but not the one of ISO 8601.
    "2026-11-23T08:00:05.12\u0663Z",  # A digit, but not one of ISO 8601.
    "\u0662026-11-23T08:00:05.123Z",
    "2026-11-23T24:00:00Z",
    "2026-11-23T08:60:00Z",
    "2026-11-23T23:59:60Z",
    "2026-02-29",
    "1900-02-29",
    "2026-04-31T00:00:00.000Z",
    "2026-13-01",
    "2026-00-10",
    "2026-11-00",
    "2026-W48-1T08:00:05.123Z",
    "2026-327T08:00:05.123Z",
    "+2026-11-23",
    "-2026-11-23",
    "12026-11-23",
    "+012026-11-23T08:00:05.123Z",
    "1969-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59.999-00:01",
    "0000-01-01",
    "2026-11-23T-1:00:00",
    "2026-11-23T08:0\uff10:05.123Z",
    "2026-11-23T1_:00:05.123Z",
]


@pytest.mark.parametrize("text", NO_TIMES)
def test_nothing_else_is_a_time(text: str) -> None:
    parse_iso_ms("2026-11-23T08:00:05.123Z")  # What it shares with a time that was read must not help it.
    parse_iso_ms("2026-11-23T08:00:05.12Z")
    assert parse_iso_ms(text) is None
    assert parse_local(text) is None
    assert parse_time_value(text) is None
    assert by_the_book(text) is None


def test_fractions_and_long_texts_of_any_length_are_cut_or_refused() -> None:
    assert parse_iso_ms("2026-11-23T08:00:00." + "9" * 1_000_000 + "Z") == EIGHT + 999
    assert parse_iso_ms("2026-11-23T08:00:00." + "9" * 1_000_000 + "?") is None
    assert parse_iso_ms("9" * 1_000_000) is None


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, None),
        (99_999_999_999, None),
        (99_999_999_999.9, None),
        (100_000_000_000, 100_000_000_000),
        (100_000_000_000.9, 100_000_000_000),
        (EIGHT, EIGHT),
        (EIGHT + 0.9, EIGHT),
        (-0.9, None),
        (-0.0, None),
        (1e12, 1_000_000_000_000),
        (TIME_MS_MAX, TIME_MS_MAX),
        (TIME_MS_MAX + 0.5, TIME_MS_MAX),
        ("2026-11-23T08:00:00+08:00", EIGHT - 8 * HOUR),
        (TIME_MS_MAX + 1, None),
        (float(TIME_MS_MAX + 1), None),
        (-1, None),
        (-1.0, None),
        (10**400, None),
        (float("inf"), None),
        (float("-inf"), None),
        (float("nan"), None),
        (True, None),
        (False, None),
        (None, None),
        ("1795420800000", None),
        ([], None),
        ([EIGHT], None),
        ({}, None),
        (b"2026-11-23", None),
    ],
)
def test_a_number_is_epoch_ms_cut_to_an_integer(value: object, ms: int | None) -> None:
    assert parse_time_value(value) == ms


@pytest.mark.parametrize(
    ("text", "local_ms", "offset_ms"),
    [
        ("2026-11-23", EIGHT - 8 * HOUR, None),
        ("2026-11-23T08:00", EIGHT, None),
        ("2026-11-23 08:00:00.5", EIGHT + 500, None),
        ("2026-11-23T08:00:00Z", EIGHT, 0),
        ("2026-11-23T08:00+00:00", EIGHT, 0),
        ("2026-11-23T08:00:00.25+08:00", EIGHT + 250, 8 * HOUR),
        ("2026-11-23T08:00:00-0330", EIGHT, -7 * HOUR // 2),
        ("1969-12-31T23:00-01:00", -HOUR, -HOUR),
    ],
)
def test_a_local_time_and_its_offset_are_told_apart(text: str, local_ms: int, offset_ms: int | None) -> None:
    for _ in range(2):
        assert parse_local(text) == (local_ms, offset_ms)
        assert parse_iso_ms(text) == local_ms - (offset_ms or 0)


@given(st.integers(0, TIME_MS_MAX))
@example(0)
@example(TIME_MS_MAX)
def test_what_is_written_is_read_back(ms: int) -> None:
    text = format_ms(ms)
    assert parse_iso_ms(text) == ms
    assert parse_local(text) == (ms, 0)
    assert format_ms(ms) == text
    assert len(text) == 24


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_written_as_the_library_writes_them(at: datetime) -> None:
    assert format_ms((at - EPOCH) // MS) == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-1, "1969-12-31T23:59:59.999Z"),
        (TIME_MS_MAX + 1, "+010000-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, "0000-12-31T23:59:59.999Z"),
        (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
        (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
        (8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"),
        (-8_640_000_000_000_000, "-271821-04-20T00:00:00.000Z"),
        (2**63 - 1, "+292278994-08-17T07:12:55.807Z"),
    ],
)
def test_every_integer_can_be_written(ms: int, text: str) -> None:
    assert format_ms(ms) == text


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001  The offset is added as text.
    st.sampled_from(["T", " "]),
    st.sampled_from(["minutes", "seconds", "milliseconds", "microseconds"]),
    st.sampled_from(["", "Z", "+00:00", "+08:00", "-0330", "+23:59", "-23:59", "+0545"]),
)
def test_every_form_is_read_as_the_library_does(at: datetime, sep: str, timespec: str, offset: str) -> None:
    text = at.isoformat(sep, timespec) + offset
    expected = datetime.fromisoformat(text)
    aware = expected if offset else expected.replace(tzinfo=UTC)
    assert parse_iso_ms(text) == (aware - EPOCH) // MS
    assert parse_iso_ms(text) == by_the_book(text)


@given(st.dates(date(1970, 1, 1), date(9999, 12, 31)))
def test_a_date_alone_is_its_midnight(day: date) -> None:
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert parse_iso_ms(day.isoformat()) == (at - EPOCH) // MS


mutations = st.lists(
    st.tuples(st.integers(0, 32), st.sampled_from(["", *"0123569TZtz:-+., W\n\u0663"]), st.booleans()),
    max_size=3,
)


@given(
    st.sampled_from(
        [
            "2026-11-23T08:00:05.123Z",
            "2024-02-29 23:59:59.999999+08:00",
            "1970-01-01T00:00:00-0000",
            "9999-12-31T23:59",
            "2026-12-31",
        ]
    ),
    mutations,
)
def test_mutated_texts_are_read_by_the_book(text: str, changes: list[tuple[int, str, bool]]) -> None:
    for position, piece, insert in changes:
        text = text[:position] + piece + text[position if insert else position + 1 :]
    expected = by_the_book(text)
    assert parse_iso_ms(text) == expected
    assert parse_iso_ms(text) == expected
    found = parse_local(text)
    assert (None if found is None else found[0] - (found[1] or 0)) == expected


def test_the_tables_stay_bounded() -> None:
    for day in range(10_000):
        text = format_ms(EIGHT + day * 24 * HOUR + day % 1000)
        with_offset = f"{text[:-1]}+{day % 24:02d}:{day // 24 % 60:02d}"
        assert parse_iso_ms(with_offset) == parse_iso_ms(with_offset) == by_the_book(with_offset)
    assert len(iso._days) <= iso._KEPT_MAX
    assert len(iso._minutes) <= iso._KEPT_MAX
    assert len(iso._rests) <= iso._RESTS_MAX
    assert len(iso._written) <= iso._WRITTEN_MAX
