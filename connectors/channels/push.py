"""What providers of push messages have in common: what a notification says, and what the app gets with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from connectors.channels.base import Surroundings, Unfit
from state.outgoing import Action


class Pushed(NamedTuple):
    """What a notification says, "" for a part that it lacks, and what the app gets, all of it texts."""

    title: str
    body: str
    data: dict[str, str]


def pushed(action: Action, around: Surroundings) -> Pushed:
    """Return what *action* says: its message in files, else `title` and `body` of its variables.

    Raises:
        Unfit: its message in files cannot be rendered.
    """
    title, body, data = "", "", dict(action.vars)
    try:
        content = around.content(action, None)
        title, body = content.subject, content.text.strip()
    except Unfit as unfit:
        if unfit.code != "no_template":
            raise
        title, body = (str(data.pop(name, None) or "") for name in ("title", "body"))
    data |= {"action_id": action.action_id, "template": action.template}
    return Pushed(title, body, {name: _text(value) for name, value in data.items()})


def merged(message: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return *message* with *more* in it, which counts where both say something."""
    found = dict(message)
    for name, value in more.items():
        before = found.get(name)
        found[name] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return found


def writable(given: dict[str, Any]) -> dict[str, Any]:
    """Return settings that go into messages.

    Raises:
        ValueError: they are not what JSON can be written of.
    """
    try:
        orjson.dumps(given)
    except TypeError as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from None
    return given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
