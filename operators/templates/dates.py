"""The `date` filter: what it reads, and how it writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from operators.templates.bounds import Budget
from operators.templates.text import text_of
from state.iso import NUMBER_MS_MIN

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?: ?(?:(Z|UTC|GMT)|([+-])(\d\d):?(\d\d)))?)?",
    re.ASCII,
)
_MONTH: Final = r"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_CLOCK: Final = (
    r"(?:,? (?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?(?: ?(?P<half>[AP])M)?)?"
    r"(?: (?:Z|UTC|GMT|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)))?"
)
_WRITTEN_OUT: Final = [
    re.compile(rf"(?:[A-Z][a-z]{{2,8}},? )?{day},? (?P<year>\d{{4}}){_CLOCK}", re.ASCII | re.IGNORECASE)
    for day in (f"{_MONTH} {_DAY}", f"{_DAY} {_MONTH}")
]


def date(budget: Budget, value: object, layout: object) -> object:
    """`date`: write a moment after *layout*, as Ruby's strftime does. What is no date stays as it is, as in Liquid.

    A date is "now" or "today" (stream time, in UTC), an ISO 8601 text or one with the month's name ("April 14, 2021",
    "Wed, 14 Apr 2021 16:49:02 +0000"), shown with the offset that is written in it, or a number since 1970 UTC, also as
    text.
    """
    layout = text_of(layout)
    moment = _moment(value, budget.now_ms)
    if moment is None or not layout:
        return value
    budget.spend(len(layout))
    return _strftime(moment, layout)


def _moment(value: object, now_ms: int) -> datetime | None:
    """Return the aware moment that *value* means to `date`, None if it is none."""
    try:
        if isinstance(value, str):
            text = value.strip()
            if text.lower() in {"now", "today"}:
                return _from_ms(now_ms)
            if text.isascii() and text.isdigit() and len(text) < 20:
                return _moment(int(text), now_ms)
            return _from_iso(text) or _from_words(text)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return _from_ms(int(value * 1000) if abs(value) < NUMBER_MS_MIN else int(value))
    except (ValueError, OverflowError):
        return None


def _from_ms(moment_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)


def _from_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    *numbers, fraction, _, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = (int(one or 0) for one in numbers)
    microsecond = int(((fraction or "") + "000000")[:6])
    zone = UTC
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
    return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone)


def _from_words(text: str) -> datetime | None:
    """Return the moment of a date in which the month has its English name."""
    match = next((found for one in _WRITTEN_OUT if (found := one.fullmatch(text)) is not None), None)
    if match is None:
        return None
    month = next(at for at, name in enumerate(_MONTHS, 1) if name[:3].lower() == match["month"].lower())
    hour = int(match["hour"] or 0)
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"].upper() == "P" else 0)
    zone = UTC
    if match["sign"]:
        offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
        zone = timezone(-offset if match["sign"] == "-" else offset)
    minute, second = int(match["minute"] or 0), int(match["second"] or 0)
    return datetime(int(match["year"]), month, int(match["day"]), hour, minute, second, tzinfo=zone)


_DIRECTIVE: Final = re.compile(r"%([-_0^#]*)(\d{0,2})(:{0,2})([A-Za-z%+])")
_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_COMPOUND: Final = {
    "D": "%m/%d/%y",
    "F": "%Y-%m-%d",
    "R": "%H:%M",
    "T": "%H:%M:%S",
    "X": "%H:%M:%S",
    "c": "%a %b %e %H:%M:%S %Y",
    "r": "%I:%M:%S %p",
    "v": "%e-%^b-%Y",
    "x": "%m/%d/%y",
    "+": "%a %b %e %H:%M:%S %Z %Y",
}
_NUMERIC: Final[dict[str, tuple[Callable[[datetime], int], int, str]]] = {  # How, to how many characters, with what.
    "C": (lambda one: one.year // 100, 2, "0"),
    "G": (lambda one: one.isocalendar().year, 4, "0"),
    "H": (lambda one: one.hour, 2, "0"),
    "I": (lambda one: one.hour % 12 or 12, 2, "0"),
    "M": (lambda one: one.minute, 2, "0"),
    "S": (lambda one: one.second, 2, "0"),
    "U": (lambda one: (one.timetuple().tm_yday + 6 - one.isoweekday() % 7) // 7, 2, "0"),
    "V": (lambda one: one.isocalendar().week, 2, "0"),
    "W": (lambda one: (one.timetuple().tm_yday + 6 - one.weekday()) // 7, 2, "0"),
    "Y": (lambda one: one.year, 4, "0"),
    "d": (lambda one: one.day, 2, "0"),
    "e": (lambda one: one.day, 2, " "),
    "g": (lambda one: one.isocalendar().year % 100, 2, "0"),
    "j": (lambda one: one.timetuple().tm_yday, 3, "0"),
    "k": (lambda one: one.hour, 2, " "),
    "l": (lambda one: one.hour % 12 or 12, 2, " "),
    "m": (lambda one: one.month, 2, "0"),
    "s": (lambda one: (one - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1), 1, "0"),
    "u": (lambda one: one.isoweekday(), 1, "0"),
    "w": (lambda one: one.isoweekday() % 7, 1, "0"),
    "y": (lambda one: one.year % 100, 2, "0"),
}
_WORDS: Final[dict[str, Callable[[datetime], str]]] = {
    "A": lambda one: _DAYS[one.weekday()],
    "B": lambda one: _MONTHS[one.month - 1],
    "P": lambda one: "am" if one.hour < 12 else "pm",
    "Z": lambda one: _offset(one, ":") if one.utcoffset() else "UTC",
    "a": lambda one: _DAYS[one.weekday()][:3],
    "b": lambda one: _MONTHS[one.month - 1][:3],
    "h": lambda one: _MONTHS[one.month - 1][:3],
    "n": lambda _: "\n",
    "p": lambda one: "AM" if one.hour < 12 else "PM",
    "t": lambda _: "\t",
    "%": lambda _: "%",
}


def _strftime(moment: datetime, layout: str) -> str:
    """Return *moment* after *layout*: Ruby's directives and flags, in English, on every machine the same."""

    def write(match: re.Match[str]) -> str:
        flags, width, colons, letter = match.groups()
        pad = " "
        if letter in _NUMERIC:
            how, digits, pad = _NUMERIC[letter]
            text = str(how(moment))
        elif letter in {"L", "N"}:  # The width says how many digits, and what follows is cut.
            return f"{moment.microsecond:06}000".ljust(99, "0")[: int(width or {"L": 3, "N": 9}[letter])]
        elif letter == "z":
            text, digits = _offset(moment, ":" * bool(colons)), 0
        elif letter in _WORDS:
            text, digits = _WORDS[letter](moment), 0
        elif letter in _COMPOUND:
            text, digits = _strftime(moment, _COMPOUND[letter]), 0
        else:
            return match[0]
        if "^" in flags:
            text = text.upper()
        elif "#" in flags:
            text = text.lower() if letter == "p" else text.upper()
        if "-" in flags:
            return text
        pad = "0" if "0" in flags else " " if "_" in flags else pad
        return text.rjust(int(width or digits), pad)

    return _DIRECTIVE.sub(write, layout)


def _offset(moment: datetime, colon: str) -> str:
    minutes = (moment.utcoffset() or timedelta(0)) // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{colon}{abs(minutes) % 60:02}"
