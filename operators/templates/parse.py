"""From a text to a template: a plain text, a single reference, or Liquid.

Plain texts and single references, most of what flows contain, need neither python-liquid nor its import (0.3 s).
"""

from __future__ import annotations

import re
from typing import Final

from operators.templates.bounds import BLANKS_MAX, TAG_MAX_CHARS
from operators.templates.errors import TemplateSyntaxError
from operators.templates.messages import where
from operators.templates.reference import parse_reference
from operators.templates.scope import OF_FLOWS, View
from operators.templates.template import Template, Text

_BLANKS: Final = re.compile(rf"\s{{{BLANKS_MAX + 1}}}")
_OPENING: Final = re.compile(r"\{[{%]")
_VERBATIM: Final = re.compile(r"\{%-?\s*(raw|doc)\s*-?%\}")


def parse_template(text: str, view: View = OF_FLOWS) -> Template:
    """Return the template written in *text*, which sees what *view* says.

    Raises:
        TemplateSyntaxError: a syntax error, an unknown filter, tag or root, or beyond a limit of size.
    """
    if "{{" not in text and "{%" not in text:
        return Text(text)
    if view is OF_FLOWS and len(text) <= view.source_max_chars and (reference := parse_reference(text)) is not None:
        return reference
    _check_size(text, view.source_max_chars)
    from operators.templates.liquid import parse_liquid

    return parse_liquid(text, view)


def _check_size(text: str, most: int) -> None:
    """Raise `TemplateSyntaxError` unless every tag is closed and everything is of a length the lexer can bear."""
    if len(text) > most:
        raise TemplateSyntaxError(f"a template may have {most} characters, this one has {len(text)}")
    if (blanks := _BLANKS.search(text)) is not None:
        raise TemplateSyntaxError(f"more than {BLANKS_MAX} blanks in a row{where(text, blanks.start())}")
    done = 0
    while (opening := _OPENING.search(text, done)) is not None:
        closing = "}}" if opening[0] == "{{" else "%}"
        end = text.find(closing, opening.end())
        if end < 0:
            raise TemplateSyntaxError(
                f"{opening[0]!r} is never closed{where(text, opening.start())}", f"put {closing!r} where it ends"
            )
        if end - opening.end() > TAG_MAX_CHARS:
            raise TemplateSyntaxError(
                f"more than {TAG_MAX_CHARS} characters between {opening[0]!r} and {closing!r}"
                f"{where(text, opening.start())}"
            )
        done = end + 2
        if (verbatim := _VERBATIM.fullmatch(text, opening.start(), done)) is not None:
            after = re.compile(rf"\{{%-?\s*end{verbatim[1]}\s*-?%\}}").search(text, done)
            if after is None:
                raise TemplateSyntaxError(
                    f"'{{% {verbatim[1]} %}}' is never closed{where(text, opening.start())}",
                    f"put '{{% end{verbatim[1]} %}}' where it ends",
                )
            done = after.end()
