"""`nudge deliver` at work: what is read goes to its channel, and offsets are committed behind what is done.

A thread reads as a member of the consumer group, everything else happens in one event loop. When others get partitions,
the thread waits until what is open in them has ended; nothing new begins there meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import msgspec

from connectors.formats.parsing import is_too_deep, parse_object
from connectors.kafka import Options
from connectors.kafka_group import GroupError, GroupReader, GroupRecord
from connectors.kafka_writer import KafkaWriter, WriteFailed
from connectors.ledgers.base import Ledger, LedgerAway
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.config import Delivered
from dataflow.deliver.counts import ChannelLook
from dataflow.deliver.masking import masked
from dataflow.deliver.offsets import Progress
from dataflow.deliver.watch import watch
from operators.delivery.machine import Place
from state.outgoing import RAW_KEPT_BYTES, Action, DeadLetter, DeadReason, dump
from state.records import Reject

COMMIT_EVERY_S: Final = 1.0
LOOK_S: Final = 0.05
FULL_AGAIN: Final = 0.8  # Below this share of what a channel may have open it reads again.
MARGIN_S: Final = 5.0
FIRST_PATIENCE_S: Final = 15.0  # Who comes second stops first: the other is not to be disturbed.
LATER_PATIENCE_S: Final = 60.0
FORGET_EVERY_S: Final = 86_400.0
UNTOLD_EVERY_S: Final = 30.0
LEVELS_MAX: Final = 200
"""So deep an action nests at most: as deep as all can read and write who get it from us."""
_decode: Final = msgspec.json.Decoder(Action).decode

Part = tuple[str, int]


def read_action(raw: bytes) -> Action:
    """Return an action.

    Raises:
        ValueError: it is none.
    """
    if is_too_deep(raw, LEVELS_MAX):
        raise ValueError(f"objects and lists nest more than {LEVELS_MAX} levels deep")
    return _decode(raw)


def why_no_action(raw: bytes, error: ValueError) -> tuple[DeadReason, str]:
    """Return why *raw* is no action, as all dead letters say it; *error* is what reading it gave."""
    found = parse_object(raw)
    if isinstance(found, Reject):
        return found.reason, found.detail
    if found.get("user_id") in (None, ""):
        return "no_user", "`user_id` is missing, null or empty"
    return "bad_type", str(error)


class DeliverFailed(Exception):
    """Delivery cannot go on; the message says why."""


@dataclass(slots=True)
class _Partition:
    channels: Mapping[str, ChannelAtWork]
    """Those whose actions it has, by name: several may share a topic."""
    progress: Progress | None = None
    is_paused: bool = False
    committed: int = -1


@dataclass(frozen=True, slots=True)
class Where:
    """The Kafka that actions are read from and receipts are written to."""

    bootstrap: str
    group: str
    receipts: str
    dead_letters: str
    options: Options = field(default_factory=dict)


class Service:
    """Delivers channels until it is told to stop, or one of them cannot go on.

    Args:
        channels: those to deliver.
        ledger_of: opens the ledger of a channel.
        ends: with each partition up to where it is read, to stop there; None to go on for ever.
        all_of: how many partitions there are, where this process must have all; None where others may have some.
    """

    def __init__(
        self,
        where: Where,
        channels: Sequence[Delivered],
        ledger_of: Callable[[Delivered], Ledger],
        *,
        now_ms: Callable[[], int],
        chance: Random,
        log: Any,
        ends: Mapping[Part, int] | None = None,
        all_of: int | None = None,
    ) -> None:
        self._where, self._channels, self._ledger_of = where, channels, ledger_of
        self._now_ms, self._chance, self._log, self._ends = now_ms, chance, log, ends
        self._partitions: dict[Part, _Partition] = {}
        self._all_of = all_of
        self._patience_s = FIRST_PATIENCE_S
        self._incomplete_s: float | None = None
        self._stop = asyncio.Event()
        self._failure = ""
        self._to_pause: set[Part] = set()
        self._paused: set[Part] = set()
        self._is_over = threading.Event()
        self._burials: set[asyncio.Task[None]] = set()
        self._waits_for_all = bool(all_of)  # Who must have all calls nobody before.
        self._has_told = False  # What others have noted and not told.
        self._by_topic: dict[str, dict[str, ChannelAtWork]] = {}
        self._beside: list[asyncio.Task[None]] = []
        self.at_work: list[ChannelAtWork] = []

    def stop(self) -> None:
        """End soon: nothing new begins, what is open ends."""
        self._stop.set()

    async def run(self) -> None:
        """Deliver.

        Raises:
            DeliverFailed: it cannot go on.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = KafkaWriter(self._where.bootstrap, self._where.options)
        for how in self._channels:
            ledger = self._ledger_of(how)
            channel = ChannelAtWork(
                how, ledger, self._writer, self._where.receipts, self._now_ms, self._chance, self._done, self._log
            )
            self.at_work.append(channel)
            self._by_topic.setdefault(how.topic, {})[how.name] = channel
        reading = asyncio.create_task(asyncio.to_thread(self._read_all))
        self._beside = [
            asyncio.create_task(self._forget_daily()),
            asyncio.create_task(self._tell_untold()),
            asyncio.create_task(watch(self._writer, self._log, "receipts wait, and no new actions are read")),
        ]
        try:
            while not self._stop.is_set() and not reading.done():
                self._look_around()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LOOK_S)
        finally:
            self._is_over.set()
            await reading
            for task in self._beside:
                task.cancel()
            for channel in self.at_work:
                await channel.close()
            left = await self._writer.close()
        if self._failure:
            raise DeliverFailed(self._failure)
        if left:
            raise DeliverFailed(f"{left} receipts are not acknowledged; they are written again at the next start")

    async def look(self) -> list[ChannelLook]:
        """Return what can be seen of all channels."""
        have = Counter(topic for topic, _ in self._partitions)
        return [channel.look(have[channel.how.topic]) for channel in self.at_work]

    # ---- in the loop -------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Pause what is full, and see whether this is the end."""
        for channel in self.at_work:
            if channel.failure is not None:
                self._failure = masked(f"{channel.how.name}: {type(channel.failure).__name__} {channel.failure}")
                self.stop()
        self._must_have_all()
        for task in self._beside:
            self._must_go_on(task)
        paused = set()
        for part, one in self._partitions.items():
            one.is_paused = any(
                machine.is_full or (one.is_paused and machine.open > FULL_AGAIN * machine.policy.open_max)
                for machine in (channel.machine for channel in one.channels.values())
            )
            is_read = one.progress is not None and self._is_read(part, one.progress)
            if self._waits_for_all or one.is_paused or is_read:
                paused.add(part)
        self._to_pause = paused
        if self._ends is not None and self._is_at_its_end():
            self.stop()

    async def _forget_daily(self) -> None:
        while True:
            for channel in self.at_work:
                with suppress(LedgerAway):  # Tomorrow is early enough.
                    await channel.forget()
            await asyncio.sleep(FORGET_EVERY_S)

    async def _tell_untold(self) -> None:
        """Now and then write the receipts that a process has owed when it ended."""
        while True:
            try:
                for channel in self.at_work:
                    while await channel.tell_untold():
                        pass
                self._has_told = True
            except LedgerAway:  # Others say so.
                pass
            except WriteFailed as failed:
                self._failure = self._failure or f"{self._where.receipts} cannot be written: {failed}"
                self.stop()
            await asyncio.sleep(UNTOLD_EVERY_S if self._has_told else COMMIT_EVERY_S)

    def _must_have_all(self) -> None:
        """A ledger in a file is for one process: stop where others of the group have partitions."""
        if self._all_of is None or not self._partitions:
            return
        if len(self._partitions) >= self._all_of:
            self._incomplete_s, self._patience_s, self._waits_for_all = None, LATER_PATIENCE_S, False
            return
        now_s = self._loop.time()
        self._incomplete_s = self._incomplete_s or now_s
        if now_s - self._incomplete_s > self._patience_s:
            self._failure = (
                f"other processes of the group {self._where.group} have {self._all_of - len(self._partitions)} of "
                f"{self._all_of} partitions, and a ledger in a file is for one process; "
                "stop them, or let all share one with --ledger redis://host"
            )
            self.stop()

    def _is_read(self, part: Part, progress: Progress) -> bool:
        return self._ends is not None and progress.position >= self._ends.get(part, 0)

    def _is_at_its_end(self) -> bool:
        assert self._ends is not None
        for part, end in self._ends.items():
            one = self._partitions.get(part)
            if end and (one is None or one.progress is None or one.progress.position < end):
                return False
        is_open = any(channel.machine.open for channel in self.at_work)
        return self._has_told and not self._burials and not is_open

    def _take(self, records: Sequence[GroupRecord]) -> None:
        touched: set[ChannelAtWork] = set()
        for record in records:
            part = (record.topic, record.partition)
            one = self._partitions.get(part)
            if one is None:
                continue
            if one.progress is None:
                one.progress = Progress(record.offset)
            if self._is_read(part, one.progress) or record.offset < one.progress.position:
                continue
            one.progress.take(record.offset)
            place = Place(f"{record.topic}-{record.partition}", record.offset)
            if record.value is None:
                one.progress.done(record.offset)
                continue
            try:
                action = read_action(record.value)
            except ValueError as error:
                self._begin_burial(record, one, *why_no_action(record.value, error))
                continue
            channel = one.channels.get(action.channel)
            if channel is None:
                there = " and ".join(one.channels)
                why = f"`channel` is {action.channel!r}, and {record.topic} has the actions of {there}"
                self._begin_burial(record, one, "bad_type", why)
                continue
            channel.take(action, place)
            touched.add(channel)
        for channel in touched:
            channel.go()

    def _begin_burial(self, record: GroupRecord, one: _Partition, reason: DeadReason, why: str) -> None:
        next(iter(one.channels.values())).counts.dead += 1
        assert one.progress is not None, "the record is on its way"
        task = asyncio.create_task(self._bury(record, reason, why, one.progress))
        self._burials.add(task)
        task.add_done_callback(self._buried)

    def _buried(self, task: asyncio.Task[None]) -> None:
        self._burials.discard(task)
        self._must_go_on(task)

    def _must_go_on(self, task: asyncio.Task[None]) -> None:
        """Stop where *task* has ended by a fault."""
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or masked(f"{type(error).__name__} {error}")
            self.stop()

    async def _bury(self, record: GroupRecord, reason: DeadReason, why: str, progress: Progress) -> None:
        value = record.value or b""
        self._log.warning(
            "a record is no action, and goes to the dead letters",
            topic=record.topic, partition=record.partition, offset=record.offset, why=masked(why),
        )  # fmt: skip
        letter = DeadLetter(record.topic, record.partition, record.offset, reason, why, value[:RAW_KEPT_BYTES])
        key, content = f"{record.topic}-{record.partition}", dump(letter)
        headers = [("reason", reason.encode()), ("content-type", b"application/json")]
        failures = await self._writer.begin(self._where.dead_letters, [(key, content)], headers)
        if failures:  # Not committed: it is read again at the next start.
            self._failure = self._failure or f"{self._where.dead_letters} cannot be written: {failures[0]}"
            self.stop()
        else:
            progress.done(record.offset)

    def _done(self, place: Place) -> None:
        topic, _, number = place.partition.rpartition("-")
        one = self._partitions.get((topic, int(number)))
        if one is not None and one.progress is not None:
            one.progress.done(place.offset)

    def _given(self, parts: Mapping[Part, int | None]) -> None:
        for part, offset in parts.items():
            progress = None if offset is None else Progress(offset)
            self._partitions[part] = _Partition(self._by_topic[part[0]], progress)

    async def _give_back(self, parts: Sequence[Part], *, is_lost: bool, is_last: bool = False) -> dict[Part, int]:
        """Begin nothing more in *parts*; return what may be committed of them once nothing is open there.

        Where these are the last ones, what is open of partitions that others have by now is waited for, too.
        """
        names = [f"{topic}-{number}" for topic, number in parts]
        for channel in self.at_work:
            channel.give_back(names)
        if not is_lost:
            longest_s = max((one.how.policy.call_ms for one in self.at_work), default=0) / 1000
            until_s = self._loop.time() + longest_s + MARGIN_S
            while self._loop.time() < until_s and self._is_open(None if is_last else names):
                await asyncio.sleep(0.01)
        commits = {}
        for part in parts:
            one = self._partitions.pop(part, None)
            if one is not None and one.progress is not None and not is_lost:
                commits[part] = one.progress.safe()
        return commits

    def _is_open(self, partitions: Sequence[str] | None) -> bool:
        """Tell whether an action of *partitions* is open; None: any action."""
        machines = [channel.machine for channel in self.at_work]
        if partitions is None:
            return any(machine.open for machine in machines)
        return any(machine.has_open(name) for machine in machines for name in partitions)

    async def _commits(self) -> dict[Part, int]:
        found = {}
        for part, one in self._partitions.items():
            if one.progress is not None and (safe := one.progress.safe()) != one.committed:
                found[part] = one.committed = safe
        return found

    # ---- in the thread that reads ------------------------------------------------------------------------------

    def _read_all(self) -> None:
        where = self._where
        reader = None
        try:
            reader = GroupReader(
                where.bootstrap, where.group, list(self._by_topic), where.options,
                given=self._on_given, taken=self._on_taken, lost=self._on_lost,
                is_leaving=self._is_over.is_set, begins_paused=True,
            )  # fmt: skip
            self._reader = reader
            committed_s = 0.0
            while not self._is_over.is_set():
                wanted = set(self._partitions)
                if not self._waits_for_all:
                    wanted &= self._to_pause
                reader.pause(list(wanted - self._paused))
                reader.resume([part for part in self._paused - wanted if part in self._partitions])
                self._paused = wanted
                records = reader.poll()
                if records:
                    self._in_loop(self._take_all(records))
                now_s = self._loop.time()
                if now_s - committed_s >= COMMIT_EVERY_S:
                    committed_s = now_s
                    reader.commit(self._in_loop(self._commits()))
            self._on_taken(list(self._partitions), is_last=True)
        except GroupError as error:
            if not self._is_over.is_set():
                self._failure = self._failure or f"the actions cannot be read: {error}"
        finally:
            if reader is not None:
                reader.close()

    async def _take_all(self, records: Sequence[GroupRecord]) -> None:
        self._take(records)

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _given_now(self, parts: Mapping[Part, int | None]) -> None:
        self._given(parts)

    def _on_given(self, parts: Mapping[Part, int | None]) -> None:
        self._in_loop(self._given_now(parts))
        self._paused |= parts.keys()

    def _on_taken(self, parts: Sequence[Part], *, is_last: bool = False) -> None:
        commits = self._in_loop(self._give_back(parts, is_lost=False, is_last=is_last))
        try:
            self._reader.commit(commits, wait=True)
        except GroupError as error:  # Others read that again, and find in the ledger what became of it.
            self._log.warning("offsets could not be committed", why=str(error))

    def _on_lost(self, parts: Sequence[Part]) -> None:
        self._in_loop(self._give_back(parts, is_lost=True))
