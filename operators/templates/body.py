"""The parts of a message that stand in files: Liquid over what an action carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from operators.templates.parse import parse_template
from operators.templates.scope import View
from operators.templates.template import Template

SOURCE_MAX_CHARS: Final = 262_144  # Mailboxes cut messages at 100 KB; whoever has more has a picture in it.
OUTPUT_MAX_BYTES: Final = 262_144


class Given(NamedTuple):
    """What a part sees: the action's variables, and the link that unsubscribes, None where there is none.

    `now_ms` is what `'now' | date` shows: when the action was sent.
    """

    vars: Mapping[str, Any]
    unsubscribe_url: str | None
    now_ms: int


_ROOTS: Final[Mapping[str, Callable[[Given], object]]] = {
    "vars": attrgetter("vars"),
    "unsubscribe_url": attrgetter("unsubscribe_url"),
}
_TEXT: Final = View(_ROOTS, SOURCE_MAX_CHARS, OUTPUT_MAX_BYTES, keeps_types=False)
_HTML: Final = View(_ROOTS, SOURCE_MAX_CHARS, OUTPUT_MAX_BYTES, keeps_types=False, is_html=True)


def parse_body(text: str, *, is_html: bool) -> Template:
    """Return the template written in *text*; it is rendered with `Given`, always to text.

    Raises:
        TemplateSyntaxError: see `parse_template`.
    """
    return parse_template(text, _HTML if is_html else _TEXT)
