"""A consumer group whose broker does not answer: what cannot be committed is read again, and nobody dies of it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from structlog.testing import capture_logs

from connectors.kafka_group import GroupError, GroupReader
from dataflow.deliver.service import Service, Where
from dataflow.logs import get_logger


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


def given(client: Refusing) -> Any:
    """Return what is said of a partition that this member gets."""
    said: list[Any] = []
    GroupReader._assign(cast(Any, client), [TopicPartition("actions.sms", 0)], said.append)
    return said[0]


def test_a_broker_that_goes_away_as_partitions_come_is_waited_for() -> None:
    assert given(Refusing(3)) == {("actions.sms", 0): 7}


def test_where_nobody_says_where_to_read_on_that_is_told() -> None:
    with pytest.raises(GroupError, match="where to read on is not known"):
        given(Refusing())
    stranger = Refusing(code=KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(GroupError):
        given(stranger)
    assert stranger.asked == 1
