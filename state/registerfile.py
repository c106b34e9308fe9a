"""The register in SQLite: one file in the state directory that all processes of a job share; in memory for `simulate`.

    questions   how many are in the set of a question; the arm that has won
    members     who is in an experiment, with which arm, and whether converted
    notes       to whom, at which `seq`, yes was said: kept until no replay can ask again
    about       whose register it is, and how often it was confirmed

A yes is written at once, so that all processes see it; that outlives a process, not the machine. `confirm` brings
everything that was written, by whomever, onto the disk. Who asks has to call it before anything goes out that follows
from the answers, so an answer that a power failure takes back has never had any consequence.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from state.errors import NewerFormatError, StateRefused, StoreError
from state.register import ArmCounts, Decide
from state.undo import UNDO_KEPT

REGISTER_FORMAT: Final = 1
PATIENCE_S: Final = 30.0  # To wait for another process, which holds the file for a fraction of a millisecond.

_TABLES: Final = """
CREATE TABLE about (format INTEGER, job TEXT, confirmed INTEGER);
CREATE TABLE questions (question TEXT PRIMARY KEY, taken INTEGER, winner TEXT) WITHOUT ROWID;
CREATE TABLE members (question TEXT, user TEXT, arm TEXT, converted INTEGER, PRIMARY KEY (question, user))
    WITHOUT ROWID;
CREATE TABLE notes (shard INTEGER, number INTEGER, question TEXT, user TEXT, seq INTEGER,
    PRIMARY KEY (shard, number, question, user, seq)) WITHOUT ROWID;
