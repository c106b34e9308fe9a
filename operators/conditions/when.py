"""What only `when` can ask: what the user did, and what time it is where the user is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict, Field, WithJsonSchema

from operators.conditions.tree import (
    NOWHERE,
    All,
    Condition,
    Context,
    Dialect,
    Not,
    Some,
    Where,
    key_text,
    parse_condition,
    parse_where,
)
from operators.language.localtime import in_local_window, local_fields
from operators.language.model import CLAUSES_MAX, COUNTED_MAX, EventModel, Model, checked
from operators.language.problems import BadValue, Path, Problems, did_you_mean
from operators.language.values import TIME_OF_DAY_PATTERN, WEEKDAYS, Days, Duration, parse_time_of_day

_NotNegative = Annotated[int, Field(ge=0, strict=True)]


class DidModel(EventModel):
    """How often an event must have come."""

    at_least: Annotated[_NotNegative | None, Field(description="1 unless given.")] = None
    at_most: Annotated[_NotNegative | None, Field(description="At most so many.")] = None
    exactly: Annotated[_NotNegative | None, Field(description="So many and no other number; stands alone.")] = None
    within: Annotated[Duration | None, Field(description="In the rolling window that ends now; excludes since.")] = None
    since: Annotated[
        str | None,
        Field(description="entry, the default: since this journey began.", json_schema_extra={"enum": ["entry", None]}),
    ] = None


class LocalTime(Model):
    """A window of the user's local time."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    after: Annotated[
        Any,
        WithJsonSchema({"type": ["string", "null"], "pattern": TIME_OF_DAY_PATTERN}),
        Field(description='From this local time on, such as "09:00". Later than before: crosses midnight.'),
    ] = None
    before: Annotated[
        Any,
        WithJsonSchema({"type": ["string", "null"], "pattern": TIME_OF_DAY_PATTERN}),
        Field(description='Until this local time, such as "18:00", which is excluded.'),
    ] = None
    days: Annotated[Days | None, Field(description="On these weekdays.")] = None


class UserContext(Context, Protocol):
    """What a `when` may ask beyond what a `where` may."""

    def count(self, clause: Clause) -> int:
        """Return how many of the clause's events count now; may stop counting at `clause.enough`."""
        ...

    def zone(self) -> Any:
        """Return the user's time zone."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Clause:
    """One `did`: an event, what is asked of it, and how many are wanted.

    `within` is the rolling window in ms; `window_id` names the user's window that answers it. With `since: entry`
    both are empty, and the journey keeps a tally of its own.
    """

    event: str
    where: Where
    low: int
    high: int | None
    within: int | None
    window_id: str = ""

    @property
    def enough(self) -> int:
        """How many events have to be told apart from more."""
        return max(1, self.low, 0 if self.high is None else self.high + 1)


@dataclass(frozen=True, slots=True)
class Did:
    """Holds when the clause's number of events is in range."""

    clause: Clause

    def holds(self, context: Context) -> bool:
        clause = self.clause
        count = context.count(clause)  # type: ignore[attr-defined]
        return bool(count >= clause.low and (clause.high is None or count <= clause.high))

    def key(self) -> list[Any]:
        clause = self.clause
        where = [key_text(clause.where.fixed), key_text(clause.where.live)]
        return ["did", clause.event, where, clause.low, clause.high, clause.within]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        clause = self.clause
        wanted = {"at_least": clause.low} if clause.high is None else {"between": [clause.low, clause.high]}
        return {"path": f"did.{clause.event}", "test": wanted, "value": context.count(clause)}  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Local:
    """Holds when the user's local time is in a window; times are seconds since midnight."""

    after: int | None
    before: int | None
    days: frozenset[int] | None

    def holds(self, context: Context) -> bool:
        return in_local_window(context.now, context.zone(), self.after, self.before, self.days)  # type: ignore[attr-defined]

    def key(self) -> list[Any]:
        return ["local", self.after, self.before, sorted(self.days) if self.days is not None else None]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        weekday, seconds = local_fields(context.now, context.zone())  # type: ignore[attr-defined]
        local = f"{WEEKDAYS[weekday]} {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        wanted = {"after": _clock(self.after), "before": _clock(self.before)}
        if self.days is not None:
            wanted["days"] = ", ".join(WEEKDAYS[day] for day in sorted(self.days))
        return {"path": "local_time", "test": {k: v for k, v in wanted.items() if v is not None}, "value": local}


def _clock(seconds: int | None) -> str | None:
    return None if seconds is None else f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


# ---- parsing -------------------------------------------------------------------------------------------------------


