"""What is wrong with settings that a model of pydantic refuses, for people: where it stands, and what may be there."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from operators.language.problems import did_you_mean


def refusal(error: ValidationError, written: Any, where: str, model: type[BaseModel]) -> str:
    """Return what is wrong with *written*, which stands at *where* and was read as *model*.

    Where a value may be of several forms, each form has an error of its own. The one is told that got furthest.
    """
    errors = error.errors(include_url=False, include_input=False)
    first = max(errors, key=lambda one: (one["type"] == "value_error", len(_keys(one["loc"], written))))
    keys = _keys(first["loc"], written)
    place = ".".join(map(str, (where, *keys)))
    if first["type"] == "missing":
        return f"{place}.{first['loc'][-1]}: it is missing"
    if first["type"] == "extra_forbidden":
        fields = model.model_fields if len(keys) == 1 else {}
        known = [one.alias or name for name, one in fields.items()]
        return "; ".join(filter(None, (f"{place}: it is not known here", did_you_mean(str(keys[-1]), known))))
    if first["type"] == "string_pattern_mismatch":
        return f"{place}: it has to match the regular expression {first['ctx']['pattern']}"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def _keys(path: tuple[int | str, ...], written: Any) -> list[int | str]:
    """Return those parts of *path* that stand in what is *written*; others name a form that a value may have."""
    keys: list[int | str] = []
    for one in path:
        there = dict(enumerate(written)) if isinstance(written, list) else written
        if isinstance(there, dict) and one in there:
            keys.append(one)
            written = there[one]
    return keys