"""
_DAMAGED: Final = "restore the whole state directory from one backup"


class Question(msgspec.Struct, frozen=True):
    """How things stand with a question: how many are in its set, and the arm that has won, if one has."""

    taken: int
    winner: str | None


class RegisterFile:
    """The register of a job, as one process has it open.

    A process in which something went wrong with it must not go on, whatever its users made of that: `confirm` says so
    again.

    Args:
        database: in autocommit mode.
        place: what to call it in messages.

    Raises:
        StateRefused: it is of a newer format, damaged, or another job's.
        StoreError: it cannot be read or written.
    """

    def __init__(self, database: sqlite3.Connection, job: str, place: str = "the register") -> None:
        self._database = database
        self._place = place
        self._failure: StoreError | None = None
        self._taken: dict[str, int] = {}  # So many are taken, or more by now.
        self._winners: dict[str, str] = {}
        self._notes: set[tuple[str, str, int]] = set()
        """To whom yes was said before this process opened it: of its own asking nothing comes again."""
        self._last_note: dict[int, int] = {}  # Per shard the highest number of a commit that notes go with.
        self._is_confirmed = True
        with self._change():
            if not _has_tables(database):
                self._is_confirmed = False
                for statement in _TABLES.strip().split(";\n"):
                    database.execute(statement)
                database.execute("INSERT INTO about VALUES (?, ?, 0)", (REGISTER_FORMAT, job))
        owner, self._confirmed = _about(database, place)
        if owner != job:
            raise StateRefused(
                f"{place} belongs to job {owner}, not to {job}: the directory is put together from parts; {_DAMAGED}"
            )
        with self._watched("read"):
            for shard, number, question, user, seq in database.execute("SELECT * FROM notes"):
                self._notes.add((question, user, seq))
                self._last_note[shard] = max(number, self._last_note.get(shard, 0))

    def of_shard(self, shard: int, next_commit: Callable[[], int] | None) -> ShardRegister:
        """Return the register as the users of *shard* ask it.

        Args:
            next_commit: returns the number of the commit that the present belongs to; None where nothing comes again.
        """
        return ShardRegister(self, shard, next_commit)

    def confirm(self) -> int:
        """Return, once everything that was written is on disk, how often that has been so.

        Raises:
            StoreError: it cannot be, or something went wrong before.
        """
        if self._failure is not None:
            raise self._failure
        if not self._is_confirmed:
            self._sync()
            self._is_confirmed = True
        return self._confirmed

    def _sync(self) -> None:
        # In WAL mode a commit in this setting syncs the whole log, with what others have written.
        with self._watched("write"):
            self._database.execute("PRAGMA synchronous=FULL")
            with self._change():
                rows = self._database.execute("UPDATE about SET confirmed = confirmed + 1 RETURNING confirmed")
                (self._confirmed,) = rows.fetchone()
            self._database.execute("PRAGMA synchronous=NORMAL")

    def forget(self, commits: Mapping[int, int]) -> None:
        """Drop the notes that no replay can ask for once shards have these *commits*."""
        old = {
            shard: commit - UNDO_KEPT
            for shard, commit in commits.items()
            if shard in self._last_note and commit > UNDO_KEPT
        }
        if not old:
            return
        with self._change():
            self._database.executemany("DELETE FROM notes WHERE shard = ? AND number <= ?", list(old.items()))
        for shard, number in old.items():
            if self._last_note[shard] <= number:
                del self._last_note[shard]

    def count_from(self, entries: Mapping[str, int]) -> None:
        """Let the places in flows be taken by so many entries as there are, where there are more than was known."""
        with self._change():
            for flow, number in entries.items():
                self._database.execute(
                    "INSERT INTO questions VALUES (?, ?, NULL) "
                    "ON CONFLICT (question) DO UPDATE SET taken = MAX(taken, excluded.taken)",
                    (flow, number),
                )
        self._is_confirmed = False

    def questions(self) -> dict[str, Question]:
        """Return all questions that were ever asked."""
        with self._watched("read"):
            return _questions(self._database)

    def close(self) -> None:
        self._database.close()

    # ---- what a shard asks -------------------------------------------------------------------------------------

    def was_told(self, question: str, user_id: str, seq: int) -> bool:
        """Tell whether yes was said to the user at this place, in an earlier life."""
        return bool(self._notes) and (question, user_id, seq) in self._notes

    def no_place_left(self, question: str, most: int) -> int | None:
        """Return how many places are taken if that is known to be *most* or more, and needs no look at the file."""
        taken = self._taken.get(question, 0)
        return taken if taken >= most else None

    def winner(self, experiment: str) -> str | None:
        """Return the arm that has won, as far as that is known without a look at the file."""
        return self._winners.get(experiment)

    def find_place(self, question: str, most: int, note: Note | None, *, takes: bool) -> int | None:
        """Return None if there is a place, which is taken where *takes* says so; else how many are taken."""
        with self._change():
            taken, _ = self._question(question)
            if taken < most:
                if takes:
                    self._count(question, taken + 1)
                self._write(note)
        self._taken[question] = taken
        return None if taken < most else taken

    def find_arm(
        self, experiment: str, user_id: str, arm: str, most: int, decide: Decide, note: Note | None
    ) -> str | None:
        """Return the arm that has won, or None if the user may take *arm*, and is in."""
        with self._change():
            taken, winner = self._question(experiment)
            if winner is None and taken < most:
                found = self._database.execute(
                    "INSERT OR IGNORE INTO members VALUES (?, ?, ?, 0)", (experiment, user_id, arm)
                )
                if found.rowcount:
                    self._count(experiment, taken + 1)
                self._write(note)
            elif winner is None:
                rows = self._database.execute(
                    "SELECT arm, COUNT(*), SUM(converted) FROM members WHERE question = ? GROUP BY arm", (experiment,)
                )
                winner = decide({name: ArmCounts(entered, converted) for name, entered, converted in rows})
                self._database.execute(
                    "INSERT INTO questions VALUES (?, 0, ?) ON CONFLICT (question) DO UPDATE SET winner = ?",
                    (experiment, winner, winner),
                )
                self._is_confirmed = False
        if winner is not None:
            self._winners[experiment] = winner
        return winner

    def convert(self, experiment: str, user_id: str) -> None:
        """Note that a member of *experiment* has converted."""
        with self._change():
            self._database.execute(
                "UPDATE members SET converted = 1 WHERE question = ? AND user = ?", (experiment, user_id)
            )
        self._is_confirmed = False

    def note_again(self, note: Note) -> None:
        """Keep what was noted in an earlier life with the commit that it belongs to now."""
        with self._change():
            self._write(note)

    def _question(self, question: str) -> tuple[int, str | None]:
        rows = self._database.execute("SELECT taken, winner FROM questions WHERE question = ?", (question,))
        return rows.fetchone() or (0, None)

    def _count(self, question: str, taken: int) -> None:
        self._database.execute(
            "INSERT INTO questions VALUES (?, ?, NULL) ON CONFLICT (question) DO UPDATE SET taken = ?",
            (question, taken, taken),
        )

    def _write(self, note: Note | None) -> None:
        self._is_confirmed = False
        if note is not None:
            shard, number = note[:2]
            self._database.execute("INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?, ?)", note)
            self._last_note[shard] = max(number, self._last_note.get(shard, 0))

    # ---- the database ------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Change several things at once, and alone."""
        with self._watched("write"):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except sqlite3.Error as error:
            self._failure = failure(what, self._place, error)
            raise self._failure from error


Note = tuple[int, int, str, str, int]
"""Shard, number of the commit that it goes with, question, user, `seq`."""


