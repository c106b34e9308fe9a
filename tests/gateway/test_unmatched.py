"""Reports that wait are bounded, whatever partitions a process has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from connectors.kafka_group import GroupRecord
from dataflow.gateway import unmatched
from dataflow.gateway.metrics import Metrics
from dataflow.gateway.receipts import Unmatched
from dataflow.gateway.unmatched import Retrier
from dataflow.logs import get_logger
from tests.gateway.doors import NOW_MS

Part = tuple[str, int]
FIRST, SECOND = ("receipts.unmatched", 0), ("receipts.unmatched", 1)


class Reader:
    """Stands for a member of the group: what happens in its polls is written down before."""

    def __init__(self, polls: Sequence[Callable[[Reader], list[GroupRecord]]], named: Mapping[str, Any]) -> None:
        self._polls, self.given, self.lost = list(polls), named["given"], named["lost"]
        self.is_paused: dict[Part, bool] = {}
        self.seen: list[dict[Part, bool]] = []
        """What was paused when each poll began."""

    def poll(self) -> list[GroupRecord]:
        self.seen.append(self.is_paused.copy())
        return self._polls.pop(0)(self)

    def give(self, part: Part) -> None:
        self.is_paused[part] = False  # As Kafka's client has it.
        self.given({part: 0})

    def lose(self, part: Part) -> None:
        del self.is_paused[part]
        self.lost([part])

    def pause(self, parts: Sequence[Part]) -> None:
        self.is_paused |= dict.fromkeys(parts, True)

    def resume(self, parts: Sequence[Part]) -> None:
        assert set(parts) <= self.is_paused.keys(), "what others have is theirs"
        self.is_paused |= dict.fromkeys(parts, False)

    def commit(self, offsets: Mapping[Part, int], *, wait: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_partition_that_comes_while_too_many_wait_is_not_read_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmatched, "HELD_MAX", 2)
    report = msgspec.json.encode(Unmatched("sms", NOW_MS, "delivered", NOW_MS, "a"))
    many = [GroupRecord(*FIRST, offset, report) for offset in range(3)]

    def comes(reader: Reader) -> list[GroupRecord]:
        reader.give(FIRST)
        return many

    def another_comes(reader: Reader) -> list[GroupRecord]:
        reader.give(SECOND)
        return []

    def first_goes(reader: Reader) -> list[GroupRecord]:
        reader.lose(FIRST)
        return []

    def ends(_: Reader) -> list[GroupRecord]:
        retrier._is_over.set()
        return []

    made: list[Reader] = []

    def reader(*_: object, **named: Any) -> Reader:
        made.append(Reader([comes, another_comes, first_goes, ends], named))
        return made[0]

    monkeypatch.setattr(unmatched, "GroupReader", reader)

    async def read() -> None:
        retrier._loop = asyncio.get_running_loop()
        await asyncio.to_thread(retrier._read)

    nothing: Any = None
    retrier = Retrier(
        "nowhere:9092", {}, "g", "receipts.unmatched", {}, nothing, "events", Metrics(), lambda: NOW_MS, get_logger()
    )
    asyncio.run(read())
    assert made[0].seen == [
        {},
        {FIRST: True},
        {FIRST: True, SECOND: True},
        {SECOND: False},
    ], "three wait, and two may; once their partition is another's, nobody waits"
