"""Reports that fit no action yet are tried again for a day: a provider can be faster than the ledger.

They are read as a member of a consumer group, and held until they fit or their day is over. Offsets are committed
behind them, so what a process held when it died is read again.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from connectors.kafka import Options
from connectors.kafka_group import GroupError, GroupReader, GroupRecord
from connectors.kafka_writer import KafkaWriter, WriteFailed
from connectors.ledgers.base import Ledger, LedgerAway
from dataflow.deliver.offsets import Progress
from dataflow.gateway.metrics import Metrics
from dataflow.gateway.receipts import Unmatched, found_in, read_unmatched, receipt_of

TRIED_MS: Final = 24 * 3_600_000
PAUSE_MIN_MS: Final = 1_000
PAUSE_MAX_MS: Final = 600_000
AGAIN_MS: Final = 5_000  # When it could not even be tried.
HELD_MAX: Final = 50_000
ROUND_MAX: Final = 1_000
LOOK_S: Final = 0.2
COMMIT_EVERY_S: Final = 1.0
ANEW_S: Final = 10.0

Part = tuple[str, int]


class Held(NamedTuple):
    """A report, and the place that it was read from."""

    part: Part
    offset: int
    report: Unmatched


class Waiting:
    """Reports, and when each is tried again: as long after the last time as it is old, within bounds."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Held]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._due)

    def put(self, one: Held, now: int) -> None:
        """Have *one* tried again, at a time that its age says."""
        age_ms = max(0, now - one.report.since_ms)
        self.at(one, now + min(PAUSE_MAX_MS, max(PAUSE_MIN_MS, age_ms)))

    def at(self, one: Held, due_ms: int) -> None:
        """Have *one* tried at *due_ms*."""
        heapq.heappush(self._due, (due_ms, next(self._number), one))

    def due(self, now: int) -> list[Held]:
        """Return what is to be tried now; it waits no longer."""
        found: list[Held] = []
        while self._due and self._due[0][0] <= now and len(found) < ROUND_MAX:
            found.append(heapq.heappop(self._due)[2])
        return found

    def drop(self, parts: Collection[Part]) -> None:
        """Forget what was read from *parts*."""
        self._due = [one for one in self._due if one[2].part not in parts]
        heapq.heapify(self._due)


def is_over(report: Unmatched, now: int) -> bool:
    """Tell whether *report* was tried for long enough."""
    return now - report.since_ms > TRIED_MS


