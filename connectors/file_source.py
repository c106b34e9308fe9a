"""Read a JSONL file: one record per line. Its offsets are line numbers, from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from connectors.sources import Batch, Reached, SourceError

BOM: Final = b"\xef\xbb\xbf"
LINE_BYTES_MAX: Final = 1 << 20


class FilePartition:
    """A JSONL file, read line by line; blank lines are skipped, but have a number.

    The file is its own history: what is appended later is read by a later run. Records have no arrival time of their
    own here; `received_at` or `timestamp` inside them says when they came.

    Args:
        position: the line to begin with.
    """

    def __init__(self, path: Path, position: int = 1) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=1 << 20)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}: check the path") from error
        self.position = 1
        self.at_end = False
        while self.position < position and self._next_line() is not None:
            pass

    def _next_line(self) -> bytes | None:
        """Return the next line without its end, cut where it is too large to be a record; None at the end."""
        line = self._file.readline(LINE_BYTES_MAX + 4)
        if not line:
            return None
        if self.position == 1 and line.startswith(BOM):
            line = line[len(BOM) :]
        if not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._file.readline(LINE_BYTES_MAX)
        self.position += 1
        return line[:-2] if line.endswith(b"\r\n") else line[:-1] if line.endswith(b"\n") else line

    def poll(self, records_max: int) -> Batch:
        values: list[bytes] = []
        offsets: list[int] = []
        while len(values) < records_max:
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

    def lag(self) -> int | None:
        return 0 if self.at_end else None

    def close(self) -> None:
        self._file.close()
