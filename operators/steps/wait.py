"""The `wait` step: hold a journey until a moment of stream time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema

from operators.conditions.wanted import Wanted
from operators.language.localtime import first_time_of_day_from, next_anniversary, next_time_of_day, wall_of_moment
from operators.language.model import CLAUSES_MAX, EVENT_NAME_MAX, EventName, Model, RawWhere
from operators.language.problems import BadValue
from operators.language.values import (
    DAY,
    DURATION_PATTERN,
    SECOND,
    Days,
    Moment,
    Offset,
    TimeOfDay,
    WaitDuration,
    parse_time_of_day,
    shown,
)
from operators.steps.base import GO_ON, STAY, End, Heard, Hold, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.templates.missing import MISSING
from operators.templates.template import Template
from operators.visit import Visit
from state.iso import TIME_MS_MAX, parse_local, parse_time_value

_FORM: Final = {"anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"$ref": "#/$defs/WaitForm"}]}


class Without(Model):
    """What must not happen meanwhile."""

    event: Annotated[
        EventName | Annotated[list[EventName], Field(min_length=1, max_length=CLAUSES_MAX)],
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1, "maxLength": EVENT_NAME_MAX},
                    {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": CLAUSES_MAX,
                        "items": {"type": "string", "minLength": 1, "maxLength": EVENT_NAME_MAX},
                    },
                ]
            }
        ),
        BeforeValidator(lambda raw: [raw] if isinstance(raw, str) else raw),
        Field(description="The name of the event, or a list of up to 8: any of them."),
    ]
    where: Annotated[RawWhere, Field(description="Conditions on its properties.")] = None


class WaitForm(Model):
    """The written-out forms of `wait`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["for"]}, {"required": ["until"]}]})
    conflicts: ClassVar[tuple[frozenset[str], ...]] = tuple(
        frozenset(("for", key)) for key in ("until", "offset", "if_missing", "if_past")
    )

    for_: Annotated[WaitDuration | None, Field(alias="for", description="So long.")] = None
    without: Annotated[
        Without | None,
        Field(description="With for alone: until so long has passed since the latest such event, or since the step."),
    ] = None
    at: Annotated[
        TimeOfDay | None,
        Field(description="With for, or with a template: the first such local time at or after that."),
    ] = None
    until: Annotated[
        str | None,
        WithJsonSchema({"type": ["string", "null"]}),
        Field(
            strict=True,
            description='A moment, a local time such as "09:00", or a template such as {{ profile.renewal }}.',
        ),
    ] = None
    yearly: Annotated[
        StrictBool, Field(description="With a template: the next anniversary of the date, where the user is.")
    ] = False
    offset: Annotated[Offset | None, Field(description="With a template: so much later, or earlier such as -3d.")] = (
        None
    )
    if_missing: Annotated[
        Literal["skip", "end"] | None,
        Field(description="With a template, required there: what happens when there is no such date."),
    ] = None
    if_past: Annotated[
        Literal["skip", "end"] | None,
        Field(description="With a template: what happens when the date is past. Default: skip."),
    ] = None
    days: Annotated[Days | None, Field(description="Only on these weekdays; with a local time.")] = None

    def but(self, *allowed: str) -> dict[str, Any]:
        """Return the keys that mean something only in some forms, without *allowed*, as far as they are written."""
        special = {
            "without": self.without,
            "at": self.at,
            "yearly": self.yearly or None,
            "offset": self.offset,
            "if_missing": self.if_missing,
            "if_past": self.if_past,
            "days": self.days,
        }
        return {key: value for key, value in special.items() if key not in allowed and value is not None}


class WaitModel(StepModel):
    """Hold the journey for a duration, or until a moment."""

    kind: ClassVar[str] = "wait"
    parts: ClassVar[tuple[type[Model], ...]] = (WaitForm, Without)
    wait: Annotated[
        WaitForm,
        BeforeValidator(lambda raw: raw if isinstance(raw, dict) else {"for": raw}),
        WithJsonSchema(_FORM),
        Field(description="A duration such as 30m, or one of the forms with for or until."),
    ]

    def build(self, build: Build) -> Step | None:
        form = self.wait
        if (form.for_ is None) == (form.until is None):
            build.problem("conflicting-keys", "a wait has either 'for' or 'until'", "write wait: 2h", "wait")
            return None
        if form.for_ is not None:
            return _duration(form, form.for_, build)
        assert form.until is not None
        if "{{" in form.until or "{%" in form.until:
            return _date(form, form.until, build)
        try:
            time_of_day_s = parse_time_of_day(form.until)
        except BadValue:
            pass
        else:
            return WaitClock(time_of_day_s, form.days) if _fits(form, build, "days") else None
        if not _fits(form, build):
            return None
        moment = parse_local(form.until)
        if moment is None:
            hint = 'write "09:00", 2026-11-01T00:00:00+08:00 or "{{ profile.date }}"'
            build.problem("bad-moment", f"{shown(form.until)} is neither moment nor time of day", hint, "wait", "until")
            return None
        return WaitMoment(Moment(*moment))


