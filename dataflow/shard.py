"""A shard: its users, its time, and what comes in from the sources. The same code under `simulate` and `run`.

Time moves only by what the sources say: a shard's time is the least watermark over all source partitions. A wake-up
fires when that time has reached it, or just before the next record of its user with a later stream time; in both cases
it acts as of its due time, so what happens to a user depends on that user's records alone.

With several input topics a record waits until nothing that belongs before it can still come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from dataflow.allowance import Allowance, Unlimited
from dataflow.runs import AudienceRuns, runs_of
from operators.ids import label_of
from operators.machine.deployment import Deployment
from operators.machine.event import on_record
from operators.machine.outbox import Mistake, Outbox
from operators.machine.pause import resumer
from operators.machine.receipt import KEPT_MS, on_receipt
from operators.machine.totals import Totals, inside_by
from operators.machine.wakeup import on_due, postpone
from state.errors import StoreError
from state.records import RECEIPT, Input
from state.register import Register
from state.sent import SentActions
from state.store import ShardStore, Slot
from state.user import NEVER, User

OPEN: Final = 0
"""More may come from this partition; its watermark says up to where there is nothing more."""
CLOSED: Final = 1
"""Everything there was has been read: nothing more comes, at no time."""
HALTED: Final = 2
"""Reading stopped here for now: the watermark stands."""


class Delivery(NamedTuple):
    """What a source partition sends to a shard: its number, watermark (ms) and phase, and the shard's records.

    For runs over audiences it says once when its first record came, -1 otherwise, and which audiences were updated.
    """

    source: int
    mark_ms: int
    phase: int
    records: list[Input]
    first_ms: int = -1
    updates: Sequence[tuple[str, int]] = ()


WAKES_BETWEEN_SPILLS: Final = 100  # So the next checkpoint stays small, however many fall due together.
_UNLIMITED: Final = Unlimited()

_NO_BEGINS: Final[dict[str, int]] = {}

_now_of: Final = attrgetter("now")
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
        keys: the keys of the source partitions, by number; empty where nobody changes them.
        news: where what is counted from now on is counted once more.
        keeps_sent: whether it is kept what is sent, for the receipts that come.
        begins: when versions of flows begin whose runs are planned, see `operators/machine/planning.py`.
        in_order: what is due goes strictly in order of time, then user: nothing overtakes a run that takes long.
        register: answers what no single user decides; None where no flow asks.
    """

    def __init__(
        self,
        store: ShardStore,
        deployment: Deployment,
        *,
        sources: int,
        ordered: bool = True,
        until_ms: int | None = None,
        keys: Sequence[str] = (),
        news: Totals | None = None,
        keeps_sent: bool = True,
        begins: Mapping[str, int] = _NO_BEGINS,
        in_order: bool = False,
        register: Register | None = None,
    ) -> None:
        self.store = store
        self.deployment = deployment
        self.sent = SentActions(store, kept_ms=KEPT_MS, keeps=keeps_sent)
        keeper = self.sent if self.sent.has_some else None
        self.out = Outbox(store.totals, store.counted, news, register, keeper)
        self.time_ms = store.meta.time_ms
        self.newest_ms = store.meta.newest_ms
        self.is_behind = True
        """Whether wake-ups may be left that are due by the shard's time."""
        self._until_ms = until_ms
        self._marks = [self.time_ms] * sources
        self._phases = [OPEN] * sources
        self._ordered = ordered
        self._keys = list(keys)
        self._names = self._keys or [str(number) for number in range(sources)]
        self._in_order = in_order
        self._runs = runs_of(store, deployment, self.out, self._fire, partitions=self._names, begins=begins)
        self._inside = {label: inside_by(counts) for label, counts in store.totals.items()}
        self._inside_in_all = sum(self._inside.values())
        self._held: list[tuple[int, int, int, int, Input]] = []
        self._came = 0  # Of one offset several records may come, and they stay in their order.
        self._hold_again()
        self._held_changed = False
        self._ran_on = False  # Time is beyond what the sources say, and nobody but us will remember it.
        self._woken = 0  # Since the last part of a commit was written.
        self._look_at_paused_flows()

    def take(self, deliveries: Sequence[Delivery], allowance: Allowance = _UNLIMITED) -> None:
        """Take in what the sources have sent, and do what follows from it; of what is due, as much as is allowed."""
        self.store.prefetch(map(_user_id_of, chain.from_iterable(map(_records_of, deliveries))))
        for source, mark, phase, records, first_ms, updates in deliveries:
            if self._runs is not None:
                self.hear(source, first_ms, updates, is_over=phase == CLOSED)
            if self._ordered:
                self._handle_all(records if self._runs is None else self._ready(self._runs, records))
            else:
                self._hold(records)
            self._marks[source] = max(mark, self._marks[source])
            self._phases[source] = phase
        self.sent.forget(self.time_ms)
        if self.store.needs_spill:
            self.spill()
        self._move_time()
        self.drain(allowance)

    def hear(self, source: int, first_ms: int, updates: Sequence[tuple[str, int]] = (), *, is_over: bool) -> None:
        """Take in what a source partition says for runs over audiences, see `Delivery`."""
        if self._runs is not None and (first_ms >= 0 or updates or is_over):
            self._runs.hear(self._names[source], first_ms if first_ms >= 0 else None, is_over, updates)

    def handle(self, record: Input) -> None:
        """Handle a record that is next for its user."""
        self._handle_all([record])

    def _handle_all(self, records: list[Input]) -> None:
        """Handle records in their order; a record older than the shard's time is raised to it."""
        if not records:
            return
        time_ms, newest_ms, store, deployment, out = self.time_ms, self.newest_ms, self.store, self.deployment, self.out
        slot_of, due_of = store.slot, deployment.due_of
        runs = self._runs
        for record in records:
            now = record.now
            if now < time_ms:
                now = record.now = time_ms
            newest_ms = max(newest_ms, now)
            user_id = record.user_id
            slot = slot_of(user_id)
            user = slot.user
            try:
                woken = True
                if runs is not None and runs.pending:
                    runs.catch_up(user_id, user, now)
                    self._fire(user_id, user, now)
                elif slot.due <= now:
                    self._fire(user_id, user, now)
                else:
                    woken = False
                if record.kind != RECEIPT:
                    on_record(deployment, user, record, out)
                elif not (self._handle_receipt(record, user) or woken):
                    continue
                if runs is not None and user.runs:
                    runs.forget(user)
            except StoreError:
                raise
            except Exception as error:  # What is not contained closer to its cause is here: nobody else has to wait.
                out.mistakes.append(Mistake("record", "", error, record.source, record.offset))
                postpone(deployment, user, now)
            due = due_of(user)
            if due != slot.due or not slot.changed:
                store.touch(user_id, slot, due)
                if due <= time_ms:  # At the end of time, where a wait cannot end later than it begins.
                    self.is_behind = True
        self.newest_ms = newest_ms

    def _handle_receipt(self, record: Input, user: User) -> bool:
        """Handle a receipt, and tell whether its action is known: else it leaves no trace."""
        assert record.fields is not None, "a receipt has fields"
        sent = self.sent.find(record.user_id, record.fields["action_id"], record.now)
        if sent is None:
            self.out.unknown_receipts += 1
            return False
        on_receipt(self.deployment, user, record, sent.journey, sent.action, self.out)
        return True

    def advance_to(self, time_ms: int) -> None:
        """Let the shard's time reach *time_ms*: fire what is due by then, in order of due time, then user."""
        self._decide_until(time_ms, NEVER)
        self._reach(time_ms)
        self.drain(_UNLIMITED)

    def drain(self, allowance: Allowance) -> None:
        """Do what is due by the shard's time, as far as *allowance* grants it.

        Wake-ups fire in order of due time, then user. What is left is for runs over audiences.
        """
        if not self.is_behind:
            return
        store, runs, time_ms = self.store, self._runs, self.time_ms
        granted = 0
        allowance.enter()
        while True:
            found = store.next_due(time_ms)
            member = None
            if runs is not None and runs.pending and (found is None or self._in_order):
                member = runs.next_member(time_ms, NEVER if found is None else found[0])
            if found is None and member is None:
                break
            if not granted:
                granted = allowance.grant()
                if not granted:
                    return
            granted -= 1
            if runs is not None and member is not None and (found is None or runs.is_before(found)):
                runs.enter()
            else:
                assert found is not None, "somebody's turn it is"
                self._wake(*found)
            self._woken += 1
            if self._woken >= WAKES_BETWEEN_SPILLS:
                self.spill()
        self.is_behind = False

    def _wake(self, due: int, user_id: str, slot: Slot) -> None:
        """Fire the wake-ups of a user that are due at *due*, and let the user take part in all runs by then."""
        user, runs = slot.user, self._runs
        try:
            if runs is not None and runs.pending:
                runs.catch_up(user_id, user, due)
            self._fire(user_id, user, due)
            if runs is not None:
                runs.forget(user)
        except Exception as error:
            self.out.mistakes.append(Mistake("wake-up", "", error))
            postpone(self.deployment, user, due)
        self.store.touch(user_id, slot, self.deployment.due_of(user))

    def _fire(self, user_id: str, user: User, now: int) -> None:
        on_due(self.deployment, user_id, user, now, self.out)
        if self.out.parked:
            self._park()

    @property
    def is_over(self) -> bool:
        """Whether no source partition says anything more: all are at their end, or halted."""
        return OPEN not in self._phases

    @property
    def held(self) -> int:
        """How many records wait for what belongs before them."""
        return len(self._held)

    @property
    def runs_under_way(self) -> set[str]:
        """The names of the flows of which a run has begun and is not over here."""
        return set() if self._runs is None else set(self._runs.under_way(self.time_ms))

    def next_due(self) -> int | None:
        """Return when the next wake-up falls due or the next run is planned, or None when nothing waits."""
        found = self.store.next_due(NEVER - 1)
        due = NEVER if found is None else found[0]
        if self._runs is not None and self._runs.next_ms >= 0:
            due = min(due, self._runs.next_ms)
        return due if due < NEVER else None

    @property
    def waits_until_ms(self) -> int:
        """Before its time has come to this, the shard has nothing to do but for records that are still to come."""
        due = self.store.earliest_due
        if due is None:
            return -1
        if self._held:
            due = min(due, self._held[0][0])
        return due if self._runs is None else min(due, self._runs.waits_until_ms)

    def difference(self) -> int:
        """Return how many journeys more are open by the totals than the users hold; 0, or somebody is lost.

        Holds at a commit, once it is prepared: the users' journeys are counted as their rows are made.
        """
        meta = self.store.meta
        return self._inside_in_all - meta.inside if meta.inside >= 0 else 0

    def settle(self) -> None:
        """Bring the store's own record up to date, before a commit."""
        store = self.store
        meta = store.meta
        for label in store.counted:
            inside = inside_by(store.totals[label])
            self._inside_in_all += inside - self._inside.get(label, 0)
            self._inside[label] = inside
        left = store.next_due(self.time_ms) if self.is_behind else None
        meta.fired_ms = self.time_ms if left is None else left[0]
        self._woken = 0
        # Of a flow that is resumed one day, what fell due meanwhile acts as of then: that must not be forgotten.
        if (self._ran_on or self.deployment.paused) and meta.time_ms != self.time_ms:
            store.meta_changed = True
        meta.time_ms = self.time_ms
        meta.newest_ms = self.newest_ms
        if self._held_changed:
            held = [one[-1] for one in sorted(self._held)]
            for record in held:
                record.parse_properties()  # They are written down as objects; once parsed, for all commits to come.
            meta.held = msgspec.to_builtins(held)
            meta.sources = self._keys if held else []
            store.meta_changed = True
            self._held_changed = False

    def _hold(self, records: Iterable[Input]) -> None:
        for record in records:
            record.now = max(record.now, self.time_ms)
            self.newest_ms = max(self.newest_ms, record.now)
            self._push(record)
            self._held_changed = True

    def _hold_again(self) -> None:
        """Hold what was held at the commit, under the numbers that the source partitions have now."""
        before = self.store.meta.sources
        numbers = {number: self._keys.index(key) for number, key in enumerate(before)} if self._keys else {}
        for fields in self.store.meta.held:
            record = msgspec.convert(fields, Input)
            record.source = numbers.get(record.source, record.source)
            # The flows may have changed since: what the event satisfies is asked anew.
            record.hits = self.deployment.index.match(record.name, record.parse_properties())
            self._push(record)

    def _push(self, record: Input) -> None:
        self._came += 1
        heappush(self._held, (record.now, record.source, record.offset, self._came, record))

    def _move_time(self) -> None:
        if all(phase == CLOSED for phase in self._phases):
            time_ms = max(self._marks) if self._until_ms is None else max(*self._marks, self._until_ms)
            self._ran_on = time_ms > min(self._marks)
            limit = NEVER
        else:
            time_ms = min(mark for mark, phase in zip(self._marks, self._phases, strict=True) if phase != CLOSED)
            limit = NEVER if self._ordered else time_ms
        self._release(self._decide_until(time_ms, limit))
        self._reach(time_ms)

    def _decide_until(self, time_ms: int, limit: int) -> int:
        """Decide all runs that are planned by *time_ms*; records before them come first.

        Returns the time before which held records may be handled now, at most *limit*.
        """
        runs = self._runs
        if runs is None:
            return limit
        while 0 <= runs.next_ms <= time_ms:
            self._release(min(limit, runs.next_ms))
            runs.decide()
        return min(limit, runs.next_ms)

    def _ready(self, runs: AudienceRuns, records: list[Input]) -> list[Input]:
        """Return those of *records* that can be handled now, and hold those behind a run that cannot be decided yet."""
        if not records:
            return records
        last = records[-1].now
        if runs.next_ms <= last:
            runs.decide_before(last + 1)
        if self._held:
            ready = 0  # Behind those that are held already.
        elif runs.next_ms > last:
            return records
        else:
            ready = bisect_left(records, runs.next_ms, key=_now_of)
        self._hold(records[ready:])
        return records[:ready]

    def _reach(self, time_ms: int) -> None:
        if time_ms > self.time_ms:
            self.time_ms, self.is_behind = time_ms, True

    def spill(self) -> None:
        """Write what has changed since the last commit, as a part of the next one."""
        self.store.spill()
        self._woken = 0

    def _release(self, before_ms: int) -> None:
        """Run the held records whose turn has come: those before *before_ms*, since one at it may still come."""
        held = self._held
        while held and held[0][0] < before_ms:
            self._handle_all([heappop(held)[-1]])
            self._held_changed = True
            if self.store.needs_spill:
                self.spill()

    def _park(self) -> None:
        for label, user_id in self.out.parked:
            self.store.park(label, user_id)
        self.out.parked.clear()

    def _look_at_paused_flows(self) -> None:
        """After a deployment that resumes flows, what fell due in them meanwhile acts as of now."""
        store = self.store
        meta, paused = store.meta, self.deployment.paused
        now = max(self.time_ms, self.newest_ms)
        if store.is_of_format_1 and meta.paused:
            self._give_timers(meta.paused, now)
        elif meta.paused != paused:
            gone_on = {label: now for label in meta.paused if label not in paused}
            meta.resumed = {label: at for label, at in meta.resumed.items() if label not in paused} | gone_on
        if meta.paused != paused:
            meta.paused = list(paused)
            store.meta_changed = True
        store.resume(meta.resumed, resumer(meta.resumed))

    def _give_timers(self, paused: Sequence[str], now: int) -> None:
        """Give the users in flows that were *paused* the timers that they do not have in a store of format 1."""
        store, due_of = self.store, self.deployment.due_of
        still = {*self.deployment.paused}
        for user_id, found in store.scan_users():
            concerned = [one for one in found.journeys if label_of(one.flow, one.version) in paused]
            if not concerned:
                continue
            slot = store.slot(user_id)
            # The slot was loaded as if all timers were there.
            slot.row_due = slot.due = due_of(slot.user, paused)
            for journey in slot.user.journeys:
                label = label_of(journey.flow, journey.version)
                if label in paused and label not in still:
                    for branch in journey.branches:
                        branch.wake_ms = max(branch.wake_ms, now)
            store.touch(user_id, slot, due_of(slot.user))
            if store.needs_spill:
                store.spill()
