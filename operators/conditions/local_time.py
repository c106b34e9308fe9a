"""`local_time`: what time it is where the user is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, WithJsonSchema

from operators.conditions.base import Condition, Context
from operators.conditions.keyword import Keyword, Site
from operators.language.localtime import in_local_window, local_fields
from operators.language.model import Model, checked
from operators.language.problems import BadValue, Path, Problems
from operators.language.values import WEEKDAYS, Days, parse_time_of_day

_TimeOfDay = Annotated[
    Any, WithJsonSchema({"type": ["string", "null"], "pattern": r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"})
]


class LocalTime(Model):
    """A window of the user's local time."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    mistaken: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("from", "since", "start"), "after"),
        **dict.fromkeys(("to", "until", "end"), "before"),
        "weekdays": "days",
    }

    after: _TimeOfDay = Field(
        None, description='From this local time on, such as "09:00". Later than before: crosses midnight.'
    )
    before: _TimeOfDay = Field(None, description='Until this local time, such as "18:00", which is excluded.')
    days: Days | None = Field(None, description="On these weekdays.")


@dataclass(frozen=True, slots=True)
class Local:
    """Holds when the user's local time is in a window; times are seconds since midnight."""

    after: int | None
    before: int | None
    days: frozenset[int] | None

    def holds(self, context: Context) -> bool:
        return in_local_window(context.now, context.zone(), self.after, self.before, self.days)

    def key(self) -> list[Any]:
        return ["local", self.after, self.before, sorted(self.days) if self.days is not None else None]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        weekday, seconds = local_fields(context.now, context.zone())
        wanted = {"after": _clock(self.after), "before": _clock(self.before)}
        if self.days is not None:
            wanted["days"] = ", ".join(WEEKDAYS[day] for day in sorted(self.days))
        return {
            "path": "local_time",
            "test": {key: value for key, value in wanted.items() if value is not None},
            "value": f"{WEEKDAYS[weekday]} {_clock(seconds)}",
        }


def _clock(seconds: int | None) -> str | None:
    return None if seconds is None else f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _parse(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    model = checked(LocalTime, raw, path, problems)
    if model is None:
        return None
    times: list[int | None] = []
    for key, value in (("after", model.after), ("before", model.before)):
        try:
            times.append(None if value is None else parse_time_of_day(value))
        except BadValue as bad:
            problems.add_bad((*path, key), bad)
            return None
    after, before = times
    if after is None and before is None and model.days is None:
        problems.add(path, "empty-condition", "this condition asks for nothing", "write after, before or days")
        return None
    if after is not None and after == before:
        problems.add(
            path, "impossible-condition", "'after' and 'before' are the same time", "leave both out for all day"
        )
        return None
    return Local(after, before, model.days)


LOCAL_TIME: Final = Keyword(_parse, {"$ref": "#/$defs/LocalTime"}, models=(LocalTime,))
