"""Files of the state directory: what is appended to them, what a crash leaves of them, and how one is replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


class Appending(Protocol):
    """A file that is open for appending."""

    def write(self, data: bytes) -> None:
        """Hand *data* to the operating system: it outlives this process, not the machine."""
        ...

    def sync(self) -> None:
        """Return once everything written has reached the disk: it outlives the machine."""
        ...

    def close(self) -> None: ...


class Folder(Protocol):
    """A folder of files."""

    def names(self) -> list[str]:
        """Return the names of the files, in no particular order."""
        ...

    def read(self, name: str) -> bytes:
        """Return what is in a file.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        ...

    def append(self, name: str) -> Appending:
        """Open a file for appending; one that is not there is made, for its owner alone."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Let *data* be what a file holds: after a crash of the machine, too, it is the old or the new."""
        ...


class DiskFolder:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        return os.listdir(self._path)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def append(self, name: str) -> Appending:
        return _DiskFile(os.open(self._path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def replace(self, name: str, data: bytes) -> None:
        draft = self._path / f"{name}.new"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, self._path / name)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _DiskFile:
    def __init__(self, file: int) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        written = os.write(self._file, data)
        if written != len(data):  # As a disk does that has room for a part.
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {written} of {len(data)} bytes written")

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)
