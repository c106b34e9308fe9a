"""The shard store: the users of one shard, their timers, and the commits that can be undone.

The hot users sit in a bounded cache of slots; everything else is in a key-value backend, RocksDB or a dict. A commit
writes what changed since the last one as one atomic, synced batch, together with what is needed to undo it, because
the engine may resume from a cut that is a few commits old (`docs/architecture.md`, "Checkpoints"). When too much has
changed before a commit is due, a part of it is spilled: written early, under the undo of the commit to come, so that
memory stays bounded and a crash still takes all of it back.

Keys of the backend, all bytes:

    u <user_id>                 the user's row (state/user.py)
    t <due, 8 bytes> <user_id>  timer: the earliest moment at which the user has to be looked at
    z <commit, 8> <part, 4>     undo of one part of one commit
    m                           the shard's own record, `Meta`
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import filterfalse
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from state.errors import NewerFormatError, StateRefused, StoreError
from state.user import NEVER, User, dump_user, load_user

STORE_FORMAT: Final = 1
UNDO_KEPT: Final = 3  # The engine's resume epoch may lag by one; one more for a backup taken meanwhile, one in hand.
TIMER_ROWS_AT_ONCE: Final = 1000

_META_KEY: Final = b"m"
_UNDO_END: Final = b"{"  # Behind every undo row.


class Changes(Protocol):
    """A batch of writes that becomes visible as a whole."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...


class Backend(Protocol):
    """An ordered map from bytes to bytes with atomic batches."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]: ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows with `start <= key < stop`, in order of the key, as they are when the scan begins."""
        ...

    def changes(self) -> Changes: ...

    def write(self, changes: Changes, *, sync: bool) -> None:
        """Apply *changes*; with *sync* they have reached the disk when this returns."""
        ...

    def close(self) -> None: ...


class _DictChanges:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        self.rows[key] = None


class MemoryBackend:
    """A backend in a dict: for `simulate` and for tests."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, row) for key, row in self.rows.items() if start <= key < stop)

    def changes(self) -> _DictChanges:
        return _DictChanges()

    def write(self, changes: Changes, *, sync: bool) -> None:
        assert isinstance(changes, _DictChanges)
        for key, value in changes.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def close(self) -> None:
        pass


class RocksBackend:
    """A backend in one RocksDB database.

    Small write buffers, because a process has many of these databases open at once.

    Args:
        read_only: open it as it is at this moment, also beside a process that writes to it, and leave every file alone.

    Raises:
        StoreError: it cannot be opened. Read-only beside a writer that may pass: files come and go.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        import rocksdict

        self._links: tempfile.TemporaryDirectory[str] | None = None
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(not read_only)
        options.set_write_buffer_size(8 * 2**20)
        options.set_max_write_buffer_number(3)
        options.set_max_total_wal_size(64 * 2**20)
        options.set_keep_log_file_num(2)
        # Whoever only reads opens all files at once: the writer may delete any of them later.
        options.set_max_open_files(-1 if read_only else 64)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(rocksdict.Cache(2**20 if read_only else 8 * 2**20))
        options.set_block_based_table_factory(table)
        access = rocksdict.AccessType.read_only() if read_only else rocksdict.AccessType.read_write()
        try:
            folder = self._linked(path) if read_only else path
            self._db = rocksdict.Rdict(str(folder), options, access_type=access)
        except Exception as error:  # rocksdict raises bare Exception with RocksDB's message.
            self._unlink()
            # Beside a writer files come and go, and that passes; else they are missing for good.
            raise _failure("open", path, error, may_pass=read_only) from error
        self._path = path
        self._rocksdict: Any = rocksdict
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True
        self._unsynced = rocksdict.WriteOptions()

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            return self._db.get(keys)  # type: ignore[no-any-return]
        except Exception as error:
            raise _failure("read", self._path, error) from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = self._db.iter()
        rows.seek(start)
        while rows.valid():
            key = rows.key()
            if key >= stop:
                return
            yield key, rows.value()
            rows.next()
        try:
            rows.status()  # A block that cannot be read ends an iteration like the last row does.
        except Exception as error:
            raise _failure("read", self._path, error) from error

    def changes(self) -> Changes:
        return self._rocksdict.WriteBatch(raw_mode=True)  # type: ignore[no-any-return]

    def write(self, changes: Changes, *, sync: bool) -> None:
        try:
            self._db.write(changes, self._synced if sync else self._unsynced)
        except Exception as error:
            raise _failure("write", self._path, error) from error

    def close(self) -> None:
        self._db.close()
        self._unlink()

    def _linked(self, path: Path) -> Path:
        """Return a folder of links to the database's files: rocksdict writes a file of its own even to read."""
        self._links = tempfile.TemporaryDirectory(prefix="nudge-read-")
        folder = Path(self._links.name)
        for file in path.iterdir():
            if file.suffix in (".sst", ".log") or file.name.startswith(("CURRENT", "IDENTITY", "MANIFEST-")):
                (folder / file.name).symlink_to(file.absolute())
        return folder

    def _unlink(self) -> None:
        if self._links is not None:
            self._links.cleanup()
            self._links = None


