"""The ledger in one SQLite file: for one process, and whoever looks up what it has sent.

    actions     what has begun and what became of it, by the action's id
    untold      those of them whose receipt may be missing; in a table that earlier versions leave alone

Notes are made by one thread, as many together as have come meanwhile. A note is on the disk once its future is done;
a hundred cost one sync as one does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from connectors.ledgers.base import (
    KEPT_MS,
    LedgerAway,
    Note,
    Noted,
    ToLook,
    Unsettled,
    made_of,
)
from state.delivery import Entry, Outcome
from state.errors import StateRefused

FORMAT: Final = 1
PATIENCE_S: Final = 5.0
FORGOTTEN_TOGETHER: Final = 1_000
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS actions (
    action_id TEXT PRIMARY KEY, channel TEXT, attempt INTEGER, since_ms INTEGER, user_id TEXT, owner TEXT,
    lease_ms INTEGER, status TEXT, at_ms INTEGER, code TEXT, detail TEXT, provider_id TEXT, further TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_provider ON actions (channel, provider_id) WHERE provider_id != '';
CREATE INDEX IF NOT EXISTS by_time ON actions (at_ms) WHERE at_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS unsettled ON actions (channel, since_ms) WHERE status IS NULL OR status = 'unknown';
CREATE TABLE IF NOT EXISTS untold (action_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_COLUMNS: Final = (
    "attempt, since_ms, user_id, owner, lease_ms, status, at_ms, code, detail, provider_id, further, "
    "action_id IN (SELECT action_id FROM untold)"
)


class SqliteLedger:
    """The ledger of one channel in a file.

    Args:
        path: the file; it is made.
        channel: whose actions they are.
        owner: who begins attempts, another name for each start of a process.

    Raises:
        StateRefused: it is no ledger, or a newer one.
    """

    def __init__(self, path: Path, channel: str, owner: str) -> None:
        self._channel, self._owner = channel, owner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._database = self._thread.submit(_opened, path).result()
        self._path = path

    async def note(self, notes: Sequence[Note], now: int) -> list[Noted]:
        """Make *notes*; see `Ledger`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._note, list(notes), now)

    def _note(self, notes: list[Note], now: int) -> list[Noted]:
        database = self._database
        try:
            # Who only looks waits for nobody who writes.
            database.execute("BEGIN" if all(isinstance(note, ToLook) for note in notes) else "BEGIN IMMEDIATE")
            try:
                found = [self._one(note, now) for note in notes]
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise LedgerAway(f"the ledger {self._path} cannot be written: {error}") from error
        return found

    def _one(self, note: Note, now: int) -> Noted:
        found = self._find(note.action_id)
        if isinstance(note, ToLook):
            return Noted(found, True)
        made = made_of(found, note, self._owner, now)
        if made is None:
            return Noted(found, False)
        self._write(note.action_id, made)
        if made.is_untold != (found is not None and found.is_untold):
            change = (
                "INSERT OR IGNORE INTO untold VALUES (?)"
                if made.is_untold
                else "DELETE FROM untold WHERE action_id = ?"
            )
            self._database.execute(change, (note.action_id,))
        return Noted(made, True)

    def _find(self, action_id: str) -> Entry | None:
        row = self._database.execute(f"SELECT {_COLUMNS} FROM actions WHERE action_id = ?", (action_id,)).fetchone()  # noqa: S608
        return None if row is None else _entry(row)

    def _write(self, action_id: str, entry: Entry) -> None:
        outcome = entry.outcome
        rest: tuple[Any, ...] = (None, None, "", "", "", "")
        if outcome is not None:
            rest = (
                outcome.status, outcome.at_ms, outcome.code, outcome.detail, outcome.provider_id, outcome.further
            )  # fmt: skip
        self._database.execute(
            "INSERT OR REPLACE INTO actions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                action_id,
                self._channel,
                entry.attempt,
                entry.since_ms,
                entry.user_id,
                entry.owner,
                entry.lease_ms,
                *rest,
            ),
        )

    async def find(self, provider_id: str) -> tuple[str, Entry] | None:
        """Return what the provider calls so; see `Ledger`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find_provider, provider_id)

    def _find_provider(self, provider_id: str) -> tuple[str, Entry] | None:
        query = f"SELECT action_id, {_COLUMNS} FROM actions WHERE channel = ? AND provider_id = ? LIMIT 1"  # noqa: S608
        try:
            row = self._database.execute(query, (self._channel, provider_id)).fetchone()
        except sqlite3.Error as error:
            raise LedgerAway(f"the ledger {self._path} cannot be read: {error}") from error
        return None if row is None else (row[0], _entry(row[1:]))

    async def unsettled(self, most: int) -> Unsettled:
        """Return what has no final outcome; see `Ledger`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._unsettled, most)

    def _unsettled(self, most: int) -> Unsettled:
        where = "FROM actions WHERE channel = ? AND (status IS NULL OR status = 'unknown')"
        try:
            execute = self._database.execute
            (all_of_them, unknown) = execute(f"SELECT COUNT(*), COUNT(status) {where}", (self._channel,)).fetchone()
            query = f"SELECT action_id, {_COLUMNS} {where} ORDER BY since_ms LIMIT ?"
            rows = execute(query, (self._channel, most)).fetchall()
        except sqlite3.Error as error:
            raise LedgerAway(f"the ledger {self._path} cannot be read: {error}") from error
        return Unsettled(all_of_them - unknown, unknown, [(row[0], _entry(row[1:])) for row in rows])

    async def untold(self, most: int) -> list[tuple[str, Entry]]:
        """Return what may have no receipt; see `Ledger`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find_untold, most)

    def _find_untold(self, most: int) -> list[tuple[str, Entry]]:
        where = "action_id IN (SELECT action_id FROM untold) AND channel = ? AND status IS NOT NULL"
        query = f"SELECT action_id, {_COLUMNS} FROM actions WHERE {where} LIMIT ?"  # noqa: S608
        try:
            rows = self._database.execute(query, (self._channel, most)).fetchall()
        except sqlite3.Error as error:
            raise LedgerAway(f"the ledger {self._path} cannot be read: {error}") from error
        return [(row[0], _entry(row[1:])) for row in rows]

    async def forget(self, before_ms: int) -> int:
        """Forget actions whose outcome is older than *before_ms*; see `Ledger`. Notes are made in between."""
        forgotten = 0
        while True:
            some = await asyncio.get_running_loop().run_in_executor(self._thread, self._forget, before_ms)
            forgotten += some
            if some < FORGOTTEN_TOGETHER:
                return forgotten

    def _forget(self, before_ms: int) -> int:
        old = "SELECT action_id FROM actions WHERE at_ms < ? LIMIT ?"
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for table in ("untold", "actions"):
                    forgotten = self._database.execute(
                        f"DELETE FROM {table} WHERE action_id IN ({old})",  # noqa: S608
                        (before_ms, FORGOTTEN_TOGETHER),
                    ).rowcount
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise LedgerAway(f"the ledger {self._path} cannot be written: {error}") from error
        return forgotten

    async def concerns(self) -> list[str]:
        """Return nothing: the file is written as it should be."""
        return []

    async def close(self) -> None:
        """Let go of it; see `Ledger`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown()


def _entry(row: Sequence[Any]) -> Entry:
    attempt, since_ms, user_id, owner, lease_ms, status, at_ms, code, detail, provider_id, further, is_untold = row
    outcome = None if status is None else Outcome(status, at_ms, code, detail, provider_id, further)
    return Entry(attempt, since_ms, user_id, owner, lease_ms, outcome, bool(is_untold))


def _opened(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        (known,) = database.execute("PRAGMA user_version").fetchone()
        if known > FORMAT:
            raise StateRefused(
                f"the ledger {path} has format {known}, and this version knows {FORMAT}: use a newer one"
            )
        database.executescript(_TABLES)
        # An earlier version forgets actions and knows nothing of this.
        database.execute("DELETE FROM untold WHERE action_id NOT IN (SELECT action_id FROM actions)")
        database.execute(f"PRAGMA user_version={FORMAT}")
    except sqlite3.Error as error:
        raise StateRefused(f"{path} cannot be opened as a ledger: {error}") from error
    return database


__all__ = ["KEPT_MS", "SqliteLedger"]
