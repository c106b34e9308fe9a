"""The small values that flows are written with: durations, moments, times of day, percentages, names.

Each has a parser that raises `BadValue` with a stable code, and an annotated type for the models of the language,
which carries the JSON Schema of what an author writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from operators.language.localtime import moment_of_wall, zone_names, zone_of
from operators.language.problems import BadValue
from state.iso import parse_local
from state.outgoing import NAME_PATTERN

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
WAIT_MAX: Final = 366 * DAY  # A journey that outlives its flow's yearly review is a mistake.
TEXT_COMPARED_MAX: Final = 64
DURATION_MAX: Final = 36_600 * DAY  # A hundred years: more is a mistake, and stays far from the end of time.

UNITS: Final = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TIME_OF_DAY_PATTERN: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"
DURATION_PATTERN: Final = r"^([0-9]+[smhdw])+$"

_DURATION: Final = re.compile(r"(?:[0-9]{1,12}[smhdw])+")
_PART: Final = re.compile(r"([0-9]+)([smhdw])")
_TIME_OF_DAY: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,12})?)%")
_NAME: Final = re.compile(NAME_PATTERN.strip("^$"))


def shown(value: object) -> str:
    """Return *value* as an error message quotes it: short."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_duration(value: object, *, longest: int | None = None) -> int:
    """Return the milliseconds of a duration such as `1d12h`.

    Raises:
        BadValue: not a duration, zero, or longer than *longest* milliseconds.
    """
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise BadValue(
            "bad-duration", f"{shown(value)} is not a duration", "write number and unit: 90s, 30m, 2h, 1d12h"
        )
    total = sum(int(number) * UNITS[unit] for number, unit in _PART.findall(value))
    if total <= 0:
        raise BadValue("bad-duration", "a duration is more than zero", "leave the step out to go on at once")
    if total > DURATION_MAX:
        raise BadValue("too-long", f"{shown(value)} is longer than {DURATION_MAX // DAY}d", "nobody waits that long")
    if longest is not None and total > longest:
        raise BadValue("too-long", f"{value} is longer than {longest // DAY}d", "wait in several steps, or use a date")
    return total


def duration_text(duration_ms: int) -> str:
    """Return a duration as an author may have written it: `1d12h`."""
    parts = []
    for unit in ("d", "h", "m", "s"):
        number, duration_ms = divmod(duration_ms, UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


def parse_offset(value: object) -> int:
    """Return the milliseconds of a duration with an optional sign, such as `-3d`."""
    if isinstance(value, str) and value[:1] in ("-", "+"):
        return (-1 if value[0] == "-" else 1) * parse_duration(value[1:])
    return parse_duration(value)


class Moment(NamedTuple):
    """A moment as it is written: which one it is, its place says where it has no offset.

    `local_ms` is the text read as if it were UTC, `offset_ms` how far the written offset is ahead of UTC, None where
    none is written.
    """

    local_ms: int
    offset_ms: int | None

    def ms_in(self, zone: ZoneInfo) -> int:
        """Return the stream time in ms: without an offset the moment is a local time in *zone*."""
        return moment_of_wall(zone, self.local_ms) if self.offset_ms is None else self.local_ms - self.offset_ms

    def ms_in_utc(self) -> int:
        """Return the stream time in ms: without an offset the moment is in UTC."""
        return self.local_ms - (self.offset_ms or 0)


def parse_moment(value: object) -> Moment:
    """Return an ISO 8601 moment."""
    moment = parse_local(value) if isinstance(value, str) else None
    if moment is None:
        raise BadValue("bad-moment", f"{shown(value)} is not a moment", "write 2026-11-01T00:00:00+08:00")
    return Moment(*moment)


def parse_time_of_day(value: object) -> int:
    """Return the seconds since midnight of `"HH:MM"` or `"HH:MM:SS"`."""
    found = _TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise BadValue("bad-time-of-day", f"{shown(value)} is not a time of day", 'write "09:00" or "09:00:30", quoted')
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3] or 0)


def time_of_day_text(time_of_day_s: int) -> str:
    """Return a time of day as an author may have written it: `22:00`, with seconds where it has some."""
    hours, rest = divmod(time_of_day_s, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours:02}:{minutes:02}" + (f":{seconds:02}" if seconds else "")


def parse_time_of_day_or_moment(value: object) -> int | Moment:
    """Return the seconds of a time of day, or a moment."""
    if isinstance(value, str) and value[2:3] == ":":
        return parse_time_of_day(value)
    try:
        return parse_moment(value)
    except BadValue as bad:
        raise BadValue(
            bad.code,
            f"{shown(value)} is neither moment nor time of day",
            'write "09:00", quoted, or 2026-11-01T00:00:00+08:00',
        ) from None


