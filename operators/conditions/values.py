"""How JSON values are found and compared in conditions, whatever a user sent: nothing here raises."""

from __future__ import annotations

from typing import Any, Final

from state.iso import parse_iso_ms

Json = Any  # A JSON value.

NUMBERS: Final = frozenset((int, float))
_SCALARS: Final = frozenset((int, float, str, bool))


def dig(value: Json, path: tuple[str, ...]) -> Json:
    """Return what stands at *path* in nested objects, None when a part is missing; never descends into lists."""
    for part in path:
        if value.__class__ is not dict:
            return None
        value = value.get(part)
    return value


def equal(value: Json, wanted: Json) -> bool:
    """Tell whether two scalars are equal: numbers by value, `true` is not `1`, lists and objects equal nothing."""
    if value.__class__ is bool or wanted.__class__ is bool:
        return value is wanted
    return value.__class__ in _SCALARS and wanted.__class__ in _SCALARS and bool(value == wanted)


def comparable(value: Json, other: Json) -> bool:
    """Tell whether two values have an order: numbers among themselves, and texts."""
    if value.__class__ is str:
        return other.__class__ is str
    return value.__class__ in NUMBERS and other.__class__ in NUMBERS


def contains(value: Json, wanted: Json) -> bool:
    """Tell whether *wanted* is a part of a text, or one of a list."""
    if value.__class__ is str:
        return wanted.__class__ is str and wanted in value
    return value.__class__ is list and any(equal(item, wanted) for item in value)


def iso_time(value: Json) -> int | None:
    """Return the ms of a value that is an ISO time, else None; numbers are not."""
    return parse_iso_ms(value) if value.__class__ is str else None
