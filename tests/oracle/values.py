"""Durations, moments, local times, shares and identities, each as the specification words it."""

import hashlib
import json
import re
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DAY_MS = UNIT_MS["d"]
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SECONDS_MAX = 100_000_000_000  # T2: "a number below .. (1973, so surely seconds .. )".
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = available_timezones()

ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?(?: ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
TIME_OF_DAY = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")


def duration_ms(text: str) -> int:
    """Values, V2: "integer and unit, may be joined"; repeated units add up."""
    parts = re.findall(r"([0-9]+)([smhdw])", text)
    assert parts, text
    assert "".join(number + unit for number, unit in parts) == text, text
    return sum(int(number) * UNIT_MS[unit] for number, unit in parts)


def signed_duration_ms(text: str) -> int:
    """V2: "a sign in `offset` only"."""
    if text[0] in "+-":
        return duration_ms(text[1:]) * (-1 if text[0] == "-" else 1)
    return duration_ms(text)


def share(text: str) -> Fraction:
    """Values: "Percent: 10% or 12.5%"; V6: exactly."""
    return Fraction(text.removesuffix("%")) / 100


def to_iso(ms: int) -> str:
    """records.md: "Times are ISO 8601 UTC with milliseconds on output"."""
    at = EPOCH + timedelta(milliseconds=ms)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def parse_iso(text: str, zone: ZoneInfo | None = None) -> int | None:
    """T2: the texts that are times; None for any other. Without offset: *zone*, or UTC without one."""
    found = ISO.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        clock = time(int(hour or 0), int(minute or 0), int(second or 0))
        naive = datetime.combine(date(int(year), int(month), int(day)), clock)
    except ValueError:
        return None
    if offset in (None, "Z", "UTC", "GMT"):
        ms = local_to_ms(naive, zone) if zone is not None and offset is None else naive_utc_ms(naive)
    else:
        hours, minutes = int(offset[1:3]), int(offset[-2:])
        if hours > 23 or minutes > 59:
            return None
        ahead_ms = (hours * 60 + minutes) * UNIT_MS["m"]
        ms = naive_utc_ms(naive) + (-ahead_ms if offset[0] == "+" else ahead_ms)
    ms += int(((fraction or "") + "000")[:3])  # "Fractions are cut to milliseconds."
    return ms if 0 <= ms <= LAST_MS else None


def parse_time(value: Any, zone: ZoneInfo | None = None) -> int | None:
    """T2: a text as above, or a JSON number of epoch milliseconds, cut to an integer; None if unreadable."""
    if isinstance(value, str):
        return parse_iso(value, zone)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    ms = int(value)
    return ms if SECONDS_MAX <= ms <= LAST_MS else None


def naive_utc_ms(naive: datetime) -> int:
    return (naive.replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


def local_to_ms(naive: datetime, zone: ZoneInfo) -> int:
    """Values: "A local time that a DST change skips means the first moment after the gap; one that occurs
    twice means the first."
    """
    first = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == naive:
        return (first - EPOCH) // timedelta(milliseconds=1)
    before_gap = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)  # Reads the skipped time by the later offset.
    offset_after = first.astimezone(zone).utcoffset()
    low, high = before_gap, first  # The change lies in (low, high].
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if middle.astimezone(zone).utcoffset() == offset_after:
            high = middle
        else:
            low = middle
    return (high - EPOCH) // timedelta(milliseconds=1)


def ms_to_local(ms: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(milliseconds=ms)).astimezone(zone).replace(tzinfo=None)


def zone_of(profile: dict[str, Any], flow: dict[str, Any]) -> ZoneInfo:
    """Values, V5: "`profile.timezone` when it is a valid IANA name, else the flow's `timezone`, else UTC"."""
    for name in (profile.get("timezone"), flow.get("timezone")):
        if isinstance(name, str) and name in ZONES:
            return ZoneInfo(name)
    return ZoneInfo("UTC")


def time_of_day(text: str) -> time | None:
    found = TIME_OF_DAY.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups())
    return time(hour, minute, second)