def _failure(what: str, path: Path, error: Exception, *, may_pass: bool = False) -> StoreError:
    """Return what to raise for an error of RocksDB: rocksdict has nothing but messages."""
    text = str(error)
    if not may_pass and ("Corruption" in text or "No such file" in text):
        return StateRefused(f"{path} is damaged ({text}): restore the whole state directory from one backup")
    return StoreError(f"cannot {what} {path}: {text}")


class Meta(msgspec.Struct, array_like=True):
    """The shard's own record.

    `time_ms` is the shard's stream time at the commit, `newest_ms` the newest stream time of a record it has taken.
    `totals` counts, per flow and version (joined by the byte 0x1F), what happened: see `operators/machine/outbox.py`.
    `paused` lists the flow versions that were paused; `held` the records that wait for their turn. `owner` is whose
    shard this is: a directory put together from parts is found out by it. `inside` is how many open journeys the users
    hold, counted as their rows are written and so apart from `totals`; -1 where nobody counted.
    """

    format: int = STORE_FORMAT
    commit: int = 0
    time_ms: int = -1
    newest_ms: int = -1
    totals: dict[str, dict[str, int]] = {}
    paused: list[str] = []
    held: list[Any] = []
    owner: str = ""
    inside: int = -1


class _UndoneUser(msgspec.Struct, array_like=True, gc=False):
    """How one user was before a commit, and the timer that the commit wrote."""

    user_id: str
    old_row: bytes | None
    old_due: int
    new_due: int


class _Undo(msgspec.Struct, array_like=True):
    meta: bytes | None
    users: list[_UndoneUser]


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


_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder().decode
_decode_meta = msgspec.msgpack.Decoder(Meta).decode
_decode_undo = msgspec.msgpack.Decoder(_Undo).decode


def _timer_key(due: int, user_id: bytes) -> bytes:
    return b"t" + due.to_bytes(8, "big") + user_id


def _undo_key(commit: int, part: int) -> bytes:
    return b"z" + commit.to_bytes(8, "big") + part.to_bytes(4, "big")


def _commit_of(undo_key: bytes) -> int:
    return int.from_bytes(undo_key[1:9], "big")


def read_meta(backend: Backend) -> Meta:
    """Return the shard's own record.

    Raises:
        StateRefused: it is of a newer format or damaged.
    """
    return _meta_of(backend.get_many([_META_KEY])[0])


def _meta_of(row: bytes | None) -> Meta:
    if row is None:
        return Meta(inside=0)
    try:
        written = _decode_any(row)[0]  # First: what a newer format has behind it, nobody knows.
        if written <= STORE_FORMAT:
            return _decode_meta(row)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise StateRefused(
            f"the store's own record is damaged ({error}): restore the whole state directory from one backup"
        ) from None
    raise NewerFormatError(
        f"the state has format {written}, this version of nudge reads up to {STORE_FORMAT}: "
        "use the version that wrote it, or a newer one"
    )


def undo_keys(backend: Backend, commit: int) -> list[bytes]:
    """Return the undo rows that lead *backend* back to *commit*, oldest first.

    Raises:
        StateRefused: the store never reached *commit*, or no longer has what is needed to undo a later one.
    """
    last = read_meta(backend).commit
    if commit > last:
        raise StateRefused(
            f"the state is at commit {last}, but {commit} is needed: part of it is older than the rest; "
            "restore the whole state directory from one backup"
        )
    keys = [key for key, _ in backend.scan(_undo_key(commit + 1, 0), _UNDO_END)]
    missing = set(range(commit + 1, last + 1)) - {_commit_of(key) for key in keys}
    if missing:
        raise StateRefused(
            f"the state is at commit {last} and cannot go back to {commit}: the undo of commit {min(missing)} "
            "is gone; restore the whole state directory from one backup"
        )
    return keys


def rows_before(backend: Backend, commit: int) -> dict[bytes, bytes | None]:
    """Return what has to be put (or, None, deleted) to bring the rows of *backend* back to *commit*.

    It takes back every later commit, and whatever was spilled after the last one. Empty when there is none.

    Raises:
        StateRefused: as `undo_keys`.
    """
    before: dict[bytes, bytes | None] = {}
    for undo_key in reversed(undo_keys(backend, commit)):
        row = backend.get_many([undo_key])[0]
        assert row is not None
        undone = _decode_undo(row)
        for one in undone.users:
            key = one.user_id.encode()
            before[b"u" + key] = one.old_row
            if one.new_due < NEVER:
                before[_timer_key(one.new_due, key)] = None
            if one.old_due < NEVER:
                before[_timer_key(one.old_due, key)] = b""
        if undone.meta is not None:
            before[_META_KEY] = undone.meta or None
        before[undo_key] = None
    return before


