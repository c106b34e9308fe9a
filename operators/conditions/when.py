"""`when`: what is asked of a user. Its keywords are listed here; everything else is a field of the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.conditions.audience import AUDIENCE
from operators.conditions.base import Clause, Condition
from operators.conditions.did import DID, DID_NOT
from operators.conditions.keyword import Keyword, Site
from operators.conditions.local_time import LOCAL_TIME
from operators.conditions.parse import Dialect, LeafParser, Resolve, parse_condition
from operators.language.problems import BadValue, Path, Problems, did_you_mean


def _not_yet(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    problems.add(
        path,
        "not-yet-supported",
        f"'{path[-1]}' is part of the language, but this version cannot run it yet",
        at_key=True,
    )
    return None


_NOT_YET: Final = Keyword(_not_yet, {"not": {}, "description": "not supported yet"})

KEYWORDS: Final[dict[str, Keyword]] = {
    "did": DID,
    "did_not": DID_NOT,
    "local_time": LOCAL_TIME,
    "cap_left": _NOT_YET,
    "audience": AUDIENCE,
}
"""The keys of `when` that are no fields of the user."""


def _user_field(key: str) -> tuple[str, tuple[str, ...]]:
    root, _, rest = key.partition(".")
    parts = tuple(rest.split("."))
    if root in ("profile", "entry") and rest and all(parts):
        return root, parts
    if root in ("profile", "entry"):
        hint = "write profile.<attribute> or entry.<property>"
    else:
        # Most who write another name mean an attribute: other products know them without a prefix.
        words = [name for name, keyword in KEYWORDS.items() if keyword is not _NOT_YET]
        near = did_you_mean(key, [*words, "any", "all", "not"])
        hint = near if near.startswith("did") else f"write profile.{key}, or entry.{key} for what came with the trigger"
    raise BadValue("unknown-key", f"'{key}' is not a field of the user", hint)


def parse_when(
    raw: object,
    path: Path,
    problems: Problems,
    *,
    note: Callable[[Clause], None],
    ask: Callable[[str, Path], None],
    at_entry: bool,
    resolve: Resolve,
) -> Condition | None:
    """Return the condition on the user that is written in *raw*, or None after noting why not.

    Args:
        note: called with every `did` found, so that its events are counted.
        ask: called with every audience found and where it stands, so that it is known.
        at_entry: before a journey exists: a `did` needs a window there.
        resolve: says which moment is meant where one is written.
    """
    site = Site(note, at_entry, ask, resolve)

    def bound(keyword: Keyword) -> LeafParser:
        return lambda value, place, problems: keyword.parse(value, place, problems, site)

    keywords = {name: bound(keyword) for name, keyword in KEYWORDS.items()}
    return parse_condition(raw, path, problems, Dialect(_user_field, keywords=keywords, resolve=resolve))