class Retrier:
    """Tries unmatched reports again, until it is cancelled.

    Args:
        ledgers: by channel.
        events: the topic of receipts.
    """

    def __init__(
        self, bootstrap: str, options: Options, group: str, topic: str, ledgers: Mapping[str, Ledger],
        writer: KafkaWriter, events: str, metrics: Metrics, now_ms: Callable[[], int], log: Any,
    ) -> None:  # fmt: skip
        self._where = (bootstrap, group, [topic], options)
        self._ledgers, self._writer, self._events, self._metrics = ledgers, writer, events, metrics
        self._now_ms, self._log = now_ms, log
        self._waiting = Waiting()
        self._progress: dict[Part, Progress] = {}
        self._is_over = threading.Event()

    @property
    def held(self) -> int:
        """How many reports wait."""
        return len(self._waiting)

    async def run(self) -> None:
        """Try them."""
        self._loop = asyncio.get_running_loop()
        reading = asyncio.create_task(asyncio.to_thread(self._read_all))
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                while due := self._waiting.due(self._now_ms()):
                    await self._try(due)
        finally:
            self._is_over.set()
            await reading

    async def _try(self, due: Sequence[Held]) -> None:
        by_channel: dict[str, list[Held]] = {}
        for one in due:
            by_channel.setdefault(one.report.channel, []).append(one)
        for channel, some in by_channel.items():
            now = self._now_ms()
            try:
                ledger = self._ledgers.get(channel)
                reports = [one.report for one in some]
                found = [None] * len(some) if ledger is None else await found_in(ledger, reports, now)
                fits = [(one, action) for one, action in zip(some, found, strict=True) if action is not None]
                records = [
                    receipt_of(one.report, action.action_id, action.user_id)
                    for one, action in fits
                    if not action.is_contradicted_by(one.report)
                ]
                if failures := await self._writer.begin(self._events, records):
                    raise next(iter(failures.values()))
            except (LedgerAway, WriteFailed) as error:
                self._log.warning("reports cannot be tried now", channel=channel, error=str(error))
                for one in some:
                    self._waiting.at(one, now + AGAIN_MS)
                continue
            for one, action in zip(some, found, strict=True):
                if action is not None:
                    self._metrics.receipt(channel, one.report.status)
                elif not is_over(one.report, now):
                    self._waiting.put(one, now)
                    continue
                else:
                    self._metrics.forgotten(channel)
                self._done(one.part, one.offset)

    def _done(self, part: Part, offset: int) -> None:
        if (progress := self._progress.get(part)) is not None:
            progress.done(offset)

    # ---- what the thread asks of the loop ------------------------------------------------------------------------

    async def _take(self, records: Iterable[GroupRecord]) -> None:
        now = self._now_ms()
        for record in records:
            part = (record.topic, record.partition)
            progress = self._progress.setdefault(part, Progress(record.offset))
            if record.offset < progress.position:
                continue
            progress.take(record.offset)
            try:
                report = read_unmatched(record.value or b"")
            except ValueError as error:
                self._log.error("a record is no report", topic=record.topic, offset=record.offset, why=str(error))
                progress.done(record.offset)
            else:
                self._waiting.put(Held(part, record.offset, report), now)

    async def _given(self, parts: Mapping[Part, int | None]) -> None:
        for part, offset in parts.items():
            self._progress.pop(part, None)
            if offset is not None:
                self._progress[part] = Progress(offset)

    async def _gone(self, parts: Sequence[Part]) -> dict[Part, int]:
        self._waiting.drop(set(parts))
        return {part: one.safe() for part in parts if (one := self._progress.pop(part, None)) is not None}

    async def _safe(self) -> dict[Part, int]:
        return {part: one.safe() for part, one in self._progress.items()}

    # ---- in the thread -------------------------------------------------------------------------------------------

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _read_all(self) -> None:
        while not self._is_over.is_set():
            try:
                self._read()
            except GroupError as error:
                if not self._is_over.is_set():
                    self._log.error("unmatched reports cannot be read; trying again", error=str(error))
                self._is_over.wait(ANEW_S)

    def _read(self) -> None:
        mine: set[Part] = set()
        paused: set[Part] = set()

        def given(parts: Mapping[Part, int | None]) -> None:
            self._in_loop(self._given(parts))
            mine.update(parts)
            paused.difference_update(parts)  # What is given is read, whatever was paused before.

        def gone(parts: Sequence[Part]) -> dict[Part, int]:
            mine.difference_update(parts)
            return dict(self._in_loop(self._gone(parts)))

        def taken(parts: Sequence[Part]) -> None:
            commits = gone(parts)
            with suppress(GroupError):
                self._reader.commit(commits, wait=True)

        reader = self._reader = GroupReader(
            *self._where, given=given, taken=taken, lost=gone, is_leaving=self._is_over.is_set
        )
        committed: dict[Part, int] = {}
        committed_s = 0.0
        try:
            while not self._is_over.is_set():
                wanted = mine.copy() if len(self._waiting) > HELD_MAX else set[Part]()
                reader.pause(list(wanted - paused))
                reader.resume([part for part in paused - wanted if part in mine])
                paused.clear()
                paused.update(wanted)
                if records := reader.poll():
                    self._in_loop(self._take(records))
                now_s = self._loop.time()
                if now_s - committed_s >= COMMIT_EVERY_S:
                    committed_s, safe = now_s, self._in_loop(self._safe())
                    reader.commit({part: offset for part, offset in safe.items() if committed.get(part) != offset})
                    committed = safe
            taken(list(mine))
        finally:
            reader.close()
