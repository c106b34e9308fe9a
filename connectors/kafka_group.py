"""Read topics as one of a consumer group: which partitions one has changes while one reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka import ANSWER_TIMEOUT_S, Options, client_options

POLL_S: Final = 0.1
BATCH: Final = 500
SESSION_MS: Final = 10_000
ASKED_TIMES: Final = 12
LEAVE_S: Final = 5.0  # A client waits for a broker that is mute without end.
REFRESH_MS: Final = 30_000  # A topic that is created later, or a partition that is added, is found after that.


class GroupRecord(NamedTuple):
    """A record, and where it stands."""

    topic: str
    partition: int
    offset: int
    value: bytes | None


class GroupError(Exception):
    """The group cannot be read; the message says why."""


class GroupReader:
    """A member of a consumer group. All methods are for one thread; the callbacks come in `poll`.

    Args:
        given: called with the partitions that this member has from now on, and from which offset each is read; None:
            from its start.
        taken: called with those that others have from now on, before they have them: what is open ends first.
        lost: called with those that others have already.
        is_leaving: whether this member is to leave soon, so that nothing is waited for that it does not need.
        begins_paused: whether nothing is read of what is given before it is resumed.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        options: Options,
        *,
        given: Callable[[Mapping[tuple[str, int], int | None]], None],
        taken: Callable[[Sequence[tuple[str, int]]], None],
        lost: Callable[[Sequence[tuple[str, int]]], object],
        is_leaving: Callable[[], bool] = lambda: False,
        begins_paused: bool = False,
    ) -> None:
        settings: dict[str, Any] = {
            "topic.metadata.refresh.interval.ms": REFRESH_MS,
            **client_options(bootstrap, options),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "max.poll.interval.ms": 300_000,
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
        }
        self._is_leaving, self._leaves, self._begins_paused = False, is_leaving, begins_paused
        self._consumer = Consumer(settings)
        self._consumer.subscribe(
            list(topics),
            on_assign=lambda consumer, some: self._assign(consumer, some, given),
            on_revoke=lambda _, some: taken(_places(some)),
            on_lost=lambda _, some: lost(_places(some)),
        )

    def _assign(
        self,
        consumer: Consumer,
        some: list[TopicPartition],
        given: Callable[[Mapping[tuple[str, int], int | None]], None],
    ) -> None:
        if self._is_leaving:
            return  # Others get them at once.
        committed = _committed(consumer, some, self._leaves) if some else []
        consumer.incremental_assign(some)
        # A client remembers what it has paused, even where others had it meanwhile.
        (consumer.pause if self._begins_paused else consumer.resume)(some)
        given({(one.topic, one.partition): one.offset if one.offset >= 0 else None for one in committed})

    def poll(self) -> list[GroupRecord]:
        """Return what has come, at most for 0.1 s.

        Raises:
            GroupError: nobody can go on from there.
        """
        found = []
        for message in self._consumer.consume(BATCH, POLL_S):
            error = message.error()
            if error is None:
                found.append(_record(message))
            elif error.code() in _HOPELESS or error.fatal():
                raise GroupError(error.str())
        return found

    def pause(self, places: Sequence[tuple[str, int]]) -> None:
        """Read nothing more of *places* for now."""
        self._consumer.pause([TopicPartition(*place) for place in places])

    def resume(self, places: Sequence[tuple[str, int]]) -> None:
        """Read on."""
        self._consumer.resume([TopicPartition(*place) for place in places])

    def commit(self, offsets: Mapping[tuple[str, int], int], *, wait: bool = False) -> None:
        """Commit *offsets*: what is before them is not read again.

        Raises:
            GroupError: nothing could be committed, and that was waited for.
        """
        some = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        if not some:
            return
        try:
            if not wait:
                self._consumer.commit(offsets=some, asynchronous=True)
            elif not _in_time(lambda: self._consumer.commit(offsets=some, asynchronous=False)):
                raise GroupError(f"Kafka did not answer for {LEAVE_S:g} s")
        except KafkaException as error:
            raise GroupError(str(error)) from error

    def close(self) -> None:
        """Leave the group. Where Kafka does not answer, it finds out by itself that this member is gone."""
        self._is_leaving = True
        _in_time(self._consumer.close)


_HOPELESS: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
)


def _in_time(work: Callable[[], object]) -> bool:
    """Do *work* in a thread that is left to itself after some seconds; return whether it was done by then.

    What it fails with after that is of no use to anybody: by then the consumer is closed.
    """
    failures: list[Exception] = []

    def do() -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(LEAVE_S)
    if failures:
        raise failures[0]
    return not thread.is_alive()


def _committed(consumer: Consumer, some: list[TopicPartition], is_leaving: Callable[[], bool]) -> list[TopicPartition]:
    """Return where to read on; a broker that goes away just now is waited for."""
    tries = 0
    while True:
        try:
            found: list[TopicPartition] = consumer.committed(some, ANSWER_TIMEOUT_S)
            return found
        except KafkaException as error:
            tries += 1
            if tries == ASKED_TIMES or error.args[0].code() in _HOPELESS or is_leaving():
                raise GroupError(f"where to read on is not known: {error}") from error


def _record(message: Message) -> GroupRecord:
    return GroupRecord(message.topic(), message.partition(), message.offset(), message.value())


def _places(some: Sequence[TopicPartition]) -> list[tuple[str, int]]:
    return [(one.topic, one.partition) for one in some]
