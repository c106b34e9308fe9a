"""A backend on disk: one RocksDB database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state.backend import Changes
from state.errors import StateRefused, StoreError

if TYPE_CHECKING:
    import rocksdict


class RocksBackend:
    """A backend in one RocksDB database.

    A database of which nothing was ever written is not there: nothing can be read of it, and the first write makes it.
    To make one, or to open it, takes some 10 ms, and of a state's many shards a start needs only those that have users.

    Small write buffers, because a process has many of these databases open at once.

    Args:
        read_only: open it as it is at this moment, also beside a process that writes to it, and leave every file alone.

    Raises:
        StoreError: it cannot be opened. Read-only beside a writer that may pass: files come and go.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        import rocksdict

        self._path = path
        self._links: tempfile.TemporaryDirectory[str] | None = None
        self._rocksdict: Any = rocksdict
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True
        self._unsynced = rocksdict.WriteOptions()
        self._db: rocksdict.Rdict | None = None
        if read_only or (path / "CURRENT").exists():
            self._db = self._open(read_only=read_only)

    def _open(self, *, read_only: bool) -> rocksdict.Rdict:
        rocksdict, path = self._rocksdict, self._path
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(not read_only)
        options.set_write_buffer_size(8 * 2**20)
        options.set_max_write_buffer_number(3)
        options.set_max_total_wal_size(64 * 2**20)
        options.set_wal_bytes_per_sync(256 * 2**10)  # On the way: else a checkpoint writes all of it out at once.
        options.set_keep_log_file_num(2)
        # Whoever only reads opens all files at once: the writer may delete any of them later.
        options.set_max_open_files(-1 if read_only else 64)
        options.set_max_file_opening_threads(1)  # Else each opening starts 15 threads, for a few small files.
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(rocksdict.Cache(2**20 if read_only else 8 * 2**20))
        options.set_block_based_table_factory(table)
        access = rocksdict.AccessType.read_only() if read_only else rocksdict.AccessType.read_write()
        try:
            folder = self._linked(path) if read_only else path
            return rocksdict.Rdict(str(folder), options, access_type=access)
        except Exception as error:  # rocksdict raises bare Exception with RocksDB's message.
            self._unlink()
            # Beside a writer files come and go, and that passes; else they are missing for good.
            raise _failure("open", path, error, may_pass=read_only) from error

    def _make(self) -> rocksdict.Rdict:
        """Make the database. RocksDB syncs what is in its folder, but not that the folder is there."""
        made = self._open(read_only=False)
        parent = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        return made

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        if self._db is None:
            return [None] * len(keys)
        try:
            return self._db.get(keys)  # type: ignore[no-any-return]
        except Exception as error:
            raise _failure("read", self._path, error) from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._db is None:
            return
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
        if self._db is None:
            self._db = self._make()
        try:
            self._db.write(changes, self._synced if sync else self._unsynced)
        except Exception as error:
            raise _failure("write", self._path, error) from error

    def sync(self) -> None:
        if self._db is None:
            return
        try:
            self._db.flush_wal(sync=True)  # Other threads go on meanwhile, unlike during a synced write.
        except Exception as error:
            raise _failure("sync", self._path, error) from error

    def close(self) -> None:
        if self._db is not None:
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
