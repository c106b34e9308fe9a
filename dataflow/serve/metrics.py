"""The metrics of a running job: what there is to measure, and how.

Nothing is counted here: each request looks at the last status of every process, which is half a second old while they
work, so asking often or never makes no difference to the job.

Counters count since the start of the job. They go on over the executions of one run (`Running.end_execution`), and
begin at zero with a new run, as Prometheus expects. After a crash what is decided again is counted again: the topics
have everything once, these numbers may not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dataflow.delays import BOUNDS_S, Delayed
from dataflow.job.processes import JobRunner
from dataflow.job.status import PartitionStatus, ShardStatus, Status, Work
from dataflow.keep.decidedby import decided_by
from dataflow.keep.statedir import STATE_FORMAT
from dataflow.read.scanner import WHY_NOT_COMPILED
from operators.ids import of_label
from operators.machine.outbox import PLACES
from operators.machine.totals import FAILURES, FlowTotals, Totals, add_totals, read_totals
from state.outgoing import DEAD_REASONS

OVERDUE_S: Final = 60.0  # A wake-up that is so late is no longer on its way.

Labels = tuple[str, ...]
Samples = dict[Labels, float]


# ---- what is looked at ---------------------------------------------------------------------------------------------


class Look:
    """One look at a job: its last statuses, and what time it is.

    Args:
        runner: of which everything is taken now.
        wall_s: seconds since 1970.
        monotonic_s: seconds of the clock of the statuses' moments.
    """

    def __init__(self, runner: JobRunner, wall_s: float, monotonic_s: float) -> None:
        self.wall_s = wall_s
        self.monotonic_s = monotonic_s
        self.statuses = runner.running.statuses
        self.all_statuses = runner.running.all_statuses
        self.processes = runner.job.processes
        self.process_states = runner.process_states()
        self.reloads = runner.reloads
        self.is_refusing = runner.is_refusing
        programs = [one for one in runner.job.loaded.checked.programs if one.state != "draft"]
        self._flows = [one.label for one in programs]
        self.flows_with_runs = [one.name for one in programs if one.runs is not None]

    @cached_property
    def work(self) -> Work:
        """How much has been done since the start of the job."""
        return sum((status.work for status in self.all_statuses), Work())

    @cached_property
    def counted(self) -> dict[str, FlowTotals]:
        """What has been counted since the start of the job, of each flow that runs and of whatever else was counted."""
        # Totals are kept in the state and go back with it after a crash; what was counted since the start does not.
        return self._read([status.counted for status in self.all_statuses])

    @cached_property
    def totals(self) -> dict[str, FlowTotals]:
        """What has been counted since the state was made; nothing before a process has said it."""
        return self._read([status.totals for status in self.statuses]) if self.statuses else {}

    def _read(self, some: Iterable[Totals]) -> dict[str, FlowTotals]:
        added: Totals = {}
        for totals in some:
            add_totals(added, totals)
        return read_totals(added, self._flows)

    @cached_property
    def partitions(self) -> dict[Labels, PartitionStatus]:
        """The source partitions."""
        return {(key,): one for status in self.statuses for key, one in status.partitions.items()}

    @cached_property
    def stream_times_s(self) -> Samples:
        """The stream time of each partition that has one, in seconds since 1970."""
        return {key: one.stream_ms / 1000 for key, one in self.partitions.items() if one.stream_ms >= 0}

    @cached_property
    def shards(self) -> dict[Labels, ShardStatus]:
        """The shards."""
        return {(str(number),): one for status in self.statuses for number, one in status.shards.items()}

    @cached_property
    def shards_behind_s(self) -> Samples:
        """How far the stream time of each shard that has one is behind the clock."""
        return {key: self.wall_s - one.time_ms / 1000 for key, one in self.shards.items() if one.time_ms >= 0}

    @cached_property
    def overdue_s(self) -> list[float]:
        """How late the earliest wake-up of each shard is that has not happened."""
        known = [one.due_ms for one in self.shards.values() if one.due_ms is not None]
        return [max(0.0, self.wall_s - due_ms / 1000) for due_ms in known]


Measure = Callable[[Look], Samples]


def _one(number: Callable[[Look], float]) -> Measure:
    """Measure a number that is always known."""
    return lambda look: {(): number(look)}


def _once_reported(number: Callable[[Look], float]) -> Measure:
    """Measure a number that is known once a process has reported."""
    return lambda look: {(): number(look)} if look.statuses else {}


def _by_process(number: Callable[[Look, Status], float | None]) -> Measure:
    """Measure a number of each process, where there is one."""

    def measure(look: Look) -> Samples:
        found = {(str(status.process),): number(look, status) for status in look.statuses}
        return {labels: value for labels, value in found.items() if value is not None}

    return measure


def _by_partition(number: Callable[[Look, PartitionStatus], float | None]) -> Measure:
    """Measure a number of each source partition, where there is one."""

    def measure(look: Look) -> Samples:
        found = {labels: number(look, one) for labels, one in look.partitions.items()}
        return {labels: value for labels, value in found.items() if value is not None}

    return measure


def _by_label(counts: Callable[[Status], dict[str, int]], known: Iterable[str] = ()) -> Measure:
    """Measure counts of all processes since the start of the job, by a label.

    Of labels that are *known* also where nothing was counted: an alert sees no rise where there was nothing before.
    """

    def measure(look: Look) -> Samples:
        found = Counter(dict.fromkeys(known, 0))
        for status in look.all_statuses:
            found.update(counts(status))
        return {(label,): number for label, number in found.items()}

    return measure


def _by_flow(number: Callable[[FlowTotals], int]) -> Measure:
    """Measure what was counted of each flow version."""
    return lambda look: {of_label(label): number(counts) for label, counts in look.counted.items()}


def _by_flow_and(details: Callable[[FlowTotals], dict[str, int]], known: Iterable[str] = ()) -> Measure:
    """Measure what was counted of each flow version by a detail; of those *known* as `_by_label` does."""

    def measure(look: Look) -> Samples:
        return {
            (*of_label(label), detail): number
            for label, counts in look.counted.items()
            for detail, number in {**dict.fromkeys(known, 0), **details(counts)}.items()
        }

    return measure


def _journeys(look: Look) -> Samples:
    return {
        (*of_label(label), kind): number
        for label, totals in look.totals.items()
        for kind, number in totals.balance().items()
    }


def _runs_under_way(look: Look) -> Samples:
    found: Counter[str] = Counter()
    for status in look.statuses:
        found.update(status.runs)
    return {(flow,): found[flow] for flow in {*look.flows_with_runs, *found}}


def _holds_back(look: Look) -> Samples:
    newest_s = max(look.stream_times_s.values(), default=0.0)
    return {partition: newest_s - at_s for partition, at_s in look.stream_times_s.items()}


def _time_held_back(look: Look) -> Samples:
    return {(): max(look.shards_behind_s.values())} if look.shards_behind_s else {}


def _process_up(look: Look) -> Samples:
    states = look.process_states
    return {
        (str(index),): float(
            index < len(states) and states[index].exit_status is None and not states[index].hangs(look.monotonic_s)
        )
        for index in range(look.processes)
    }


def _process_age_s(since_s: Callable[[Status], float | None]) -> Measure:
    """Measure how long ago something was in each process; where it has not been yet, since when the process runs."""

    def measure(look: Look) -> Samples:
        states = enumerate(look.process_states)
        since = {str(index): state.started_s for index, state in states if state.exit_status is None}
        said = {str(status.process): since_s(status) for status in look.statuses}
        since |= {process: at_s for process, at_s in said.items() if at_s is not None}
        return {(process,): look.monotonic_s - at_s for process, at_s in since.items()}

    return measure


# ---- what there is to measure --------------------------------------------------------------------------------------


class Family(NamedTuple):
    """A metric: its name, its type, what it says, how it is measured, and the names of its labels."""

    name: str
    kind: str
    text: str
    measure: Measure
    labels: Labels = ()


def _counter(name: str, text: str, measure: Measure, labels: Labels = ()) -> Family:
    return Family(name, "counter", text, measure, labels)


def _gauge(name: str, text: str, measure: Measure, labels: Labels = ()) -> Family:
    return Family(name, "gauge", text, measure, labels)


_FLOW: Final = ("flow", "version")
_FLOW_REASON: Final = (*_FLOW, "reason")
_PARTITION: Final = ("partition",)
_PROCESS: Final = ("process",)

METRICS: Final = (
    _counter(
        "nudge_records_total",
        "Records read from the sources, unreadable ones included.",
        _one(lambda look: look.work.records),
    ),
    _counter(
        "nudge_tombstones_total",
        "Kafka records without a value; they are ignored.",
        _one(lambda look: look.work.tombstones),
    ),
    _counter(
        "nudge_relevant_records_total",
        "Records that satisfied a condition of a flow or changed a profile.",
        _one(lambda look: look.work.relevant),
    ),
    _counter(
        "nudge_duplicates_total",
        "Records dropped since their message_id had come before.",
        _one(lambda look: look.work.duplicates),
    ),
    _counter(
        "nudge_profile_updates_refused_total",
        "Profile updates that were refused because the profile would have become too large.",
        _one(lambda look: look.work.too_large),
    ),
    _counter(
        "nudge_early_forgotten_ids_total",
        "Times that a user had so many events in a day that Nudge forgot the oldest message_id early.",
        _one(lambda look: look.work.ids_forgotten),
    ),
    _counter(
        "nudge_internal_errors_total",
        "Errors in Nudge itself; each affected one user only.",
        _by_label(lambda status: status.mistakes, PLACES),
        ("place",),
    ),
    _counter(
        "nudge_receipts_total",
        "Receipts read: what channels say of actions.",
        _one(lambda look: look.work.receipts),
    ),
    _counter(
        "nudge_unknown_receipts_total",
        "Receipts dropped since no such action is known to have been sent to that user.",
        _one(lambda look: look.work.unknown_receipts),
    ),
    _counter(
        "nudge_memberships_total",
        "Memberships in audiences read.",
        _one(lambda look: look.work.memberships),
    ),
    _counter(
        "nudge_audience_updates_total",
        "Records read which say that an update of an audience is complete.",
        _one(lambda look: look.work.updates),
    ),
    _counter(
        "nudge_ignored_records_total",
        "What other formats have and nothing follows from, such as Segment's group and alias.",
        _one(lambda look: look.work.ignored),
    ),
    _counter(
        "nudge_memberships_cut_total",
        "Memberships of which something was left out: the row was too large, or the user is in too many audiences.",
        _one(lambda look: look.work.memberships_cut),
    ),
    _counter(
        "nudge_dead_letters_total",
        "Records that could not be read.",
        _by_label(lambda status: status.dead, DEAD_REASONS),
        ("reason",),
    ),
    _counter("nudge_actions_total", "Actions written to the sink.", _one(lambda look: look.work.actions)),
    _counter(
        "nudge_journal_records_total", "Journal records written to the sink.", _one(lambda look: look.work.journal)
    ),
    _counter(
        "nudge_skipped_replayed_records_total",
        "Records decided again after a crash and not written again, because the sink already had them.",
        _one(lambda look: look.work.skipped),
    ),
    _counter("nudge_entered_total", "Journeys begun.", _by_flow(lambda counts: counts.entered), _FLOW),
    _counter(
        "nudge_converted_total", "Journeys that reached their goal.", _by_flow(lambda counts: counts.converted), _FLOW
    ),
    _counter(
        "nudge_ended_total",
        "Journeys that came to an end of the flow, by its label.",
        _by_flow_and(lambda counts: counts.ended),
        _FLOW_REASON,
    ),
    _counter(
        "nudge_exited_total",
        "Journeys that an exit rule ended, by its label.",
        _by_flow_and(lambda counts: counts.exited),
        _FLOW_REASON,
    ),
    _counter(
        "nudge_failed_total",
        "Journeys that failed.",
        _by_flow_and(lambda counts: counts.failed, FAILURES),
        _FLOW_REASON,
    ),
    _counter(
        "nudge_refused_total",
        "Triggers that fired, but the user could not enter the flow.",
        _by_flow_and(lambda counts: counts.refused),
        _FLOW_REASON,
    ),
    _counter(
        "nudge_sent_total",
        "Actions decided on, by channel.",
        _by_flow_and(lambda counts: counts.sent),
        (*_FLOW, "channel"),
    ),
    _counter(
        "nudge_postponed_total",
        "Sends held until the end of a quiet time, by channel.",
        _by_flow_and(lambda counts: counts.postponed),
        (*_FLOW, "channel"),
    ),
    _counter("nudge_suppressed_total", "Sends refused.", _by_flow_and(lambda counts: counts.suppressed), _FLOW_REASON),
    _gauge(
        "nudge_runs_under_way",
        "Shards in which a run over an audience has begun and is not over.",
        _runs_under_way,
        ("flow",),
    ),
    _gauge(
        "nudge_journeys_inside",
        "Journeys that are open.",
        lambda look: {of_label(label): totals.inside for label, totals in look.totals.items()},
        _FLOW,
    ),
    _gauge(
        "nudge_journeys",
        "Journeys since the state was made: entered = ended + exited + failed + inside.",
        _journeys,
        (*_FLOW, "kind"),
    ),
    _gauge(
        "nudge_conservation_difference",
        "Difference between open journeys by the counts and open journeys that users hold, at the last checkpoint.",
        _once_reported(lambda look: sum(status.difference for status in look.statuses)),
    ),
    _gauge(
        "nudge_wake_up_overdue_seconds",
        "How late the most overdue wake-up is; 0 if none is overdue.",
        _once_reported(lambda look: max(look.overdue_s, default=0.0)),
    ),
    _gauge(
        "nudge_shards_overdue",
        f"Shards in which a wake-up is more than {OVERDUE_S:.0f} s late.",
        _once_reported(lambda look: sum(late_s > OVERDUE_S for late_s in look.overdue_s)),
    ),
    _gauge(
        "nudge_source_offset",
        "Offset of the next record to read; for a file, its line number.",
        _by_partition(lambda _, one: one.position),
        _PARTITION,
    ),
    _gauge(
        "nudge_source_lag_records",
        "Consumer lag: records of the partition that have not been read.",
        _by_partition(lambda _, one: one.lag),
        _PARTITION,
    ),
    _gauge(
        "nudge_stream_time_seconds",
        "Stream time of the partition, since 1970.",
        lambda look: look.stream_times_s,
        _PARTITION,
    ),
    _gauge(
        "nudge_source_ahead_seconds",
        "How far the timestamps of the partition's records are ahead of the clock of this machine.",
        _by_partition(lambda _, one: one.ahead_ms / 1000),
        _PARTITION,
    ),
    _gauge(
        "nudge_source_late_seconds",
        "How much later than the slack allows the last records of the partition came.",
        _by_partition(lambda _, one: one.late_ms / 1000),
        _PARTITION,
    ),
    _gauge(
        "nudge_source_time_behind_seconds",
        "How far the stream time of the partition is behind the clock.",
        lambda look: {partition: look.wall_s - at_s for partition, at_s in look.stream_times_s.items()},
        _PARTITION,
    ),
    _gauge(
        "nudge_source_holds_back_seconds",
        "How far the stream time of the partition is behind that of the partition furthest ahead.",
        _holds_back,
        _PARTITION,
    ),
    _gauge(
        "nudge_source_stands_seconds",
        "How long the stream time of the partition has not moved.",
        _by_partition(lambda look, one: look.monotonic_s - one.moved_s),
        _PARTITION,
    ),
    _gauge(
        "nudge_time_held_back_seconds",
        "How far the stream time of the slowest shard is behind the clock: waits end late by this time.",
        _time_held_back,
    ),
    _gauge(
        "nudge_shard_time_behind_seconds",
        "How far the stream time of the shard is behind the clock.",
        lambda look: look.shards_behind_s,
        ("shard",),
    ),
    _gauge(
        "nudge_clock_held_back_seconds",
        "How far the clock jumped ahead without a record that confirms it; stream time does not follow yet.",
        _by_process(lambda _, status: status.clock_held_back_ms / 1000),
        _PROCESS,
    ),
    _counter(
        "nudge_checkpoints_total",
        "Checkpoints that had something to write.",
        _by_label(lambda status: {str(status.process): status.checkpoints}),
        _PROCESS,
    ),
    _gauge(
        "nudge_checkpoint_seconds",
        "How long the last checkpoint of the process took.",
        _by_process(lambda _, status: status.checkpoint_s),
        _PROCESS,
    ),
    _gauge(
        "nudge_checkpoint_age_seconds",
        "How long ago the process completed its last checkpoint; before the first, how long it has been running.",
        _process_age_s(lambda status: status.checkpointed_s),
        _PROCESS,
    ),
    _gauge(
        "nudge_status_age_seconds",
        "How old the status of the process is; while the process works, it renews its status twice a second.",
        _process_age_s(lambda status: status.taken_s),
        _PROCESS,
    ),
    _counter(
        "nudge_reloads_total",
        "Changed flows that were put in force (done) or not (refused) while the job ran.",
        lambda look: {(result,): number for result, number in look.reloads.items()},
        ("result",),
    ),
    _gauge(
        "nudge_flows_refused",
        "Whether the flows that were read last were refused, so that those before are still in force.",
        _one(lambda look: look.is_refusing),
    ),
    _gauge(
        "nudge_build_info",
        "Always 1; the labels say which Nudge runs, as nudge --version does.",
        lambda _: {
            (decided_by().software, str(decided_by()), str(STATE_FORMAT), "no" if WHY_NOT_COMPILED else "yes"): 1
        },
        ("version", "decided_by", "state_format", "compiled"),
    ),
    _gauge("nudge_processes", "How many processes share the work.", _one(lambda look: look.processes)),
    _gauge("nudge_process_up", "Whether the process runs and reports.", _process_up, _PROCESS),
)

EVENT_TO_ACTION: Final = "nudge_event_to_action_seconds"

# Metrics of a process of the operating system, as prometheus_client has them: `process_` is the parent, which only
# watches; `nudge_process_` with the label `process` are those that work.
OF_A_PROCESS: Final = tuple(
    f"{prefix}process_{name}"
    for prefix in ("", "nudge_")
    for name in (
        "virtual_memory_bytes",
        "resident_memory_bytes",
        "start_time_seconds",
        "cpu_seconds_total",
        "open_fds",
        "max_fds",
    )
)


class JobCollector(Collector):
    """Looks at a job when it is asked.

    Args:
        wall_clock: seconds since 1970.
        monotonic: seconds of the clock of the statuses' moments.
    """

    def __init__(
        self,
        runner: JobRunner,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._wall_clock = wall_clock
        self._monotonic = monotonic

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, those without a sample included, so that their types are known."""
        measured = self.measure()
        for family in METRICS:
            made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric: Metric = made(family.name, family.text, labels=family.labels)
            for values, number in sorted(measured[family.name].items()):
                metric.add_metric(values, number)  # type: ignore[attr-defined]
            yield metric
        yield self._event_to_action()
        yield from self._of_processes()

    def _event_to_action(self) -> Metric:
        delayed = sum((status.delayed for status in self._runner.running.all_statuses), Delayed())
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        return HistogramMetricFamily(
            EVENT_TO_ACTION,
            "Time from the arrival of an event, or the end of a wait, to the handing of the action to the sink.",
            buckets=list(zip(bounds, accumulate(delayed.counts), strict=True)),
            sum_value=delayed.total_ms / 1000,
        )

    def measure(self) -> dict[str, Samples]:
        """Return the samples of every metric of the job."""
        look = Look(self._runner, self._wall_clock(), self._monotonic())
        return {family.name: family.measure(look) for family in METRICS}

    def _of_processes(self) -> Iterable[Metric]:
        """Return memory, CPU and open files of the processes that do the work; needs /proc."""
        families: dict[str, Metric] = {}
        for index, state in enumerate(self._runner.process_states()):
            if state.exit_status is not None:
                continue
            for metric in ProcessCollector("nudge", pid=lambda pid=state.pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"process": str(index)}, sample.value)
        return families.values()
