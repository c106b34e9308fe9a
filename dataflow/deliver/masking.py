"""What of a text may stand in a log: no addresses of people, and no tokens."""

from __future__ import annotations

import re
from typing import Final

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


def _number(found: re.Match[str]) -> str:
    written = found[0]
    return written if _DATE.match(written) else f"<number ..{written[-2:]}>"


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d$")
