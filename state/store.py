"""The shard store: the users of one shard, their timers, what was counted, and the commits that can be undone.

The hot users sit in a bounded cache of slots; everything else is in a backend. A commit writes what changed since the
last one as one atomic, synced batch, together with what is needed to undo it. When too much has changed before a commit
is due, a part of it is spilled: written early, under the undo of the commit to come, so that memory stays bounded and a
crash still takes all of it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from heapq import heappop, heappush
from itertools import filterfalse, islice
from operator import itemgetter
from typing import Final

import msgspec

from state.backend import Backend, Changes
from state.errors import StateRefused
from state.meta import STORE_FORMAT, Meta, dump_meta, load_meta
from state.rows import (
    META,
    USER,
    counts_key,
    counts_rows,
    member_key,
    member_rows,
    parked_key,
    parked_rows,
    timer_key,
    timer_rows,
    undo_key,
    user_rows,
    users_of,
)
from state.undo import Rows, dump_undo, outdated_undo, rows_before
from state.user import NEVER, User, dump_user, load_user

ROWS_AT_ONCE: Final = 1000

_NONE: Final[frozenset[str]] = frozenset()

_dump_counts = msgspec.msgpack.Encoder().encode
_load_counts = msgspec.msgpack.Decoder(dict[str, int]).decode


class Slot:
    """One user in the cache.

    `row`, `row_due`, `row_journeys`, their number, and `row_audiences`, their names, are what the backend has of the
    user, `due` is what holds now.
    """

    __slots__ = ("changed", "due", "row", "row_audiences", "row_due", "row_journeys", "user")

    def __init__(self, user: User, row: bytes | None, due: int) -> None:
        self.user = user
        self.row = row
        self.due = due
        self.row_due = due
        self.row_journeys = len(user.journeys)
        self.row_audiences: Set[str] = frozenset(user.audiences) if user.audiences else _NONE
        self.changed = False


def counts_of(backend: Backend, meta: Meta) -> dict[str, dict[str, int]]:
    """Return what was counted in a shard, by the label of the flow version; *meta* is the shard's own record."""
    if meta.format == 1:
        return {label: dict(counts) for label, counts in meta.totals.items()}
    return {label: _load_counts(row) for label, row in counts_rows(backend)}


