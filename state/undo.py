"""Undo: how a store, or a look at it, goes back to an earlier commit.

Every commit is written with what is needed to take it back, because the engine may resume from a cut that is a few
commits old (`docs/architecture.md`, "Checkpoints").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

import msgspec

from state.backend import Backend, Changes
from state.errors import StateRefused
from state.meta import read_meta
from state.rows import META, UNDO_END, USER, place_of, timer_key, undo_key
from state.user import NEVER

UNDO_KEPT: Final = 3  # The engine's resume epoch may lag by one; one more for a backup taken meanwhile, one in hand.


Rows = dict[bytes, bytes | None]
"""Rows by their keys; None for one that is not there."""

dump_undo = msgspec.msgpack.Encoder().encode
"""Return the row that tells how the rows were which a part of a commit has changed: `Rows`, whatever they are."""

_decode_rows = msgspec.msgpack.Decoder(Rows).decode


def load_undo(row: bytes) -> Rows:
    """Return the rows as they were before the part of a commit that *row* is the undo of."""
    if row[0] & 0xF0 == _SHORT_LIST:
        return _rows_of_format_1(_decode_undo_1(row))
    return _decode_rows(row)


_SHORT_LIST: Final = 0x90  # Of msgpack: so begins an `_Undo1`, and nothing else that is written here.


class _UndoneUser1(msgspec.Struct, array_like=True, gc=False):
    """How one user was before a commit, and the timer that the commit wrote."""

    user_id: str
    old_row: bytes | None
    old_due: int
    new_due: int


class _Undo1(msgspec.Struct, array_like=True):
    """Undo as stores of format 1 have it; `meta` is None in a part that was spilled, b"" where there was no row."""

    meta: bytes | None
    users: list[_UndoneUser1]


_decode_undo_1 = msgspec.msgpack.Decoder(_Undo1).decode


def _rows_of_format_1(undo: _Undo1) -> Rows:
    before: Rows = {}
    for one in undo.users:
        key = one.user_id.encode()
        before[USER + key] = one.old_row
        if one.new_due < NEVER:
            before[timer_key(one.new_due, key)] = None
        if one.old_due < NEVER:
            before[timer_key(one.old_due, key)] = b""
    if undo.meta is not None:
        before[META] = undo.meta or None
    return before


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
    keys = [key for key, _ in backend.scan(undo_key(commit + 1, 0), UNDO_END)]
    missing = set(range(commit + 1, last + 1)) - {place_of(key)[0] for key in keys}
    if missing:
        raise StateRefused(
            f"the state is at commit {last} and cannot go back to {commit}: the undo of commit {min(missing)} "
            "is gone; restore the whole state directory from one backup"
        )
    return keys


def rows_before(backend: Backend, commit: int) -> Rows:
    """Return what has to be put (or, None, deleted) to bring the rows of *backend* back to *commit*.

    It takes back every later commit, and whatever was spilled after the last one. Empty when there is none.

    Raises:
        StateRefused: as `undo_keys`.
    """
    before: Rows = {}
    for undo_row in reversed(undo_keys(backend, commit)):
        row = backend.get_many([undo_row])[0]
        assert row is not None
        before.update(load_undo(row))
        before[undo_row] = None
    return before


def undo_parts(backend: Backend) -> list[tuple[int, int]]:
    """Return (commit, part) of every undo row, in order."""
    return [place_of(key) for key, _ in backend.scan(undo_key(0, 0), UNDO_END)]


def outdated_undo(backend: Backend, commit: int) -> Iterator[bytes]:
    """Yield the keys of the undo rows that nobody needs once *commit* is written."""
    for key, _ in backend.scan(undo_key(0, 0), undo_key(max(0, commit - UNDO_KEPT + 1), 0)):
        yield key


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

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._backend.close()
