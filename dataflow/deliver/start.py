"""From the command line to delivery at work."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple

import orjson
import typer

from connectors.channels.base import Unfit
from connectors.kafka import KafkaTopics, Options
from connectors.kafka_group import GroupReader, GroupRecord
from connectors.ledgers.base import Ledger, LedgerAway
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.config import Delivered, delivered
from dataflow.deliver.service import DeliverFailed, Part, Service, Where, read_action
from dataflow.errors import UsageError
from dataflow.flows import find_workspace, read_workspace_file, shown_path
from dataflow.logs import configure_logs, get_logger
from dataflow.messages import FOLDER, Messages
from dataflow.settings import kafka_options
from dataflow.urls import parse_sink
from operators.language.channels import channel_of
from operators.language.problems import FlowError
from operators.language.workspace import Workspace, read_workspace
from state.errors import Failed


class DeliveryFailed(Failed):
    """Delivery has ended though it should not have; the message says why."""


def now_ms() -> int:
    """The time."""
    return time.time_ns() // 1_000_000


def a_nonce() -> str:
    """A text that was never used."""
    return uuid.uuid4().hex


class Start:
    """What one `nudge deliver` was told, read and checked."""

    def __init__(
        self,
        source: str,
        channels: Sequence[str],
        config: Path | None,
        ledger: str,
        group: str,
        receipts: str,
        *,
        stop_at_end: bool,
        dry_run: bool,
    ) -> None:
        url = parse_sink(source, flag="--source")
        if url.kind != "kafka":
            raise UsageError(f"--source {source}: actions are read from Kafka; write kafka://host:9092")
        self.prefix = url.options.get("prefix", "")
        path = find_workspace([], config)
        workspace, problems = read_workspace(shown_path(path), read_workspace_file(path))
        if any(one.severity == "error" for one in problems):
            raise FlowError(problems)
        self.folder = Path() if path is None else path.parent
        self.options: Options = kafka_options(workspace.kafka)
        self.ledger = parse_ledger(ledger)
        self.messages = Messages(self.folder / FOLDER)
        if self.messages.problems:
            raise FlowError(self.messages.problems)
        self.channels = self._read_channels(workspace, channels, path)
        prefix = self.prefix
        self.where = Where(url.bootstrap, group, receipts, f"{prefix}dead-letters", self.options)
        self.stop_at_end, self.dry_run = stop_at_end, dry_run

    def _read_channels(self, workspace: Workspace, names: Sequence[str], path: Path | None) -> list[Delivered]:
        with_deliver = [name for name, one in workspace.channels.items() if one.deliver is not None]
        file = shown_path(path) or "nudge.yaml"
        for name in names:
            if name not in with_deliver:
                known = f"those that have it: {', '.join(with_deliver)}" if with_deliver else "none has it"
                raise UsageError(f"{file}: channels.{name} has no deliver:, which says how; {known}")
        if not with_deliver:
            raise UsageError(f"{file}: no channel has deliver:, so there is nothing to deliver")
        found = []
        for name in names or with_deliver:
            channel = channel_of(name, workspace)
            written = workspace.channels[name].deliver
            assert channel is not None, "it is written"
            assert written is not None, "it has it"
            topic = self.prefix + channel.topic
            shares_rate = self.ledger.kind == "redis"
            how = delivered(
                name, topic, written, self.folder, now_ms, a_nonce, shares_rate=shares_rate, messages=self.messages
            )
            found.append(how)
        return found

    def run(self) -> None:
        """Deliver, until it is told to stop.

        Raises:
            DeliveryFailed: it cannot go on.
        """
        configure_logs()
        log = get_logger()
        if self.dry_run:
            self._print_what_is_there()
            return
        owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

        def ledger_of(how: Delivered) -> Ledger:
            return open_ledger(self.ledger, self.where.group, how, owner)

        async def work() -> None:
            ends = self._ends() if self.stop_at_end else None
            service = Service(
                self.where, self.channels, ledger_of, now_ms=now_ms, chance=SystemRandom(), log=log, ends=ends,
                all_of=None if self.ledger.kind == "redis" else self._partitions(),
            )  # fmt: skip
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, service.stop)
            await _warn_of_redis(ledger_of(self.channels[0]), log)
            log.info("delivering", channels=[one.name for one in self.channels], group=self.where.group)
            await service.run()
            outcomes = {at_work.how.name: dict(at_work.outcomes) for at_work in service.at_work.values()}
            log.info("delivery has ended", outcomes=outcomes)

        try:
            asyncio.run(work())
        except DeliverFailed as error:
            raise DeliveryFailed(str(error)) from error

    def _partitions(self) -> int:
        topics = KafkaTopics(self.where.bootstrap, self.options)
        found = topics.partitions_of_all([channel.topic for channel in self.channels])
        topics.close()
        return sum(map(len, found.values()))

    def _ends(self) -> dict[Part, int]:
        """Return where the partitions end now, 0 for those in which nothing is."""
        topics = KafkaTopics(self.where.bootstrap, self.options)
        partitions = topics.partitions_of_all([channel.topic for channel in self.channels])
        found: dict[Part, int] = {}
        for topic, ends in topics.ends(partitions).items():
            starts = topics.start_offsets(topic, partitions[topic])
            for number, start, end in zip(partitions[topic], starts, ends, strict=True):
                found[topic, number] = end if end > start else 0
        topics.close()
        return found

    def _print_what_is_there(self) -> None:
        """Print what would be sent of all actions that are there now, as JSON lines; nothing is committed."""
        ends = self._ends()
        by_topic = {one.topic: one for one in self.channels}
        left = {part for part, end in ends.items() if end}
        group = f"{self.where.group}-dry-run-{uuid.uuid4().hex}"
        nothing: Any = lambda _: None  # noqa: E731
        reader = GroupReader(
            self.where.bootstrap, group, list(by_topic), self.options, given=nothing, taken=nothing, lost=nothing
        )
        while left:
            for record in reader.poll():
                part = (record.topic, record.partition)
                if record.offset < ends.get(part, 0):
                    typer.echo(orjson.dumps(_previewed(by_topic[record.topic], record)).decode())
                if record.offset + 1 >= ends.get(part, 0):
                    left.discard(part)
        reader.close()


async def _warn_of_redis(ledger: Ledger, log: Any) -> None:
    """Say which settings of a Redis can lose notes; one that is away now is told of elsewhere."""
    with suppress(LedgerAway):
        for concern in await ledger.concerns():
            log.warning("the ledger can lose notes", why=concern)
    await ledger.close()


def _previewed(how: Delivered, record: GroupRecord) -> dict[str, Any]:
    try:
        action = read_action(record.value or b"")
    except ValueError as error:
        return {"channel": how.name, "topic": record.topic, "offset": record.offset, "dead": str(error)}
    said: dict[str, Any] = {"channel": how.name, "action_id": action.action_id}
    try:
        said["sends"] = dict(how.provider.preview(action))
    except Unfit as unfit:
        said["rejected"] = {"code": unfit.code, "detail": unfit.detail}
    return said


class LedgerUrl(NamedTuple):
    """Where the ledger is: a file, or a Redis that several processes share."""

    kind: str
    place: str


def parse_ledger(url: str) -> LedgerUrl:
    """Return what a `--ledger` names.

    Raises:
        UsageError: it names none.
    """
    kind, _, path = url.partition(":")
    if kind == "sqlite" and path:
        return LedgerUrl(kind, path.removeprefix("//") if path.startswith("///") else path)
    if kind in ("redis", "rediss") and path.startswith("//"):
        if "@" in path:  # Not shown: it may be a password.
            raise UsageError(
                "--ledger: the user and the password of Redis are NUDGE_REDIS_USER and NUDGE_REDIS_PASSWORD"
            )
        return LedgerUrl("redis", url)
    raise UsageError(f"--ledger {url}: write sqlite:PATH, redis://host:6379/0, or rediss:// for TLS")


def open_ledger(url: LedgerUrl, group: str, how: Delivered, owner: str) -> Ledger:
    """Open the ledger of a channel."""
    if url.kind == "sqlite":
        return SqliteLedger(Path(url.place), how.name, owner)
    from redis.asyncio import Redis

    from connectors.ledgers.redis import PATIENCE_S, RedisLedger

    client = Redis.from_url(
        url.place,
        username=os.environ.get("NUDGE_REDIS_USER"),
        password=os.environ.get("NUDGE_REDIS_PASSWORD"),
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
    )
    return RedisLedger(client, group, how.name, owner, how.account, how.rate)
