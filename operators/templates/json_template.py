"""A JSON value whose texts may be templates, as `vars` and `set` have them."""

from __future__ import annotations

from typing import Any

from operators.templates.errors import TemplateFailed
from operators.templates.missing import MISSING
from operators.templates.scope import Scope
from operators.templates.template import Template


class JsonTemplate:
    """A JSON value in which texts may be replaced by templates.

    Args:
        parsed: the value, with a `Template` in place of each text that is one.
    """

    __slots__ = ("_parsed", "_template")

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self._template = parsed if isinstance(parsed, Template) else None

    def render(self, scope: Scope) -> Any:
        """Return the value here, `MISSING` when a template in it gives nothing; raises `TemplateFailed`."""
        return self._template.render(scope) if self._template is not None else _filled(self._parsed, scope)

    def rendered(self, scope: Scope) -> Any:
        """As `render`, with a failure taken for `MISSING`."""
        try:
            return self.render(scope)
        except TemplateFailed:
            return MISSING


def _filled(parsed: Any, scope: Scope) -> Any:
    if isinstance(parsed, Template):
        return parsed.render(scope)
    if isinstance(parsed, list):
        items = [_filled(item, scope) for item in parsed]
        return MISSING if any(item is MISSING for item in items) else items
    if isinstance(parsed, dict):
        values = {key: _filled(item, scope) for key, item in parsed.items()}
        return MISSING if any(item is MISSING for item in values.values()) else values
    return parsed
