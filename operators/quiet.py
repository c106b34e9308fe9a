"""Quiet times: hours of each day and holidays, where the user is, at which no marketing message goes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from operators.language.localtime import end_of_daily_span, moment_of_wall, next_time_of_day
from operators.language.message_rules import HolidayEnd, Quiet
from operators.language.values import DAY, Moment, time_of_day_text
from operators.language.workspace import Workspace
from state.iso import TIME_MS_MAX, format_ms


@dataclass(frozen=True, slots=True)
class Holiday:
    """A time without messages, once; `name` is None where it has none."""

    name: str | None
    from_: HolidayEnd
    until: HolidayEnd

    def end_if_in(self, now: int, zone: ZoneInfo) -> int | None:
        """Return when the holiday is over (ms) for a user in *zone*, None if it is not at *now*."""
        begin, end = self.ends(zone)
        return end if begin <= now < end else None

    def ends(self, zone: ZoneInfo) -> tuple[int, int]:
        """Return when it begins and when it is over (ms) for a user in *zone*."""
        return _moment(self.from_, zone), _moment(self.until, zone, DAY if self.until.is_day else 0)


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

    def changes_after(self, now: int, zone: ZoneInfo) -> Iterator[int]:
        """Yield moments later than *now*, among them the next one at which anything of the rule begins or ends."""
        for time_of_day_s in (self.from_s, self.until_s):
            if time_of_day_s is not None:
                yield next_time_of_day(now, zone, time_of_day_s)
        for holiday in self.holidays:
            yield from (moment for moment in holiday.ends(zone) if moment > now)


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


class QuietTimes:
    """The quiet times of *rules* together, for users of any zone.

    What was found for a zone holds until a rule begins or ends there, and is not looked for again before that.
    """

    def __init__(self, rules: Sequence[QuietRule]) -> None:
        self._rules = tuple(rules)
        self._found: dict[ZoneInfo, tuple[int, int, Held | None]] = {}

    def at(self, now: int, zone: ZoneInfo) -> Held | None:
        """Return the quiet time at *now* in *zone*, None if there is none.

        It ends at the first moment at which none of the rules holds: where one ends another may go on.
        """
        known = self._found.get(zone)
        if known is not None and known[0] <= now < known[1]:
            return known[2]
        found = self._look(now, zone)
        changes = (moment for rule in self._rules for moment in rule.changes_after(now, zone))
        self._found[zone] = now, min(changes, default=TIME_MS_MAX + 1), found
        return found

    def _look(self, now: int, zone: ZoneInfo) -> Held | None:
        first: tuple[int, dict[str, Any]] | None = None
        postpones = True
        for rule in self._rules:
            found = rule.end_if_in(now, zone)
            if found is not None:
                postpones = postpones and rule.postpones
                if first is None:
                    first = found[0], {"rule": rule.place, **found[1]}
        if first is None:
            return None
        until = first[0]
        while until <= TIME_MS_MAX:  # Each rule leaves some time of each day, so this comes to an end.
            ends = [found[0] for rule in self._rules if (found := rule.end_if_in(until, zone)) is not None]
            if not ends:
                break
            until = max(ends)
        return Held(until, {**first[1], "until": format_ms(min(until, TIME_MS_MAX)), "zone": zone.key}, postpones)
