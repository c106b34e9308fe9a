"""What authors are told about mistakes in templates, and operators about renderings that fail."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from operators.templates.bounds import LOOP_MAX
from operators.templates.errors import TemplateSyntaxError

if TYPE_CHECKING:
    from liquid.exceptions import LiquidError

FILE_TAGS: Final = frozenset({"block", "extends", "import", "include", "layout", "render", "section"})
"""The tags that read other templates, in some Liquid or other."""


def where(text: str, index: int) -> str:
    """Return where the character *index* of *text* is, for the end of a message."""
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f", at character {column}" + (f" of line {line}" if "\n" in text else "")


def nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # Only mistakes need it.

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def unknown_root(path: list[Any], roots: Collection[str]) -> tuple[str, str]:
    """Return message and hint for a reference that does not begin with one of *roots*."""
    *first, last = roots
    known = f"a template knows {', '.join(first)} and {last}"
    root, *rest = path
    if not isinstance(root, str):
        return f"a reference must begin with a name: {known}", ""
    if root in {"today", "date"}:
        return f"{root!r} is unknown: {known}", "the date is {{ 'now' | date: '%Y-%m-%d' }}"
    if near := nearest(root, roots):
        return f"{root!r} is unknown: {known}", near
    name = rest[0] if rest and isinstance(rest[0], str) else root
    homes = [f"'{home}.{name}'" for home in ("profile", "entry", "vars") if home in roots]
    return f"{root!r} is unknown: {known}", f"did you mean {' or '.join(homes)}?" if homes else ""


def explained(error: LiquidError, tags: Iterable[str]) -> TemplateSyntaxError:
    """Say what python-liquid found wrong in the words of those who write templates."""
    said, hint = str(error.message), ""
    if match := re.fullmatch(r"unexpected tag '(.*)'", said):
        name = match[1]
        if name in FILE_TAGS:
            said, hint = f"templates cannot read others, so there is no tag {name!r}", "write its text here"
        elif name.startswith("end") or name in {"else", "elsif", "when"}:
            said = f"'{{% {name} %}}' has no beginning, or belongs to a tag before the last one"
        else:
            words = [one for one in (*tags, "else", "elsif", "when") if one.isalpha()]
            said, hint = f"unknown tag {name!r}", nearest(name, words)
    elif match := re.fullmatch(r"expected tag end(\w+), found .*", said):
        said, hint = f"'{{% {match[1]} %}}' is never closed", f"put '{{% end{match[1]} %}}' where it ends"
    elif said == "expected a primitive expression, found end of expression":
        said = "a value is missing"
    elif said == "missing expression":
        said = "the tag says nothing"
    elif match := re.fullmatch(r"expected end of expression, found (.+)", said):
        said = f"{_token(match[1])} is not expected here"
        hint = "a filter comes after '|', and what it takes after ':', as in {{ profile.name | default: 'friend' }}"
        if match[1] == "'='":
            hint = "equal is '=='"
    elif said == "expected an identifier, found integer":
        said, hint = "a number cannot stand after a dot", "an element of a list is [0], the first one"
    elif (match := re.fullmatch(r"expected an identifier, found ([a-z]+)", said)) and match[1] not in _TOKENS:
        said = f"{match[1]!r} is a word of the language and cannot stand after a dot"
        hint = f"write ['{match[1]}'] instead of .{match[1]}"
    elif said in {"unexpected '“'", "unexpected '”'", "unexpected '‘'", "unexpected '’'"}:
        hint = "use straight quotes"
    elif said == "block nesting limit reached":
        said = "tags are nested too deeply"
    elif said == "unexpected liquid parsing error":
        said = "it is nested too deeply, or not a template"
    elif match := re.fullmatch(r"expected (.+), found (.+)", said):
        said = f"expected {_token(match[1])}, found {_token(match[2])}"
    token = error.token
    if token is not None and token.start_index >= 0:
        said += where(token.source, token.start_index)
    return TemplateSyntaxError(said, hint)


def _token(kind: str) -> str:
    return _TOKENS.get(kind, kind if kind.startswith("'") else repr(kind))


_TOKENS: Final = {
    "a primitive expression": "a value",
    "an identifier": "a name",
    "colon": "':'",
    "comma": "','",
    "dot": "'.'",
    "dpipe": "'||'",
    "end of expression": "nothing more",
    "float": "a number",
    "identindex": "an element '[0]'",
    "identstring": "a name in brackets",
    "integer": "a number",
    "lbracket": "'['",
    "lparen": "'('",
    "pipe": "'|'",
    "range": "'..'",
    "rbracket": "']'",
    "rparen": "')'",
    "string": "a text in quotes",
    "word": "a name",
}


def kind_of(value: object) -> str:
    """Return what kind of JSON *value* is, for a message."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"


def why_it_failed(error: Exception, output_max_bytes: int) -> str:
    """Return a sentence about *error* without anything of the values, which may be personal data."""
    match type(error).__name__:
        case "LoopIterationLimitError":
            return f"loops take more than {LOOP_MAX} rounds"
        case "ContextDepthError":
            return "loops are nested too deeply"
        case "OutputStreamLimitError":
            return f"it writes more than {output_max_bytes} bytes"
        case "LiquidTypeError" | "LiquidValueError" | "TypeError" | "ValueError" | "OverflowError":
            return "it compares what cannot be compared, or counts with what is no whole number"
        case "UnicodeEncodeError":
            return "it writes half a character"
        case kind:
            return f"an unexpected {kind}"
