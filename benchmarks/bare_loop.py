"""The bare loop: read a topic to its end and parse every value; the least that any Python job on it has to do.

`python -m benchmarks.bare_loop HOST:PORT TOPIC` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import orjson
from confluent_kafka import Consumer, TopicPartition

SETTINGS: dict[str, str | int | bool] = {
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 262_144,
    "fetch.message.max.bytes": 4 * 1024 * 1024,
    # With the default of 1 s a partition pauses for that long each time the local queue is full.
    "fetch.queue.backoff.ms": 2,
    "group.id": "bare-loop",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
}
STALLED_AFTER_S = 60.0


def run(bootstrap: str, topic: str, batch: int) -> dict[str, float]:
    """Read *topic* from its first record to its present end.

    Raises:
        RuntimeError: an error from the client, or nothing came for a minute.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap, **SETTINGS})
    loads = orjson.loads
    started, started_cpu = time.perf_counter(), time.process_time()
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ranges = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30) for p in partitions}
    consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ranges.items()])
    expected = left = sum(high - low for low, high in ranges.values())
    size = 0
    heard = time.perf_counter()
    while left > 0:
        # Never more than there are: `consume` waits for a full batch.
        messages = consumer.consume(min(batch, left), timeout=1.0)
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(str(message.error()))
            value = message.value()
            size += len(value)
            loads(value)
        left -= len(messages)
        if messages:
            heard = time.perf_counter()
        elif time.perf_counter() - heard > STALLED_AFTER_S:
            raise RuntimeError(f"{left} of {expected} records did not come")
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    consumer.close()
    return {
        "events": expected,
        "bytes": size,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "events_per_second": expected / seconds if seconds else 0.0,
    }


def main() -> int:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_loop", description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--batch", type=int, default=10_000, help="records per call (default: %(default)s)")
    options = parser.parse_args()
    print(json.dumps(run(options.bootstrap, options.topic, options.batch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
