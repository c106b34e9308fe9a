"""Records are written in their order, bounded in number and time, and each is told apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from connectors.kafka_writer import KafkaWriter, WriteFailed

MOCK = {"test.mock.num.brokers": 1, "log_level": 0}
"""librdkafka's own cluster, in this process."""


def run(work: Callable[[KafkaWriter], Awaitable[Any]], address: str = "mock:9092", **more: Any) -> Any:
    async def whole() -> Any:
        writer = KafkaWriter(address, MOCK if address == "mock:9092" else {"log_level": 0}, **more)
        try:
            return await work(writer)
        finally:
            await writer.close(0.5)

    return asyncio.run(whole())


def test_what_comes_together_is_acknowledged_together_and_nothing_is_left_on_its_way() -> None:
    async def work(writer: KafkaWriter) -> list[Any]:
        writes = [writer.begin("t", [(f"u-{number}", b"x")] * (number % 3)) for number in range(300)]
        found = list(await asyncio.gather(*writes))
        assert writer.queued == 0
        return found

    assert run(work) == [{}] * 300


def test_more_than_may_be_on_its_way_fails_at_once_and_nothing_of_it_is_sent() -> None:
    async def work(writer: KafkaWriter) -> Any:
        first = writer.begin("t", [("u", b"x")])
        second = writer.begin("t", [("u", b"x")] * 9)
        third = writer.begin("t", [("u", b"x")] * 2)
        assert third.done()
        return await first, await second, {place: str(why) for place, why in third.result().items()}

    why = "too many records are on their way"
    assert run(work, queued=10) == ({}, {}, {0: why, 1: why})


def test_a_record_that_nobody_takes_is_told_apart_from_its_neighbours() -> None:
    async def work(writer: KafkaWriter) -> Any:
        return await writer.begin("t", [("u", b"x"), ("u", b"x" * 3_000_000), ("u", b"x")])

    found = run(work)
    assert list(found) == [1]
    assert found[1].is_refused


def test_without_a_broker_all_fail_when_their_time_is_over_and_may_be_sent_again() -> None:
    async def work(writer: KafkaWriter) -> Any:
        began_s = time.monotonic()
        found = await writer.begin("t", [("u", b"x"), ("u", b"y")])
        took_s = time.monotonic() - began_s
        with pytest.raises(WriteFailed):
            await writer.write("t", "u", b"z")
        return list(found), any(one.is_refused for one in found.values()), 0.9 < took_s < 3

    assert run(work, "127.0.0.1:1", patience_s=1.0) == ([0, 1], False, True)


def test_without_a_broker_it_cannot_be_said_which_topics_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka_writer.ANSWER_TIMEOUT_S", 0.3)

    async def work(writer: KafkaWriter) -> None:
        with pytest.raises(WriteFailed):
            await writer.missing(["t"])

    run(work, "127.0.0.1:1")


def test_a_client_that_has_failed_for_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka_writer.RENEW_S", 0.5)

    async def work(writer: KafkaWriter) -> bool:
        first = writer._producer
        deadline = time.monotonic() + 20
        while writer._producer is first and time.monotonic() < deadline:
            await writer.begin("t", [("u", b"x")])
        return writer._producer is not first

    assert run(work, "127.0.0.1:1", patience_s=0.3)
