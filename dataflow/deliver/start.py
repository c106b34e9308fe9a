"""From the command line to delivery at work."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson
import typer

from connectors.channels.base import Unfit
from connectors.kafka import MISSING_S, STAMPED_BY_BROKER, KafkaTopics, Options, how_to_create
from connectors.kafka_group import GroupReader, GroupRecord
from connectors.kafka_writer import KafkaWriter
from connectors.ledgers.base import Ledger, LedgerAway, LedgerRefuses, ToLook, ToReopen, ToTold
from connectors.ledgers.sqlite import SqliteLedger
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered, delivered
from dataflow.deliver.counts import ChannelLook
from dataflow.deliver.masking import masked, without
from dataflow.deliver.service import DeliverFailed, Part, Service, Where, read_action
from dataflow.errors import UsageError, at_file
from dataflow.flows import find_workspace, read_workspace_file, shown_path
from dataflow.logs import configure_logs, get_logger
from dataflow.messages import FOLDER, Messages
from dataflow.settings import kafka_options
from dataflow.urls import parse_sink
from operators.delivery.machine import NEVER, Place
from operators.language.channels import channel_of
from operators.language.problems import FlowError
from operators.language.workspace import Workspace, read_workspace
from state.delivery import ACCEPTED, EXPIRED, OK, PERMANENT, TOKEN, UNKNOWN, Answer, Entry, Outcome
from state.errors import Failed
from state.iso import format_ms, parse_iso_ms
from state.outgoing import Action, Cause

LOOK_TIMEOUT_S: Final = 5.0
LOOK_AGAIN_S: Final = 0.25
STATUS_MOST: Final = 1_000
PREVIEWED_TOGETHER: Final = 500
CYCLES_AFTER: Final = 10_000
"""So many objects more, and the collector looks for cycles among them. By Python's own 700 it looks at what is open all
the time, and finds nothing: only what goes wrong makes cycles."""


class Served(Protocol):
    """What answers over HTTP while delivery is at work."""

    def close(self) -> None:
        """Stop answering."""
        ...


Serving = Callable[[Callable[[], Sequence[ChannelLook]]], Served]


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
        source: str | None,
        channels: Sequence[str],
        config: Path | None,
        ledger: str,
        group: str,
        receipts: str,
        *,
        stop_at_end: bool,
        dry_run: bool,
    ) -> None:
        bootstrap, self.prefix = _kafka(source)
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
        self.where = Where(bootstrap, group, receipts, f"{prefix}dead-letters", self.options)
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
            with at_file(file):
                how = delivered(
                    name, topic, written, self.folder, now_ms, a_nonce, shares_rate=shares_rate, messages=self.messages
                )
            found.append(how)
        for how in found:
            others = [
                other
                for other in with_deliver
                if (shares := channel_of(other, workspace)) is not None and self.prefix + shares.topic == how.topic
            ]
            if missing := [one for one in others if one not in {known.name for known in found}]:
                raise UsageError(
                    f"{file}: the channels {' and '.join(others)} share the topic {how.topic}, so they are delivered "
                    f"together: name {' and '.join(missing)}, too, or give {how.name} a topic of its own"
                )
        return found

    def run(self, serving: Serving | None = None) -> None:
        """Deliver, until it is told to stop.

        Args:
            serving: told how to look at the channels before anything is read; what it returns is closed at the end.

        Raises:
            DeliveryFailed: it cannot go on.
        """
        self._must_have_source()
        configure_logs()
        log = get_logger()
        if self.dry_run:
            self._print_what_is_there()
            return
        self._must_have_topics(log)
        owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

        def ledger_of(how: Delivered) -> Ledger:
            return open_ledger(self.ledger, self.where.group, how, owner)

        async def work() -> None:
            ends = self._ends() if self.stop_at_end else None
            partitions = self._partitions()  # If there is no answer, this says why.
            await warn_of_ledger(ledger_of(self.channels[0]), log)
            service = Service(
                self.where, self.channels, ledger_of, now_ms=now_ms, chance=SystemRandom(), log=log, ends=ends,
                all_of=None if self.ledger.kind == "redis" else partitions,
            )  # fmt: skip
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, service.stop)

            def looks() -> Sequence[ChannelLook]:
                return asyncio.run_coroutine_threadsafe(service.look(), loop).result(LOOK_TIMEOUT_S)

            served = None if serving is None else serving(looks)
            log.info("delivering", channels=[one.name for one in self.channels], group=self.where.group)
            try:
                await service.run()
            finally:
                if served is not None:
                    await asyncio.to_thread(served.close)
            outcomes = {at_work.how.name: dict(at_work.counts.outcomes) for at_work in service.at_work}
            log.info("delivery has ended", outcomes=outcomes)

        gc.collect()
        gc.freeze()  # What is there by now stays, and need not be looked at.
        gc.set_threshold(CYCLES_AFTER)
        try:
            asyncio.run(work())
        except DeliverFailed as error:
            raise DeliveryFailed(str(error)) from error

    def _partitions(self) -> int:
        with closing(KafkaTopics(self.where.bootstrap, self.options)) as topics:
            found = topics.partitions_of_all([channel.topic for channel in self.channels])
        return sum(map(len, found.values()))

    def _ends(self) -> dict[Part, int]:
        """Return where the partitions end now, 0 for those in which nothing is."""
        found: dict[Part, int] = {}
        with closing(KafkaTopics(self.where.bootstrap, self.options)) as topics:
            partitions = topics.partitions_of_all([channel.topic for channel in self.channels])
            for topic, ends in topics.ends(partitions).items():
                starts = topics.start_offsets(topic, partitions[topic])
                for number, start, end in zip(partitions[topic], starts, ends, strict=True):
                    found[topic, number] = end if end > start else 0
        return found

    def _must_have_topics(self, log: Any) -> None:
        """See that receipts and dead letters have a topic, and say which channel has none yet.

        Raises:
            UsageError: one of the two is missing.
        """
        where = self.where
        needed = {where.receipts: "where receipts go", where.dead_letters: "which `nudge run` makes when it starts"}
        until_s = time.monotonic() + MISSING_S
        with closing(KafkaTopics(where.bootstrap, self.options)) as topics:
            while True:
                there = topics.partitions_of_all([*needed, *(one.topic for one in self.channels)])
                missing = [topic for topic in needed if not there[topic]]
                if not missing or time.monotonic() > until_s:
                    break
                time.sleep(LOOK_AGAIN_S)
        for topic in missing:
            settings = [STAMPED_BY_BROKER] if topic == where.receipts else []
            command = how_to_create(where.bootstrap, topic, *settings)
            raise UsageError(f"there is no topic {topic} at {where.bootstrap}, {needed[topic]}; create it: {command}")
        for one in self.channels:
            if not there[one.topic]:
                log.warning(
                    "the topic of a channel is not there yet; `nudge run` makes it when a flow in force sends there",
                    channel=one.name, topic=one.topic,
                )  # fmt: skip

    def _must_have_source(self) -> None:
        if not self.where.bootstrap:
            raise UsageError("--source is missing: the Kafka with the actions, as kafka://host:9092")

    def _print_what_is_there(self) -> None:
        """Print what would be sent of all actions that are there now, as JSON lines; nothing is committed.

        Raises:
            LedgerAway: it cannot be told what was delivered already.
        """
        some: list[tuple[Delivered, GroupRecord]] = []
        for one in self._all_that_is_there():
            some.append(one)
            if len(some) >= PREVIEWED_TOGETHER:
                asyncio.run(self._print(some))
                some = []
        asyncio.run(self._print(some))

    async def _print(self, some: Sequence[tuple[Delivered, GroupRecord]]) -> None:
        said = [_previewed(how, record) for how, record in some]
        for how in self.channels:
            ids = [one["action_id"] for one in said if one["channel"] == how.name and "action_id" in one]
            known = await self._outcomes(how, ids)
            for place, one in enumerate(said):
                if (outcome := known.get(one.get("action_id", ""))) is not None:
                    had = {"status": outcome.status, "at": format_ms(outcome.at_ms), "code": outcome.code}
                    said[place] = {"channel": one["channel"], "action_id": one["action_id"], "outcome": had}
        for one in said:
            typer.echo(orjson.dumps(one).decode())

    async def _outcomes(self, how: Delivered, action_ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the outcomes that actions have already. A ledger in a file is not made for that."""
        if not action_ids or (self.ledger.kind == "sqlite" and not Path(self.ledger.place).exists()):
            return {}
        ledger = open_ledger(self.ledger, self.where.group, how, "dry-run")
        try:
            noted = await ledger.note([ToLook(one) for one in action_ids], now_ms())
        finally:
            await ledger.close()
        return {
            one: found.entry.outcome
            for one, found in zip(action_ids, noted, strict=True)
            if found.entry is not None and found.entry.outcome is not None
        }

    def _all_that_is_there(self) -> Iterator[tuple[Delivered, GroupRecord]]:
        """Read all records that the channels' topics have now; nothing is committed."""
        ends = self._ends()
        by_topic: dict[str, list[Delivered]] = {}
        for one in self.channels:
            by_topic.setdefault(one.topic, []).append(one)
        left = {part for part, end in ends.items() if end}
        group = f"{self.where.group}-look-{uuid.uuid4().hex}"
        nothing: Any = lambda _: None  # noqa: E731
        reader = GroupReader(
            self.where.bootstrap, group, list(by_topic), self.options, given=nothing, taken=nothing, lost=nothing
        )
        try:
            while left:
                for record in reader.poll():
                    part = (record.topic, record.partition)
                    if record.offset < ends.get(part, 0):
                        yield _channel_of(record, by_topic[record.topic]), record
                    if record.offset + 1 >= ends.get(part, 0):
                        left.discard(part)
        finally:
            reader.close()

    # ---- what people do by hand --------------------------------------------------------------------------------

    def status(self) -> None:
        """Print what the ledger has without a final outcome, as JSON lines, with a line of each channel behind.

        Raises:
            LedgerAway: it cannot be read.
        """

        async def print_all() -> None:
            for how in self.channels:
                ledger = open_ledger(self.ledger, self.where.group, how, "status")
                try:
                    found = await ledger.unsettled(STATUS_MOST)
                finally:
                    await ledger.close()
                for action_id, entry in found.oldest:
                    typer.echo(orjson.dumps(_said(how, action_id, entry)).decode())
                summary = {"channel": how.name, "open": found.open, "unknown": found.unknown}
                typer.echo(orjson.dumps(summary).decode())

        asyncio.run(print_all())

    def replay(self, action_id: str) -> None:
        """Send an action that is unknown again: somebody has decided that it was not sent, or may be sent twice.

        It is called as any other, with retries, until it has an outcome, which is printed.

        Raises:
            UsageError: it is not unknown, or nowhere.
            DeliveryFailed: it was not accepted.
            LedgerAway: it cannot be noted.
        """
        self._must_have_source()
        configure_logs("warning")
        owner = f"replay/{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

        async def look() -> Entry | None:
            ledger = open_ledger(self.ledger, self.where.group, self.channels[0], owner)
            try:
                return (await ledger.note([ToLook(action_id)], now_ms()))[0].entry
            finally:
                await ledger.close()

        found = asyncio.run(look())
        if found is None:
            raise UsageError(f"--replay {action_id}: the ledger does not know it; --status lists what it knows")
        if found.outcome is not None and found.outcome.status != UNKNOWN:
            raise UsageError(
                f"--replay {action_id}: it is {found.outcome.status}, and only what is unknown can be sent again"
            )
        if found.owner and found.outcome is None and found.lease_ms > now_ms():
            raise UsageError(f"--replay {action_id}: {found.owner} is calling for it now; look at --status in a minute")
        how, action = self._action_of(action_id)
        outcome = asyncio.run(self._replayed(how, action, owner))
        typer.echo(orjson.dumps({"channel": how.name, "action_id": action_id, **asdict(outcome)}).decode())
        if outcome.status != ACCEPTED:
            raise DeliveryFailed(f"{action_id} is {outcome.status}: {outcome.code}")

    def _action_of(self, action_id: str) -> tuple[Delivered, Action]:
        for how, record in self._all_that_is_there():
            if action_id.encode() in (record.value or b""):
                with suppress(ValueError):
                    action = read_action(record.value or b"")
                    if action.action_id == action_id:
                        return how, action
        topics = ", ".join(one.topic for one in self.channels)
        raise UsageError(f"--replay {action_id}: it is not on {topics} any more, so nobody knows what to send")

    async def _replayed(self, how: Delivered, action: Action, owner: str) -> Outcome:
        ledger = open_ledger(self.ledger, self.where.group, how, owner)
        await ledger.note([ToReopen(action.action_id)], now_ms())
        writer = KafkaWriter(self.where.bootstrap, self.options)
        is_done = asyncio.Event()
        at_work = ChannelAtWork(
            how, ledger, writer, self.where.receipts, now_ms, SystemRandom(), lambda _: is_done.set(), get_logger()
        )
        at_work.take(action, Place("replay-0", 0))
        at_work.go()
        await is_done.wait()
        (noted,) = await ledger.note([ToLook(action.action_id)], now_ms())
        assert noted.entry is not None, "it has just been noted"
        assert noted.entry.outcome is not None, "it is done"
        with suppress(LedgerAway):  # Then its receipt is written once more.
            await ledger.note([ToTold(action.action_id, noted.entry.outcome)], now_ms())
        await at_work.close()
        await writer.close()
        return noted.entry.outcome

    def test(self, to: str, template: str, given: Mapping[str, Any]) -> None:
        """Send one message to *to*, apart from all actions, and print what comes of it.

        Raises:
            DeliveryFailed: it was not accepted.
        """
        (how,) = self.channels
        action = Action(
            action_id=a_nonce(), channel=how.name, user_id="nudge-test", to=to, flow="nudge-test", version=1,
            journey_id=a_nonce(), step="test", visit=1, template=template, vars=dict(given), category="notification",
            at=format_ms(now_ms()), expires_at=None, seq=1, cause=Cause("nudge-test", None),
        )  # fmt: skip

        async def call() -> Answer:
            try:
                answer = await how.provider.call(action)
                if answer.kind == TOKEN and await how.provider.renew():
                    answer = await how.provider.call(action)
            except Unfit as unfit:
                answer = Answer(PERMANENT, unfit.code, unfit.detail)
            finally:
                await how.provider.close()
            return answer

        answer = without(asyncio.run(call()), how.secrets)
        typer.echo(orjson.dumps({"channel": how.name, "action_id": action.action_id, **asdict(answer)}).decode())
        if answer.kind != OK:
            raise DeliveryFailed(f"{how.name}: the provider has not taken it: {answer.kind} {answer.code}")


