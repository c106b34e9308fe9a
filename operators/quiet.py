"""Quiet times: hours of each day and holidays, where the user is, at which no marketing message goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from operators.language.localtime import end_of_daily_span, moment_of_wall
from operators.language.message_rules import HolidayEnd, Quiet
from operators.language.values import DAY, Moment, time_of_day_text
from operators.language.workspace import Workspace
from state.iso import TIME_MS_MAX, format_ms

_FURTHEST: Final = 2 * DAY  # A local time is not further from the same time in UTC.


@dataclass(frozen=True, slots=True)
class Holiday:
    """A time without messages, once; `name` is None where it has none."""

    name: str | None
    from_: HolidayEnd
    until: HolidayEnd

    def end_if_in(self, now: int, zone: ZoneInfo) -> int | None:
        """Return when the holiday is over (ms) for a user in *zone*, None if it is not at *now*."""
        if not self.from_.local_ms - _FURTHEST <= now < self.until.local_ms + DAY + _FURTHEST:
            return None
        end = _moment(self.until, zone, DAY if self.until.is_day else 0)
        return end if _moment(self.from_, zone) <= now < end else None


def _moment(of: HolidayEnd, zone: ZoneInfo, later_ms: int = 0) -> int:
    local_ms = of.local_ms + later_ms
    return moment_of_wall(zone, local_ms) if of.offset_ms is None else Moment(local_ms, of.offset_ms).ms_in(zone)


@dataclass(frozen=True, slots=True)
class QuietRule:
    """Quiet hours, seconds of the day or None for none, and holidays. `place` says where it is written."""

    place: str
    from_s: int | None
    until_s: int | None
    holidays: tuple[Holiday, ...]
    postpones: bool

    def end_if_in(self, now: int, zone: ZoneInfo) -> tuple[int, dict[str, Any]] | None:
        """Return until when the rule holds at *now* and what of it does, None if nothing; the latest of several."""
        found: tuple[int, dict[str, Any]] | None = None
        if self.from_s is not None and self.until_s is not None:
            end = end_of_daily_span(now, zone, self.from_s, self.until_s)
            if end is not None:
                found = end, {"hours": f"{time_of_day_text(self.from_s)}-{time_of_day_text(self.until_s)}"}
        for index, holiday in enumerate(self.holidays):
            end = holiday.end_if_in(now, zone)
            if end is not None and (found is None or end > found[0]):
                found = end, {"holiday": index if holiday.name is None else holiday.name}
        return found


class Held(NamedTuple):
    """A quiet time that holds: until when (ms), by which rule, and whether messages go out later."""

    until_ms: int
    by: dict[str, Any]
    postpones: bool


def quiet_of(workspace: Workspace, channel: str) -> tuple[QuietRule, ...]:
    """Return the quiet times that hold for messages on *channel*: its own, then those of all channels."""
    written = workspace.channels.get(channel)
    rules = [
        (f"channels.{channel}.quiet", None if written is None else written.quiet),
        ("quiet", workspace.quiet),
    ]
    return tuple(_rule(place, quiet) for place, quiet in rules if quiet is not None)


def _rule(place: str, quiet: Quiet) -> QuietRule:
    holidays = tuple(Holiday(one.name, one.from_, one.until) for one in quiet.holidays)
    return QuietRule(place, quiet.from_, quiet.until, holidays, quiet.postpone)


def held(rules: Sequence[QuietRule], now: int, zone: ZoneInfo) -> Held | None:
    """Return the quiet time at *now* in *zone*, None if there is none.

    It ends at the first moment at which none of *rules* holds: where one ends another may go on.
    """
    first: tuple[int, dict[str, Any]] | None = None
    postpones = True
    for rule in rules:
        found = rule.end_if_in(now, zone)
        if found is not None:
            postpones = postpones and rule.postpones
            if first is None:
                first = found[0], {"rule": rule.place, **found[1]}
    if first is None:
        return None
    until = first[0]
    while until <= TIME_MS_MAX:  # Each rule leaves some time of each day, so this comes to an end.
        ends = [found[0] for rule in rules if (found := rule.end_if_in(until, zone)) is not None]
        if not ends:
            break
        until = max(ends)
    return Held(until, {**first[1], "until": format_ms(min(until, TIME_MS_MAX)), "zone": zone.key}, postpones)
