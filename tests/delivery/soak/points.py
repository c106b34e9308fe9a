"""Named points at which a process of delivery, or the door, kills itself or stands still."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from typing import Any, Final, NamedTuple

LEDGERS: Final = ("connectors.ledgers.redis:RedisLedger", "connectors.ledgers.sqlite:SqliteLedger")
PROVIDERS: Final = (
    "connectors.channels.webhook:Webhook", "connectors.channels.http_template:Http",
    "connectors.channels.alibaba_sms:AlibabaSms",
)  # fmt: skip
SERVICE: Final = ("dataflow.deliver.service:Service",)


class Place(NamedTuple):
    """A method, of each class that has it; with `note`, only where one of the notes is of that kind."""

    owners: tuple[str, ...]
    method: str
    passes: int
    """The most that a process is waited for: it dies at its first to so-many-th call."""
    note: str = ""


OF_DELIVER: Final = {
    "ledger.look": Place(LEDGERS, "note", 3, "ToLook"),
    "ledger.begin": Place(LEDGERS, "note", 6, "ToBegin"),
    "ledger.free": Place(LEDGERS, "note", 3, "ToFree"),
    "ledger.settle": Place(LEDGERS, "note", 6, "ToSettle"),
    "ledger.compare": Place(("redis.commands.core:AsyncScript",), "__call__", 8),
    "provider.call": Place(PROVIDERS, "call", 15),
    "provider.ask": Place(PROVIDERS, "ask", 2),
    "receipts.write": Place(("connectors.kafka_writer:KafkaWriter",), "begin", 10),
    "receipts.tell": Place(("dataflow.deliver.channel:ChannelAtWork",), "_tell", 10),
    "offsets.commit": Place(("connectors.kafka_group:GroupReader",), "commit", 2),
    "records.take": Place(SERVICE, "_take", 3),
    "partitions.given": Place(SERVICE, "_on_given", 2),
    "partitions.taken": Place(SERVICE, "_on_taken", 1),
    "partitions.lost": Place(SERVICE, "_on_lost", 1),
}
OF_GATEWAY: Final = {
    "door.handle": Place(("dataflow.gateway.events:Events",), "handle", 40),
    "door.write": Place(("connectors.kafka_writer:KafkaWriter",), "begin", 40),
    "door.answer": Place(("dataflow.gateway.events:Events",), "_answer", 40),
    "door.report": Place(("dataflow.gateway.receipts:Receipts",), "_store", 8),
}
POINTS: Final = OF_DELIVER | OF_GATEWAY


def install(point: str, *, stands_still: bool) -> None:
    """Let this process end at *point*, as `NAME:before|after:N`, or stand still there until it is woken."""
    name, when, number = point.split(":")
    place = POINTS[name]
    left = int(number)

    def passed(at: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        is_meant = not place.note or any(type(one).__name__ == place.note for one in arguments[1])
        if at == when and is_meant:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP if stands_still else signal.SIGKILL)

    for owner in map(_class_of, place.owners):
        setattr(owner, place.method, _watched(getattr(owner, place.method), passed))


def _watched(real: Callable[..., Any], passed: Callable[[str, tuple[Any, ...]], None]) -> Callable[..., Any]:
    @functools.wraps(real)
    async def later(*arguments: Any, **named: Any) -> Any:
        passed("before", arguments)
        found = await real(*arguments, **named)
        passed("after", arguments)
        return found

    @functools.wraps(real)
    def at_once(*arguments: Any, **named: Any) -> Any:
        passed("before", arguments)
        found = real(*arguments, **named)
        passed("after", arguments)
        return found

    return later if inspect.iscoroutinefunction(real) else at_once


def _class_of(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
