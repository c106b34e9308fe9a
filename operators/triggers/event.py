"""A trigger on events: what may be written, and the counting that makes it fire.

Each alternative of an `any` has its own counter, which a firing uses up. A counter with a window keeps the times of the
latest events in the user's row, one without a window only their number; in a flow with a key there is one per value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field

from operators.conditions.base import identity
from operators.conditions.wanted import Wanted
from operators.ids import Key, key_name
from operators.language.flow import Flow
from operators.language.model import CLAUSES_MAX, COUNTED_MAX, EventModel, Model, PositiveInt, sound_part
from operators.language.values import Duration
from operators.limits import COUNTERS_MAX, make_room
from operators.steps.build import Build
from operators.windows import insert


class Count(Model):
    """How often, and within which rolling window, a trigger's event must come."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("last", "window", "in"), "within"),
        **dict.fromkeys(("times", "min", "gte", "exactly"), "at_least"),
    }

    at_least: Annotated[PositiveInt, Field(description="The event that makes it so many fires, and uses them up.")]
    within: Annotated[Duration | None, Field(description="The rolling window that counts; without it, all count.")] = (
        None
    )


class Trigger(EventModel):
    """One event that starts a journey."""

    shapes: ClassVar[Mapping[str, str]] = {"count": "count: {at_least: <n>}"}

    count: Annotated[
        Count | None, Field(description="Fires on the event that makes the number of such events reach at_least.")
    ] = None


class TriggerAny(Model):
    """Several events, each of which starts a journey."""

    any: Annotated[
        list[Trigger],
        Field(
            min_length=1,
            max_length=CLAUSES_MAX,
            description=f"Up to {CLAUSES_MAX} events, each of which starts a journey.",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One event that can start a journey, and how often it must come.

    `counter` names the user's counter, "" when every such event fires; `within` is its window in ms, None for none.
    """

    wanted: Wanted
    at_least: int
    within: int | None
    counter: str


def build(raw: dict[str, Any], flow: Flow, build: Build) -> list[Alternative]:
    """Return the alternatives of the trigger *raw*, after noting every problem."""
    listed: list[tuple[tuple[str | int, ...], Trigger]] = []
    if isinstance(raw, dict) and "any" in raw and "event" not in raw:
        several = build.checked(TriggerAny, raw, "trigger")
        listed = [(("trigger", "any", index), one) for index, one in enumerate(several.any)] if several else []
    else:
        single = build.checked(Trigger, raw, "trigger") or sound_part(Trigger, raw)
        listed = [(("trigger",), single)] if single else []
    found: list[Alternative] = []
    for place, trigger in listed:
        wanted, count = build.wanted(trigger, *place, templates=False), trigger.count
        if count is None:
            found.append(Alternative(wanted, 1, None, ""))
            continue
        if count.within is not None and count.at_least > COUNTED_MAX:
            message = f"a window counts up to {COUNTED_MAX}, not up to {count.at_least}"
            build.problems.add((*place, "count", "at_least"), "out-of-range", message, "ask for fewer")
            continue
        counter = _counter_name(flow, wanted, count)
        while any(counter == other.counter for other in found):
            counter += "+"  # Two alternatives that ask the same have a counter each.
        found.append(Alternative(wanted, count.at_least, count.within, counter))
    return found


def _counter_name(flow: Flow, wanted: Wanted, count: Count) -> str:
    """Return a name that follows from what is counted: a new version that counts the same goes on counting."""
    what = [flow.flow, wanted.interest, identity(wanted.live), count.at_least, count.within, flow.entry.key]
    return "t" + hashlib.blake2b(orjson.dumps(what), digest_size=6).hexdigest()


def counts_up(windows: dict[str, list[int] | int], one: Alternative, key: Key, now: int, at: int) -> bool:
    """Count an event for *one*, and tell whether that makes the number it asks for; then those events are used up.

    Args:
        windows: the user's counters.
        key: the event's entry key, None where the flow has none, or the event.
        now: stream time; *at* the time at which the event stands in the window, at most *now*.
    """
    name = one.counter if key is None else f"{one.counter}\x1f{key_name(key)}"
    if len(windows) >= COUNTERS_MAX and name not in windows:
        make_room(windows, COUNTERS_MAX)
    if one.within is None:
        count = windows.get(name, 0)
        assert isinstance(count, int)
        if count + 1 < one.at_least:
            windows[name] = count + 1
            return False
        windows.pop(name, None)
        return True
    since = now - one.within
    times = windows.get(name)
    if times is None:
        if at <= since:
            return False  # Older than the window: it never counts.
        if one.at_least > 1:
            windows[name] = [at]
            return False
        return True
    assert times.__class__ is list
    insert(times, at, since)
    if len(times) >= one.at_least:
        del windows[name]
        return True
    if not times:
        del windows[name]
    return False
