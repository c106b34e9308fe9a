"""A consumer group whose broker does not answer: what cannot be committed is read again, and nobody dies of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from structlog.testing import capture_logs

from connectors.kafka_group import GroupError, GroupReader, _in_time
from dataflow.deliver.service import Service, Where
from dataflow.logs import get_logger
from tests.kafka.broker import KafkaTopics


class Refusing:
    """Stands for a reader, and for its client, whose broker is away at first."""

    def __init__(self, times: int = 10**9, code: int = KafkaError._TIMED_OUT) -> None:
        self.left, self.code, self.asked = times, code, 0

    def commit(self, *_: Any, **__: Any) -> None:
        raise GroupError("_TIMED_OUT")

    def committed(self, some: list[TopicPartition], *_: Any) -> list[TopicPartition]:
        self.asked += 1
        if self.asked > self.left:
            return [TopicPartition(one.topic, one.partition, 7) for one in some]
        raise KafkaException(KafkaError(self.code))

    def incremental_assign(self, some: list[TopicPartition]) -> None:
        pass

    resume = incremental_assign


def test_offsets_that_cannot_be_committed_when_partitions_move_are_read_again_by_others() -> None:
    async def check() -> None:
        where = Where("nowhere:1", "g", "events", "dead-letters")
        service = Service(where, [], cast(Any, None), now_ms=lambda: 0, chance=Random(1), log=get_logger())
        service._loop = asyncio.get_running_loop()
        service._reader = cast(Any, Refusing())
        await asyncio.to_thread(service._on_taken, [("actions.sms", 0)])

    with capture_logs() as said:
        asyncio.run(check())
    assert [one["event"] for one in said] == ["offsets could not be committed"]


def member(said: list[Any]) -> GroupReader:
    """Return a member of a group that nobody has heard of; what it is given goes to *said*."""
    ignored: Any = lambda _: None  # noqa: E731
    return GroupReader("127.0.0.1:1", "g", ["actions.sms"], {}, given=said.append, taken=ignored, lost=ignored)


def given(client: Refusing) -> Any:
    """Return what is said of a partition that a member gets."""
    said: list[Any] = []
    one = member(said)
    try:
        one._assign(cast(Any, client), [TopicPartition("actions.sms", 0)], said.append)
    finally:
        one.close()
    return said[0]


def test_who_leaves_asks_for_nothing_any_more() -> None:
    said: list[Any] = []
    one, client = member(said), Refusing()
    one.close()
    one._assign(cast(Any, client), [TopicPartition("actions.sms", 0)], said.append)
    assert (client.asked, said) == (0, [])


def test_a_broker_that_goes_away_as_partitions_come_is_waited_for() -> None:
    assert given(Refusing(3)) == {("actions.sms", 0): 7}


def test_where_nobody_says_where_to_read_on_that_is_told() -> None:
    with pytest.raises(GroupError, match="where to read on is not known"):
        given(Refusing())
    stranger = Refusing(code=KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(GroupError):
        given(stranger)
    assert stranger.asked == 1


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_a_partition_that_was_paused_and_was_another_ones_meanwhile_is_read_on(
    broker: KafkaTopics, topic_prefix: str
) -> None:
    """The client keeps the pause when it gives a partition back, and so nobody would ever read it."""
    topic = f"{topic_prefix}actions"
    broker.create_topic(topic, 2)
    broker.produce(topic, [(None, b"first", None)], partition=0)
    broker.produce(topic, [(None, b"first", None)], partition=1)
    has: dict[str, set[tuple[str, int]]] = {"one": set(), "other": set()}

    def joined(name: str) -> GroupReader:
        return GroupReader(
            broker.bootstrap, topic_prefix, [topic], {},
            given=has[name].update,
            taken=has[name].difference_update,
            lost=has[name].difference_update,
        )  # fmt: skip

    def poll_until(is_so: Callable[[], bool], *members: GroupReader) -> None:
        deadline = time.monotonic() + 40
        while not is_so():
            assert time.monotonic() < deadline, has
            for one in members:
                seen.extend((one, record.partition) for record in one.poll())

    seen: list[tuple[GroupReader, int]] = []
    one = joined("one")
    poll_until(lambda: len(seen) == 2, one)
    one.pause(list(has["one"]))
    other = joined("other")
    poll_until(lambda: len(has["one"]) == len(has["other"]) == 1, one, other)
    (moved,) = has["other"]
    other.close()
    seen.clear()
    poll_until(lambda: (one, moved[1]) in seen, one)  # Nothing was committed, so it comes again.
    one.close()


def test_what_fails_after_nobody_waits_for_it_any_more_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka_group.LEAVE_S", 0.01)
    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    let_go, before = threading.Event(), set(threading.enumerate())

    def commit() -> None:
        let_go.wait(30)
        raise RuntimeError("Consumer closed")

    assert not _in_time(commit)
    (left,) = set(threading.enumerate()) - before
    let_go.set()
    left.join(30)
    assert said == []


def test_what_fails_while_it_is_waited_for_is_told() -> None:
    def commit() -> None:
        raise RuntimeError("Consumer closed")

    with pytest.raises(RuntimeError, match="closed"):
        _in_time(commit)
