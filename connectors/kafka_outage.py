"""That a cluster is away, and that it is back: one line for each, whoever of our clients notices it first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException

SETTLED_S: Final = 5.0  # Without trouble for so long, what answers is back: a broker that restarts comes and goes.
REMIND_EVERY_S: Final = 600.0


class Outage:
    """What the clients of one cluster say of it; for any thread.

    Args:
        log: told once when trouble begins, once when it is over, and now and then in between.
    """

    def __init__(
        self, bootstrap: str, log: Callable[[str], object], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bootstrap = bootstrap
        self._log = log
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._well_since_s: float | None = None
        self._said_s = 0.0

    def trouble(self, reason: str) -> None:
        """Note that something went wrong that passes by itself."""
        reason = reason.removeprefix(f"Kafka at {self._bootstrap} ")
        with self._lock:
            now_s, self._well_since_s = self._monotonic_s(), None
            if self._since_s is None:
                self._since_s = self._said_s = now_s
                self._log(f"Kafka at {self._bootstrap}: {reason}; the job waits for it")
            elif now_s - self._said_s >= REMIND_EVERY_S:
                self._said_s = now_s
                minutes = (now_s - self._since_s) / 60
                self._log(f"Kafka at {self._bootstrap}: for {minutes:.0f} minutes now: {reason}; the job still waits")

    def well(self) -> None:
        """Note that everything that was asked or sent was answered."""
        with self._lock:
            if self._since_s is None:
                return
            now_s = self._monotonic_s()
            if self._well_since_s is None:
                self._well_since_s = now_s
            if now_s - self._well_since_s >= SETTLED_S:
                lasted_s = self._well_since_s - self._since_s
                self._log(f"Kafka at {self._bootstrap} is back, {lasted_s:.0f} s after its trouble was noticed")
                self._since_s = None


def is_of_the_connection(error: KafkaError) -> bool:
    """Tell whether *error* is one that a client found out itself, as that a broker is not to be reached."""
    return bool(error.code() < 0)


def in_words(reason: object) -> str:
    """Return what went wrong without the form that the client gives to it."""
    if isinstance(reason, KafkaException) and reason.args and isinstance(reason.args[0], KafkaError):
        return str(reason.args[0].str())
    return str(reason) or type(reason).__name__
