"""The regular expressions of `matches`: RE2, which takes time in proportion to pattern and text."""

from __future__ import annotations

from typing import Any, Final

import re2

from operators.conditions.values import Json
from operators.language.problems import BadValue
from operators.language.values import shown

# With both at their limits a search takes half a second at worst.
PATTERN_MAX_CHARS: Final = 1_000
PROGRAM_MAX: Final = 20_000  # Instructions; repetition makes many of few characters. `\pL{10}` has 12 000.
MATCHED_MAX_CHARS: Final = 16_384

_patterns: dict[str, Any] = {}


def matches(value: Json, compiled: Any) -> bool:
    """Tell whether *value* is a text, and not too long a one, in which the pattern is found."""
    return value.__class__ is str and len(value) <= MATCHED_MAX_CHARS and compiled.search(value) is not None


def pattern(text: str) -> Any:
    """Return the compiled RE2 pattern of *text*: linear in time, bounded in memory."""
    found = _patterns.get(text)
    if found is None:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True  # Nobody asks what a group matched, and finding it can take 30 times as long.
        found = _patterns[text] = re2.compile(text, options)
    return found


def parse_pattern(wanted: object) -> str:
    """Return *wanted*, a regular expression.

    Raises:
        BadValue: it is none, too long or too large.
    """
    if not isinstance(wanted, str):
        raise BadValue("bad-pattern", f"'matches' takes a regular expression, not {shown(wanted)}")
    if "{{" in wanted or "{%" in wanted:
        raise BadValue("template-not-allowed", "no template is allowed in a regular expression", "escape a brace: \\{")
    if len(wanted) > PATTERN_MAX_CHARS:
        message = f"a regular expression may have {PATTERN_MAX_CHARS} characters, this one has {len(wanted)}"
        raise BadValue("bad-pattern", message, "compare with a list: in: [a, b]")
    try:
        size = pattern(wanted).programsize
    except re2.error as error:
        reason = error.args[0] if error.args else "cannot be read"
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        hint = "RE2 syntax: no look-around, no back-references"
        raise BadValue("bad-pattern", f"{shown(wanted)}: {reason}", hint) from None
    if size > PROGRAM_MAX:
        raise BadValue("bad-pattern", f"{shown(wanted)}: too large when its repetitions are written out", "repeat less")
    return wanted
