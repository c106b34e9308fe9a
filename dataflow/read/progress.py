"""The progress log: how far a source partition has come, and to which stream time.

What is decided depends on stream time, and at the end of a partition that comes from the wall clock. So before a batch
or a watermark goes out, its end and its time are noted here; after a crash the partition raises time at the same
offsets as before, and the replay decides the same. The log also says how far a run that died may have come.

One log per partition, because a partition belongs to one process at a time and may belong to another after a restart.
A log is a row of segments, `<partition>.<number>`, one per epoch; a line is `<next offset> <stream time in ms>`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from dataflow.keep.files import Appending, Folder

_NAME_MAX: Final = 200  # File systems allow 255 bytes, and a number follows.
EPOCHS_KEPT: Final = 3  # As the store keeps undo: whatever the engine goes on from, its log is there.


class ProgressLog:
    """Append to the log of one partition.

    Args:
        position: where the partition goes on; what lies before is no longer needed.
        by_the_end_of_the_epoch: sees to it that what it is given has been done before the epoch counts.
    """

    def __init__(
        self,
        folder: Folder,
        partition: str,
        position: int,
        by_the_end_of_the_epoch: Callable[[Callable[[], None]], None] = lambda task: task(),
    ) -> None:
        self._folder = folder
        self._by_the_end_of_the_epoch = by_the_end_of_the_epoch
        self._name = _file_name(partition)
        self._snapshots = [position]
        segments = _segments(folder, self._name)
        self._ends: dict[int, int] = {number: _last_offset(folder.read(name)) for number, name in segments}
        self._number = max(self._ends, default=0) + 1
        self._file = self._open()
        self._last_offset = position

    def _open(self) -> Appending:
        return self._folder.append(f"{self._name}.{self._number}")

    def note(self, next_offset: int, stream_ms: int) -> None:
        """Note that everything before *next_offset* is about to be sent, and time up to *stream_ms*."""
        self._file.write(b"%d %d\n" % (next_offset, stream_ms))
        self._last_offset = next_offset

    def roll(self, position: int) -> None:
        """Begin a new segment at the end of an epoch, and drop those that nothing can go back to."""
        self._by_the_end_of_the_epoch(partial(_finish, self._file))
        self._ends[self._number] = self._last_offset
        self._number += 1
        self._file = self._open()
        self._snapshots.append(position)
        del self._snapshots[: -(EPOCHS_KEPT + 1)]
        if len(self._snapshots) > EPOCHS_KEPT:
            recent = self._number - EPOCHS_KEPT  # Their times may be newer than those of the oldest snapshot.
            for number in [one for one, end in self._ends.items() if one < recent and end <= self._snapshots[0]]:
                self._folder.remove(f"{self._name}.{number}")
                del self._ends[number]

    def close(self) -> None:
        self._file.close()


def _finish(file: Appending) -> None:
    file.sync()
    file.close()


def has_progress(folder: Folder, partition: str) -> bool:
    """Tell whether there is a log of *partition*, even an empty one."""
    return bool(_segments(folder, _file_name(partition)))


def read_progress(folder: Folder, partition: str) -> list[tuple[int, int]]:
    """Return the (next offset, stream time) pairs of *partition*, in the order in which they were noted."""
    found = []
    for _, name in _segments(folder, _file_name(partition)):
        found.extend(_pairs(folder.read(name)))
    return found


def _file_name(partition: str) -> str:
    """Return the name of the files of *partition*, before their number: readable, and short enough to be one."""
    name = quote(partition, safe="")
    if len(name) <= _NAME_MAX:
        return name
    return f"{name[: _NAME_MAX - 33]}-{blake2b(partition.encode(), digest_size=16).hexdigest()}"


def _segments(folder: Folder, name: str) -> list[tuple[int, str]]:
    found = []
    for file in folder.names():
        stem, _, number = file.rpartition(".")
        if stem == name and number.isdigit():
            found.append((int(number), file))
    return sorted(found)


def _pairs(data: bytes) -> list[tuple[int, int]]:
    pairs = []
    for line in data.split(b"\n")[:-1]:  # A last line without its end was torn by a crash.
        offset, _, stream_ms = line.partition(b" ")
        if offset.isdigit() and stream_ms.lstrip(b"-").isdigit():
            pairs.append((int(offset), int(stream_ms)))
    return pairs


def _last_offset(data: bytes) -> int:
    return max((offset for offset, _ in _pairs(data)), default=-1)
