"""The metrics and the health of `nudge deliver`. Counters count since the start of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dataflow.deliver.counts import BOUNDS_S, ChannelLook
from state.delivery import ACCEPTED, KINDS, REJECTED, UNKNOWN

Looks = Callable[[], Sequence[ChannelLook]]
"""Looks at all channels. Raises TimeoutError where delivery hangs."""

CALL_SECONDS: Final = "nudge_deliver_call_seconds"


class Measured(NamedTuple):
    """A metric of a channel: its name, its type, what it says, how it is measured, and its labels beside `channel`."""

    name: str
    kind: str
    text: str
    measure: Callable[[ChannelLook], Mapping[tuple[str, ...], float]]
    labels: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        return ("channel", *self.labels)


METRICS: Final = (
    Measured("nudge_deliver_calls_total", "counter", "Calls to providers.", lambda one: {(): one.calls}),
    Measured(
        "nudge_deliver_retries_total",
        "counter",
        "Calls for actions that had been called for before.",
        lambda one: {(): one.retries},
    ),
    Measured(
        "nudge_deliver_answers_total",
        "counter",
        "Answers to calls, by their class.",
        lambda one: {(kind,): one.answers[kind] for kind in KINDS},
        ("kind",),
    ),
    Measured(
        "nudge_deliver_outcomes_total",
        "counter",
        "Receipts written of what became of actions.",
        lambda one: {(status,): one.outcomes[status] for status in (ACCEPTED, REJECTED, UNKNOWN)},
        ("status",),
    ),
    Measured(
        "nudge_deliver_dead_letters_total",
        "counter",
        "Records on the channel's topic that are no actions.",
        lambda one: {(): one.dead},
    ),
    Measured("nudge_deliver_open_actions", "gauge", "Actions without an outcome yet.", lambda one: {(): one.open}),
    Measured(
        "nudge_deliver_oldest_open_seconds",
        "gauge",
        "How long ago the oldest open action was decided; 0 if none is open.",
        lambda one: {(): one.oldest_s},
    ),
    Measured(
        "nudge_deliver_circuit_open",
        "gauge",
        "Whether the channel is stopped, since every call would fail.",
        lambda one: {(): one.is_stopped},
    ),
    Measured(
        "nudge_deliver_ledger_away",
        "gauge",
        "Whether the ledger is away, so that nobody is called.",
        lambda one: {(): one.is_ledger_away},
    ),
    Measured(
        "nudge_deliver_partitions",
        "gauge",
        "Partitions of the channel's topic that this process reads.",
        lambda one: {(): one.partitions},
    ),
)


class DeliveryCollector(Collector):
    """Looks at all channels when it is asked."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    def describe(self) -> list[Metric]:
        """Say nothing before there are channels."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        looks = self._looks()
        for one in METRICS:
            made = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            metric = made(one.name, one.text, labels=one.all_labels)
            for look in looks:
                for values, number in one.measure(look).items():
                    metric.add_metric((look.name, *values), float(number))
            yield metric
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        seconds = HistogramMetricFamily(CALL_SECONDS, "How long calls took.", labels=("channel",))
        for look in looks:
            buckets = list(zip(bounds, accumulate(look.seconds), strict=True))
            seconds.add_metric((look.name,), buckets, look.seconds_total)
        yield seconds


class DeliveryHealth:
    """Tells whether `nudge deliver` lives, and whether it works."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    def alive(self) -> tuple[bool, str]:
        """Tell whether it answers at all. One that waits for Kafka, the ledger or a provider is alive."""
        try:
            self._looks()
        except TimeoutError:
            return False, "delivery hangs"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        """Tell whether it reads some partition of each channel, and its ledger is there."""
        try:
            looks = self._looks()
        except TimeoutError:
            return False, "delivery hangs"
        for look in looks:
            if look.is_ledger_away:
                return False, "the ledger is away"
            if not look.partitions:
                return False, f"{look.name}: it has no partition yet"
        return bool(looks), "at work" if looks else "starting"