class ShardStore:
    """The users and timers of one shard, as of a commit plus what has changed since.

    Args:
        backend: where the rows are.
        cached_users: how many users may stay in memory between commits.
        changed_users: how many may have changed before a part of the next commit is spilled.
        due_of: when a user has to be looked at next; by default at the earliest wake-up.
        owner: whose shard this has to be; any, if empty.
        keeps_undo: whether it may be rolled back.

    Raises:
        StateRefused: the store is of a newer format, damaged, or somebody else's.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        cached_users: int = 100_000,
        changed_users: int = 100_000,
        due_of: Callable[[User], int] | None = None,
        owner: str = "",
        keeps_undo: bool = True,
    ) -> None:
        self._backend = backend
        self._keeps_undo = keeps_undo
        self._owner = owner
        self._due_of = due_of or earliest_wake
        self._cached_users = cached_users
        self._changed_users = changed_users
        self._young: dict[str, Slot] = {}
        self._old: dict[str, Slot] = {}  # The generation before: what is used again moves to the young one.
        self._changed: dict[str, Slot] = {}
        self._rows: Rows = {}  # Other rows that have changed.
        self._resume: Callable[[User], None] | None = None
        self._resumed: list[tuple[str, int]] = []  # Flows of which more may be parked, and when they were resumed.
        self._spilled = 0  # Parts of the next commit that are written already.
        self.meta_changed = False  # Set by whoever changes `meta` in a way that must be committed.
        self._heap: list[tuple[int, str]] = []
        self._load()

    def _load(self) -> None:
        row = self._backend.get_many([META])[0]
        meta = self.meta = load_meta(row)
        if self._owner and meta.owner not in ("", self._owner):
            raise StateRefused(
                f"this store belongs to {meta.owner}, not to {self._owner}: the directory is put together from parts; "
                "restore the whole state directory from one backup"
            )
        meta.owner = self._owner or meta.owner
        self._meta_row = row
        self._rows_from: tuple[int, str] = (0, "")  # The first timer row that the heap may lack: (due, user).
        self._parked_from = ""  # The first user of whom something may still be parked in the first resumed flow.
        self.totals: dict[str, dict[str, int]] = counts_of(self._backend, meta)
        """What was counted, by the label of the flow version, then by key: see `operators/machine/totals.py`."""
        self.counted: set[str] = set()
        """The labels whose counts have changed since the last commit."""
        self.is_of_format_1 = meta.format == 1
        """Whether the last commit was in format 1, in which users have no timer for what they wait for in a flow that
        is paused."""
        if self.is_of_format_1:
            meta.fired_ms, meta.totals = meta.time_ms, {}
            self.counted.update(self.totals)
        meta.format = STORE_FORMAT

    # ---- users -------------------------------------------------------------------------------------------------

    def prefetch(self, user_ids: Iterable[str]) -> None:
        """Bring the users that are not in memory there, with one look-up for all."""
        young, old = self._young, self._old
        strangers = list(filterfalse(young.__contains__, user_ids))
        if not strangers:
            return
        absent = []
        for user_id in dict.fromkeys(strangers):
            slot = old.pop(user_id, None)
            if slot is None:
                absent.append(user_id)
            else:
                young[user_id] = slot
        if absent:
            rows = users_of(self._backend, map(str.encode, absent))
            for user_id, row in zip(absent, rows, strict=True):
                if row is None:
                    young[user_id] = Slot(User(), None, NEVER)
                else:
                    user = load_user(row)
                    slot = young[user_id] = Slot(user, row, self._due_of(user))
                    if self._resume is not None:
                        self._resume(user)
                        self.touch_if_due(user_id, slot)

    def touch_if_due(self, user_id: str, slot: Slot) -> None:
        """Note it if the user in *slot* has to be looked at at another time than before."""
        due = self._due_of(slot.user)
        if due != slot.due:
            self.touch(user_id, slot, due)

    def slot(self, user_id: str) -> Slot:
        """Return the slot of *user_id*, a blank one for a user of whom nothing is known."""
        slot = self._young.get(user_id)
        if slot is None:
            self.prefetch((user_id,))
            slot = self._young[user_id]
        return slot

    def touch(self, user_id: str, slot: Slot, due: int) -> None:
        """Note that the user in *slot* has changed and has to be looked at again at *due*, or `NEVER`."""
        if not slot.changed:
            slot.changed = True
            self._changed[user_id] = slot
        if due != slot.due:
            slot.due = due
            if due < NEVER:
                heappush(self._heap, (due, user_id))

    def members(self, audience: str, user_id: str = "") -> Iterator[str]:
        """Yield who is in *audience* by what is written, from *user_id* on, in code-point order.

        What has changed since the last commit or spill is not seen.
        """
        for found in member_rows(self._backend, audience, user_id.encode()):
            yield found.decode()

    def scan_users(self) -> Iterator[tuple[str, User]]:
        """Yield every user that the backend has: for deployments and audits, never on the hot path."""
        for user_id, row in user_rows(self._backend):
            yield user_id.decode(), load_user(row)

    # ---- other rows --------------------------------------------------------------------------------------------

    def put_row(self, key: bytes, row: bytes | None) -> None:
        """Let the row *key*, one of neither a user nor a timer, be *row* from the next commit on; None: let it go."""
        self._rows[key] = row

    def get_row(self, key: bytes) -> bytes | None:
        """Return the row *key*, one of neither a user nor a timer, as it is now; None where there is none."""
        return self._rows[key] if key in self._rows else self._backend.get_many([key])[0]

    @property
    def written(self) -> Backend:
        """The rows as they were last written: to scan those that `put_row` has put."""
        return self._backend

    def park(self, label: str, user_id: str) -> None:
        """Note that a wake-up of the user has fallen due in the flow *label*, which is paused."""
        self.put_row(parked_key(label, user_id.encode()), b"")

    def resume(self, resumed: dict[str, int], resume: Callable[[User], None]) -> None:
        """Let what is parked in flows be due.

        Args:
            resumed: the flows by their labels, and the moment at which each was resumed.
            resume: lets what is parked of a user in these flows be due; called for every user that is loaded, now or
                later.
        """
        self._resumed, self._parked_from = sorted(resumed.items(), key=itemgetter(1)), ""
        self._resume = resume if resumed else None
        for user_id, slot in self._young.items() if resumed else ():
            resume(slot.user)
            self.touch_if_due(user_id, slot)

    def _read_parked(self) -> None:
        """Load the next users of whom something is parked in a resumed flow, which lets it be due."""
        label = self._resumed[0][0]
        rows = parked_rows(self._backend, label, self._parked_from.encode())
        found = [user_id.decode() for user_id in islice(rows, ROWS_AT_ONCE)]
        self.prefetch(found)
        for user_id in found:
            self.put_row(parked_key(label, user_id.encode()), None)
        if len(found) == ROWS_AT_ONCE:
            self._parked_from = found[-1] + "\0"
            return
        del self._resumed[0]
        self._parked_from = ""
        self.meta.resumed.pop(label, None)
        self.meta_changed = True
        if not self._resumed:
            self._resume = None

    # ---- timers ------------------------------------------------------------------------------------------------

    def next_due(self, limit: int) -> tuple[int, str, Slot] | None:
        """Return the first (due time, user, slot) due at or before *limit* in that order, or None.

        It is returned again until the user has been touched with a later due time.
        """
        heap = self._heap
        limit = min(limit, NEVER - 1)  # Behind it there are no timers, only the sign that there are none.
        while True:
            if self._rows_from[0] <= limit and (not heap or self._rows_from <= heap[0]):
                self._read_timers(limit)
                continue
            if not heap or heap[0][0] > limit:
                if self._resumed and self._resumed[0][1] <= limit:
                    self._read_parked()
                    continue
                return None
            due, user_id = heap[0]
            slot = self.slot(user_id)
            if slot.due == due:
                return due, user_id, slot
            heappop(heap)  # Left over: the user has another due time by now.

    @property
    def earliest_due(self) -> int | None:
        """Nobody is to be woken before this time; None while that is not known.

        It can be that of a user who has been woken by something else meanwhile.
        """
        try:
            first = self._heap[0][0]
        except IndexError:
            first = NEVER
        least = min(first, self._rows_from[0])
        return least if least else None

    def _read_timers(self, limit: int) -> None:
        """Take the next timer rows due at or before *limit* into the heap."""
        found: list[tuple[int, str]] = []
        start_due, start_user = self._rows_from
        for due, key in timer_rows(self._backend, start_due, start_user.encode()):
            row = (due, key.decode())
            if due > limit or len(found) == ROWS_AT_ONCE:
                self._rows_from = row
                break
            found.append(row)
        else:
            self._rows_from = (NEVER, "")
        self.prefetch(user_id for _, user_id in found)
        for due, user_id in found:
            slot = self._young[user_id]
            if slot.due == due:
                heappush(self._heap, (due, user_id))
            elif slot.row_due != due:
                # Nobody has this row in the books: it goes with the next commit, and the user is timed anew.
                slot.row_due = due
                self.touch(user_id, slot, slot.due)
                if slot.due < NEVER:
                    heappush(self._heap, (slot.due, user_id))

    # ---- commits -----------------------------------------------------------------------------------------------

    @property
    def commit_number(self) -> int:
        """The number of the last commit."""
        return self.meta.commit

    @property
    def needs_spill(self) -> bool:
        """Whether so many users have changed that `spill` should be called."""
        return len(self._changed) >= self._changed_users

    def spill(self) -> None:
        """Write what has changed so far, as a part of the next commit that a crash takes back."""
        if not (self._changed or self._rows):
            return
        changes = self._backend.changes()
        self._put_changes(changes, self.meta.commit + 1, {})
        self._backend.write(changes, sync=False)
        self._spilled += 1
        self._settle()

    def commit(self) -> int:
        """Write what has changed since the last commit, synced, and return the number of the commit."""
        if self.write():
            self.sync()
        return self.commit_number

    def write(self) -> bool:
        """Write what has changed since the last commit as the next one; False when nothing has.

        `write` and `sync` are `commit` in two parts, so that the slow one, `sync`, can run for many shards at once.
        """
        if not (self._changed or self._rows or self.counted or self._spilled or self.meta_changed):
            return False
        meta = self.meta
        meta.commit += 1
        changes = self._backend.changes()
        for label in self.counted:
            self.put_row(counts_key(label), _dump_counts(self.totals[label]))
        self._put_changes(changes, meta.commit, {META: self._meta_row})
        self._meta_row = dump_meta(meta)
        changes.put(META, self._meta_row)
        for key in outdated_undo(self._backend, meta.commit):
            changes.delete(key)
        self._backend.write(changes, sync=False)
        self._spilled = 0
        self.meta_changed = self.is_of_format_1 = False
        self.counted.clear()
        self._settle()
        return True

    def sync(self) -> None:
        """Return once everything written is on disk; may run on any thread."""
        self._backend.sync()

    def _put_changes(self, changes: Changes, commit: int, before: Rows) -> None:
        """Put what has changed into *changes*, with the undo of it.

        Args:
            commit: the number of the commit that this is a part of.
            before: how rows were that somebody else puts.
        """
        entered = 0
        put, delete = changes.put, changes.delete
        for user_id, slot in self._changed.items():
            key = user_id.encode()
            row_key = USER + key
            before[row_key] = slot.row
            journeys = len(slot.user.journeys)
            entered += journeys - slot.row_journeys
            slot.row_journeys = journeys
            if slot.user.audiences or slot.row_audiences:
                _put_memberships(slot, key, changes, before)
            if slot.user.is_blank:
                if slot.row is not None:
                    delete(row_key)
                slot.row = None
            else:
                slot.row = dump_user(slot.user)
                put(row_key, slot.row)
            if slot.due != slot.row_due:
                if slot.row_due < NEVER:
                    old_key = timer_key(slot.row_due, key)
                    before[old_key] = b""
                    delete(old_key)
                if slot.due < NEVER:
                    new_key = timer_key(slot.due, key)
                    before[new_key] = None
                    put(new_key, b"")
                slot.row_due = slot.due
        if self._rows:
            keys = list(self._rows)
            before.update(zip(keys, self._backend.get_many(keys), strict=True))
            for row_key, row in self._rows.items():
                if row is None:
                    delete(row_key)
                else:
                    put(row_key, row)
            self._rows = {}
        if self.meta.inside >= 0:
            self.meta.inside += entered
        if self._keeps_undo:
            put(undo_key(commit, self._spilled), dump_undo(before))

    def _settle(self) -> None:
        """After a write: nothing has changed, all timers are rows, and the cache goes back to its size."""
        for slot in self._changed.values():
            slot.changed = False
        self._changed = {}
        if self._heap:
            self._rows_from = min(self._rows_from, self._heap[0])
            self._heap = []
        if len(self._young) > self._cached_users // 2:
            self._old, self._young = self._young, {}

    def roll_back(self, commit: int) -> None:
        """Bring the store to *commit*: undo every later one, and whatever was spilled after it.

        Raises:
            StateRefused: the store never reached *commit*, or no longer has what is needed to undo a later one.
        """
        assert not self._changed, "a store is rolled back before it is used"
        before = rows_before(self._backend, commit)
        if before:
            changes = self._backend.changes()
            for key, row in before.items():
                if row is None:
                    changes.delete(key)
                else:
                    changes.put(key, row)
            self._backend.write(changes, sync=True)
        self._young, self._old, self._heap, self._rows, self._spilled, self.meta_changed = {}, {}, [], {}, 0, False
        self._load()

    def close(self) -> None:
        """Close the backend; what has changed since the last commit is gone."""
        self._backend.close()


def _put_memberships(slot: Slot, user_id: bytes, changes: Changes, before: Rows) -> None:
    """Put the rows of the audiences into *changes* that the user has come into or left, with the undo of it."""
    audiences = slot.user.audiences.keys()
    if audiences == slot.row_audiences:
        return
    for audience in audiences - slot.row_audiences:
        key = member_key(audience, user_id)
        before[key] = None
        changes.put(key, b"")
    for audience in slot.row_audiences - audiences:
        key = member_key(audience, user_id)
        before[key] = b""
        changes.delete(key)
    slot.row_audiences = frozenset(audiences)


def earliest_wake(user: User) -> int:
    """Return the earliest wake-up of all open branches of *user*, or `NEVER`."""
    return min((branch.wake_ms for journey in user.journeys for branch in journey.branches), default=NEVER)