_WHERE_MEANT: Final = {
    "without": "'for' stands alone beside it",
    "at": "'for' is written or 'until' is a template",
    "days": "a time of day is written",
}
_TEMPLATE: Final = "'until' is a template"


def _fits(form: WaitForm, build: Build, *allowed: str) -> bool:
    """Tell whether *form* has no special key besides *allowed*; the first other one is a problem."""
    for key in form.but(*allowed):
        message = f"'{key}' means something only where {_WHERE_MEANT.get(key, _TEMPLATE)}"
        build.problem("conflicting-keys", message, "leave it out", "wait", key)
        return False
    return True


def _duration(form: WaitForm, for_ms: int, build: Build) -> Step | None:
    if form.without is not None:
        others = form.but("without")
        if others:
            message = f"'{next(iter(others))}' cannot stand beside 'without'"
            build.problem("conflicting-keys", message, "write for and without alone", "wait", next(iter(others)))
            return None
        where_is_written = "where" in form.without.model_fields_set
        wanted = build.any_wanted(form.without.event, form.without.where, where_is_written, "wait", "without")
        return WaitWithout(for_ms, wanted)
    if form.at is not None:
        return WaitThenClock(for_ms, form.at, form.days) if _fits(form, build, "at", "days") else None
    return WaitDurationStep(for_ms) if _fits(form, build) else None


def _date(form: WaitForm, until: str, build: Build) -> Step | None:
    allowed = ["yearly", "at", "offset", "if_missing", "if_past"]
    if form.yearly and form.days is not None:
        message = "'days' cannot stand beside 'yearly': a year has one such day"
        build.problem("conflicting-keys", message, "leave one of them out", "wait", "days")
        return None
    if not _fits(form, build, *allowed, *(["days"] if form.at is not None else [])):
        return None
    if form.yearly and form.if_past is not None:
        message = "'if_past' has no effect beside 'yearly': the next anniversary is never past"
        build.advise("no-effect", message, "leave it out", "wait", "if_past")
    template = build.template(until, "wait", "until")
    if form.if_missing is None:
        message = "'if_missing' is required where 'until' is a template"
        build.problem("missing-key", message, "write if_missing: skip, or end", "wait")
        return None
    if template is None:
        return None
    ends_if_missing = form.if_missing == "end"
    if form.yearly:
        kind = WaitYearly if ends_if_missing else WaitYearlyOrGoOn
        return kind(template, form.offset or 0, form.at, ends_if_missing)
    return WaitDate(template, form.offset or 0, form.at, form.days, ends_if_missing, form.if_past == "end")


class _Waiting(Step):
    """What all forms have in common. A loop through one that surely waits is no endless one."""

    __slots__ = ()
    kind: ClassVar[str] = "wait"
    holds: ClassVar[bool] = True


class WaitDurationStep(_Waiting):
    """`wait: 2h`."""

    __slots__ = ("_for_ms",)

    def __init__(self, for_ms: int) -> None:
        self._for_ms = for_ms

    def enter(self, visit: Visit) -> Outcome:
        return Hold(visit.now + self._for_ms)


class WaitClock(_Waiting):
    """`wait: {until: "09:00"}`: the next such local time, strictly later."""

    __slots__ = ("_days", "_time_of_day_s")

    def __init__(self, time_of_day_s: int, days: frozenset[int] | None) -> None:
        self._time_of_day_s = time_of_day_s
        self._days = days

    def enter(self, visit: Visit) -> Outcome:
        return Hold(next_time_of_day(visit.now, visit.zone(), self._time_of_day_s, self._days))


class WaitThenClock(_Waiting):
    """`wait: {for: 7d, at: "12:00"}`: the first such local time at or after now + 7d."""

    __slots__ = ("_days", "_for_ms", "_time_of_day_s")

    def __init__(self, for_ms: int, time_of_day_s: int, days: frozenset[int] | None) -> None:
        self._for_ms = for_ms
        self._time_of_day_s = time_of_day_s
        self._days = days

    def enter(self, visit: Visit) -> Outcome:
        start = visit.now + self._for_ms
        return Hold(first_time_of_day_from(start, visit.zone(), self._time_of_day_s, self._days))


class WaitMoment(_Waiting):
    """`wait: {until: 2026-12-24T18:00}`: a moment, without an offset where the user is; one that is past is no wait."""

    __slots__ = ("_moment",)
    holds: ClassVar[bool] = False  # The second time round it is past.

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def enter(self, visit: Visit) -> Outcome:
        until = self._moment.ms_in(visit.zone())
        return Hold(until) if until > visit.now else GO_ON


