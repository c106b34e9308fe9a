"""`audience`: how it is written in which audiences the user has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.conditions.arguments import Schema, list_of
from operators.conditions.base import Condition
from operators.conditions.in_audience import InAudience
from operators.conditions.keyword import Keyword, Site
from operators.language.problems import BadValue, Path, Problems
from operators.language.values import parse_name
from state.outgoing import NAME_PATTERN

_NAME: Final[Schema] = {"type": "string", "pattern": NAME_PATTERN}
NAMES_SCHEMA: Final[Schema] = {"anyOf": [_NAME, list_of(_NAME)]}
"""One name of an audience, or several."""


def parse_audiences(raw: object, path: Path, problems: Problems, note: Callable[[str, Path], None]) -> list[str]:
    """Return the names of audiences in *raw*, one or a list; nothing after noting why there is none.

    Args:
        note: called with each of them, and where it stands.
    """
    names: list[str] = []
    for index, one in enumerate(raw if isinstance(raw, list) else [raw]):
        place = (*path, index) if isinstance(raw, list) else path
        try:
            name = parse_name(one)
        except BadValue as bad:
            problems.add_bad(place, bad)
            continue
        if name in names:
            problems.warn(place, "duplicate-audience", f"'{name}' is named twice here", "remove one of them")
            continue
        names.append(name)
        note(name, place)
    return names


def _parse(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    if raw is None or raw == []:
        message = "this condition asks for no audience"
        problems.add(path, "empty-condition", message, "write audience: vip, or audience: [vip, staff]")
        return None
    names = parse_audiences(raw, path, problems, site.ask)
    return InAudience(tuple(names)) if names else None


AUDIENCE: Final = Keyword(_parse, {**NAMES_SCHEMA, "description": "the user is in this audience, or in any of these"})
