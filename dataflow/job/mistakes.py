"""Mistakes of ours in the handling of one user: counted and logged, with nothing in it of what users send."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from operators.ids import of_label
from operators.machine.outbox import Mistake

KINDS_LOGGED: Final = 100  # One line for each kind, and one whenever its number has doubled.


class MistakeLog:
    """Counts mistakes by where they happened, and logs each kind.

    A line has no message of the exception, which may quote values: it names the kind, the line of code, the flow and
    the place of the record.

    Args:
        places: the source partitions, as a mistake's `source` counts them.
    """

    def __init__(self, log: Callable[..., Any], places: Sequence[str]) -> None:
        self._log = log
        self._places = places
        self._seen: dict[tuple[str, ...], int] = {}
        self.counts: dict[str, int] = {}

    def take(self, mistakes: list[Mistake]) -> None:
        """Count and log *mistakes*, and empty the list."""
        for one in mistakes:
            self.counts[one.place] = self.counts.get(one.place, 0) + 1
            flow, version = of_label(one.flow)
            kind = (one.place, flow, version, type(one.error).__name__, code_line(one.error))
            if kind not in self._seen and len(self._seen) >= KINDS_LOGGED:
                continue
            times = self._seen[kind] = self._seen.get(kind, 0) + 1
            if times & (times - 1) == 0:
                record = f"{self._places[one.source]} {one.offset}" if one.source >= 0 else None
                self._log(
                    "an internal error: one user's step was given up, the others go on",
                    place=one.place,
                    flow=flow or None,
                    version=version or None,
                    error=kind[3],
                    code=kind[4],
                    record=record,
                    times=times,
                )
        mistakes.clear()


def code_line(error: BaseException) -> str:
    """Return the innermost line of code that *error* came from."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f"{'/'.join(last.filename.split('/')[-2:])}:{last.lineno} {last.name}"
