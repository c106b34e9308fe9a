"""Write records to Kafka, each with its acknowledgement: what is acknowledged is with the broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.kafka import Options, client_options

POLL_S: Final = 0.05


class WriteFailed(Exception):
    """A record cannot be written, and not later either; the message says why, and `code` as Kafka's client calls it."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.code = error.name()


class KafkaWriter:
    """Writes keyed records, partitioned as Java's client does; for one event loop.

    Args:
        linger_ms: for how long records wait for others to go with.
        queued: how many may be on their way.
    """

    def __init__(
        self, bootstrap: str, options: Options, *, linger_ms: float = 5.0, queued: int = 100_000,
        patience_ms: int = 0,
    ) -> None:  # fmt: skip
        self._producer = Producer(
            {
                **client_options(bootstrap, options),
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": queued,
                "message.timeout.ms": patience_ms,
            }
        )
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._thread = threading.Thread(target=self._poll, name="acknowledgements", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._is_closing:
            self._producer.poll(POLL_S)

    @property
    def queued(self) -> int:
        """How many records are on their way."""
        return len(self._producer)

    async def write(self, topic: str, key: str | bytes | None, value: bytes) -> None:
        """Write a record, and return once the broker has it.

        Raises:
            WriteFailed: it will not have it.
        """
        await self.begin(topic, key, value)

    def begin(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> asyncio.Future[None]:
        """Write a record; the future is done once the broker has it, and fails if it will not.

        Raises:
            BufferError: too many are on their way.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        try:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=self._report(done))
        except KafkaException as error:
            done.set_exception(WriteFailed(error.args[0]))
        return done

    def _report(self, done: asyncio.Future[None]) -> Callable[[Any, Any], None]:
        def report(error: Any, _: Any) -> None:
            self._loop.call_soon_threadsafe(self._tell, done, error)

        return report

    @staticmethod
    def _tell(done: asyncio.Future[None], error: Any) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(WriteFailed(error))

    async def close(self, patience_s: float = 10.0) -> int:
        """Wait until all is acknowledged, and return how many records are not."""
        left: int = await asyncio.to_thread(self._producer.flush, patience_s)
        self._is_closing = True
        await asyncio.to_thread(self._thread.join)
        return left
