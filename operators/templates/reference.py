"""A single reference, exactly `{{ path }}`: it keeps the type of its value, and does without python-liquid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from operators.templates.missing import MISSING
from operators.templates.scope import READ_ROOT, Scope
from operators.templates.template import Path, Template

# Names as Liquid has them, but those that begin with a digit or end in "-", on which `-}}` has a claim, are left to it.
_NAME: Final = r"[^\W\d](?:[\w-]*\w)?\??"
_SEGMENT: Final = (
    rf"""\.(?P<name>{_NAME})|\[\s*(?:(?P<index>-?\d{{1,9}})|"(?P<double>[^"}}]*)"|'(?P<single>[^'}}]*)')\s*\]"""
)
_SEGMENTS: Final = re.compile(_SEGMENT)
_SINGLE: Final = re.compile(
    rf"\{{\{{-?\s*(?P<root>{_NAME})(?P<rest>(?:{re.sub('[?]P<[a-z]+>', '?:', _SEGMENT)})*)\s*-?\}}\}}"
)


class Reference(Template):
    """Exactly one path."""

    __slots__ = ("_read_root", "_segments")

    def __init__(self, source: str, path: Path) -> None:
        super().__init__(source, [path], is_reference=True)
        root, *segments = path
        self._read_root = READ_ROOT[str(root)]
        self._segments = tuple(segments)

    def render(self, scope: Scope) -> object:
        value = self._read_root(scope)
        for segment in self._segments:
            value = value.get(segment) if type(value) is dict else _part(value, segment)
        return MISSING if value is None else value


def parse_reference(text: str) -> Reference | None:
    """Return the reference that *text* is; None if it is none, or one that only Liquid can read."""
    single = _SINGLE.fullmatch(text)
    if single is None or single["root"] not in READ_ROOT:
        return None
    return Reference(text, (single["root"], *_segments(single["rest"])))


def _segments(text: str) -> Iterator[str | int]:
    for match in _SEGMENTS.finditer(text):
        yield int(match["index"]) if match.lastgroup == "index" else match[match.lastgroup or ""]


def _part(value: object, segment: str | int) -> object:
    """Return what *segment* of a path means in a *value* that is no object, None for nothing."""
    if isinstance(value, list):
        if isinstance(segment, int):
            return value[segment] if -len(value) <= segment < len(value) else None
        if segment == "size":
            return len(value)
        if segment in {"first", "last"} and value:
            return value[0 if segment == "first" else -1]
    elif isinstance(value, str) and segment == "size":
        return len(value)
    return None
