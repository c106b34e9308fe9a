"""What `--source` and `--sink` name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from dataflow.errors import UsageError

DEFAULT_PORT: Final = 9092
PARTITIONS_MAX: Final = 10_000
MILLISECONDS: Final = re.compile(r"([0-9]{1,9})ms")
TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """`kafka://host:9092/topic?format=native&slack=300ms` or `file:events.jsonl`.

    `slack_ms` is None where the URL does not say how long a record may be on its way. `from_start` tells whether it is
    read from its start, too, when it is added to a state. `settings` are parameters that only mean something to
    its format.
    """

    kind: str
    bootstrap: str
    name: str
    format: str = "native"
    settings: tuple[tuple[str, str], ...] = ()
    slack_ms: int | None = None
    from_start: bool = False

    @property
    def identity(self) -> str:
        """What makes two sources the same for a state: the topic or file, not the way to it."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class SinkUrl:
    """`kafka://host:9092`, `file:DIR` or `stdout:`."""

    kind: str
    bootstrap: str = ""
    folder: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What makes two sinks the same for a state."""
        if self.kind == "kafka":
            return f"kafka:{self.options.get('prefix', '')}"
        return "stdout:" if self.kind == "stdout" else f"file:{Path(self.folder).resolve()}"


def parse_source(url: str) -> SourceUrl:
    """Return what a `--source` names.

    Raises:
        UsageError: it names nothing that can be read.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest:
        path, _, query = rest.partition("?")
        path = path.removeprefix("//") if path.startswith("///") else path
        return SourceUrl("file", "", path, **_parameters(url, query, "format", "from"))
    if scheme == "kafka":
        parts = urlsplit(url)
        topic = parts.path.strip("/")
        if not parts.netloc or not topic or "/" in topic:
            raise UsageError(f"--source {url}: a Kafka source is kafka://host:9092/topic")
        if not TOPIC.fullmatch(topic):
            raise UsageError(f"--source {url}: a topic's name has letters, digits, '.', '_' and '-', at most 249")
        bootstrap = _bootstrap("--source", url, parts.netloc)
        return SourceUrl("kafka", bootstrap, topic, **_parameters(url, parts.query, "format", "slack", "from"))
    raise UsageError(f"--source {url}: write kafka://host:9092/topic or file:events.jsonl")


def parse_sink(url: str, flag: str = "--sink") -> SinkUrl:
    """Return what a `--sink` names, or another *flag* that takes the same.

    Raises:
        UsageError: it names nothing that can be written to.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "stdout" and not rest:
        return SinkUrl("stdout")
    if scheme == "file" and rest:
        return SinkUrl("file", folder=rest.removeprefix("//") if rest.startswith("///") else rest)
    if scheme == "kafka":
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        unknown = sorted(set(query) - {"prefix", "partitions"})
        if not parts.netloc or parts.path.strip("/"):
            raise UsageError(f"{flag} {url}: write kafka://host:9092, without a topic: each channel has its own")
        if unknown:
            raise UsageError(f"{flag} {url}: '{unknown[0]}' is not a parameter; there are prefix and partitions")
        partitions = query.get("partitions", "1")
        if not partitions.isdecimal() or not 1 <= int(partitions) <= PARTITIONS_MAX:
            raise UsageError(f"{flag} {url}: partitions is a number from 1 to {PARTITIONS_MAX}")
        if not TOPIC.fullmatch(query.get("prefix", "x")):
            raise UsageError(f"{flag} {url}: a prefix has letters, digits, '.', '_' and '-', as topics have")
        return SinkUrl("kafka", _bootstrap(flag, url, parts.netloc), options=query)
    raise UsageError(f"{flag} {url}: write kafka://host:9092, file:DIR or stdout:")


def _bootstrap(flag: str, url: str, netloc: str) -> str:
    if "@" in netloc:  # Not shown: it may be a password.
        raise UsageError(f"{flag}: credentials in a URL are not understood; sasl.username and such stand under kafka:")
    hosts = [host if ":" in host.rpartition("]")[2] else f"{host}:{DEFAULT_PORT}" for host in netloc.split(",")]
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdecimal() or not 1 <= int(port) <= 65_535:
            raise UsageError(f"{flag} {url}: {host} is no host:port")
    return ",".join(hosts)


def parse_slack(given: Any) -> int:
    """Return the milliseconds of a duration as in flows, or of one in milliseconds such as `300ms`.

    Raises:
        ValueError: it is neither.
    """
    if (found := MILLISECONDS.fullmatch(str(given))) is not None:
        return int(found[1])
    from operators.language.problems import BadValue  # `nudge --help` does without what it loads.
    from operators.language.values import parse_duration

    try:
        return parse_duration(given)
    except BadValue as bad:
        raise ValueError(f"{bad.message}; write number and unit, such as 300ms or 2s") from None


def shown_slack(slack_ms: int) -> str:
    """Return *slack_ms* as it would be given."""
    return f"{slack_ms}ms" if slack_ms % 1000 or not slack_ms else f"{slack_ms // 1000}s"


def _slack(url: str, query: dict[str, str]) -> int | None:
    if "slack" not in query:
        return None
    try:
        return parse_slack(query["slack"])
    except ValueError as error:
        raise UsageError(f"--source {url}: slack: {error}") from None


def _parameters(url: str, query: str, *known: str) -> dict[str, Any]:
    """Return what is behind the question mark of a `--source`."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    name, settings = read_format(
        f"--source {url}", given.get("format", "native"), {key: given[key] for key in given if key not in known}, known
    )
    if given.get("from", "start") != "start":
        raise UsageError(f"--source {url}: from={given['from']} means nothing; there is from=start")
    found = {"format": name, "settings": settings, "from_start": "from" in given}
    return found if "slack" not in known else {**found, "slack_ms": _slack(url, given)}


def read_format(
    where: str, name: str, given: Mapping[str, str], known: Sequence[str] = ()
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a format and its settings.

    Args:
        where: what the format is said in, for messages.
        given: the settings as they were given.
        known: what else could have been given there.

    Raises:
        UsageError: there is no such format, or it has no such settings.
    """
    from connectors.formats import FORMATS  # `nudge --help` does without what it loads.
    from connectors.formats.decoding import settings_of

    if name not in FORMATS:
        raise UsageError(f"{where}: there is no format {name}; there are {', '.join(FORMATS)}")
    all_known = [*known, *FORMATS[name].settings]
    if unknown := sorted(set(given) - set(all_known)):
        if not all_known:
            raise UsageError(f"{where}: format {name} has no {unknown[0]} to be set")
        raise UsageError(f"{where}: '{unknown[0]}' is not a parameter here; there is {' and '.join(all_known)}")
    try:
        settings_of(given)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return name, tuple(sorted(given.items()))
