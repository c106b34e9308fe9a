"""`when`: what is asked of a user. Its keywords are listed here; everything else is a field of the user."""

from __future__ import annotations

from typing import Final

from operators.conditions.audience import AUDIENCE
from operators.conditions.base import Condition
from operators.conditions.cap_left import CAP_LEFT
from operators.conditions.did import DID, DID_NOT
from operators.conditions.keyword import Keyword, Site
from operators.conditions.local_time import LOCAL_TIME
from operators.conditions.parse import Dialect, LeafParser, parse_condition
from operators.language.problems import BadValue, Path, Problems, did_you_mean

KEYWORDS: Final[dict[str, Keyword]] = {
    "did": DID,
    "did_not": DID_NOT,
    "local_time": LOCAL_TIME,
    "cap_left": CAP_LEFT,
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
        near = did_you_mean(key, [*KEYWORDS, "any", "all", "not"])
        hint = near if near.startswith("did") else f"write profile.{key}, or entry.{key} for what came with the trigger"
    raise BadValue("unknown-key", f"'{key}' is not a field of the user", hint)


def parse_when(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    """Return the condition on the user that is written in *raw*, or None after noting why not."""

    def bound(keyword: Keyword) -> LeafParser:
        return lambda value, place, problems: keyword.parse(value, place, problems, site)

    keywords = {name: bound(keyword) for name, keyword in KEYWORDS.items()}
    return parse_condition(raw, path, problems, Dialect(_user_field, keywords=keywords, resolve=site.resolve))