def user_rows(backend: Backend) -> Iterator[tuple[bytes, bytes]]:
    """Yield (user id, row) of every user, as they are written."""
    for key, row in backend.scan(b"u", b"v"):
        yield key[1:], row


def timer_rows(backend: Backend) -> Iterator[tuple[int, bytes]]:
    """Yield (due time, user id) of every timer, in that order."""
    for key, _ in backend.scan(b"t", b"u"):
        yield int.from_bytes(key[1:9], "big"), key[9:]


def users_of(backend: Backend, user_ids: Sequence[bytes]) -> list[bytes | None]:
    """Return the rows of users, None for one who has none."""
    return backend.get_many([b"u" + user_id for user_id in user_ids])


def has_timers(backend: Backend, timers: Sequence[tuple[int, bytes]]) -> list[bool]:
    """Tell for each (due time, user id) whether there is such a timer."""
    return [row is not None for row in backend.get_many([_timer_key(due, user_id) for due, user_id in timers])]


def undo_parts(backend: Backend) -> list[tuple[int, int]]:
    """Return (commit, part) of every undo row, in order."""
    keys = [key for key, _ in backend.scan(b"z", _UNDO_END)]
    return [(_commit_of(key), int.from_bytes(key[9:], "big")) for key in keys]


class AsOf:
    """A backend as it was at an earlier commit: reads through to *backend*, and never writes.

    What later commits have changed is held in memory.

    Raises:
        StateRefused: as `undo_keys`.
    """

    def __init__(self, backend: Backend, commit: int) -> None:
        self._backend = backend
        self._before = rows_before(backend, commit)
        self._sorted = sorted(self._before)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        rows = self._backend.get_many(keys)
        if self._before:
            rows = [self._before.get(key, row) for key, row in zip(keys, rows, strict=True)]
        return rows

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        before = self._before
        changed = self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, stop)]
        if not changed:
            yield from self._backend.scan(start, stop)
            return
        put = iter([(key, row) for key in changed if (row := before[key]) is not None])
        following = next(put, None)
        for key, row in self._backend.scan(start, stop):
            while following is not None and following[0] <= key:
                yield following
                following = next(put, None)
            if key not in before:
                yield key, row
        while following is not None:
            yield following
            following = next(put, None)

    def changes(self) -> Changes:
        raise AssertionError("a look at an earlier commit changes nothing")

    def write(self, changes: Changes, *, sync: bool) -> None:
        raise AssertionError("a look at an earlier commit changes nothing")

    def close(self) -> None:
        self._backend.close()


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
        row = self._backend.get_many([_META_KEY])[0]
        meta = self.meta = _meta_of(row)
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
            rows = self._backend.get_many([b"u" + user_id.encode() for user_id in absent])
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
        for key, row in self._backend.scan(b"u", b"v"):
            yield key[1:].decode(), load_user(row)

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
        """Nobody is to be woken before this time; None while that is not known. May be asked by any thread.

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
        for key, _ in self._backend.scan(_timer_key(start_due, start_user.encode()), b"u"):
            row = (int.from_bytes(key[1:9], "big"), key[9:].decode())
            if row[0] > limit or len(found) == TIMER_ROWS_AT_ONCE:
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
    def is_changed(self) -> bool:
        """Whether a commit would write something."""
        return bool(self._changed or self._spilled or self.meta_changed)

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
        if not self.is_changed:
            return None
        meta = self.meta
        number = meta.commit + 1
        changes = self._backend.changes()
        old_meta_row = self._meta_row or b""
        meta.commit = number
        self._put_changes(changes, old_meta_row, number)
        self._meta_row = _encode(meta)
        changes.put(_META_KEY, self._meta_row)
        for key, _ in self._backend.scan(_undo_key(0, 0), _undo_key(max(0, number - UNDO_KEPT + 1), 0)):
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
            undone.append(_UndoneUser(user_id, slot.row, slot.row_due, slot.due))
            journeys = len(slot.user.journeys)
            entered += journeys - slot.row_journeys
            slot.row_journeys = journeys
            if slot.user.is_blank:
                if slot.row is not None:
                    delete(b"u" + key)
                slot.row = None
            else:
                slot.row = dump_user(slot.user)
                put(b"u" + key, slot.row)
            if slot.due != slot.row_due:
                if slot.row_due < NEVER:
                    delete(_timer_key(slot.row_due, key))
                if slot.due < NEVER:
                    put(_timer_key(slot.due, key), b"")
                slot.row_due = slot.due
        if self.meta.inside >= 0:
            self.meta.inside += entered
        undo = _Undo(old_meta, undone)
        put(_undo_key(self.meta.commit + 1 if number is None else number, self._spilled), _encode(undo))

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