def _kafka(source: str | None) -> tuple[str, str]:
    """Return where a Kafka is, and what its topics begin with; nothing where none is named."""
    if source is None:
        return "", ""
    if not source.startswith("kafka:"):
        raise UsageError(f"--source {source}: actions are read from Kafka; write kafka://host:9092")
    url = parse_sink(source, flag="--source")
    return url.bootstrap, url.options.get("prefix", "")


def _said(how: Delivered, action_id: str, entry: Entry) -> dict[str, Any]:
    said: dict[str, Any] = {
        "channel": how.name, "action_id": action_id, "user_id": entry.user_id, "attempt": entry.attempt,
        "since": format_ms(entry.since_ms),
    }  # fmt: skip
    outcome = entry.outcome
    if outcome is None:
        return {**said, "state": "open", "owner": entry.owner or None}
    return {
        **said,
        "state": outcome.status,
        "at": format_ms(outcome.at_ms),
        "code": outcome.code,
        "detail": masked(outcome.detail),
    }


async def warn_of_ledger(ledger: Ledger, log: Any) -> None:
    """Say which settings of a ledger can lose notes; one that is away now is told of elsewhere.

    Raises:
        LedgerRefuses: it will not come back by itself.
    """
    try:
        await ledger.note([ToLook("")], now_ms())
        for concern in await ledger.concerns():
            log.warning("the ledger can lose notes", why=concern)
    except LedgerRefuses:
        raise
    except LedgerAway as error:
        log.warning("the ledger does not answer", why=str(error))
    finally:
        await ledger.close()


