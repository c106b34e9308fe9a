"""The `times` step: several branches at once, each of which first waits for a time of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from operators.language.localtime import next_time_of_day
from operators.language.model import Model, RawSteps
from operators.language.values import Moment, TimeOfDayOrMoment
from operators.steps.base import Hold, Lane, Outcome
from operators.steps.build import Build, StepModel
from operators.steps.fork import LANES_MAX, ForkStep
from operators.visit import Visit


class TimeModel(Model):
    """One branch: when it begins, and what it does then."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("time", "when", "until"), "at"),
        **dict.fromkeys(("then", "do", "actions"), "steps"),
    }
    shapes: ClassVar[Mapping[str, str]] = {"steps": "steps: [{send: sms, template: hello}]"}

    at: Annotated[
        TimeOfDayOrMoment,
        Field(description='The next such local time, as "09:00", or a moment; one that is past begins at once.'),
    ]
    steps: Annotated[RawSteps, Field(description="a list of steps, one after the other")] = []


class TimesModel(StepModel):
    """Go down all branches at once, each at its own time; the next step runs when all have finished."""

    kind: ClassVar[str] = "times"
    belongs: ClassVar[Mapping[str, str]] = dict.fromkeys(("at", "steps"), "a branch in the list of 'times'")
    shapes: ClassVar[Mapping[str, str]] = {
        "times": 'times: [{at: "09:00", steps: [..]}, {at: 2026-12-24T18:00, steps: [..]}]'
    }
    times: Annotated[
        list[TimeModel],
        Field(min_length=1, max_length=LANES_MAX, description="Up to 10 branches, each with the time it waits for."),
    ]

    def build(self, build: Build) -> TimesStep:
        lanes = [build.lane(branch.steps, "times", index, "steps") for index, branch in enumerate(self.times)]
        times = [branch.at for branch in self.times]
        is_daily = any(isinstance(at, int) for at in times)
        return (TimesOfDayStep if is_daily else TimesStep)(lanes, times)


class TimesStep(ForkStep):
    """As `parallel`, each branch waiting for its time first; what is past does not wait."""

    __slots__ = ("_times",)
    kind: ClassVar[str] = "times"

    def __init__(self, lanes: Sequence[Lane], times: Sequence[Moment | int]) -> None:
        super().__init__(lanes)
        self._times = times

    def start(self, visit: Visit) -> Outcome:
        at, zone = self._times[self.index_of(visit)], visit.zone()
        until = next_time_of_day(visit.now, zone, at) if isinstance(at, int) else at.ms_in(zone)
        return Hold(until) if until > visit.now else super().start(visit)

    def wake(self, visit: Visit) -> Outcome:
        return super().start(visit)


class TimesOfDayStep(TimesStep):
    """With at least one time of day: that is always ahead."""

    __slots__ = ()
    holds: ClassVar[bool] = True
