"""What the door counts, for Prometheus. It counts in plain numbers, since it does so several times per request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from operators.language.channels import STATUSES

BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
COUNTERS: Final = {
    "nudge_gateway_requests": ("Requests that were answered.", ("path", "status")),
    "nudge_gateway_records": ("Records that the broker has acknowledged.", ("key",)),
    "nudge_gateway_rejected": ("Records that were not taken.", ("key", "reason")),
    "nudge_gateway_receipts": ("Receipts that were written.", ("channel", "status")),
    "nudge_gateway_unmatched": ("Reports about no action that was known when they came.", ("channel",)),
    "nudge_gateway_forgotten": ("Reports about no action that was known within a day.", ("channel",)),
}
"""Of each counter, without its `_total`: what it says, and its labels."""
SECONDS: Final = "nudge_gateway_seconds"
"""How long it takes from a request to its answer, by `path`."""
GAUGES: Final = {
    "nudge_gateway_waiting": "Reports that wait for their action.",
    "nudge_gateway_held_bytes": "What bodies of open requests hold.",
    "nudge_gateway_queued": "Records on their way to Kafka.",
}
_WATCHED: Final = ("401", "500", "503")  # An alert sees only the rise of what was there before.


class _Times:
    """How often something took how long."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0


class Metrics(Collector):
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._counts: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in COUNTERS}
        self._requests, self._records, self._rejected, self._receipts, self._unmatched, self._forgotten = (
            self._counts.values()
        )
        self._times: dict[str, _Times] = {}

    def collect(self) -> Iterator[Any]:
        """Yield them as Prometheus wants them."""
        for name, (help, labels) in COUNTERS.items():
            family = CounterMetricFamily(name, help, labels=labels)
            for values, count in self._counts[name].items():
                family.add_metric(values, count)
            yield family
        times = HistogramMetricFamily(SECONDS, "From a request to its answer.", labels=["path"])
        limits = [*map(str, BUCKETS_S), "+Inf"]
        for path, found in self._times.items():
            times.add_metric([path], list(zip(limits, accumulate(found.counts), strict=True)), found.sum_s)
        yield times

    def watch(self, name: str, now: Callable[[], float]) -> None:
        """Show what *now* returns as the gauge *name*."""
        Gauge(name, GAUGES[name], registry=self._registry).set_function(now)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Note an answer."""
        self._requests[path, str(status)] += 1
        times = self._times.get(path)
        if times is None:
            times = self._times[path] = _Times()
            for one in _WATCHED:
                self._requests[path, one] += 0
        times.counts[bisect_left(BUCKETS_S, seconds)] += 1
        times.sum_s += seconds

    def taken(self, key: str, count: int) -> None:
        """Note records that are stored."""
        self._records[key,] += count

    def rejected(self, key: str, reason: str) -> None:
        """Note a record that is not taken."""
        self._rejected[key, reason] += 1
        self._records[key,] += 0

    def receipt(self, channel: str, status: str) -> None:
        """Note a receipt."""
        self._receipts[channel, status if status in STATUSES else "other"] += 1

    def unmatched(self, channel: str) -> None:
        """Note a report that fits no action yet."""
        self._unmatched[channel,] += 1
        self._forgotten[channel,] += 0

    def forgotten(self, channel: str) -> None:
        """Note a report that fits no action, and is not tried again."""
        self._forgotten[channel,] += 1

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)
