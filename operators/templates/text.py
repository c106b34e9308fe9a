"""How a template writes a value."""

from __future__ import annotations

import json
import math

from operators.templates.errors import TemplateFailed
from operators.templates.missing import MissingValue


def text_of(value: object) -> str:
    """Return *value* as a template writes it: lists without anything between, objects as JSON.

    Raises:
        MissingValue: null, or null in a list.
        TemplateFailed: a number without a value.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        raise MissingValue
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateFailed("a number is too large")
    if isinstance(value, (list, tuple)):
        return "".join([text_of(one) for one in value])
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if isinstance(value, range):
        return f"{value.start}..{value.stop - 1}"
    return str(value)