def parse_percent(value: object) -> Decimal:
    """Return a percentage such as `12.5%` as an exact number from 0 to 100."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if not found or Decimal(found[1]) > 100:
        raise BadValue("bad-percent", f"{shown(value)} is not a percentage", "write 10% or 12.5%, from 0% to 100%")
    return Decimal(found[1])


def parse_name(value: object) -> str:
    """Return *value* if it can name a flow, a step, a label or a channel."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise BadValue(
            "bad-name",
            f"{shown(value)} is not a name",
            "1 to 64 of a-z 0-9 _ . - and a letter or digit first; quote names that look like numbers",
        )
    return value


def parse_zone(value: object) -> str:
    """Return *value* if it is an IANA time zone, spelled exactly."""
    if zone_of(value) is None:
        near = _zone_like(value) if isinstance(value, str) else None
        hint = f"did you mean {near}?" if near else "write an IANA name such as Asia/Shanghai"
        raise BadValue("bad-zone", f"{shown(value)} is not a time zone", hint)
    assert isinstance(value, str)
    return value


def _zone_like(text: str) -> str | None:
    """Return the zone that *text* was most likely meant to be: spelled otherwise, or only the city of its name."""
    plain = text.strip().lower().replace(" ", "_").replace("-", "_")
    for name in sorted(zone_names()):
        lower = name.lower().replace("-", "_")
        if plain and plain in (lower, lower.rpartition("/")[2]):
            return name
    near = get_close_matches(text, zone_names(), n=1, cutoff=0.8) if len(text) <= TEXT_COMPARED_MAX else []
    return near[0] if near else None


def parse_days(value: object) -> frozenset[int]:
    """Return the weekdays of a list such as `[mon, fri]`, Monday being 0."""
    if not isinstance(value, list) or not value:
        raise BadValue("bad-days", f"{shown(value)} is not a list of weekdays", "write [mon, tue]")
    for index, day in enumerate(value):
        if day not in WEEKDAYS:
            hint = "the days are " + ", ".join(WEEKDAYS)
            raise BadValue("bad-days", f"{shown(day)} is not a weekday", hint, (index,))
    return frozenset(WEEKDAYS.index(day) for day in value)


def validated(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Return *parse* as a validator of the models, its `BadValue` as an error that keeps code and hint."""

    def run(value: Any) -> Any:
        try:
            return parse(value)
        except BadValue as bad:
            raise PydanticCustomError(
                bad.code,
                "{text}",
                {"text": bad.message, "hint": bad.hint, "path": bad.path},
            ) from None

    return BeforeValidator(run)


def _text_schema(pattern: str, description: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "description": description})


Duration = Annotated[int, validated(parse_duration), _text_schema(DURATION_PATTERN, "such as 90s, 30m, 1d12h")]
WaitDuration = Annotated[
    int,
    validated(lambda value: parse_duration(value, longest=WAIT_MAX)),
    _text_schema(DURATION_PATTERN, "such as 90s, 30m, 1d12h; at most 366d"),
]
Offset = Annotated[int, validated(parse_offset), _text_schema(r"^[-+]?([0-9]+[smhdw])+$", "such as -3d")]
WrittenMoment = Annotated[Any, validated(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A `Moment`; as a type of its own it would stand among the definitions of the schema."""
TimeOfDay = Annotated[
    int,
    validated(parse_time_of_day),
    _text_schema(TIME_OF_DAY_PATTERN, "local time of day, quoted"),
]
TimeOfDayOrMoment = Annotated[
    Any,
    validated(parse_time_of_day_or_moment),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": TIME_OF_DAY_PATTERN}, {"type": "string", "format": "date-time"}]}
    ),
]
"""The seconds of a time of day, or a `Moment`."""
Percent = Annotated[Decimal, validated(parse_percent), _text_schema(r"^[0-9]{1,3}(\.[0-9]+)?%$", "such as 12.5%")]
Name = Annotated[str, validated(parse_name), _text_schema(NAME_PATTERN, "a-z 0-9 _ . -, at most 64")]
Zone = Annotated[str, validated(parse_zone), _text_schema(r"^[A-Za-z]", "IANA time zone such as Asia/Shanghai")]
Days = Annotated[
    frozenset[int],
    validated(parse_days),
    WithJsonSchema({"type": "array", "minItems": 1, "items": {"enum": list(WEEKDAYS)}}),
]
