"""Ways to run a job that work until something happens: what to say of them at its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from dataflow.job.plan import Plan, topics_of
from dataflow.settings import Settings

NO_STATE: Final = "there is no --state: nothing survives this run, and the next one begins anew and sends again"
FEW_PARTITIONS: Final = (
    "{processes} processes and {partitions} source partitions: all processes decide, but no more of them read than "
    "there are partitions"
)
STAMPED_BY_SENDERS: Final = (
    "source topics with message.timestamp.type=CreateTime ({topics}): a simulation may decide differently for users "
    "whose records come late; use LogAppendTime, or set the slack"
)
COMPACTED_SOURCE: Final = (
    "source topics with cleanup.policy=compact ({topics}): Kafka keeps only the last record of each user, so the job "
    "may never see the others"
)
COMPACTED_SINK: Final = (
    "topics of the sink with cleanup.policy=compact ({topics}): Kafka keeps only the last record of each user, so "
    "actions are lost, and after a crash some are sent again"
)
SHORT_SOURCE: Final = (
    "source topics whose retention.ms is shorter than --epoch ({topics}): after a crash, records that have to be read "
    "again may be gone"
)
SHORT_SINK: Final = (
    "topics of the sink whose retention.ms is shorter than --epoch ({topics}): after a crash, the job cannot read back "
    "what it has sent, and sends it again"
)

TopicSettings = Mapping[str, Mapping[str, str]]


def risks_of(job: Settings, plan: Plan, settings_of: Callable[[str, Sequence[str]], TopicSettings]) -> Iterator[str]:
    """Yield what there is to say of how *job* runs; of one that ends by itself nothing.

    Args:
        settings_of: given a cluster and topics, returns how they are configured, as far as that can be known.
    """
    read_from: dict[str, list[str]] = {}
    for one in plan.partitions:
        if one.kind == "kafka" and one.topic not in read_from.setdefault(one.bootstrap, []):
            read_from[one.bootstrap].append(one.topic)
    if job.stop_at_end or not read_from:
        return
    if job.state is None:
        yield NO_STATE
    if len(plan.partitions) < plan.processes:
        yield FEW_PARTITIONS.format(processes=plan.processes, partitions=len(plan.partitions))
    sources = {
        topic: found for where, topics in read_from.items() for topic, found in settings_of(where, topics).items()
    }
    told = {source.name for source in job.sources if source.slack_ms is not None or job.slack_ms is not None}
    stamped = [
        topic
        for topic, found in sources.items()
        if found.get("message.timestamp.type") == "CreateTime" and topic not in told
    ]
    yield from _about(STAMPED_BY_SENDERS, stamped)
    yield from _about(COMPACTED_SOURCE, _compacted(sources))
    yield from _about(SHORT_SOURCE, _short(sources, job.epoch_ms))
    if job.sink.kind == "kafka":
        prefix = job.sink.options.get("prefix", "")
        sink = settings_of(job.sink.bootstrap, [prefix + topic for topic in topics_of(plan.deployment())])
        yield from _about(COMPACTED_SINK, _compacted(sink))
        yield from _about(SHORT_SINK, _short(sink, job.epoch_ms))


def _about(risk: str, topics: Sequence[str]) -> Iterator[str]:
    if topics:
        yield risk.format(topics=", ".join(topics))


def _compacted(topics: TopicSettings) -> list[str]:
    return [topic for topic, found in topics.items() if "compact" in found.get("cleanup.policy", "")]


def _short(topics: TopicSettings, epoch_ms: int) -> list[str]:
    # -1: for ever.
    return [topic for topic, found in topics.items() if 0 <= int(found.get("retention.ms", -1)) < epoch_ms]


def settings_by(kafka: Mapping[str, Any]) -> Callable[[str, Sequence[str]], TopicSettings]:
    """Return what asks a cluster how topics are configured, with the options *kafka*."""

    def settings_of(bootstrap: str, topics: Sequence[str]) -> TopicSettings:
        from connectors.kafka import KafkaTopics  # It takes a while to load, and files do without.

        asked = KafkaTopics(bootstrap, dict(kafka))
        try:
            return asked.settings(topics)
        finally:
            asked.close()

    return settings_of
