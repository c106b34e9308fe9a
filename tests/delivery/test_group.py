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
    """Stands for a reader, and for its client, whose broker is away."""

    def commit(self, *_: Any, **__: Any) -> None:
        raise GroupError("_TIMED_OUT")

    def committed(self, *_: Any) -> list[TopicPartition]:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


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


def test_partitions_of_which_nobody_says_where_to_read_on_are_told_as_that() -> None:
    with pytest.raises(GroupError, match="where to read on is not known"):
        GroupReader._assign(cast(Any, Refusing()), [TopicPartition("actions.sms", 0)], lambda _: None)
