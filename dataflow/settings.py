"""The settings of `nudge run`: flags, then environment, then `nudge.yaml`, then defaults.

A setting is a field of `Settings`, and declared nowhere else: its name in `nudge.yaml`, its flag, its environment
variable, how it is read and shown, its default and its help come from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Generic, TypeVar, get_type_hints

from dataflow.errors import UsageError
from dataflow.urls import SinkUrl, SourceUrl, parse_sink, parse_slack, parse_source, shown_slack

SECRET_WORDS: Final = ("password", "secret", "token", "key.pem", "ssl.key")
SHARDS: Final = 64  # The most processes a job can have; more cost a little more per batch and checkpoint.

T = TypeVar("T")


# ---- how values are written --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What the values of a setting are.

    Args:
        parse: makes a value of what was given: by flag or environment a text (a flag that switches: a bool, one that
            repeats: a list of texts), in `nudge.yaml` whatever YAML has there. Raises ValueError, or UsageError where
            the message names the place itself.
        show: how a value in force is printed; None: as it was given.
        option: the type of the flag.
        ending: what the field's name has behind the name of the setting: a unit, or the plural.
        metavar: what stands for a value in help; "" of a switch.
    """

    parse: Callable[[Any], T]
    show: Callable[[T], str] | None = str
    option: Any = str
    ending: str = ""
    metavar: str = ""


def _texts(given: Any) -> list[str]:
    return [str(one) for one in given] if isinstance(given, list) else [str(given)]