def _user_field(key: str) -> tuple[str, tuple[str, ...]]:
    root, _, rest = key.partition(".")
    parts = tuple(rest.split("."))
    if root in ("profile", "entry") and rest and all(parts):
        return root, parts
    keys = ["did", "did_not", "local_time", "cap_left", "audience", "any", "all", "not"]
    hint = did_you_mean(key, keys) if root not in ("profile", "entry") else ""
    raise BadValue(
        "unknown-key", f"'{key}' is not a field of the user", hint or "write profile.<attribute> or entry.<property>"
    )


def parse_when(
    raw: object, path: Path, problems: Problems, *, note: Callable[[Clause], None], at_entry: bool
) -> Condition | None:
    """Return the condition on the user that is written in *raw*, or None after noting why not.

    Args:
        note: called with every `did` found, so that its events are counted.
        at_entry: before a journey exists: a `did` needs a window there.
    """

    def did(key: str, value: object, place: Path, problems: Problems) -> Condition | None:
        parsed = _parse_did(value, place, problems, note, at_entry)
        return Not(parsed) if parsed is not None and key == "did_not" else parsed

    def local(key: str, value: object, place: Path, problems: Problems) -> Condition | None:
        return _parse_local_time(value, place, problems)

    def not_yet(key: str, value: object, place: Path, problems: Problems) -> Condition | None:
        problems.add(
            place,
            "not-yet-supported",
            f"'{key}' is part of the language, but this version cannot run it yet",
            at_key=True,
        )
        return None

    keywords = {"did": did, "did_not": did, "local_time": local, "cap_left": not_yet, "audience": not_yet}
    return parse_condition(raw, path, problems, Dialect(_user_field, templates=True, keywords=keywords))


def _parse_did(
    raw: object, path: Path, problems: Problems, note: Callable[[Clause], None], at_entry: bool
) -> Condition | None:
    if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in ("any", "all"):
        word = next(iter(raw))
        listed = raw[word]
        if not isinstance(listed, list) or not 1 <= len(listed) <= CLAUSES_MAX:
            problems.add((*path, word), "too-many", f"'{word}' takes a list of 1 to {CLAUSES_MAX} events")
            return None
        clauses = [_parse_clause(one, (*path, word, i), problems, note, at_entry) for i, one in enumerate(listed)]
        kept = tuple(Did(clause) for clause in clauses if clause is not None)
        return None if len(kept) < len(listed) else All(kept) if word == "all" else Some(kept)
    clause = _parse_clause(raw, path, problems, note, at_entry)
    return None if clause is None else Did(clause)


def _parse_clause(
    raw: object, path: Path, problems: Problems, note: Callable[[Clause], None], at_entry: bool
) -> Clause | None:
    model = checked(DidModel, raw, path, problems)
    if model is None:
        return None
    if model.where is None and "where" in model.model_fields_set:
        parse_condition(None, (*path, "where"), problems, NOWHERE)
        return None
    rolling = model.within is not None
    if model.since is not None and model.since != "entry":
        problems.add(
            (*path, "since"), "unknown-value", "'since' can only be 'entry'", "use 'within' for a rolling window"
        )
        return None
    if rolling and model.since is not None:
        problems.add(
            (*path, "since"), "conflicting-keys", "'within' and 'since' exclude each other", "keep one of them"
        )
        return None
    if at_entry and not rolling:
        message = "before the journey there is no 'since: entry'"
        problems.add(path, "missing-window", message, "add 'within', such as within: 30d")
        return None
    because = "a rolling window counts before any journey exists"
    where = parse_where(model.where, (*path, "where"), problems, templates=not rolling, because=because)
    if model.exactly is not None:
        if model.at_least is not None or model.at_most is not None:
            problems.add(
                (*path, "exactly"), "conflicting-keys", "'exactly' stands alone", "leave out at_least and at_most"
            )
            return None
        low: int = model.exactly
        high: int | None = model.exactly
    else:
        low, high = (1 if model.at_least is None else model.at_least), model.at_most
        if high is not None and low > high:
            problems.add(
                path, "impossible-condition", f"no number is at least {low} and at most {high}", "add at_least: 0"
            )
            return None
    window_id = ""
    if rolling:
        most = max(low, high or 0)
        if most > COUNTED_MAX:
            message = f"a window counts up to {COUNTED_MAX}, not up to {most}"
            problems.add(path, "out-of-range", message, "ask for fewer, or count since entry")
            return None
        text = f"{model.event}\x1f{key_text(where.fixed)}\x1f{key_text(where.live)}"
        window_id = "d" + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    clause = Clause(model.event, where, low, high, model.within, window_id)
    note(clause)
    return clause


def _parse_local_time(raw: object, path: Path, problems: Problems) -> Condition | None:
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