class WaitDate(_Waiting):
    """`wait: {until: "{{ profile.renewal }}", offset: -3d, if_missing: skip}`: a date that the data knows.

    With `at` the first such local time at or after it.
    """

    __slots__ = ("_days", "_end_if_missing", "_end_if_past", "_offset_ms", "_time_of_day_s", "_until")
    holds: ClassVar[bool] = False  # It may be missing, and the second time round it is past.

    def __init__(
        self,
        until: Template,
        offset_ms: int,
        time_of_day_s: int | None,
        days: frozenset[int] | None,
        end_if_missing: bool,
        end_if_past: bool,
    ) -> None:
        self._until = until
        self._offset_ms = offset_ms
        self._time_of_day_s = time_of_day_s
        self._days = days
        self._end_if_missing = end_if_missing
        self._end_if_past = end_if_past

    def enter(self, visit: Visit) -> Outcome:
        value = visit.rendered(self._until)
        moment: int | None
        if isinstance(value, str):
            local = parse_local(value)
            moment = None if local is None else Moment(*local).ms_in(visit.zone())
        else:
            moment = None if value is MISSING else parse_time_value(value)
        if moment is None:
            return End("missing") if self._end_if_missing else GO_ON
        until = moment + self._offset_ms
        if self._time_of_day_s is not None:
            until = first_time_of_day_from(until, visit.zone(), self._time_of_day_s, self._days)
        if until < visit.now:
            return End("past") if self._end_if_past else GO_ON
        return Hold(until) if until > visit.now else GO_ON


class WaitYearly(_Waiting):
    """`wait: {until: "{{ profile.birthday }}", yearly: true, if_missing: end}`: the next anniversary."""

    __slots__ = ("_end_if_missing", "_offset_ms", "_time_of_day_s", "_until")

    def __init__(self, until: Template, offset_ms: int, time_of_day_s: int | None, end_if_missing: bool) -> None:
        self._until = until
        self._offset_ms = offset_ms
        self._time_of_day_s = time_of_day_s
        self._end_if_missing = end_if_missing

    def enter(self, visit: Visit) -> Outcome:
        wall_ms = self._shown(visit.rendered(self._until), visit.zone())
        if wall_ms is None:
            return End("missing") if self._end_if_missing else GO_ON
        if self._time_of_day_s is not None:
            wall_ms += self._time_of_day_s * SECOND - wall_ms % DAY
        return Hold(next_anniversary(visit.now, visit.zone(), wall_ms, self._offset_ms))

    @staticmethod
    def _shown(value: object, zone: ZoneInfo) -> int | None:
        """Return the date and time that *value* means to a user in *zone*, as for `moment_of_wall`."""
        if not isinstance(value, str):
            moment = None if value is MISSING else parse_time_value(value)
            return None if moment is None else wall_of_moment(moment, zone)
        local = parse_local(value, any_year=True)
        if local is None:
            return None
        local_ms, offset_ms = local
        return local_ms if offset_ms is None else wall_of_moment(local_ms - offset_ms, zone)


class WaitYearlyOrGoOn(WaitYearly):
    """As `WaitYearly`, and no wait at all where there is no such date."""

    __slots__ = ()
    holds: ClassVar[bool] = False


class WaitWithout(_Waiting):
    """`wait: {for: 30d, without: {event: product_view}}`: until so long has passed since the latest such event.

    An event costs a number in the journey, the latest time at which one came. The wake-up stays where it is, and is set
    anew only when it falls due.
    """

    __slots__ = ("_for_ms", "_wanted")
    hears_when_paused: ClassVar[bool] = True

    def __init__(self, for_ms: int, wanted: list[Wanted]) -> None:
        self._for_ms = for_ms
        self._wanted = wanted

    def enter(self, visit: Visit) -> Outcome:
        return Hold(visit.now + self._for_ms, memo=visit.now)

    def hears(self) -> Iterator[str]:
        return (one.event for one in self._wanted)

    def hear(self, visit: Visit) -> Heard:
        if visit.hears_key() and any(visit.satisfies(one) for one in self._wanted):
            visit.branch.memo = visit.now
        return STAY

    def wake(self, visit: Visit) -> Outcome:
        latest: int = visit.branch.memo
        until = min(latest + self._for_ms, TIME_MS_MAX)  # At the end of time nobody waits any longer.
        return Hold(until, memo=latest, still=True) if until > visit.now else GO_ON

    def has_lost_its_memo(self, memo: Any) -> bool:
        return memo.__class__ is not int  # The stream time of the latest such event, or of the step's begin.