def _channel_of(record: GroupRecord, some: Sequence[Delivered]) -> Delivered:
    """Return whose action *record* is; of one that is nobody's, any."""
    with suppress(ValueError):
        name = read_action(record.value or b"").channel
        return next((one for one in some if one.name == name), some[0])
    return some[0]


def _previewed(how: Delivered, record: GroupRecord) -> dict[str, Any]:
    try:
        action = read_action(record.value or b"")
        if action.channel != how.name:
            raise ValueError(f"`channel` is {action.channel!r}")
    except ValueError as error:
        return {"channel": how.name, "topic": record.topic, "offset": record.offset, "dead": str(error)}
    said: dict[str, Any] = {"channel": how.name, "action_id": action.action_id}
    if (parse_iso_ms(action.expires_at or "") or NEVER) <= now_ms():
        return {**said, "rejected": {"code": EXPIRED, "detail": ""}}
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
        if "@" in path or {"username", "password"} & set(
            parse_qs(urlsplit(url).query, keep_blank_values=True)
        ):  # Not shown: it may be a password.
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

    try:
        client = Redis.from_url(
            url.place,
            username=os.environ.get("NUDGE_REDIS_USER"),
            password=os.environ.get("NUDGE_REDIS_PASSWORD"),
            socket_timeout=PATIENCE_S,
            socket_connect_timeout=PATIENCE_S,
        )
        pool: Any = client.connection_pool
        pool.make_connection()  # It connects nowhere yet, and says which options there are.
    except (TypeError, ValueError) as error:
        raise UsageError(f"--ledger: {str(error).rpartition('__init__() ')[2]}") from None
    return RedisLedger(client, group, how.name, owner, how.account, how.rate)
