"""What a process of the job writes on its standard error, in the parent: lines of libraries, which become log lines.

The log of a process goes elsewhere, so what comes here was written by the engine, a library or the interpreter, and
would break a log of JSON lines. The parent reads it, so the last words of a process that dies are not lost.
"""

from __future__ import annotations

import os
import select
import threading
from typing import IO, Final

from dataflow.logs import Log

QUIET_S: Final = 0.2  # What comes without such a pause is one thing: a traceback has many lines.
TEXT_MAX: Final = 16 * 1024
LAST_WORDS_S: Final = 2.0

_CONNECTS: Final = "error connecting to worker"  # The engine's processes start one after the other.
_PANICS: Final = "panicked at"


class Overheard:
    """Listens to process number *index* until it ends.

    Args:
        pipe: its standard error; closed at its end.
    """

    def __init__(self, index: int, pipe: IO[bytes], log: Log) -> None:
        self._index = index
        self._log = log
        self._panics: list[str] = []
        self._thread = threading.Thread(target=self._listen, args=(pipe,), name=f"overhears-{index}", daemon=True)
        self._thread.start()

    def end(self, exit_status: int) -> None:
        """Say what was held back, if the process that has ended could not say itself why it did."""
        self._thread.join(timeout=LAST_WORDS_S)
        panics, self._panics = self._panics, []
        if panics:
            say = self._log.error if exit_status < 0 else self._log.debug
            say("the engine panicked", process=self._index, text="\n".join(panics))

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            heard = b""
            while True:
                if heard and (len(heard) > TEXT_MAX or not select.select([pipe], [], [], QUIET_S)[0]):
                    self._take(heard)
                    heard = b""
                more = os.read(pipe.fileno(), TEXT_MAX)
                heard += more
                if not more:
                    break
            self._take(heard)

    def _take(self, heard: bytes) -> None:
        lines = [line for line in heard.decode(errors="replace").splitlines() if line.strip()]
        connecting = [line for line in lines if _CONNECTS in line]
        text = "\n".join(line for line in lines if _CONNECTS not in line)
        if connecting:
            self._log.debug("the processes are not connected yet", process=self._index, text=connecting[-1])
        if _PANICS in text:
            self._panics.append(text)  # It ends, and most often knows why.
        elif text:
            self._log.warning("a library wrote on standard error", process=self._index, text=text)
