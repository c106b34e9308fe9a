"""The settings of `nudge run`: flags, then environment, then `nudge.yaml`, then defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dataflow.errors import UsageError
from operators.language.problems import BadValue
from operators.language.values import parse_duration, parse_moment

SECRET_WORDS: Final = ("password", "secret", "token", "key.pem", "ssl.key")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name as in `nudge.yaml`, how its text is read, and its default."""

    name: str
    kind: str
    default: Any = None


SETTINGS: Final = (
    Setting("source", "list"),
    Setting("sink", "text"),
    Setting("state", "text"),
    Setting("processes", "count", 1),
    Setting("stop_at_end", "flag", False),
    Setting("until", "moment"),
    Setting("epoch", "duration", 10_000),
    Setting("slack", "duration", 1_000),
    Setting("shards", "count"),
    Setting("cached_users", "count", 200_000),
    Setting("create_topics", "flag", True),
    Setting("metrics_port", "port"),
    Setting("log_level", "level", "info"),
    Setting("log_format", "format", "auto"),
    Setting("json", "flag", False),
)


@dataclass(frozen=True, slots=True)
class Value:
    """What is in force for a setting, and where it came from."""

    value: Any
    origin: str


def resolve(
    flags: Mapping[str, Any],
    workspace: Mapping[str, Any],
    workspace_file: str,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Value]:
    """Return what is in force for every setting.

    Args:
        flags: by name; None for a flag that was not given.
        workspace: the `run:` section of the workspace file.

    Raises:
        UsageError: a value cannot be read, or there is no such setting.
    """
    known = {setting.name for setting in SETTINGS}
    for name in workspace:
        if name not in known:
            raise UsageError(
                f"{workspace_file}: run.{name}: there is no such setting; they are {', '.join(sorted(known))}"
            )
    found = {}
    for setting in SETTINGS:
        flag, variable = flags.get(setting.name), f"NUDGE_{setting.name.upper()}"
        dashed = f"--{setting.name.replace('_', '-')}"
        if flag is not None and flag != []:
            found[setting.name] = Value(_read(setting, flag, dashed), dashed)
        elif environment.get(variable):
            found[setting.name] = Value(_read(setting, environment[variable], variable), variable)
        elif workspace.get(setting.name) is not None:
            place = f"{workspace_file}: run.{setting.name}"
            found[setting.name] = Value(_read(setting, workspace[setting.name], place), workspace_file)
        else:
            found[setting.name] = Value(setting.default, "default")
    return found


def _read(setting: Setting, value: Any, place: str) -> Any:
    """Return *value* as the setting's kind has it."""
    try:
        return _parsed(setting.kind, value)
    except BadValue as bad:
        raise UsageError(f"{place}: {bad.message}; {bad.hint}") from None
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def _parsed(kind: str, value: Any) -> Any:
    if kind == "list":
        return [value] if isinstance(value, str) else [str(one) for one in value]
    if kind == "flag":
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("1", "true", "yes", "on"):
            return True
        if str(value).lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"{value!r} is neither true nor false")
    if kind in ("count", "port"):
        text = str(value)
        least, most = (1, 1_000_000_000) if kind == "count" else (0, 65535)
        if isinstance(value, bool) or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"{value!r} is not a number from {least} to {most}")
        return int(text)
    if kind == "duration":
        return parse_duration(value)
    if kind == "moment":
        return parse_moment(value)
    choices = {"level": ("debug", "info", "warning", "error"), "format": ("auto", "text", "json")}.get(kind)
    if choices and value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return str(value)


def shown(settings: Mapping[str, Value], kafka: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, origin) of everything in force, without secrets."""
    kinds = {setting.name: setting.kind for setting in SETTINGS}
    rows = []
    for name, value in settings.items():
        text = _hidden_in_url(name, value.value)
        if kinds.get(name) == "duration" and value.value is not None:
            text = f"{value.value / 1000:g}s"
        rows.append((name, text, value.origin))
    for name, option in kafka.items():
        secret = any(word in name for word in SECRET_WORDS)
        rows.append((f"kafka.{name}", "(hidden)" if secret else str(option), "nudge.yaml"))
    return rows


def _hidden_in_url(name: str, value: Any) -> str:
    if name in ("source", "sink") and value:
        urls = value if isinstance(value, list) else [value]
        return ", ".join(_without_password(url) for url in urls)
    return "" if value is None else str(value)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return url.replace(parts.netloc, "(hidden)@" + parts.netloc.rpartition("@")[2])


def kafka_options(workspace: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options for Kafka clients: `kafka:` of the workspace, then NUDGE_KAFKA_<OPTION> from the environment.

    `NUDGE_KAFKA_SASL_PASSWORD` is `sasl.password`: secrets need not stand in a file.
    """
    found = dict(workspace)
    for name, value in environment.items():
        if name.startswith("NUDGE_KAFKA_"):
            found[name.removeprefix("NUDGE_KAFKA_").lower().replace("_", ".")] = value
    return found


def folder(value: Any) -> Path | None:
    """Return a setting as a path, None for none."""
    return None if value is None else Path(value)
