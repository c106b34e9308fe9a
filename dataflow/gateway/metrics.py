"""What the door counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from operators.language.channels import STATUSES

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "nudge_gateway_requests", "Requests that were answered.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "nudge_gateway_seconds", "From a request to its answer.", ["path"], registry=registry, buckets=BUCKETS
        )
        self._taken = Counter(
            "nudge_gateway_records", "Records that the broker has acknowledged.", ["key"], registry=registry
        )
        self._rejected = Counter(
            "nudge_gateway_rejected", "Records that were not taken.", ["key", "reason"], registry=registry
        )
        self._receipts = Counter(
            "nudge_gateway_receipts", "Receipts that were written.", ["channel", "status"], registry=registry
        )
        self._unmatched = Counter(
            "nudge_gateway_unmatched", "Reports about no action that was known when they came.", ["channel"],
            registry=registry,
        )  # fmt: skip
        self._forgotten = Counter(
            "nudge_gateway_forgotten", "Reports about no action that was known within a day.", ["channel"],
            registry=registry,
        )  # fmt: skip

    def watch(self, name: str, help: str, now: Callable[[], float]) -> None:
        """Show what *now* returns as a gauge."""
        Gauge(name, help, registry=self._registry).set_function(now)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Note an answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def taken(self, key: str, count: int) -> None:
        """Note records that are stored."""
        self._taken.labels(key).inc(count)

    def rejected(self, key: str, reason: str) -> None:
        """Note a record that is not taken."""
        self._rejected.labels(key, reason).inc()

    def receipt(self, channel: str, status: str) -> None:
        """Note a receipt."""
        self._receipts.labels(channel, status if status in STATUSES else "other").inc()

    def unmatched(self, channel: str) -> None:
        """Note a report that fits no action yet."""
        self._unmatched.labels(channel).inc()

    def forgotten(self, channel: str) -> None:
        """Note a report that fits no action, and is not tried again."""
        self._forgotten.labels(channel).inc()

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)
