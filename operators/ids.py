"""Identities that follow from what happened: the same inputs give the same ids, on any process and any attempt."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import orjson

from operators.limits import KEY_CHARACTERS_MAX

Key = str | int | float | bool | None
DRAWS: Final = 2**64


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def is_key(value: Any) -> bool:
    """Tell whether *value* can be an entry key: a text that is neither empty nor too long, a number or a boolean."""
    if isinstance(value, str):
        return 0 < len(value) <= KEY_CHARACTERS_MAX
    return isinstance(value, int | float)


def key_text(key: Key) -> str:
    """Return an entry key as ids contain it: a text as it is, another value in its shortest JSON form, "" for none."""
    if key is None:
        return ""
    if isinstance(key, str):
        return key
    if isinstance(key, float) and key.is_integer() and abs(key) < 2**53:
        key = int(key)
    return orjson.dumps(key).decode()


def key_name(key: Key) -> str:
    """Return the name under which something is remembered per entry key.

    The type leads, because the text "1" and the number 1 are not the same value.
    """
    return f"{'t' if isinstance(key, str) else 'v'}{key_text(key)}"


def label_of(flow: str, version: int) -> str:
    """Return what counts and states call a version of a flow."""
    return f"{flow}\x1f{version}"


def experiment_name(flow: str, step: str) -> str:
    """Return what an experiment is called over all versions of its flow."""
    return f"{flow}\x1f{step}"


def of_label(label: str) -> tuple[str, str]:
    """Return the name and the version of the flow that *label* stands for."""
    flow, _, version = label.partition("\x1f")
    return flow, version


def journey_id(flow: str, user_id: str, key: Key, message_id: str) -> str:
    """Return the id of the journey that the record *message_id* started."""
    return _digest(f"{flow}\x1f{user_id}\x1f{key_text(key)}\x1f{message_id}")


def action_id(journey: str, step: str, visit: int) -> str:
    """Return the id of the action that a visit of a step emits."""
    return _digest(f"{journey}\x1f{step}\x1f{visit}")


def draw_of(flow: str, user_id: str, salt: str) -> int:
    """Return where from 0 up to `DRAWS` a user falls for *salt*: `holdout`, or a step's id."""
    return int.from_bytes(blake2b(f"{flow}\x1f{salt}\x1f{user_id}".encode(), digest_size=8).digest(), "big")


def share_of(flow: str, user_id: str, salt: str) -> float:
    """Return where in [0, 1] a user falls for *salt*, to the precision of a float."""
    return draw_of(flow, user_id, salt) / DRAWS
