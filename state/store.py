"""The shard store: the users of one shard, their timers, and the commits that can be undone.

The hot users sit in a bounded cache of slots; everything else is in a backend. A commit writes what changed since the
last one as one atomic, synced batch, together with what is needed to undo it. When too much has changed before a commit
is due, a part of it is spilled: written early, under the undo of the commit to come, so that memory stays bounded and a
crash still takes all of it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import filterfalse
from typing import Final

from state.backend import Backend, Changes
from state.errors import StateRefused
from state.meta import dump_meta, load_meta
from state.rows import META, USER, timer_key, timer_rows, undo_key, user_rows, users_of
from state.undo import Undo, UndoneUser, dump_undo, outdated_undo, rows_before
from state.user import NEVER, User, dump_user, load_user

TIMER_ROWS_AT_ONCE: Final = 1000


class Slot:
    """One user in the cache.

    `row`, `row_due` and `row_journeys`, their number, are what the backend has of the user, `due` is what holds now.
    """

    __slots__ = ("changed", "due", "row", "row_due", "row_journeys", "user")

    def __init__(self, user: User, row: bytes | None, due: int) -> None:
        self.user = user
        self.row = row
        self.due = due
        self.row_due = due
        self.row_journeys = len(user.journeys)
        self.changed = False


class ShardStore:
    """The users and timers of one shard, as of a commit plus what has changed since.

    Args:
        backend: where the rows are.
        cached_users: how many users may stay in memory between commits.
        changed_users: how many may have changed before a part of the next commit is spilled.
        due_of: when a user has to be looked at next; by default at the earliest wake-up.
        owner: whose shard this has to be; any, if empty.

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
    ) -> None:
        self._backend = backend
        self._owner = owner
        self._due_of = due_of or earliest_wake
        self._cached_users = cached_users
        self._changed_users = changed_users
        self._young: dict[str, Slot] = {}
        self._old: dict[str, Slot] = {}  # The generation before: what is used again moves to the young one.
        self._changed: dict[str, Slot] = {}
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
                    young[user_id] = Slot(user, row, self._due_of(user))

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

    def scan_users(self) -> Iterator[tuple[str, User]]:
        """Yield every user that the backend has: for deployments and audits, never on the hot path."""
        for user_id, row in user_rows(self._backend):
            yield user_id.decode(), load_user(row)

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
            if due > limit or len(found) == TIMER_ROWS_AT_ONCE:
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
        changes = self._backend.changes()
        self._put_changes(changes, None)
        self._backend.write(changes, sync=False)
        self._spilled += 1
        self._settle()

    def commit(self) -> int:
        """Write what has changed since the last commit, synced, and return the number of the commit."""
        changes = self.prepare()
        if changes is not None:
            self.write(changes)
            self.finish()
        return self.commit_number

    def prepare(self) -> Changes | None:
        """Return the batch of the next commit, or None with nothing changed.

        `prepare`, `write` and `finish` are `commit` in three parts, so that the slow one, `write`, can run for many
        shards at once.
        """
        if not (self._changed or self._spilled or self.meta_changed):
            return None
        meta = self.meta
        number = meta.commit + 1
        changes = self._backend.changes()
        old_meta_row = self._meta_row or b""
        meta.commit = number
        self._put_changes(changes, old_meta_row, number)
        self._meta_row = dump_meta(meta)
        changes.put(META, self._meta_row)
        for key in outdated_undo(self._backend, number):
            changes.delete(key)
        return changes

    def write(self, changes: Changes) -> None:
        """Write a prepared commit and wait until it is on disk; may run on any thread."""
        self._backend.write(changes, sync=True)

    def finish(self) -> None:
        """Take note that the prepared commit is written."""
        self._spilled = 0
        self.meta_changed = False
        self._settle()

    def _put_changes(self, changes: Changes, old_meta: bytes | None, number: int | None = None) -> None:
        undone = []
        entered = 0
        put, delete = changes.put, changes.delete
        for user_id, slot in self._changed.items():
            key = user_id.encode()
            undone.append(UndoneUser(user_id, slot.row, slot.row_due, slot.due))
            journeys = len(slot.user.journeys)
            entered += journeys - slot.row_journeys
            slot.row_journeys = journeys
            if slot.user.is_blank:
                if slot.row is not None:
                    delete(USER + key)
                slot.row = None
            else:
                slot.row = dump_user(slot.user)
                put(USER + key, slot.row)
            if slot.due != slot.row_due:
                if slot.row_due < NEVER:
                    delete(timer_key(slot.row_due, key))
                if slot.due < NEVER:
                    put(timer_key(slot.due, key), b"")
                slot.row_due = slot.due
        if self.meta.inside >= 0:
            self.meta.inside += entered
        undo = Undo(old_meta, undone)
        put(undo_key(self.meta.commit + 1 if number is None else number, self._spilled), dump_undo(undo))

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
        self._young, self._old, self._heap, self._spilled, self.meta_changed = {}, {}, [], 0, False
        self._load()

    def close(self) -> None:
        """Close the backend; what has changed since the last commit is gone."""
        self._backend.close()


def earliest_wake(user: User) -> int:
    """Return the earliest wake-up of all open branches of *user*, or `NEVER`."""
    return min((branch.wake_ms for journey in user.journeys for branch in journey.branches), default=NEVER)
