"""Write records to Kafka, each with its acknowledgement: what is acknowledged is with the broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.kafka import ANSWER_TIMEOUT_S, KafkaTopics, KafkaUnavailable, Options, client_options

POLL_S: Final = 0.001
OVERDUE_S: Final = 0.05
RENEW_S: Final = 20.0  # Some brokers are lost for good to a client that has seen them without a cluster.
VALUE_MAX: Final = 2 * 1024 * 1024  # What a broker takes is its own business.

_BY_KEY: Final = -1  # The partition: which one, the client says.
_REFUSED: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD)
_SHUT_OUT: Final = (KafkaError._AUTHENTICATION, KafkaError._SSL)

Keyed = tuple[str | bytes | None, bytes]
"""The key and the value of a record."""
Headers = Sequence[tuple[str, bytes]]


class WriteFailed(Exception):
    """The broker has not said that it has a record; the message says why.

    It may have it all the same, unless `is_refused`: this record will never be taken. `code` is what Kafka's client
    calls it, if it does.
    """

    def __init__(self, why: str, *, is_refused: bool = False, code: str = "") -> None:
        super().__init__(why)
        self.is_refused, self.code = is_refused, code


class _Round:
    """Some records that were written together."""

    __slots__ = ("done", "failures", "has_ended", "left", "since_s")

    def __init__(self, done: asyncio.Future[Mapping[int, WriteFailed]], count: int, since_s: float) -> None:
        self.done, self.left, self.since_s = done, count, since_s
        self.has_ended = bytearray(count)
        self.failures: dict[int, WriteFailed] = {}

    def end(self, place: int) -> None:
        self.has_ended[place] = 1
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(self.failures)

    def give_up(self, why: WriteFailed) -> None:
        if not self.done.done():
            open_ones = {place: why for place, has_ended in enumerate(self.has_ended) if not has_ended}
            self.done.set_result({**self.failures, **open_ones})


class KafkaWriter:
    """Writes keyed records, partitioned as Java's client does; for one event loop.

    What comes while other records are on their way waits for these, and then goes with whatever has come meanwhile. So
    a record goes at once when nothing is on its way, and a busy broker gets few large requests. Where one broker of
    several is slow, the others get theirs after a moment all the same.

    What is on its way is bounded. With a *patience*, so is the time: what is not acknowledged then has failed, though
    the broker may have it, or get it still.

    Args:
        linger_ms: no less than it takes to hand some hundred records over, so that they go together.
        queued: how many may be on their way.
        queued_kib: how much they may hold.
        patience_s: for how long a record may be on its way; None: until it is acknowledged.
    """

    def __init__(
        self, bootstrap: str, options: Options, *, linger_ms: float = 2.0, queued: int = 100_000,
        queued_kib: int = 1_048_576, patience_s: float | None = None,
    ) -> None:  # fmt: skip
        self._settings = {
            **client_options(bootstrap, options),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": linger_ms,
            "message.max.bytes": VALUE_MAX,
            "queue.buffering.max.messages": queued,
            "queue.buffering.max.kbytes": queued_kib,
            "message.timeout.ms": 0 if patience_s is None else int(patience_s * 1000),
        }
        self._patience_s = patience_s
        self._topics, self._one_asks = KafkaTopics(bootstrap, options), asyncio.Lock()
        self._asked: asyncio.Future[list[str]] | None = None
        self._producer = self._client()
        self._loop = asyncio.get_running_loop()
        self._queued = queued
        self._held: list[tuple[_Round, str, Sequence[Keyed], Headers]] = []
        self._held_count = 0
        self._held_since_s = 0.0
        self._rounds: deque[_Round] = deque()
        self._poll: asyncio.TimerHandle | None = None
        self._failing_since_s: float | None = None
        self._was_let_in = False
        self._shut_out: WriteFailed | None = None
        self._old: set[asyncio.Task[None]] = set()

    def _client(self) -> Producer:
        return Producer({**self._settings, "partitioner": "murmur2_random", "error_cb": self._heard})

    def _heard(self, error: KafkaError) -> None:
        """Note why no broker lets this client in: to one who never got in, that says that nothing was sent."""
        if error.code() in _SHUT_OUT and not self._was_let_in:
            self._shut_out = _failure(error)

    @property
    def queued(self) -> int:
        """How many records are on their way."""
        return self._held_count + len(self._producer)

    async def write(self, topic: str, key: str | bytes | None, value: bytes) -> None:
        """Write a record, and return once the broker has it.

        Raises:
            WriteFailed: that cannot be said of it.
        """
        failures = await self.begin(topic, [(key, value)])
        if failures:
            raise failures[0]

    def begin(
        self, topic: str, records: Sequence[Keyed], headers: Headers = ()
    ) -> asyncio.Future[Mapping[int, WriteFailed]]:
        """Write *records*; the future is done when it is known of each whether the broker has it.

        Its result are those that failed, by their places among *records*.
        """
        done: asyncio.Future[Mapping[int, WriteFailed]] = self._loop.create_future()
        if not records:
            done.set_result({})
            return done
        now_s = self._loop.time()
        one = _Round(done, len(records), now_s)
        if self._held_count + len(records) > self._queued:
            one.give_up(WriteFailed("too many records are on their way", code="_QUEUE_FULL"))
            return done
        if self._patience_s is not None:
            self._rounds.append(one)
        if not self._held:
            self._held_since_s = now_s
        self._held.append((one, topic, records, headers))
        self._held_count += len(records)
        if not len(self._producer):
            self._hand_over()
        if self._poll is None:
            self._poll = self._loop.call_later(POLL_S, self._look)
        return done

    def _hand_over(self) -> None:
        held, self._held, self._held_count = self._held, [], 0
        produce: Any = self._producer.produce
        for one, topic, records, headers in held:
            more = {"headers": list(headers)} if headers else {}
            report = partial(self._report, one)
            for place, (key, value) in enumerate(records):
                try:
                    # By position, and with no more to be made for each than must be: this is the hot path.
                    produce(topic, value, key, _BY_KEY, partial(report, place), **more)
                except BufferError:
                    self._failed(one, place, WriteFailed("too many records are on their way", code="_QUEUE_FULL"))
                except KafkaException as error:
                    self._failed(one, place, _failure(error.args[0]))

    def _report(self, one: _Round, place: int, error: Any, _: Any) -> None:
        """Note what has become of a record."""
        if error is None:
            self._failing_since_s, self._was_let_in, self._shut_out = None, True, None
            one.end(place)
        elif error.code() == KafkaError._MSG_TIMED_OUT:
            self._failed(one, place, self._shut_out or _failure(error))
        else:
            self._failed(one, place, _failure(error))

    def _failed(self, one: _Round, place: int, failure: WriteFailed) -> None:
        if self._failing_since_s is None and not failure.is_refused:
            self._failing_since_s = self._loop.time()
        one.failures[place] = failure
        one.end(place)

    def _look(self) -> None:
        """See what is acknowledged, while anything is on its way."""
        self._poll = None
        self._producer.poll(0)
        if self._held and (not len(self._producer) or self._loop.time() - self._held_since_s >= OVERDUE_S):
            self._hand_over()
        self._lose_patience()
        if len(self._producer) or self._rounds or self._held:
            self._poll = self._loop.call_later(POLL_S, self._look)

    def _lose_patience(self) -> None:
        rounds, now_s = self._rounds, self._loop.time()
        while rounds and rounds[0].done.done():
            rounds.popleft()
        if self._patience_s is None or not rounds or now_s - rounds[0].since_s < self._patience_s:
            return
        self._failing_since_s = self._failing_since_s or now_s
        while rounds and now_s - rounds[0].since_s >= self._patience_s:
            rounds.popleft().give_up(self._shut_out or WriteFailed(f"not acknowledged for {self._patience_s:g} s"))
        if now_s - self._failing_since_s >= RENEW_S:
            self._renew()

    def _renew(self) -> None:
        """Take a new client: nobody waits for what the old one still has."""
        old, self._producer = self._producer, self._client()
        self._failing_since_s, self._was_let_in, self._shut_out = None, False, None
        old.purge()
        old.poll(0)
        task = self._loop.create_task(asyncio.to_thread(_end, [old]))
        self._old.add(task)
        task.add_done_callback(self._old.discard)

    async def missing(self, topics: Collection[str]) -> list[str]:
        """Return those of *topics* that are not there.

        Raises:
            WriteFailed: the cluster does not answer; the message says why, and what to check.
        """
        async with self._one_asks:
            if self._asked is not None and not self._asked.done():
                await asyncio.wait({self._asked})  # Who asked has gone, the thread has not.
            self._asked = asyncio.ensure_future(asyncio.to_thread(self._missing, sorted(set(topics))))
            self._asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
            try:
                return await asyncio.shield(self._asked)
            except KafkaUnavailable as error:
                raise WriteFailed(str(error)) from error

    def _missing(self, topics: Sequence[str]) -> list[str]:
        there = self._topics.partitions_of_all(topics, patience_s=ANSWER_TIMEOUT_S)
        self._topics.rest()
        return [topic for topic in topics if not there[topic]]

    async def close(self, patience_s: float = 10.0) -> int:
        """Wait until all is acknowledged, and return how many records are not."""
        until_s = self._loop.time() + patience_s
        if self._held:
            self._hand_over()
        while len(self._producer) and self._loop.time() < until_s:
            self._producer.poll(0)
            await asyncio.sleep(POLL_S)
        if self._poll is not None:
            self._poll.cancel()
        if self._asked is not None:
            await asyncio.wait({self._asked})
        self._topics.close()
        return len(self._producer)


def _failure(error: Any) -> WriteFailed:
    if isinstance(error, KafkaError):
        return WriteFailed(error.str(), is_refused=error.code() in _REFUSED, code=error.name())
    return WriteFailed(str(error))


def _end(clients: list[Producer]) -> None:
    clients.clear()  # It waits for its threads.
