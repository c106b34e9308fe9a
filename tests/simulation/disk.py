"""A disk: what a process has written outlives it; what was not synced may be lost, or torn, with the machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from state.backend import Changes, MemoryBackend, MemoryChanges
from state.registerfile import RegisterFile, ShardRegister
from tests.simulation.fate import Fate


class File:
    """What is in a file, and how much of it has reached the disk."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0
        self.is_new = True


class SimulatedFolder:
    """A `Folder` in memory."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self._files: dict[str, File] = {}
        self._removed: dict[str, File] = {}

    def __str__(self) -> str:
        return "simulated"

    def names(self) -> list[str]:
        names = list(self._files)
        self._fate.chance.shuffle(names)
        return names

    def read(self, name: str) -> bytes:
        if name not in self._files:
            raise FileNotFoundError(name)
        return bytes(self._files[name].data)

    def append(self, name: str) -> SimulatedFile:
        self._fate.touch("open")
        return SimulatedFile(self._files.setdefault(name, File()), self._fate)

    def remove(self, name: str) -> None:
        self._fate.touch("remove")
        file = self._files.pop(name, None)
        if file is not None:
            self._removed[name] = file

    def replace(self, name: str, data: bytes) -> None:
        self._fate.touch("replace")
        file = File()
        file.data, file.synced, file.is_new = bytearray(data), len(data), False
        self._files[name] = file
        self._fate.touch("replaced")

    def lose_power(self, chance: Random) -> None:
        """Keep what was synced, and of the rest as much as happens to be there."""
        for name, file in self._removed.items():
            if name not in self._files and chance.random() < 0.5:
                self._files[name] = file  # That it was removed had not reached the disk.
        self._removed = {}
        for name, file in list(self._files.items()):
            del file.data[chance.randint(file.synced, len(file.data)) :]
            file.synced = len(file.data)
            if file.is_new and chance.random() < 0.5:
                del self._files[name]
            file.is_new = False


class SimulatedFile:
    """A file open for appending."""

    def __init__(self, file: File, fate: Fate) -> None:
        self._file, self._fate = file, fate

    def write(self, data: bytes) -> None:
        self._fate.touch("note")
        self._file.data += data
        self._fate.touch("noted")

    def sync(self) -> None:
        self._fate.touch("sync")
        self._file.synced = len(self._file.data)
        self._file.is_new = False
        self._fate.touch("synced")

    def close(self) -> None:
        pass


class Rows:
    """The rows of one shard's store: as the operating system has them, and as the disk has them."""

    def __init__(self) -> None:
        self.now: dict[bytes, bytes] = {}
        self.on_disk: dict[bytes, bytes] = {}
        self.unsynced: list[dict[bytes, bytes | None]] = []

    def lose_power(self, chance: Random) -> None:
        """Keep what was synced, and the first few batches of the rest: they are written in order."""
        for batch in self.unsynced[: chance.randint(0, len(self.unsynced))]:
            _apply(batch, self.on_disk)
        self.unsynced = []
        self.now = dict(self.on_disk)


def _apply(batch: dict[bytes, bytes | None], rows: dict[bytes, bytes]) -> None:
    for key, value in batch.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class SimulatedBackend(MemoryBackend):
    """A `Backend` whose batches are atomic, and last once they are synced."""

    def __init__(self, rows: Rows, fate: Fate) -> None:
        super().__init__()
        self.rows = rows.now
        self._all = rows
        self._fate = fate

    def write(self, changes: Changes, *, sync: bool) -> None:
        assert isinstance(changes, MemoryChanges)
        self._fate.touch("store")
        _apply(changes.rows, self.rows)
        self._all.unsynced.append(changes.rows)
        if sync:
            self.sync()

    def sync(self) -> None:
        self._fate.touch("stored, not synced")
        for batch in self._all.unsynced:
            _apply(batch, self._all.on_disk)
        self._all.unsynced = []
        self._fate.touch("stored")


class RegisterDisk:
    """The register's file: what was written outlives a process, and what was confirmed outlives the machine."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.database: sqlite3.Connection | None = None
        self._on_disk = b""
        self._unsynced: list[bytes] = []

    def open(self, job: str) -> SimulatedRegister:
        self.database = self.database or sqlite3.connect(":memory:", isolation_level=None)
        return SimulatedRegister(self, self.database, job)

    def remove(self) -> None:
        """Remove it. That is on disk before anything is noted in the next one, whose making syncs the folder."""
        if self.database is not None:
            self.fate.touch("remove the register")
            self.database.close()
        self.database, self._on_disk, self._unsynced = None, b"", []

    def wrote(self) -> None:
        assert self.database is not None
        self._unsynced.append(self.database.serialize())

    def sync(self) -> None:
        self._on_disk, self._unsynced = self._unsynced[-1], []

    def lose_power(self, chance: Random) -> None:
        """Keep what was confirmed, and the first few of the rest: they are written in order."""
        if self.database is None:
            return
        left = chance.randint(0, len(self._unsynced))
        self._on_disk = self._unsynced[left - 1] if left else self._on_disk
        self._unsynced = []
        self.database.close()
        self.database = None
        if self._on_disk:
            self.database = sqlite3.connect(":memory:", isolation_level=None)
            self.database.deserialize(self._on_disk)


class SimulatedRegister(RegisterFile):
    """A `RegisterFile` on such a disk.

    `watch` is wrapped around what shards ask.
    """

    watch: Callable[[ShardRegister], ShardRegister] = staticmethod(lambda shard: shard)

    def __init__(self, disk: RegisterDisk, database: sqlite3.Connection, job: str) -> None:
        self._disk = disk
        super().__init__(database, job, "register")

    def of_shard(self, shard: int, next_commit: Callable[[], int] | None) -> ShardRegister:
        return self.watch(super().of_shard(shard, next_commit))

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._disk.fate.touch("ask the register")
        with super()._change():
            yield
        self._disk.wrote()
        self._disk.fate.touch("answered")

    def _sync(self) -> None:
        super()._sync()
        self._disk.sync()
        self._disk.fate.touch("confirmed")

    def close(self) -> None:
        pass  # Another process has it open, too.
