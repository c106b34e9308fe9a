"""Which partitions the sources have, where they begin, and where they end now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from connectors.formats import NATIVE
from dataflow.errors import UsageError
from dataflow.urls import SourceUrl


class PartitionPlan(msgspec.Struct):
    """One source partition.

    `end` is the offset at which to stop, None to go on for ever. `closes` tells whether that end is all there is, so
    that time runs on to the newest record; if not, time stands where it is. `format` is what its records look like.
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


def partitions_of(
    sources: Sequence[SourceUrl], kafka: Mapping[str, Any], *, up_to_now: bool, log: Callable[[str], None]
) -> list[PartitionPlan]:
    """Return all partitions of *sources* as they are now, in order of topic and partition.

    Args:
        kafka: options of the Kafka clients.
        up_to_now: whether topics are read to where they end now; files always are.

    Raises:
        UsageError: a source is not there.
    """
    found: list[PartitionPlan] = []
    for source in sources:
        if source.kind == "file":
            found.append(_of_file(source))
        else:
            found.extend(_of_topic(source, kafka, up_to_now, log))
    return sorted(found, key=lambda one: (one.topic, one.partition))


def _of_file(source: SourceUrl) -> PartitionPlan:
    if not _is_text(source.name):
        raise UsageError(f"--source: {source.name!r} is no text in UTF-8, and the state has to name it: rename it")
    path = Path(source.name)
    if not path.is_file():
        raise UsageError(f"--source file:{source.name}: no such file")
    # A file is all there is: what is appended later is for a later run.
    end = _lines_of(path) + 1
    return PartitionPlan(f"file:{source.name}", "file", "", source.name, 0, 1, end, format=source.format)


def _of_topic(
    source: SourceUrl, kafka: Mapping[str, Any], up_to_now: bool, log: Callable[[str], None]
) -> list[PartitionPlan]:
    from connectors.kafka import MISSING_S, KafkaTopics  # It takes a while to load, and files do without.

    topics = KafkaTopics(source.bootstrap, dict(kafka), log)
    try:
        numbers = topics.partitions(source.name, awaited_s=MISSING_S)
        if not numbers:
            raise UsageError(f"--source: there is no topic {source.name} at {source.bootstrap}: create it first")
        ends: list[int | None] = [None] * len(numbers)
        if up_to_now:
            ends = [*topics.end_offsets(source.name, numbers)]
        starts = topics.start_offsets(source.name, numbers)
        made = topics.topic_id(source.name)
    finally:
        topics.close()
    return [
        PartitionPlan(
            f"{source.name}-{number}",
            "kafka",
            source.bootstrap,
            source.name,
            number,
            start,
            end,
            topic_id=made,
            format=source.format,
        )
        for number, start, end in zip(numbers, starts, ends, strict=True)
    ]


def _is_text(name: str) -> bool:
    """Tell whether a name on the command line can be written down: a file may be called anything."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines_of(path: Path) -> int:
    """Return how many lines *path* has; a last one without its end counts."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")
