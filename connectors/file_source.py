"""Read a JSONL file: one record per line. Its offsets are line numbers, from 1.

Whoever appends to a file may be amid a line. So a last line without its end is a record only if it is whole by itself.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from connectors.sources import Batch, Mark, Reached, SourceError

WINDOW_BYTES: Final = 1 << 16  # Of what was read, so much of its beginning and of its end make up the fingerprint.
BOM: Final = b"\xef\xbb\xbf"
LINE_BYTES_MAX: Final = 1 << 20


class Lines(NamedTuple):
    """How many lines of a file have their end, and what else it has: the number of a last one without, 0 for none."""

    ended: int
    half: int = 0
    is_whole: bool = False
    """Whether that one is a whole record by itself."""


def lines_of(path: Path) -> Lines:
    """Count the lines of *path*, as they are now."""
    count, last = 0, b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            _, end, rest = block.rpartition(b"\n")
            last = rest if end else last + rest if len(last) <= LINE_BYTES_MAX else last
    return Lines(count, count + 1, _is_whole(last)) if last else Lines(count)


def _is_whole(line: bytes) -> bool:
    if len(line) > LINE_BYTES_MAX:
        return False
    try:
        return isinstance(orjson.loads(line.removeprefix(BOM)), dict)
    except orjson.JSONDecodeError:
        return False


def _fingerprint(file: int, offset: int) -> str:
    """Return what tells the first *offset* bytes of an open file from others: "" where it has fewer."""
    if os.fstat(file).st_size < offset:
        return ""
    digest = blake2b(digest_size=16)
    for start in (0, max(0, offset - WINDOW_BYTES)):
        digest.update(os.pread(file, min(WINDOW_BYTES, offset - start), start))
    return digest.hexdigest()


def is_as_read(path: Path, mark: Mark) -> bool:
    """Tell whether what was read of the file at *path* up to *mark* is still there."""
    if not mark:
        return True
    offset, seen = mark
    with path.open("rb") as file:
        return _fingerprint(file.fileno(), offset) == seen


class FilePartition:
    """A JSONL file, read line by line; blank lines are skipped, but have a number.

    The file is its own history: what is appended later is read by a later run. Records have no arrival time of their
    own here; `received_at` or `timestamp` inside them says when they came. A half line at its end is not read.

    Args:
        position: the line to begin with.
        mark: what `mark` said of it; without one, the lines before it are read, too.
    """

    def __init__(self, path: Path, position: int = 1, mark: Mark = ()) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=1 << 20)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}: check the path") from error
        self.position = 1
        self.at_end = False
        self._offset = 0  # Of the next line, in bytes.
        self._first = 1  # Line of the last poll, and where each of its lines begins.
        self._starts: list[int] = []
        self.half_line = 0
        """The number of a last line that was not read, 0 for none."""
        if mark:
            self._offset, seen = mark
            if _fingerprint(self._file.fileno(), self._offset) != seen:
                raise SourceError(f"cannot read on in {path} at line {position}: what was read is not there any more")
            self._file.seek(max(0, self._offset - 1))
            if self._offset and self._file.read(1) != b"\n":
                # The last line was read without its end: what has been written behind it since belongs to it.
                while rest := self._file.readline(LINE_BYTES_MAX):
                    self._offset += len(rest)
                    if rest.endswith(b"\n"):
                        break
            self.position = position
        while self.position < position and self._next_line() is not None:
            pass
        self._first = self.position

    def _next_line(self) -> bytes | None:
        """Return the next line without its end, cut where it is too large to be a record; None at the end."""
        line = self._file.readline(LINE_BYTES_MAX + 4)
        if not line:
            return None
        length = len(line)
        if self.position == 1 and line.startswith(BOM):
            line = line[len(BOM) :]
        if not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._file.readline(LINE_BYTES_MAX)
                length += len(rest)
            if not rest and not _is_whole(line):
                self.half_line = self.position
                return None
        self.position += 1
        self._offset += length
        return line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith(b"\n") else line

    def poll(self, records_max: int) -> Batch:
        values: list[bytes] = []
        offsets: list[int] = []
        self._first = self.position
        starts = self._starts = []
        while len(values) < records_max:
            starts.append(self._offset)
            line = self._next_line()
            if line is None:
                self.at_end = True
                break
            if line.strip(b" \t\r"):
                offsets.append(self.position - 1)
                values.append(line)
        return Batch(values, None, offsets)

    def reached_end(self) -> Reached | None:
        return None  # A file's time is that of its records; nothing else moves it.

    def mark(self, position: int) -> Mark:
        offset = self._offset if position >= self.position else self._starts[position - self._first]
        return offset, _fingerprint(self._file.fileno(), offset)

    def lag(self) -> int | None:
        return 0 if self.at_end else None

    def close(self) -> None:
        self._file.close()
