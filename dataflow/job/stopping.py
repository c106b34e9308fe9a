"""How a run hears at any moment of its life that it is to stop: by SIGTERM or SIGINT.

This imports next to nothing: the command holds the signals before it loads the rest of itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
LISTEN_EVERY_S: Final = 0.2
START_PATIENCE_S: Final = 0.5  # So long a start may take to notice it; one that waits for a broker cannot.

NOT_BEGUN_STATUS: Final = 3
"""The exit status of a process that was asked to stop while it was still opening what it needs."""
NOT_BEGUN: Final = "stopped before anything was begun"
AT_ONCE: Final = "asked to stop a second time, and ended at once; start it again to go on from the last checkpoint"


class Stoppable(Protocol):
    """What is to stop."""

    @property
    def has_begun(self) -> bool:
        """Whether processes were told to do something; they then are to finish their epoch."""
        ...

    def stop(self) -> None:
        """Begin nothing any more, and let end what has begun; may be called more than once."""
        ...

    def abandon(self) -> None:
        """End all processes at once. Ours is to end next."""
        ...


def hold_stop_signals() -> set[Any]:
    """Let stop signals wait until `StopSignals` listens; return which signals were held before."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


class StopSignals:
    """Listens for stop signals, on a thread of its own: the main one may be waiting for a broker that does not answer.

    At the first signal the job is stopped. If it has not begun, and does not notice within half a second, this process
    ends with status 0: whatever it does until then can be interrupted anywhere, as by a crash. At the second signal the
    job is ended at once, with status 1.

    Args:
        abandon: ends what was started before there is a job.
    """

    def __init__(self, abandon: Callable[[], None]) -> None:
        self._held_before = hold_stop_signals()
        self._closed = threading.Event()
        self._gate = threading.Lock()
        self._abandon = abandon
        self._job: Stoppable | None = None
        self._say: Callable[[str], Any] = lambda line: sys.stderr.write(f"nudge: {line}\n")
        self._is_asked = False
        threading.Thread(target=self._listen, name="stop-signals", daemon=True).start()

    def __enter__(self) -> StopSignals:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._held_before)

    def stop(self, job: Stoppable, say: Callable[[str], Any]) -> None:
        """From now on it is *job* that is stopped, at once if that was asked already; *say* logs what is done."""
        with self._gate:
            self._job, self._abandon, self._say = job, job.abandon, say
            if self._is_asked:
                job.stop()

    def _listen(self) -> None:
        if not self._heard():
            return
        with self._gate:
            self._is_asked = True
            if self._job is not None:
                self._job.stop()
        if not self._has_begun():  # And it will not begin any more.
            _await_signal(START_PATIENCE_S)
            if not self._closed.is_set():
                self._leave(0, NOT_BEGUN)
        elif self._heard():
            self._leave(1, AT_ONCE)

    def _heard(self) -> bool:
        """Return once a stop signal has come, or False if nobody needs to listen any more."""
        while not self._closed.is_set():
            if _await_signal(LISTEN_EVERY_S):
                return True
        return False

    def _has_begun(self) -> bool:
        return self._job is not None and self._job.has_begun

    def _leave(self, status: int, why: str) -> None:
        self._say(why)
        self._abandon()
        os._exit(status)


def _await_signal(patience_s: float) -> bool:
    """Tell whether a stop signal comes within *patience_s*.

    After SIGSTOP and SIGCONT the interpreter returns from this wait with whatever was in memory, and says no signal.
    """
    heard = signal.sigtimedwait(STOP_SIGNALS, patience_s)
    return heard is not None and heard.si_signo in STOP_SIGNALS