def next_clock(clock: time, zone: ZoneInfo, days: list[str] | None, *, at_or_after_ms: int) -> int:
    """Wait: the first moment, at or after the given one, that *clock* names on an allowed weekday.

    S9: the weekday is that of the nominal local date, also where DST moves the time to the next day.
    """
    today = ms_to_local(at_or_after_ms, zone).date()
    for ahead in range(-2, 1000):
        day = today + timedelta(days=ahead)
        if days is not None and WEEKDAYS[day.weekday()] not in days:
            continue
        moment = local_to_ms(datetime.combine(day, clock), zone)
        if moment >= at_or_after_ms:
            return moment
    raise AssertionError("a weekday comes every week")


def anniversary(value: Any, zone: ZoneInfo, clock: time | None, offset_ms: int, now: int) -> int | None:
    """S27: "month and day of the value, in the user's zone, at `at` (default: the value's own local time of day, a
    date alone 00:00): the next such moment strictly later than now"; None if there is no such date.
    """
    shown: datetime | None = None
    if isinstance(value, str):
        found = ISO.fullmatch(value)
        if found is not None and found[8] is None:
            try:  # "years 0001 to 9999 count"
                year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
                thousandths = int(((found[7] or "") + "000")[:3])
                shown = datetime.combine(date(year, month, day), time(hour, minute, second, thousandths * 1000))
            except ValueError:
                return None
        elif found is not None:
            naive = parse_iso_of_any_year(value)
            shown = None if naive is None else (naive.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None))
    else:
        moment = parse_time(value)
        shown = None if moment is None else ms_to_local(moment, zone)
    if shown is None:
        return None
    shown = shown if clock is None else datetime.combine(shown.date(), clock)
    for year in range(ms_to_local(now, zone).year - 3, 99_999):
        is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        day = 28 if (shown.month, shown.day) == (2, 29) and not is_leap else shown.day
        moment = local_to_ms(shown.replace(year=year, day=day, microsecond=0), zone)
        if ms_to_local(moment, zone) == shown.replace(year=year, day=day, microsecond=0):
            moment += shown.microsecond // 1000  # Not where a gap has moved it.
        if moment + offset_ms > now:
            return moment + offset_ms
    raise AssertionError("a year comes every year")


def parse_iso_of_any_year(text: str) -> datetime | None:
    """T2 for a text with an offset, in any year: the moment in UTC."""
    year, _, rest = text.partition("-")
    moment = parse_iso(f"2000-{rest}" if int(year) % 4 == 0 else f"2001-{rest}")
    if moment is None:
        return None
    naive = (EPOCH + timedelta(milliseconds=moment)).replace(tzinfo=None)
    return naive.replace(year=int(year) + naive.year - (2000 if int(year) % 4 == 0 else 2001))


def joined(*fields: str) -> bytes:
    return "\x1f".join(fields).encode()


def identity(*fields: str) -> str:
    """records.md: "BLAKE2b with a 16-byte digest, in hex, of the UTF-8 fields .., joined by .. 0x1F"."""
    return hashlib.blake2b(joined(*fields), digest_size=16).hexdigest()


def unit(flow: str, salt: str, user: str) -> Fraction:
    """Order of things: `u = int(BLAKE2b-64(flow 1F salt 1F user)) / 2^64`, big-endian."""
    digest = hashlib.blake2b(joined(flow, salt, user), digest_size=8).digest()
    return Fraction(int.from_bytes(digest, "big"), 2**64)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(left: Any, right: Any) -> bool:
    """`eq`, W11: "numbers compare by value, `true` is not `1`, no coercion from text"; "only scalars are
    equal".
    """
    if is_number(left) and is_number(right):
        return bool(left == right)
    for kind in (bool, str):
        if isinstance(left, kind) and isinstance(right, kind):
            return bool(left == right)
    return False


def key_text(value: Any) -> str:
    """E3: "In the id a text stands as it is, another value in its shortest JSON form (`17`, also 17.0)"."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value)


def names_of(path: str) -> list[str]:
    r"""W12: "A dot that belongs to a name is written `\.`"."""
    return [name.replace("\0", ".") for name in path.replace("\\.", "\0").split(".")]


def at_path(value: Any, path: list[str]) -> Any:
    """W12: "Dots descend into objects, never into lists"; T10: a dot in a name is part of it. None if
    missing.
    """
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
