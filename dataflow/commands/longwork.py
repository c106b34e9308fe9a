"""Say how far long work has come: a line that changes on a terminal, else one line per ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

LINE_EVERY_S: Final = 10.0
DRAW_EVERY_S: Final = 0.1


class LongWork:
    """Tells on *stream* how far some work has come.

    Args:
        clock: seconds of a clock that is never set.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._draws = stream.isatty()
        self._told_at = clock()
        self._width = 0

    def tell(self, text: Callable[[], str]) -> None:
        """Show *text*, if it is time to."""
        now = self._clock()
        if now - self._told_at < (DRAW_EVERY_S if self._draws else LINE_EVERY_S):
            return
        self._told_at = now
        if self._draws:
            line = text()
            self._stream.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        else:
            self._stream.write(f"{text()}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line off the terminal, before something else is printed."""
        if self._width:
            self._stream.write(f"\r{'':<{self._width}}\r")
            self._stream.flush()
            self._width = 0
