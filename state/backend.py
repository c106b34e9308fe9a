"""What a store needs of a database: an ordered map from bytes to bytes with atomic batches; and one in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Protocol


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

    def sync(self) -> None:
        """Return once everything written has reached the disk; may run on any thread, while nobody writes."""
        ...

    def close(self) -> None: ...


FEW: Final = 64  # Keys that are put into their order one by one.


class MemoryChanges:
    """A batch for a `MemoryBackend`."""

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

    def changes(self) -> MemoryChanges:
        return MemoryChanges()

    def write(self, changes: Changes, *, sync: bool) -> None:
        assert isinstance(changes, MemoryChanges)
        for key, value in changes.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class OrderedBackend(MemoryBackend):
    """A backend in a dict of which nobody else knows: it keeps its keys in order from one write to the next.

    Keys of rows that are gone stay in the order until they are half of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[bytes] = []

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys  # What is written meanwhile goes into another list.
        for index in range(bisect_left(keys, start), len(keys)):
            key = keys[index]
            if key >= stop:
                return
            row = self.rows.get(key)
            if row is not None:
                yield key, row

    def write(self, changes: Changes, *, sync: bool) -> None:
        assert isinstance(changes, MemoryChanges)
        keys, rows = self._keys, self.rows
        added = [key for key, value in changes.rows.items() if value is not None and key not in rows]
        super().write(changes, sync=sync)
        if len(keys) + len(added) > 2 * len(rows) + FEW:
            self._keys = sorted(rows)
        elif len(added) > FEW:
            self._keys = sorted({*keys, *added})
        elif added:
            keys = self._keys = keys.copy()
            for key in added:
                index = bisect_left(keys, key)
                if index == len(keys) or keys[index] != key:
                    keys.insert(index, key)
