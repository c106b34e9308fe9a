"""Sinks without a broker: a folder with one JSONL file per topic, and standard output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from connectors.sinks import Ends, SinkError, Written

BUFFER_BYTES = 1 << 20


class FileSink:
    """Append records to `<folder>/<topic>.jsonl`, one JSON object per line.

    Exactly once: what was written before a crash is read back from the offsets of the last checkpoint. Every write
    is of whole lines to a file opened for appending, so that several processes of one job do not mix their lines;
    a last line that a crash has torn is cut at the next start.
    """

    remembers = True
    marks_job = False

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder
        self._sync = sync
        self._files: dict[str, int] = {}
        self._buffers: dict[str, list[bytes]] = {}
        self._buffered = 0

    def _path(self, topic: str) -> Path:
        return self._folder / f"{topic}.jsonl"

    def open_topics(self, topics: Sequence[str]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for topic in topics:
                if topic not in self._files:
                    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                    self._files[topic] = os.open(self._path(topic), flags, 0o644)
        except OSError as error:
            raise SinkError(f"cannot write to {self._folder}: {error.strerror}: check folder and rights") from error

    def cut_torn_lines(self, topics: Sequence[str]) -> None:
        """Cut a last line without its end: a write that a crash interrupted. Only while nobody writes."""
        for topic in topics:
            path = self._path(topic)
            if not path.exists():
                continue
            with path.open("r+b") as file:
                end = file.seek(0, os.SEEK_END)
                while end > 0:
                    start = max(0, end - BUFFER_BYTES)
                    file.seek(start)
                    newline = file.read(end - start).rfind(b"\n")
                    if newline >= 0:
                        end = start + newline + 1
                        break
                    end = start
                file.truncate(end)

    def ends(self, topics: Sequence[str], *, settled: bool = False) -> Ends:
        self._flush()
        return {topic: [self._path(topic).stat().st_size if self._path(topic).exists() else 0] for topic in topics}

    def read_back(self, starts: Ends) -> Iterator[Written]:
        for topic, (start,) in starts.items():
            path = self._path(topic)
            if path.exists():
                with path.open("rb") as file:
                    file.seek(start)
                    for line in file:
                        yield Written(topic, line.rstrip(b"\n"), {})

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._buffers.setdefault(topic, []).append(value)
        self._buffered += len(value)
        if self._buffered >= BUFFER_BYTES:
            self._flush()

    def deliver(self, *, at_once: bool = False) -> None:
        """Hand what is buffered to the operating system."""
        self._flush()

    @property
    def is_behind(self) -> bool:
        return False

    def go_on(self) -> None:
        pass

    def _flush(self) -> None:
        for topic, lines in self._buffers.items():
            data = b"\n".join(lines) + b"\n"
            try:
                written = os.write(self._files[topic], data)
            except OSError as error:
                raise SinkError(f"cannot write to {self._path(topic)}: {error.strerror}") from error
            if written < len(data):
                raise SinkError(f"{self._path(topic)} took {written} of {len(data)} bytes: is the disk full?")
        self._buffers = {}
        self._buffered = 0

    def confirm(self) -> None:
        self._flush()
        if self._sync:
            for topic, file in self._files.items():
                try:
                    os.fdatasync(file)
                except OSError as error:
                    raise SinkError(f"cannot sync {self._path(topic)}: {error.strerror}") from error

    def close(self) -> None:
        self._flush()
        for file in self._files.values():
            os.close(file)
        self._files = {}


class StdoutSink:
    """Print records to standard output, one JSON object per line.

    At least once: after a crash, what was printed since the last checkpoint is printed again.
    """

    remembers = False
    marks_job = False

    def __init__(self, output: int = 1) -> None:
        self._output = os.fdopen(os.dup(output), "wb")

    def open_topics(self, topics: Sequence[str]) -> None:
        pass

    def ends(self, topics: Sequence[str], *, settled: bool = False) -> Ends:
        return {}

    def read_back(self, starts: Ends) -> Iterator[Written]:
        return iter(())

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._output.write(value + b"\n")

    def deliver(self, *, at_once: bool = False) -> None:
        self.confirm()

    @property
    def is_behind(self) -> bool:
        return False

    def go_on(self) -> None:
        pass

    def confirm(self) -> None:
        try:
            self._output.flush()
        except BrokenPipeError as error:
            raise SinkError("nobody reads standard output any more") from error

    def close(self) -> None:
        self.confirm()
