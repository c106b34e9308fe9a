"""`did` and `did_not`: how often an event came, in a rolling window or since the journey began."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from operators.conditions.arguments import list_of
from operators.conditions.base import Clause, Condition, Context, identity
from operators.conditions.keyword import Keyword, Site
from operators.conditions.parse import parse_condition
from operators.conditions.tree import All, Not, Some
from operators.conditions.where import NOWHERE, parse_where
from operators.language.model import CLAUSES_MAX, COUNTED_MAX, EventModel, checked
from operators.language.problems import Path, Problems
from operators.language.values import Duration

_NotNegative = Annotated[int, Field(ge=0, strict=True)]


class DidModel(EventModel):
    """How often an event must have come."""

    mistaken: ClassVar[Mapping[str, str]] = {
        **EventModel.mistaken,
        **dict.fromkeys(("last", "window", "in", "during"), "within"),
        **dict.fromkeys(("count", "times", "min"), "at_least"),
        "max": "at_most",
    }
    conflicts: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset(("within", "since")),
        frozenset(("exactly", "at_least")),
        frozenset(("exactly", "at_most")),
    )

    at_least: _NotNegative | None = Field(None, description="1 unless given.")
    at_most: _NotNegative | None = Field(None, description="At most so many.")
    exactly: _NotNegative | None = Field(None, description="So many and no other number; stands alone.")
    within: Duration | None = Field(None, description="In the rolling window that ends now; excludes since.")
    since: str | None = Field(
        None,
        description="entry, the default: since this journey began.",
        json_schema_extra={"enum": ["entry", None]},
    )


@dataclass(frozen=True, slots=True)
class Did:
    """Holds when the clause's number of events is in range."""

    clause: Clause

    def holds(self, context: Context) -> bool:
        clause = self.clause
        count = context.count(clause)
        return count >= clause.low and (clause.high is None or count <= clause.high)

    def key(self) -> list[Any]:
        clause = self.clause
        where = [identity(clause.where.fixed), identity(clause.where.live)]
        return ["did", clause.event, where, clause.low, clause.high, clause.within]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        clause = self.clause
        wanted = {"at_least": clause.low} if clause.high is None else {"between": [clause.low, clause.high]}
        return {"path": f"did.{clause.event}", "test": wanted, "value": context.count(clause)}


def _parse_did(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in ("any", "all"):
        word = next(iter(raw))
        listed = raw[word]
        if not isinstance(listed, list) or not 1 <= len(listed) <= CLAUSES_MAX:
            problems.add((*path, word), "too-many", f"'{word}' takes a list of 1 to {CLAUSES_MAX} events")
            return None
        clauses = [_parse_clause(one, (*path, word, i), problems, site) for i, one in enumerate(listed)]
        kept = tuple(Did(clause) for clause in clauses if clause is not None)
        return None if len(kept) < len(listed) else All(kept) if word == "all" else Some(kept)
    clause = _parse_clause(raw, path, problems, site)
    return None if clause is None else Did(clause)


def _parse_did_not(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    did = _parse_did(raw, path, problems, site)
    return None if did is None else Not(did)


def _parse_clause(raw: object, path: Path, problems: Problems, site: Site) -> Clause | None:
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
    if site.at_entry and not rolling:
        message = "before the journey there is no 'since: entry'"
        problems.add(path, "missing-window", message, "add 'within', such as within: 30d")
        return None
    because = "a rolling window counts before any journey exists"
    where = parse_where(
        model.where, (*path, "where"), problems, resolve=site.resolve, templates=not rolling, because=because
    )
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
        text = f"{model.event}\x1f{identity(where.fixed)}\x1f{identity(where.live)}"
        window_id = "d" + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    clause = Clause(model.event, where, low, high, model.within, window_id)
    site.note(clause)
    return clause


_ONE_OR_SEVERAL: Final = [{"$ref": "#/$defs/Did"}, {"$ref": "#/$defs/DidSeveral"}]
_EVENTS: Final = list_of({"$ref": "#/$defs/Did"}, most=CLAUSES_MAX)
_SEVERAL: Final = {
    "title": "did any / all",
    "description": f"up to {CLAUSES_MAX} events, of which one or each must have come",
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {
        "any": {**_EVENTS, "description": "at least one of these"},
        "all": {**_EVENTS, "description": "each of these"},
    },
    "additionalProperties": False,
}

DID: Final = Keyword(
    _parse_did,
    {"anyOf": _ONE_OR_SEVERAL, "description": "so many such events came"},
    models=(DidModel,),
    definitions={"DidSeveral": _SEVERAL},
)
DID_NOT: Final = Keyword(
    _parse_did_not,
    {"anyOf": _ONE_OR_SEVERAL, "description": "the opposite of did"},
    models=DID.models,
    definitions=DID.definitions,
)
