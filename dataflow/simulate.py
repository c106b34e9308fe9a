"""Virtual time: run flows over recorded events, deterministic to the byte.

The same core as the job, with one shard in memory and a single source. Every instant is handled as a whole: what is
due, then the records of that instant, user by user; what comes out is in order of time, then user, then position.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from connectors.file_source import FilePartition
from dataflow.read.disorder import Disorder
from dataflow.read.intake import Counts, Format, Intake, head_time
from dataflow.shard import Shard
from operators.language.values import DAY
from operators.machine.deployment import Deployment
from operators.machine.order import in_one_instant, in_order_of_output
from operators.machine.totals import Totals
from state.backend import OrderedBackend
from state.iso import format_ms
from state.outgoing import Action, DeadLetter, JournalRecord, dump
from state.records import Input, unpacked
from state.registerfile import in_memory
from state.store import ShardStore

RUN_ON_MS: Final = 400 * DAY  # With nothing said, time runs on until nothing waits, at most so long.
RECORDS_AT_ONCE: Final = 5000
NO_LIMIT: Final = 2**62

Outgoing = Action | JournalRecord | DeadLetter


class Simulation:
    """Run a deployment over records in virtual time.

    Args:
        action, journal, dead_letter: called with what comes out, in its final order.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        action: Callable[[Action], None] = lambda _: None,
        journal: Callable[[JournalRecord], None] = lambda _: None,
        dead_letter: Callable[[DeadLetter], None] = lambda _: None,
    ) -> None:
        store = ShardStore(OrderedBackend(), cached_users=NO_LIMIT, changed_users=NO_LIMIT, keeps_undo=False)
        register = in_memory() if deployment.asks else None
        self._shard = Shard(store, deployment, sources=1, in_order=True, register=register)
        self._deployment = deployment
        self._action = action
        self._journal = journal
        self._dead_letter = dead_letter
        self._instant: list[Input] = []
        self.records = 0
        self.dead: dict[str, int] = {}
        self.counts = Counts()
        self.mistakes = 0
        self.first_dead: dict[str, DeadLetter] = {}
        """Of each reason the first."""
        self.disorder = Disorder()
        self.ran_on_to_ms: int | None = None
        """When something last happened after the last record, None if nothing did."""
        self.half_line = 0
        """The number of a last line that was left out, since it has no end and is no whole record; 0 for none."""

    @property
    def totals(self) -> Totals:
        return self._shard.out.totals

    @property
    def has_planned(self) -> bool:
        """Whether something is still due, or planned, beyond where time ran on to."""
        return self._shard.next_due() is not None

    @property
    def duplicates(self) -> int:
        return self._shard.out.duplicates

    @property
    def unknown_receipts(self) -> int:
        """How many receipts were of actions that were not sent to that user, or too long ago."""
        return self._shard.out.unknown_receipts

    def run(self, path: Path, records: Format, until_ms: int | None = None) -> None:
        """Read the events in *path* to their end and let time run on to *until_ms*, or until nothing waits."""
        intake = Intake(
            self._deployment.index,
            records,
            topic=path.name,
            partition=0,
            source=0,
            shards=1,
            is_file=True,
            head_ms=head_time(path, records),
            watched=self._deployment.watched,
        )
        events = FilePartition(path)
        try:
            while (batch := events.poll(RECORDS_AT_ONCE)).values:
                found, dead = intake.take(batch)
                self._shard.hear(0, intake.first_ms, intake.take_updates(), is_over=False)
                for letter in dead:
                    self._dead_letter(letter)
                    self.first_dead.setdefault(letter.reason, letter)
                self.disorder.look(batch, {letter.offset for letter in dead}, records.times)
                for record in unpacked(found.get(0, [])):
                    self._record(record)
        finally:
            events.close()
        self.half_line = events.half_line
        self._end_instant()
        self._shard.advance_to(intake.time.now_ms)
        self._run_on(intake.time.now_ms, until_ms)
        self._flush(None)
        self.records = intake.counts.records
        self.dead = intake.counts.dead
        self.counts = intake.counts

    def _record(self, record: Input) -> None:
        if self._instant and record.now > self._instant[0].now:
            self._end_instant()
        self._instant.append(record)

    def _end_instant(self) -> None:
        """Handle the records of one instant: first what is due by then, then user by user, each in file order."""
        if not self._instant:
            return
        records, self._instant = self._instant, []
        self._shard.advance_to(records[0].now)
        in_one_instant(records)
        for record in records:
            self._shard.handle(record)
        self._flush(records[0].now)

    def _run_on(self, now: int, until_ms: int | None) -> None:
        last = max(now, 0) + RUN_ON_MS if until_ms is None else until_ms
        while (due := self._shard.next_due()) is not None and due <= last:
            written = len(self._shard.out.journal)
            self._shard.advance_to(due)
            if len(self._shard.out.journal) > written:
                self.ran_on_to_ms = due
            self._flush(due)

    def _flush(self, now: int | None) -> None:
        """Hand out what was emitted before *now*, in order of time, then user; everything with None."""
        out = self._shard.out
        self.mistakes += len(out.mistakes)
        out.mistakes.clear()
        if now is not None and len(out.journal) < RECORDS_AT_ONCE:
            return
        before = None if now is None else format_ms(now)
        actions, out.actions = in_order_of_output(out.actions, before)
        journal, out.journal = in_order_of_output(out.journal, before)
        for action in actions:
            self._action(action)
        for record in journal:
            self._journal(record)


def jsonl(file: IO[bytes] | None) -> Callable[[Outgoing], None]:
    """Return what writes records that go out to *file*, one line each; nothing for None."""
    if file is None:
        return lambda _: None
    write = file.write

    def emit(record: Outgoing) -> None:
        write(dump(record))
        write(b"\n")

    return emit
