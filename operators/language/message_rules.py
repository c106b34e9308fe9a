"""The models of the message rules in `nudge.yaml`: caps, quiet times, who is exempt or suppressed, consent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema

from operators.language.localtime import DAY_S
from operators.language.model import COUNTED_MAX, Model, PositiveInt
from operators.language.problems import BadValue, Path, Problems
from operators.language.values import DAY, Duration, Name, TimeOfDay, duration_text, parse_moment, shown, validated
from state.outgoing import NAME_PATTERN

HOLIDAYS_MAX: Final = 100  # Of one rule: some years ahead. Each send that may be held looks at all of them.
_APART: Final = 2 * DAY  # No two zones are further.
_NAME_SCHEMA: Final = {"type": "string", "pattern": NAME_PATTERN}
_PROFILE_PATH: Final = re.compile(r"profile((?:\.[^.]+)+)")


class Cap(Model):
    """At most so many messages in a rolling window."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("max", "limit", "count", "times"), "at_most"),
        **dict.fromkeys(("within", "window", "every", "in"), "per"),
    }

    at_most: Annotated[PositiveInt, Field(le=COUNTED_MAX, description="So many messages, and not one more.")]
    per: Annotated[Duration, Field(description="In the rolling window of this length that ends with the message.")]


class HolidayEnd(NamedTuple):
    """An end of a holiday: a whole day, or a moment; without an offset where the user is.

    `local_ms` is the text read as if it were UTC, `offset_ms` how far the written offset is ahead of UTC, if any.
    """

    local_ms: int
    offset_ms: int | None
    is_day: bool


def _holiday_end(value: object) -> HolidayEnd:
    moment = parse_moment(value)
    return HolidayEnd(*moment, is_day=len(str(value)) == len("2027-02-06"))


_HolidayEnd = Annotated[Any, validated(_holiday_end), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A `HolidayEnd`; as a type of its own it would stand among the definitions of the schema."""


class Holiday(Model):
    """A time without messages, once."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("start", "begin", "after"), "from"),
        **dict.fromkeys(("to", "end", "before"), "until"),
        "title": "name",
    }

    name: Annotated[str | None, Field(min_length=1, strict=True, description="What the journal calls it.")] = None
    from_: Annotated[_HolidayEnd, Field(alias="from", description="A date, or a moment; where the user is.")]
    until: Annotated[_HolidayEnd, Field(description="A date, which is included, or a moment, which is not.")]


