"""Which partitions the sources have, where they begin, and where they end now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connectors.file_source import lines_of
from connectors.formats import NATIVE
from dataflow.errors import UsageError, must_be_readable
from dataflow.urls import SourceUrl, shown_slack

if TYPE_CHECKING:
    from connectors.kafka import KafkaTopics

# The broker stamps a record when it takes it, and shows it when its replicas have it; clocks differ by some ms.
SLACK_BY_ARRIVAL_MS: Final = 200
SLACK_BY_SENDER_MS: Final = 1_000  # A sender stamps a record, and then gathers, compresses, sends, and sends again.


class PartitionPlan(msgspec.Struct):
    """One source partition.

    `end` is the offset at which to stop, None to go on for ever. `closes` tells whether that end is all there is, so
    that time runs on to the newest record; if not, time stands where it is. `format` is what its records look like,
    with the `settings` that the source gives it.
    `slack_ms` is how long a record may be on its way here, of a file no time at all. `begin_ms` is the stream time at
    `start`: -1, or the time that the job had reached when the partition was added.
    """

    key: str
    kind: str
    bootstrap: str
    topic: str
    partition: int
    start: int
    end: int | None = None
    closes: bool = True
    topic_id: str = ""
    format: str = NATIVE
    settings: tuple[tuple[str, str], ...] = ()
    slack_ms: int = 0
    begin_ms: int = -1

    @property
    def source(self) -> str:
        """The identity of the source that it belongs to."""
        return f"{self.kind}:{self.topic}"


def partitions_of(
    sources: Sequence[SourceUrl],
    kafka: Mapping[str, Any],
    *,
    up_to_now: bool,
    slack_ms: int | None,
    log: Callable[[str], None],
) -> list[PartitionPlan]:
    """Return all partitions of *sources* as they are now, in order of topic and partition.

    Args:
        kafka: options of the Kafka clients.
        up_to_now: whether topics are read to where they end now; files always are, then with a last line that has no
            end if it is a whole record by itself.
        slack_ms: that of all topics whose URL says none; None: as each topic stamps its records.

    Raises:
        UsageError: a source is not there.
    """
    found: list[PartitionPlan] = []
    for source in sources:
        if source.kind == "file":
            found.append(_of_file(source, up_to_now, log))
        else:
            found.extend(_of_topic(source, kafka, up_to_now, slack_ms, log))
    return sorted(found, key=lambda one: (one.topic, one.partition))


def _of_file(source: SourceUrl, up_to_now: bool, log: Callable[[str], None]) -> PartitionPlan:
    if not _is_text(source.name):
        raise UsageError(f"--source: {source.name!r} is no text in UTF-8, and the state has to name it: rename it")
    path = Path(source.name)
    must_be_readable(path, f"--source file:{source.name}")
    # A file is all there is: what is appended later is for a later run.
    lines = lines_of(path)
    end = lines.ended + 1
    if lines.half and up_to_now and lines.is_whole:
        end += 1
    elif lines.half:
        log(f"{source.name}: line {lines.half} has no end yet: it is left for the next run")
    return PartitionPlan(
        f"file:{source.name}", "file", "", source.name, 0, 1, end, format=source.format, settings=source.settings
    )


def _of_topic(
    source: SourceUrl, kafka: Mapping[str, Any], up_to_now: bool, slack_ms: int | None, log: Callable[[str], None]
) -> list[PartitionPlan]:
    # It takes a while to load, and files do without.
    from connectors.kafka import MISSING_S, STAMPED_BY_BROKER, KafkaTopics, how_to_create

    topics = KafkaTopics(source.bootstrap, dict(kafka), log)
    try:
        numbers = topics.partitions(source.name, awaited_s=MISSING_S)
        if not numbers:
            command = how_to_create(source.bootstrap, source.name, STAMPED_BY_BROKER)
            raise UsageError(
                f"--source: there is no topic {source.name} at {source.bootstrap}: create it first: {command}"
            )
        ends: list[int | None] = [None] * len(numbers)
        if up_to_now:
            ends = [*topics.end_offsets(source.name, numbers)]
        starts = topics.start_offsets(source.name, numbers)
        made = topics.topic_id(source.name)
        given_ms = slack_ms if source.slack_ms is None else source.slack_ms
        slack_ms = _slack_of(topics, source.name, log) if given_ms is None else given_ms
    finally:
        topics.close()
    return [
        PartitionPlan(
            _key(source.name, number),
            "kafka",
            source.bootstrap,
            source.name,
            number,
            start,
            end,
            topic_id=made,
            format=source.format,
            settings=source.settings,
            slack_ms=slack_ms,
        )
        for number, start, end in zip(numbers, starts, ends, strict=True)
    ]


def _slack_of(topics: KafkaTopics, topic: str, log: Callable[[str], None]) -> int:
    """Return how long a record may be on its way into *topic*, as the topic stamps its records."""
    stamps = topics.setting(topic, "message.timestamp.type")
    if stamps is None:
        log(
            f"how topic {topic} stamps its records may not be read: its slack is {shown_slack(SLACK_BY_SENDER_MS)}; "
            "allow the job to describe the topic's configuration, or say ?slack= behind its --source"
        )
    return SLACK_BY_ARRIVAL_MS if stamps == "LogAppendTime" else SLACK_BY_SENDER_MS


class TopicWatch:
    """Looks, now and then, whether source topics have partitions that nobody knows yet; asks for nothing else."""

    def __init__(self, sources: Sequence[SourceUrl], kafka: Mapping[str, Any]) -> None:
        self._sources = [source for source in sources if source.kind == "kafka"]
        self._kafka = dict(kafka)
        self._topics: dict[str, Any] = {}

    def has_more_than(self, known: Collection[str]) -> bool:
        """Tell whether there are partitions besides those with the keys *known*.

        Raises:
            KafkaUnavailable: a broker did not answer.
        """
        if not self._sources:
            return False
        from connectors.kafka import KafkaTopics

        for source in self._sources:
            if source.bootstrap not in self._topics:
                self._topics[source.bootstrap] = KafkaTopics(source.bootstrap, self._kafka)
            numbers = self._topics[source.bootstrap].partitions(source.name)
            self._topics[source.bootstrap].rest()
            if any(_key(source.name, number) not in known for number in numbers):
                return True
        return False

    def close(self) -> None:
        for topics in self._topics.values():
            topics.close()


def _key(topic: str, number: int) -> str:
    return f"{topic}-{number}"


def offsets_at(
    partitions: Sequence[PartitionPlan], at_ms: int, kafka: Mapping[str, Any], log: Callable[[str], None]
) -> list[int]:
    """Return, for each of these partitions of topics, the offset of its first record at or after *at_ms*.

    Raises:
        KafkaUnavailable: a broker did not answer.
    """
    from connectors.kafka import KafkaTopics

    found = []
    for one in partitions:
        topics = KafkaTopics(one.bootstrap, dict(kafka), log)
        try:
            found += topics.offsets_at(one.topic, [one.partition], at_ms)
        finally:
            topics.close()
    return found


def _is_text(name: str) -> bool:
    """Tell whether a name on the command line can be written down: a file may be called anything."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
