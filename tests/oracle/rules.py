"""Message rules: quiet times and caps, by looking at each day and each send."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle.values import duration_ms, local_to_ms, ms_to_local, time_of_day

Rule = dict[str, Any]
LULLS_MAX = 10_000  # Quiet times one after the other; more would cover every day.


@dataclass
class Send:
    """An action of one user, for the counting of caps."""

    at: int
    channel: str
    category: str


def listed(names: Any) -> list[str]:
    """M9: "one name or a list"."""
    return [names] if isinstance(names, str) else list(names or [])


def quiet_times(rule: Rule, zone: ZoneInfo, now: int) -> list[tuple[int, int]]:
    """All `[start, end)` of a quiet rule that may hold at *now*, or near it."""
    found = []
    if "from" in rule:
        clock, until = time_of_day(rule["from"]), time_of_day(rule["until"])
        assert clock is not None
        assert until is not None
        today = ms_to_local(now, zone).date()
        for ahead in range(-3, 4):
            first = today + timedelta(days=ahead)
            last = first if clock < until else first + timedelta(days=1)
            # M4: "from the moment of `from` to the moment of `until`, each by the rule for skipped and repeated".
            found.append((moment(first, clock, zone), moment(last, until, zone)))
    for holiday in rule.get("holidays") or []:
        # M3: "whole days in the user's zone, the last included".
        last = date.fromisoformat(holiday["until"]) + timedelta(days=1)
        found.append((moment(date.fromisoformat(holiday["from"]), time(0), zone), moment(last, time(0), zone)))
    return found


def moment(day: date, clock: time, zone: ZoneInfo) -> int:
    return local_to_ms(datetime.combine(day, clock), zone)


def holding(rules: list[Rule], zone: ZoneInfo, now: int) -> list[Rule]:
    """The quiet rules that hold at *now*; M5: "`[from, until)`"."""
    return [rule for rule in rules if any(start <= now < end for start, end in quiet_times(rule, zone, now))]


def quiet_until(rules: list[Rule], zone: ZoneInfo, now: int) -> int:
    """M5: "the first moment at which neither the channel's nor the workspace's rules hold"."""
    for _ in range(LULLS_MAX):
        ends = [end for rule in rules for start, end in quiet_times(rule, zone, now) if start <= now < end]
        if not ends:
            return now
        now = max(ends)
    raise AssertionError("it is quiet for ever")


def caps_allow(sends: list[Send], config: dict[str, Any], channel: str, now: int) -> bool:
    """M6: "Sends in `(now - per, now]` must be fewer than `at_most`. Only marketing sends count; for the overall
    caps those of every channel". Message rules: "All caps must allow".
    """
    entry = (config.get("channels") or {}).get(channel) or {}
    for caps, channels in ((entry.get("caps"), [channel]), (config.get("caps"), None)):
        for cap in caps or []:
            start = now - duration_ms(cap["per"])
            counted = [
                send
                for send in sends
                if send.category == "marketing"
                and start < send.at <= now
                and (channels is None or send.channel in channels)
            ]
            if len(counted) >= cap["at_most"]:
                return False
    return True