class ShardRegister:
    """The register as the users of one shard ask it: a `Register`."""

    def __init__(self, file: RegisterFile, shard: int, next_commit: Callable[[], int] | None) -> None:
        self._file = file
        self._shard = shard
        self._next_commit = next_commit

    def enter(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        return self._place(flow, user_id, seq, most, takes=True)

    def look(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        return self._place(flow, user_id, seq, most, takes=False)

    def _place(self, flow: str, user_id: str, seq: int, most: int, *, takes: bool) -> int | None:
        file = self._file
        if self._was_told(flow, user_id, seq):  # First: what is known of the set since then is newer.
            return None
        full = file.no_place_left(flow, most)
        if full is not None:
            return full
        return file.find_place(flow, most, self._note(flow, user_id, seq), takes=takes)

    def join(self, experiment: str, user_id: str, seq: int, arm: str, most: int, decide: Decide) -> str | None:
        file = self._file
        if self._was_told(experiment, user_id, seq):
            return None
        winner = file.winner(experiment)
        if winner is not None:
            return winner
        return file.find_arm(experiment, user_id, arm, most, decide, self._note(experiment, user_id, seq))

    def convert(self, experiment: str, user_id: str) -> None:
        if self._file.winner(experiment) is None:
            self._file.convert(experiment, user_id)

    def _was_told(self, question: str, user_id: str, seq: int) -> bool:
        if not self._file.was_told(question, user_id, seq):
            return False
        note = self._note(question, user_id, seq)
        if note is not None:
            self._file.note_again(note)
        return True

    def _note(self, question: str, user_id: str, seq: int) -> Note | None:
        if self._next_commit is None:
            return None
        return (self._shard, self._next_commit(), question, user_id, seq)


# ---- opening -------------------------------------------------------------------------------------------------------


def in_memory() -> ShardRegister:
    """Return a register for one run in one process: nothing of it stays, and nothing comes again."""
    return RegisterFile(sqlite3.connect(":memory:", isolation_level=None), "").of_shard(0, None)


def open_register(path: Path, job: str) -> RegisterFile:
    """Open the register in the file *path*, or make it.

    Raises:
        StateRefused, StoreError: as `RegisterFile`.
    """
    try:
        is_new = not path.exists()
        if is_new:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        # Made in one thread and asked in another, but never in two at once.
        database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        if is_new:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except sqlite3.Error as error:
        raise failure("open", str(path), error) from error
    return RegisterFile(database, job, str(path))


def remove_register(path: Path) -> None:
    """Remove the register in the file *path*, with what SQLite has beside it, if there is one."""
    for name in (path.name + "-wal", path.name + "-shm", path.name):
        path.with_name(name).unlink(missing_ok=True)


class RegisterView(msgspec.Struct, frozen=True):
    """What a register says at one moment. `members` is how many users of each experiment have which arm."""

    job: str
    confirmed: int
    questions: dict[str, Question]
    members: dict[str, dict[str, ArmCounts]]


def look_at_register(path: Path) -> RegisterView | None:
    """Return what the register in *path* says, None where there is none; also beside a job, and without a trace.

    Raises:
        StateRefused: it is of a newer format or damaged.
        StoreError: it cannot be read.
    """
    if not path.exists():
        return None
    log = path.with_name(path.name + "-wal")
    try:
        while True:
            # Even a reader of a write-ahead log makes files of its own. Where there is no such log, nobody writes.
            is_idle = not log.exists()
            mode = "immutable=1" if is_idle else "mode=ro"
            database = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, isolation_level=None)
            try:
                database.execute("BEGIN")
                view = _view(database, str(path)) if _has_tables(database) else None
            finally:
                database.close()
            if not (is_idle and log.exists()):  # Else a job has started meanwhile.
                return view
    except sqlite3.Error as error:
        raise failure("read", str(path), error) from error


def _view(database: sqlite3.Connection, place: str) -> RegisterView:
    job, confirmed = _about(database, place)
    members: dict[str, dict[str, ArmCounts]] = {}
    rows = database.execute("SELECT question, arm, COUNT(*), SUM(converted) FROM members GROUP BY question, arm")
    for question, arm, entered, converted in rows:
        members.setdefault(question, {})[arm] = ArmCounts(entered, converted)
    return RegisterView(job, confirmed, _questions(database), members)


def _has_tables(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone() is not None


def _about(database: sqlite3.Connection, place: str) -> tuple[str, int]:
    """Return whose register it is, and how often it was confirmed."""
    try:
        written, job, confirmed = database.execute("SELECT * FROM about").fetchone()
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise StateRefused(f"{place} is damaged ({error}): {_DAMAGED}") from error
    if written > REGISTER_FORMAT:
        raise NewerFormatError(
            f"{place} has format {written}, this version of nudge reads up to {REGISTER_FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    return job, confirmed


def _questions(database: sqlite3.Connection) -> dict[str, Question]:
    rows = database.execute("SELECT question, taken, winner FROM questions")
    return {question: Question(taken, winner) for question, taken, winner in rows}


def failure(what: str, place: str, error: sqlite3.Error) -> StoreError:
    """Return what to raise for an error of SQLite."""
    if type(error) is sqlite3.DatabaseError:  # Its kinds are trouble with disk and locks; itself it is a damaged file.
        return StateRefused(f"{place} is damaged ({error}): {_DAMAGED}")
    return StoreError(f"cannot {what} {place}: {error}")
