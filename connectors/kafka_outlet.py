"""A Kafka producer that is given records in rounds: the next ones when those before them are acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import Producer

ROUND_MAX: Final = 20_000  # Records held back here at the most.
OVERDUE_S: Final = 0.25
BEHIND_S: Final = 0.05


class Outlet:
    """Gathers records while those before them are on their way, and hands them over once these are acknowledged.

    So a record goes out at once when nothing is on its way, and a slow broker gets few large requests. librdkafka alone
    cannot do that: it has at most five records of a partition on their way where the producer is idempotent, and while
    more are due there its thread asks without a pause whether it may send them. On a small machine that takes the very
    time which the broker needs to answer.

    Args:
        producer: nobody else's. Its `linger.ms` has to last for as long as it takes to hand over a round.
        make_room: called as often as the producer's queue is full.
        patience_s: how long the first record of a round may wait for others.
        monotonic_s: tells how long it has waited.
    """

    def __init__(
        self,
        producer: Producer,
        make_room: Callable[[Producer], object],
        patience_s: float = 0.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = producer
        self._monotonic_s = monotonic_s
        self._make_room = make_room
        self._patience_s = patience_s
        self._held: list[tuple[str, str, bytes, Sequence[tuple[str, bytes]]]] = []
        self._since_s = 0.0
        self._handed_over_s = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether the broker takes long to acknowledge the last round, so that what comes now has to wait for it."""
        return bool(len(self._producer)) and self._monotonic_s() - self._handed_over_s > BEHIND_S

    def write(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Put a record into the next round."""
        if not self._held:
            self._since_s = self._monotonic_s()
        self._held.append((topic, key, value, headers))
        if len(self._held) >= ROUND_MAX:
            self._hand_over()

    def deliver(self, *, at_once: bool = False) -> None:
        """Hand over what is held if it is time to, or *at_once*."""
        if self._held and (at_once or self._is_time()):
            self._hand_over()
        self._producer.poll(0)

    def _is_time(self) -> bool:
        waited_s = self._monotonic_s() - self._since_s
        if len(self._producer):
            # What is on its way may be waiting for one broker of several; the others must not wait with it for long.
            return waited_s >= self._patience_s + OVERDUE_S
        return waited_s >= self._patience_s

    def _hand_over(self) -> None:
        held, self._held = self._held, []
        self._handed_over_s = self._monotonic_s()
        produce: Any = self._producer.produce
        for topic, key, value, headers in held:
            while True:
                try:
                    produce(topic, value, key, headers=list(headers))
                    break
                except BufferError:
                    self._make_room(self._producer)

    def flush(self, timeout_s: float) -> int:
        """Wait until everything is acknowledged; returns how many records still are not."""
        self._hand_over()
        left: int = self._producer.flush(timeout_s)
        return left
