"""The `wait` step: hold a journey until a moment of stream time."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from operators.language.localtime import first_time_of_day_from, next_time_of_day
from operators.language.model import Model
from operators.language.problems import BadValue
from operators.language.values import (
    DURATION_PATTERN,
    Days,
    Moment,
    Offset,
    TimeOfDay,
    WaitDuration,
    parse_time_of_day,
    shown,
)
from operators.steps.base import GO_ON, End, Hold, Outcome, Step
from operators.steps.build import Build, StepModel
from operators.templates.missing import MISSING
from operators.templates.template import Template
from operators.visit import Visit
from state.iso import parse_local, parse_time_value

_FORM: Final = {"anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"$ref": "#/$defs/WaitForm"}]}


class WaitForm(Model):
    """The written-out forms of `wait`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["for"]}, {"required": ["until"]}]})
    conflicts: ClassVar[tuple[frozenset[str], ...]] = tuple(
        frozenset(("for", key)) for key in ("until", "offset", "if_missing", "if_past")
    )

    for_: Annotated[WaitDuration | None, Field(alias="for", description="So long.")] = None
    at: Annotated[TimeOfDay | None, Field(description="With for: the first such local time at or after that.")] = None
    until: Annotated[
        str | None,
        WithJsonSchema({"type": ["string", "null"]}),
        Field(
            strict=True,
            description='A moment, a local time such as "09:00", or a template such as {{ profile.renewal }}.',
        ),
    ] = None
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


class WaitModel(StepModel):
    """Hold the journey for a duration, or until a moment."""

    kind: ClassVar[str] = "wait"
    parts: ClassVar[tuple[type[Model], ...]] = (WaitForm,)
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
        only_dates = {"offset": form.offset, "if_missing": form.if_missing, "if_past": form.if_past}
        if not _without(only_dates, "'until' is a template", build) or not _without(
            {"at": form.at}, "'for' is written", build
        ):
            return None
        try:
            return WaitClock(parse_time_of_day(form.until), form.days)
        except BadValue:
            pass
        if not _without({"days": form.days}, "a time of day is written", build):
            return None
        moment = parse_local(form.until)
        if moment is None:
            hint = 'write "09:00", 2026-11-01T00:00:00+08:00 or "{{ profile.date }}"'
            build.problem("bad-moment", f"{shown(form.until)} is neither moment nor time of day", hint, "wait", "until")
            return None
        return WaitMoment(Moment(*moment))


def _without(keys: dict[str, Any], only: str, build: Build) -> bool:
    """Note which of *keys* are written although they mean something only where *only* is true."""
    for key, value in keys.items():
        if value is not None:
            build.problem("conflicting-keys", f"'{key}' means something only where {only}", "leave it out", "wait", key)
            return False
    return True


def _duration(form: WaitForm, for_ms: int, build: Build) -> Step | None:
    only_dates = {"offset": form.offset, "if_missing": form.if_missing, "if_past": form.if_past}
    if not _without(only_dates, "'until' is a template", build):
        return None
    if form.at is not None:
        return WaitThenClock(for_ms, form.at, form.days)
    if not _without({"days": form.days}, "a time of day is written", build):
        return None
    return WaitDurationStep(for_ms)


def _date(form: WaitForm, until: str, build: Build) -> Step | None:
    if not _without({"at": form.at}, "'for' is written", build) or not _without(
        {"days": form.days}, "a time of day is written", build
    ):
        return None
    template = build.template(until, "wait", "until")
    if form.if_missing is None:
        message = "'if_missing' is required where 'until' is a template"
        build.problem("missing-key", message, "write if_missing: skip, or end", "wait")
        return None
    if template is None:
        return None
    return WaitDate(template, form.offset or 0, form.if_missing == "end", form.if_past == "end")


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
    """`wait: {until: "{{ profile.renewal }}", offset: -3d, if_missing: skip}`: a date that the data knows."""

    __slots__ = ("_end_if_missing", "_end_if_past", "_offset_ms", "_until")
    holds: ClassVar[bool] = False  # It may be missing, and the second time round it is past.

    def __init__(self, until: Template, offset_ms: int, end_if_missing: bool, end_if_past: bool) -> None:
        self._until = until
        self._offset_ms = offset_ms
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
        if until < visit.now:
            return End("past") if self._end_if_past else GO_ON
        return Hold(until) if until > visit.now else GO_ON
