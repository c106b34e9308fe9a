"""What of a text may stand in a log: no addresses of people, and no tokens. And nowhere: a secret of ours."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from state.delivery import Answer
from state.outgoing import Action

CHARS_MIN: Final = 4
"""What is shorter hides nothing, and stands in many a text by chance."""

_MAIL: Final = re.compile(r"[^\s@\"'<>,;:()\[\]]+@[^\s@\"'<>,;:()\[\]]+")
_NUMBER: Final = re.compile(r"\+?\d(?:[ \-./]?\d){6,}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_\-+/=.:]{28,}")


def masked(text: str) -> str:
    """Return *text* without what looks like a mail address, a telephone number, or a token.

    Of a number the last two digits are left, of anything else nothing, so that people can tell two apart and nobody
    can be reached. Dates and short codes stay.
    """
    text = _MAIL.sub("<mail>", text)
    text = _TOKEN.sub("<token>", text)
    return _NUMBER.sub(_number, text)


def without(answer: Answer, texts: Collection[str]) -> Answer:
    """Return *answer* without any of *texts*: some providers say back what they were sent."""
    code, detail = answer.code, answer.detail
    if len(code) < CHARS_MIN and len(detail) < CHARS_MIN:
        return answer
    for text in sorted(texts, key=len, reverse=True):
        if len(text) >= CHARS_MIN:
            code, detail = code.replace(text, "<hidden>"), detail.replace(text, "<hidden>")
    return answer if (code, detail) == (answer.code, answer.detail) else replace(answer, code=code, detail=detail)


def personal(action: Action) -> set[str]:
    """Return what of *action* tells something of its user."""
    found = {action.user_id, action.to or ""}
    values: list[Any] = [action.vars]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str):
            found.add(value)
    return found


def _number(found: re.Match[str]) -> str:
    written = found[0]
    return written if _DATE.match(written) else f"<number ..{written[-2:]}>"


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d$")
