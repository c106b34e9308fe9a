"""A shard: its users, its time, and what comes in from the sources. The same code under `simulate` and `run`.

Time moves only by what the sources say: a shard's time is the least watermark over all source partitions. A wake-up
fires when that time has reached it, or just before the next record of its user with a later stream time; in both cases
it acts as of its due time, so what happens to a user depends on that user's records alone.

With several input topics a record waits until nothing that belongs before it can still come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from operators.machine.deployment import Deployment
from operators.machine.event import on_record
from operators.machine.outbox import Mistake, Outbox
from operators.machine.pause import PauseChange
from operators.machine.totals import read_totals
from operators.machine.wakeup import on_due, postpone
from state.records import Input
from state.store import ShardStore
from state.user import NEVER

OPEN: Final = 0
"""More may come from this partition; its watermark says up to where there is nothing more."""
CLOSED: Final = 1
"""Everything there was has been read: nothing more comes, at no time."""
HALTED: Final = 2
"""Reading stopped here for now: the watermark stands."""


class Delivery(NamedTuple):
    """What a source partition sends to a shard: its number, watermark (ms) and phase, and the shard's records."""

    source: int
    mark_ms: int
    phase: int
    records: list[Input]


WAKES_BETWEEN_SPILLS: Final = 1000

_records_of: Final = attrgetter("records")
_user_id_of: Final = attrgetter("user_id")