class Quiet(Model):
    """Times at which no marketing messages go out."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("start", "begin", "after"), "from"),
        **dict.fromkeys(("to", "end", "before"), "until"),
    }
    shapes: ClassVar[Mapping[str, str]] = {
        "quiet": 'quiet: {from: "22:00", until: "08:00"}',
        "holidays": "holidays: [{name: spring, from: 2027-02-06, until: 2027-02-12}]",
    }

    from_: Annotated[
        TimeOfDay | None, Field(alias="from", description="Each day from this local time of the user on.")
    ] = None
    until: Annotated[
        TimeOfDay | None, Field(description="To this local time, which is excluded. Before from: over midnight.")
    ] = None
    holidays: Annotated[list[Holiday], Field(max_length=HOLIDAYS_MAX, description="Whole days, or longer times.")] = []
    postpone: Annotated[
        StrictBool, Field(description="true: what is held goes out when the quiet time is over. false: it is dropped.")
    ] = True


class Members(Model):
    """The members of audiences."""

    mistaken: ClassVar[Mapping[str, str]] = {"audiences": "audience"}
    shapes: ClassVar[Mapping[str, str]] = {"audience": "audience: staff"}

    audience: Annotated[
        list[Name],
        BeforeValidator(lambda raw: raw if isinstance(raw, list) else [raw]),
        WithJsonSchema({"anyOf": [_NAME_SCHEMA, {"type": "array", "minItems": 1, "items": _NAME_SCHEMA}]}),
        Field(min_length=1, description="An audience, or a list: the members of any of them."),
    ]


def _profile_path(value: object) -> tuple[str, ...]:
    found = _PROFILE_PATH.fullmatch(value) if isinstance(value, str) else None
    if not found:
        hint = f"write profile.{value}" if isinstance(value, str) and value else "write profile.marketing_consent"
        raise BadValue("bad-path", f"{shown(value)} is no attribute of the profile", hint)
    return tuple(found[1][1:].split("."))


_ProfilePath = Annotated[
    tuple[str, ...],
    validated(_profile_path),
    WithJsonSchema({"type": ["string", "null"], "pattern": f"^{_PROFILE_PATH.pattern}$"}),
]


class Consent(Model):
    """Which attribute of the profile must be true for messages of a category."""

    marketing: Annotated[_ProfilePath | None, Field(description="Must be true for marketing messages.")] = None
    notification: Annotated[_ProfilePath | None, Field(description="Must be true for notifications.")] = None


Caps = list[Cap]


# ---- what only several keys show -----------------------------------------------------------------------------------


def check_quiet(quiet: Quiet, path: Path, problems: Problems) -> None:
    """Note what is wrong with quiet times that stand at *path*."""
    if (quiet.from_ is None) != (quiet.until is None):
        missing = "from" if quiet.from_ is None else "until"
        problems.add(path, "missing-key", f"'{missing}' is missing", "quiet hours have both, 'from' and 'until'")
    elif quiet.from_ is not None and quiet.from_ == quiet.until:
        message = "'from' and 'until' are the same time: nobody knows whether that is never or always"
        problems.add((*path, "until"), "bad-quiet-hours", message, "write another time, or remove both")
    if quiet.from_ is None and quiet.until is None and not quiet.holidays:
        message = "this rule has neither hours nor holidays: it holds nothing"
        problems.add(path, "empty-quiet", message, 'write from: "22:00" and until: "08:00", or holidays')
    for index, holiday in enumerate(quiet.holidays):
        if _length_at_most(holiday) <= 0:
            message = "'until' is not after 'from': this holiday is over before it begins"
            problems.add((*path, "holidays", index, "until"), "bad-holiday", message, "write a later one")


def _length_at_most(holiday: Holiday) -> int:
    """Return how many ms a holiday has at most, wherever the user is."""
    from_: HolidayEnd = holiday.from_
    until: HolidayEnd = holiday.until
    end = until.local_ms + (DAY if until.is_day else 0)
    if (from_.offset_ms is None) == (until.offset_ms is None):
        return end - (until.offset_ms or 0) - (from_.local_ms - (from_.offset_ms or 0))
    return end + _APART - from_.local_ms


def check_whole_day(rules: Sequence[tuple[Path, Quiet]], problems: Problems) -> None:
    """Note when the quiet hours of *rules*, which hold together, cover each day from its start to its end.

    The problem is told at the last of them.
    """
    spans: list[tuple[int, int]] = []
    for _, quiet in rules:
        spans.extend(_spans(quiet))
    covered = 0
    for begin, end in sorted(spans):
        if begin > covered:
            return
        covered = max(covered, end)
    if covered >= DAY_S:
        where = " and ".join(".".join(map(str, path)) for path, _ in rules)
        message = f"the hours of {where} leave no time of the day: no marketing message could ever go out"
        problems.add(rules[-1][0], "quiet-all-day", message, "leave some time between 'until' and 'from'")


def _spans(quiet: Quiet) -> Iterator[tuple[int, int]]:
    """Yield the parts of a day, in seconds, that quiet hours cover."""
    if quiet.from_ is None or quiet.until is None or quiet.from_ == quiet.until:
        return
    if quiet.from_ < quiet.until:
        yield quiet.from_, quiet.until
    else:
        yield 0, quiet.until
        yield quiet.from_, DAY_S


def check_caps(caps: Sequence[Cap], others: Sequence[Cap], path: Path, problems: Problems) -> None:
    """Warn of each of the caps at *path* that another one, of them or of the *others*, makes superfluous."""
    for index, cap in enumerate(caps):
        before, after = caps[:index], caps[index + 1 :]
        stricter = next((one for one in (*before, *others) if _is_stricter(one, cap)), None) or next(
            (one for one in after if _is_stricter(one, cap) and not _is_stricter(cap, one)), None
        )
        if stricter is not None:
            said = f"{stricter.at_most} per {duration_text(stricter.per)} is never more than this allows"
            problems.warn((*path, index), "no-effect", said, "remove one of the two")


def _is_stricter(one: Cap, other: Cap) -> bool:
    return one.at_most <= other.at_most and one.per >= other.per