def _switch(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    if str(given).lower() in ("1", "true", "yes", "on"):
        return True
    if str(given).lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{given!r} is neither true nor false")


def _switch_or_auto(given: Any) -> bool | None:
    try:
        return None if str(given).lower() == "auto" else _switch(given)
    except ValueError:
        raise ValueError(f"{given!r} is neither auto nor true nor false") from None


def _number(least: int, most: int, metavar: str) -> Kind[int]:
    def parse(given: Any) -> int:
        text = str(given)
        if isinstance(given, bool) or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError(f"{given!r} is not a number from {least} to {most}")
        return int(text)

    return Kind(parse, metavar=metavar)


def _one_of(*choices: str, metavar: str) -> Kind[str]:
    def parse(given: Any) -> str:
        if given not in choices:
            raise ValueError(f"{given!r} is none of {', '.join(choices)}")
        return str(given)

    return Kind(parse, metavar=metavar)


def _duration(given: Any) -> int:
    from operators.language.values import parse_duration

    return _as_in_flows(parse_duration, given)


def _moment(given: Any) -> int:
    from operators.language.values import parse_moment

    return _as_in_flows(lambda text: parse_moment(text).ms_in_utc(), given)


def _as_in_flows(parse: Callable[[Any], int], given: Any) -> int:
    from operators.language.problems import BadValue

    try:
        return parse(given)
    except BadValue as bad:
        raise ValueError(f"{bad.message}; {bad.hint}") from None


def _host(given: Any) -> str:
    text = str(given)
    if not text or text.split() != [text]:  # To listen on no name at all would be to listen on all addresses.
        raise ValueError(f"{given!r} is no address")
    return text


SOURCES: Final = Kind(lambda given: [parse_source(url) for url in _texts(given)], None, list[str], "s", "URL")
SINK: Final = Kind(lambda given: parse_sink(str(given)), None, metavar="URL")
HOST: Final = Kind(_host, metavar="HOST")
FOLDER: Final = Kind(lambda given: Path(str(given)), None, metavar="DIR")
SWITCH: Final = Kind(_switch, option=bool)
SWITCH_OR_AUTO: Final = Kind(
    _switch_or_auto, lambda value: "auto" if value is None else str(value).lower(), metavar="WHEN"
)
COUNT: Final = _number(1, 1_000_000_000, "N")
PORT: Final = _number(0, 65_535, "PORT")
DURATION: Final = Kind(_duration, lambda ms: f"{ms / 1000:g}s", ending="_ms", metavar="DURATION")
SLACK: Final = Kind(parse_slack, shown_slack, ending="_ms", metavar="DURATION")
MOMENT: Final = Kind(_moment, ending="_ms", metavar="MOMENT")
LEVEL: Final = _one_of("debug", "info", "warning", "error", metavar="LEVEL")
LOG_FORMAT: Final = _one_of("auto", "text", "json", metavar="FORMAT")


# ---- the settings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of a setting beside its name, its type and its default.

    Args:
        help: of the flag; `{default}` stands for the default as it is written.
        unset: what holds where the default is None.
        example: of a setting that has to be given.
    """

    kind: Kind[Any]
    help: str
    unset: str = "none"
    example: str = ""


@dataclass(slots=True, kw_only=True)
class Settings:
    """What a job can be told about itself, in the order in which it is listed to people."""

    sources: Annotated[
        list[SourceUrl],
        Declared(
            SOURCES,
            "kafka://host:9092/topic or file:events.jsonl; repeatable.",
            example="kafka://localhost:9092/events",
        ),
    ]
    sink: Annotated[SinkUrl, Declared(SINK, "kafka://host:9092, file:DIR or stdout:.", example="stdout:")]
    state: Annotated[
        Path | None, Declared(FOLDER, "State directory. Without one, the job keeps nothing after its end.")
    ] = None
    processes: Annotated[int, Declared(COUNT, "How many processes share the work. Default: {default}.")] = 1
    stop_at_end: Annotated[bool, Declared(SWITCH, "Read to the present end, fire all wake-ups due by then, stop.")] = (
        False
    )
    until_ms: Annotated[
        int | None, Declared(MOMENT, "With --stop-at-end: first continue stream time to this moment.")
    ] = None
    epoch_ms: Annotated[int, Declared(DURATION, "Time between checkpoints. Default: {default}.")] = 10_000
    slack_ms: Annotated[
        int | None,
        Declared(
            SLACK,
            "How long a record may be on its way into a topic. Default: {default}: 200ms with LogAppendTime, else 1s.",
            unset="by topic",
        ),
    ] = None
    shards: Annotated[
        int | None,
        Declared(
            COUNT, "Fixed when the state is created. Maximum of --processes. Default: {default}.", unset=str(SHARDS)
        ),
    ] = None
    cached_users: Annotated[int, Declared(COUNT, "Users that each process keeps in memory. Default: {default}.")] = (
        200_000
    )
    receipts: Annotated[
        bool | None,
        Declared(
            SWITCH_OR_AUTO,
            "Keep what is sent, for its receipts: true, false, or auto, if it is seen that some may come.",
            unset="auto",
        ),
    ] = None
    create_topics: Annotated[bool, Declared(SWITCH, "Create missing topics of the sink.")] = True
    watch: Annotated[
        bool, Declared(SWITCH, "Put changed flows in force while the job runs; kill -HUP does it once.")
    ] = False
    metrics_port: Annotated[
        int | None, Declared(PORT, "Serve /metrics, /healthz and /readyz on this port; 0 picks a free one.")
    ] = None
    metrics_host: Annotated[str, Declared(HOST, "Serve them on this address; 0.0.0.0 for all. Default: {default}.")] = (
        "127.0.0.1"
    )
    log_level: Annotated[str, Declared(LEVEL, "debug, info, warning or error.")] = "info"
    log_format: Annotated[str, Declared(LOG_FORMAT, "text or json.")] = "auto"
    json: Annotated[bool, Declared(SWITCH, "Print the summary at the end as one JSON object.")] = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as it was declared."""

    name: str
    """As in `nudge.yaml`."""
    field: str
    """Of `Settings`; durations and moments are in milliseconds there."""
    kind: Kind[Any]
    default: Any
    default_text: str
    """As people write it; of a setting without one `required`, or what holds then."""
    help: str
    example: str
    """Of a setting that has to be given, else ""."""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def flags(self) -> str:
        """How the flag is declared: what is on unless told otherwise can be switched off."""
        return f"{self.flag}/--no-{self.flag.removeprefix('--')}" if self.default is True else self.flag

    @property
    def variable(self) -> str:
        return f"NUDGE_{self.name.upper()}"


def _declared() -> tuple[Setting, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    found = []
    for one in fields(Settings):
        said: Declared = hints[one.name].__metadata__[0]
        kind = said.kind
        default = None if one.default is MISSING else one.default
        if default is None:
            text = "required" if said.example else said.unset
        else:
            text = kind.show(default) if kind.show else str(default)
        name = one.name.removesuffix(kind.ending)
        found.append(Setting(name, one.name, kind, default, text, said.help.format(default=text), said.example))
    return tuple(found)


SETTINGS: Final = _declared()


_CLOSE: Final = 0.85


def misspelt(environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Return the names in *environment* that are nearly those of a setting, each with the setting's."""
    known = {one.variable for one in SETTINGS}
    found = []
    for name in environment:
        if name.startswith("NUDGE_") and name not in known and not name.startswith("NUDGE_KAFKA_"):
            found += [(name, near) for near in get_close_matches(name, known, n=1, cutoff=_CLOSE)]
    return found


# ---- what is in force --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InForce:
    """What is in force for a setting, how it is shown, and where it came from."""

    value: Any
    text: str
    origin: str


def resolve(
    flags: Mapping[str, Any],
    workspace: Mapping[str, Any],
    workspace_file: str,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, InForce]:
    """Return what is in force for every setting, by its name.

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
        flag = flags.get(setting.name)
        if flag is not None and flag != []:
            found[setting.name] = _read(setting, flag, setting.flag, setting.flag)
        elif environment.get(setting.variable):
            found[setting.name] = _read(setting, environment[setting.variable], setting.variable, setting.variable)
        elif workspace.get(setting.name) is not None:
            place = f"{workspace_file}: run.{setting.name}"
            found[setting.name] = _read(setting, workspace[setting.name], workspace_file, place)
        else:
            text = "" if setting.default is None else setting.default_text
            found[setting.name] = InForce(setting.default, text, "default")
    return found


def _read(setting: Setting, given: Any, origin: str, place: str) -> InForce:
    try:
        value = setting.kind.parse(given) if given or not setting.example else None  # A required text that is empty.
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None
    return InForce(value, setting.kind.show(value) if setting.kind.show else ", ".join(_texts(given)), origin)


def fields_of(settings: Mapping[str, InForce]) -> dict[str, Any]:
    """Return what is in force by the fields of `Settings`.

    Raises:
        UsageError: one is missing that has to be given.
    """
    for setting in SETTINGS:
        if setting.example and not settings[setting.name].value:
            raise UsageError(f"{setting.flag} is missing: for example {setting.flag} {setting.example}")
    return {setting.field: settings[setting.name].value for setting in SETTINGS}


def shown(settings: Mapping[str, InForce], kafka: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, origin) of everything in force, without secrets."""
    rows = [(name, one.text, one.origin) for name, one in settings.items()]
    for name, option in kafka.items():
        secret = any(word in name for word in SECRET_WORDS)
        rows.append((f"kafka.{name}", "(hidden)" if secret else str(option), "nudge.yaml"))
    return rows


def kafka_options(workspace: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options for Kafka clients: `kafka:` of the workspace, then NUDGE_KAFKA_<OPTION> from the environment.

    `NUDGE_KAFKA_SASL_PASSWORD` is `sasl.password`: secrets need not stand in a file.
    """
    found = dict(workspace)
    for name, value in environment.items():
        if name.startswith("NUDGE_KAFKA_"):
            found[name.removeprefix("NUDGE_KAFKA_").lower().replace("_", ".")] = value
    return found
