"""Differences: what was on the sink's topics and is decided otherwise now, kept for a person to look at.

STATE/differences.jsonl       both records of each difference
STATE/accepted-actions.txt    the ids of the actions that are there although nobody decides them any more
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from dataflow.keep.files import Folder

DIFFERENCES: Final = "differences.jsonl"
ACCEPTED_ACTIONS: Final = "accepted-actions.txt"


class DifferenceFiles:
    """The files in the state directory that differences are written to; all processes of a job append to the same."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """Where to look at the differences, for messages."""
        return f"{self._folder}/{DIFFERENCES}"

    def note(self, differences: Iterable[dict[str, Any]]) -> None:
        """Write *differences* down, apart from those that are there: a supervisor may start the job again and again."""
        there = set(self._read(DIFFERENCES).splitlines())
        self._append(DIFFERENCES, [line for line in map(orjson.dumps, differences) if line not in there])

    def accept_actions(self, action_ids: Iterable[str]) -> None:
        """Write down actions that are on a topic and must not come again, at whatever time they are decided."""
        self._append(ACCEPTED_ACTIONS, [action_id.encode() for action_id in action_ids])

    def accepted_actions(self) -> set[str]:
        """Return the ids of all actions that were accepted so far."""
        return set(self._read(ACCEPTED_ACTIONS).decode(errors="replace").split())

    def _read(self, name: str) -> bytes:
        try:
            return self._folder.read(name)
        except FileNotFoundError:
            return b""

    def _append(self, name: str, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        file = self._folder.append(name)
        try:
            file.write(b"".join(line + b"\n" for line in lines))
            file.sync()
        finally:
            file.close()