class Shard:
    """The users of one shard and the shard's stream time.

    Args:
        store: rolled back to the commit to go on from.
        deployment: the flows in force.
        sources: how many source partitions there are, over all topics.
        ordered: whether records come in order by themselves, as from a single topic.
        until_ms: up to where time runs on once all sources are closed; None: to the newest record.
    """

    def __init__(
        self,
        store: ShardStore,
        deployment: Deployment,
        *,
        sources: int,
        ordered: bool = True,
        until_ms: int | None = None,
    ) -> None:
        self.store = store
        self.deployment = deployment
        self.out = Outbox(store.meta.totals)
        self.time_ms = store.meta.time_ms
        self.newest_ms = store.meta.newest_ms
        self._until_ms = until_ms
        self._marks = [self.time_ms] * sources
        self._closed = [False] * sources
        self._ordered = ordered
        self._held: list[tuple[int, int, int, Input]] = []
        for fields in store.meta.held:
            record = msgspec.convert(fields, Input)
            # The flows may have changed since: what the event satisfies is asked anew.
            record.hits = deployment.index.match(record.name, record.parse_properties())
            heappush(self._held, (record.now, record.source, record.offset, record))
        self._held_changed = False
        self._ran_on = False  # Time is beyond what the sources say, and nobody but us will remember it.
        self._resumed = False  # Flows go on whose wake-ups are due at the time that it is already.
        if store.meta.paused != deployment.paused:
            self._look_at_paused_flows()

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take in what the sources have sent, and do what follows from it."""
        self.store.prefetch(map(_user_id_of, chain.from_iterable(map(_records_of, deliveries))))
        for source, mark, phase, records in deliveries:
            if self._ordered:
                self._handle_all(records)
            else:
                self._hold(records)
            self._marks[source] = max(mark, self._marks[source])
            self._closed[source] = phase == CLOSED
        if self.store.needs_spill:
            self.store.spill()
        self._move_time()

    def handle(self, record: Input) -> None:
        """Handle a record that is next for its user."""
        self._handle_all([record])

    def _handle_all(self, records: list[Input]) -> None:
        """Handle records in their order; a record older than the shard's time is raised to it."""
        if not records:
            return
        time_ms, newest_ms, store, deployment, out = self.time_ms, self.newest_ms, self.store, self.deployment, self.out
        slot_of, due_of = store.slot, deployment.due_of
        for record in records:
            now = record.now
            if now < time_ms:
                now = record.now = time_ms
            newest_ms = max(newest_ms, now)
            user_id = record.user_id
            slot = slot_of(user_id)
            user = slot.user
            try:
                if slot.due <= now:
                    on_due(deployment, user_id, user, now, out)
                on_record(deployment, user, record, out)
            except Exception as error:  # What is not contained closer to its cause is here: nobody else has to wait.
                out.mistakes.append(Mistake("record", "", error, record.source, record.offset))
                postpone(deployment, user, now)
            due = due_of(user)
            if due != slot.due or not slot.changed:
                store.touch(user_id, slot, due)
        self.newest_ms = newest_ms

    def advance_to(self, time_ms: int) -> None:
        """Let the shard's time reach *time_ms*: fire what is due by then, in order of due time, then user."""
        if time_ms < self.time_ms or (time_ms == self.time_ms and not self._resumed):
            return
        self.time_ms, self._resumed = time_ms, False
        store, deployment, out = self.store, self.deployment, self.out
        fired = 0
        while (found := store.next_due(time_ms)) is not None:
            due, user_id, slot = found
            try:
                on_due(deployment, user_id, slot.user, due, out)
            except Exception as error:
                out.mistakes.append(Mistake("wake-up", "", error))
                postpone(deployment, slot.user, due)
            store.touch(user_id, slot, deployment.due_of(slot.user))
            fired += 1
            if fired % WAKES_BETWEEN_SPILLS == 0 and store.needs_spill:
                store.spill()

    @property
    def held(self) -> int:
        """How many records wait for what belongs before them."""
        return len(self._held)

    def next_due(self) -> int | None:
        """Return when the next wake-up falls due, or None when nothing waits."""
        found = self.store.next_due(NEVER - 1)
        return None if found is None else found[0]

    def difference(self) -> int:
        """Return how many journeys more are open by the totals than the users hold; 0, or somebody is lost.

        Holds at a commit, once it is prepared: the users' journeys are counted as their rows are made.
        """
        meta = self.store.meta
        return sum(one.inside for one in read_totals(meta.totals).values()) - meta.inside if meta.inside >= 0 else 0

    def settle(self) -> None:
        """Bring the store's own record up to date, before a commit."""
        meta = self.store.meta
        # Of a flow that is resumed one day, what fell due meanwhile acts as of then: that must not be forgotten.
        if (self._ran_on or self.deployment.paused) and meta.time_ms != self.time_ms:
            self.store.meta_changed = True
        meta.time_ms = self.time_ms
        meta.newest_ms = self.newest_ms
        if self._held_changed:
            held = [record for _, _, _, record in sorted(self._held)]
            for record in held:
                record.parse_properties()  # They are written down as objects; once parsed, for all commits to come.
            meta.held = msgspec.to_builtins(held)
            self.store.meta_changed = True
            self._held_changed = False

    def _hold(self, records: Iterable[Input]) -> None:
        for record in records:
            record.now = max(record.now, self.time_ms)
            self.newest_ms = max(self.newest_ms, record.now)
            heappush(self._held, (record.now, record.source, record.offset, record))
            self._held_changed = True

    def _move_time(self) -> None:
        if all(self._closed):
            self._ran_on = True
            time_ms = max(self._marks) if self._until_ms is None else max(*self._marks, self._until_ms)
            self._release(NEVER)
        else:
            time_ms = min(mark for mark, closed in zip(self._marks, self._closed, strict=True) if not closed)
            self._release(time_ms)
        self.advance_to(time_ms)

    def _release(self, before_ms: int) -> None:
        """Run the held records whose turn has come: those before *before_ms*, since one at it may still come."""
        held = self._held
        while held and held[0][0] < before_ms:
            self._handle_all([heappop(held)[3]])
            self._held_changed = True
            if self.store.needs_spill:
                self.store.spill()

    def _look_at_paused_flows(self) -> None:
        """After a deployment that pauses or resumes flows: wake-ups that fell due meanwhile act as of now."""
        store, deployment = self.store, self.deployment
        change = PauseChange(store.meta.paused, deployment)
        self._resumed = change.resumes
        now = max(self.time_ms, self.newest_ms)
        for user_id, user in store.scan_users():
            if not change.concerns(user):
                continue
            slot = store.slot(user_id)
            # The slot was loaded as the flows are now, but the user's timer row is from before.
            slot.row_due = slot.due = change.due_before(slot.user)
            change.resume(slot.user, now)
            store.touch(user_id, slot, deployment.due_of(slot.user))
            if store.needs_spill:
                store.spill()
        store.meta.paused = list(deployment.paused)
        store.meta_changed = True
