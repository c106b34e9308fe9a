"""A trigger on audiences: at planned times, every member of one of them starts a journey.

What is decided here is when runs are planned. Who takes part in one is `operators/machine/run.py`, and which of them
are skipped or are too many is `operators/machine/planning.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from operators.language.flow import Flow
from operators.language.model import Model, PositiveInt, sound_part
from operators.language.problems import BadValue
from operators.language.schedule import At, Every, Now, Schedule, parse_cron
from operators.language.values import Duration, WrittenMoment
from operators.steps.build import Build
from state.outgoing import NAME_PATTERN

AUDIENCES_MAX: Final = 20  # Of one trigger.
_KINDS: Final = ("now", "at", "cron", "every")
_HINT: Final = 'write {now: true}, {at: 2026-11-01T10:00:00}, {cron: "0 10 * * mon"} or {every: 1d, from: 2026-11-01}'
_NAME: Final = {"type": "string", "pattern": NAME_PATTERN}


class ScheduleModel(Model):
    """When runs are planned: one of now, at, cron, and every with from."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [kind]} for kind in _KINDS]})
    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("times", "max_runs", "limit"), "runs"),
        **dict.fromkeys(("start", "starting", "since"), "from"),
        **dict.fromkeys(("once", "on", "date"), "at"),
        "interval": "every",
    }
    conflicts: ClassVar[tuple[frozenset[str], ...]] = (
        *(frozenset((one, other)) for one in _KINDS for other in _KINDS if one < other),
        *(frozenset((key, kind)) for key, kinds in {"from": _KINDS[:3], "runs": _KINDS[:2]}.items() for kind in kinds),
    )

    now: Annotated[
        Literal[True] | None, Field(description="true: once, as soon as this version of the flow is deployed.")
    ] = None
    at: Annotated[WrittenMoment | None, Field(description="Once, at this moment.")] = None
    cron: Annotated[
        str | None,
        Field(
            strict=True,
            description='Minute, hour, day of the month, month and day of the week, such as "0 10 * * mon", in the '
            "flow's time zone.",
        ),
    ] = None
    every: Annotated[Duration | None, Field(description="Again and again after this time, beginning at from.")] = None
    from_: Annotated[WrittenMoment | None, Field(alias="from", description="With every: the first planned time.")] = (
        None
    )
    runs: Annotated[
        PositiveInt | None, Field(description="With cron or every: after so many runs there are no more.")
    ] = None


class TriggerAudience(Model):
    """Every member of an audience starts a journey, at planned times."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("audiences", "segment"), "audience"),
        **dict.fromkeys(("at", "cron", "every", "now", "when"), 'schedule: {cron: "0 10 * * mon"}'),
    }
    shapes: ClassVar[Mapping[str, str]] = {"schedule": 'schedule: {cron: "0 10 * * mon"}', "audience": "audience: vip"}
    belongs: ClassVar[Mapping[str, str]] = {
        "runs": "'schedule'",
        "from": "'schedule'",
        "where": "'entry' as when: {entry.<field>: ..}",
    }

    audience: Annotated[
        list[Any],
        BeforeValidator(lambda raw: raw if isinstance(raw, list) else [raw]),
        WithJsonSchema({"anyOf": [_NAME, {"type": "array", "items": _NAME, "minItems": 1, "maxItems": AUDIENCES_MAX}]}),
        Field(
            min_length=1,
            max_length=AUDIENCES_MAX,
            description=f"Up to {AUDIENCES_MAX} audiences. Who is in several of them takes part once.",
        ),
    ]
    schedule: Annotated[ScheduleModel, Field(description="When: now, at, cron or every.")]
    skip_unchanged: Annotated[
        bool,
        Field(strict=True, description="true: a run is skipped unless every audience was updated since the last one."),
    ] = False


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a flow: whose members enter, when, how often at most (None: without end), and which are skipped."""

    audiences: tuple[str, ...]
    schedule: Schedule
    at_most: int | None
    skips_unchanged: bool


def build(raw: dict[str, Any], flow: Flow, build: Build) -> Runs | None:
    """Return the runs of the trigger *raw*, or None after noting every problem."""
    model = build.checked(TriggerAudience, raw, "trigger")
    audiences = build.audiences(raw["audience"], "trigger", "audience") if model is not None else []
    written = model.schedule if model is not None else sound_part(ScheduleModel, raw.get("schedule"))
    schedule = _schedule(written, build) if written is not None else None
    if model is None or schedule is None:
        return None
    is_skipping = model.skip_unchanged and schedule.is_recurring
    if model.skip_unchanged and not schedule.is_recurring:
        message = "'skip_unchanged' has no effect here: the first run always takes place, and this is the only one"
        build.advise("no-effect", message, "leave it out", "trigger", "skip_unchanged")
    return Runs(tuple(audiences), schedule, model.schedule.runs, is_skipping)


def _schedule(written: ScheduleModel, build: Build) -> Schedule | None:
    problems, place = build.problems, ("trigger", "schedule")
    values = {"now": written.now, "at": written.at, "cron": written.cron, "every": written.every}
    kinds = [kind for kind, value in values.items() if value is not None]
    if len(kinds) != 1:
        code = "conflicting-keys" if kinds else "missing-key"
        message = f"a schedule is one of now, at, cron and every, not {' and '.join(kinds)}"
        problems.add(place, code, message if kinds else "this schedule has no planned times", _HINT)
        return None
    (kind,) = kinds
    special = {"from": (written.from_, ("every",)), "runs": (written.runs, ("cron", "every"))}
    for key, (value, meant) in special.items():
        if value is not None and kind not in meant:
            message = f"'{key}' means something only beside {' and '.join(meant)}"
            problems.add((*place, key), "conflicting-keys", message, "leave it out")
            return None
    if written.now is not None:
        return Now()
    if written.at is not None:
        return At(build.moment(written.at, *place, "at"))
    if written.cron is not None:
        try:
            return parse_cron(written.cron, build.zone)
        except BadValue as bad:
            problems.add_bad((*place, "cron"), bad)
            return None
    if written.from_ is None:
        message = "'from' is required beside 'every': it is the first planned time"
        problems.add(place, "missing-key", message, "write {every: 1d, from: 2026-11-01T10:00:00}")
        return None
    assert written.every is not None, "it is the only one left"
    return Every(build.moment(written.from_, *place, "from"), written.every)
