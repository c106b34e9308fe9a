"""Liquid for providers, which do not know the templates of flows: the same language, within the same bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from connectors.channels.base import Rendering, Unfit
from operators.templates.errors import TemplateFailed, TemplateSyntaxError
from operators.templates.missing import MISSING
from operators.templates.parse import parse_template
from operators.templates.scope import View


class _Values(NamedTuple):
    values: Mapping[str, Any]
    now_ms: int


def liquid(text: str, names: Collection[str]) -> Rendering:
    """Return the template written in *text*; see `connectors.channels.base.Liquid`."""
    try:
        template = parse_template(text, _view(tuple(names)))
    except TemplateSyntaxError as wrong:
        raise ValueError(f"{wrong}; {wrong.hint}" if wrong.hint else str(wrong)) from None

    def render(values: Mapping[str, Any], now_ms: int) -> Any:
        try:
            found = template.render(_Values(values, now_ms))
        except TemplateFailed as failed:
            raise Unfit("template_error", str(failed)) from None
        if found is MISSING:
            raise Unfit("missing_variable", f"what {template.source!r} needs is not there")
        return found

    return render


@lru_cache
def _view(names: tuple[str, ...]) -> View:
    def reader(name: str) -> Callable[[Any], object]:
        return lambda scope: scope.values[name]

    return View({name: reader(name) for name in names})
