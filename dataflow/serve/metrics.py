"""Metrics and health of a running job over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz`.

Served by the parent, which has nothing to do while its processes work. Nothing is counted here: each request looks at
the last status of every process, half a second old at most, so asking often or never makes no difference to the job.

Counters count since the start of the job. They go on over the executions of one run (`Running.end_execution`), and
begin at zero with a new run, as Prometheus expects. After a crash what is decided again is counted again: the topics
have everything once, these numbers may not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from dataflow.errors import UsageError
from dataflow.job.mistakes import PLACES
from operators.machine.invariants import Balance

if TYPE_CHECKING:
    from dataflow.job.processes import JobRunner

CONNECTIONS_MAX: Final = 16  # Prometheus and a few probes; whoever comes on top is turned away.
READ_TIMEOUT_S: Final = 5.0
REQUEST_MAX_S: Final = 15.0  # For a whole request, so that a client that trickles bytes cannot keep a connection.
SILENT_MAX_S: Final = 30.0  # Processes report twice a second; one that has not for so long is stuck.

OVERDUE_S: Final = 60.0  # A wake-up that is so late is no longer on its way.

Status = Mapping[str, Any]
Samples = dict[tuple[str, ...], float]


# ---- what there is to measure --------------------------------------------------------------------------------------


class Family(NamedTuple):
    """A metric: its name, its type, what it says, and the names of its labels."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


_FLOW: Final = ("flow", "version")
_BY_REASON: Final = (*_FLOW, "reason")

METRICS: Final = (
    Family("nudge_records_total", "counter", "Records read from the sources, unreadable ones included."),
    Family("nudge_relevant_records_total", "counter", "Records that mattered to some flow or profile."),
    Family("nudge_duplicates_total", "counter", "Records dropped since their message_id had come before."),
    Family("nudge_profile_updates_refused_total", "counter", "They would have made a profile too large."),
    Family("nudge_early_forgotten_ids_total", "counter", "Users had so many events that ids of the day had to go."),
    Family("nudge_internal_errors_total", "counter", "Mistakes of ours, each contained to one user.", ("place",)),
    Family("nudge_unsupported_records_total", "counter", "Receipts and memberships, which are left alone so far."),
    Family("nudge_dead_letters_total", "counter", "Records that could not be read.", ("reason",)),
    Family("nudge_actions_total", "counter", "Actions written to the sink."),
    Family("nudge_journal_records_total", "counter", "Journal records written to the sink."),
    Family("nudge_skipped_replayed_records_total", "counter", "Not written again: a killed run had written them."),
    Family("nudge_entered_total", "counter", "Journeys begun.", _FLOW),
    Family("nudge_converted_total", "counter", "Journeys that reached their goal.", _FLOW),
    Family("nudge_ended_total", "counter", "Journeys that came to an end of the flow, by its label.", _BY_REASON),
    Family("nudge_exited_total", "counter", "Journeys that an exit rule ended, by its label.", _BY_REASON),
    Family("nudge_failed_total", "counter", "Journeys that failed.", _BY_REASON),
    Family("nudge_refused_total", "counter", "Triggers that fired, and entry was refused.", _BY_REASON),
    Family("nudge_sent_total", "counter", "Actions decided on, by channel.", (*_FLOW, "channel")),
    Family("nudge_suppressed_total", "counter", "Sends refused.", _BY_REASON),
    Family("nudge_journeys_inside", "gauge", "Journeys that are open.", _FLOW),
    Family(
        "nudge_journeys",
        "gauge",
        "Journeys since the state was made: entered = ended + exited + failed + inside.",
        (*_FLOW, "kind"),
    ),
    Family(
        "nudge_conservation_difference",
        "gauge",
        "Journeys that are open by these counts and that no user holds, or the other way round; as of the checkpoint.",
    ),
    Family("nudge_wake_up_overdue_seconds", "gauge", "How late the earliest wake-up is that has not happened."),
    Family("nudge_shards_overdue", "gauge", f"Shards in which one is more than {OVERDUE_S:.0f} s late."),
    Family("nudge_source_offset", "gauge", "Offset of the next record; of a file, its line.", ("partition",)),
    Family("nudge_source_lag_records", "gauge", "Records between there and the partition's end.", ("partition",)),
    Family("nudge_stream_time_seconds", "gauge", "Stream time of the partition, since 1970.", ("partition",)),
    Family("nudge_source_ahead_seconds", "gauge", "How far stamps of records are ahead of the clock.", ("partition",)),
    Family("nudge_source_late_seconds", "gauge", "How much later than the slack records came.", ("partition",)),
    Family("nudge_source_time_behind_seconds", "gauge", "How far that is behind the clock.", ("partition",)),
    Family(
        "nudge_source_holds_back_seconds",
        "gauge",
        "How far the partition is behind the one that is furthest: so long it holds time back.",
        ("partition",),
    ),
    Family("nudge_source_stands_seconds", "gauge", "Since when its stream time has not moved.", ("partition",)),
    Family("nudge_time_held_back_seconds", "gauge", "How far the least stream time of all users is behind the clock."),
    Family("nudge_shard_time_behind_seconds", "gauge", "The same of the users of one shard.", ("shard",)),
    Family("nudge_clock_held_back_seconds", "gauge", "A jump of the clock that no record has confirmed.", ("process",)),
    Family("nudge_checkpoints_total", "counter", "Checkpoints that had something to write.", ("process",)),
    Family("nudge_checkpoint_seconds", "gauge", "How long the last of them took.", ("process",)),
    Family("nudge_checkpoint_age_seconds", "gauge", "How long ago a checkpoint was complete.", ("process",)),
    Family("nudge_processes", "gauge", "How many processes share the work."),
    Family("nudge_process_up", "gauge", "Whether the process runs.", ("process",)),
)

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

DEAD_LETTER_REASONS: Final = (
    "too_large",
    "not_json",
    "too_deep",
    "not_an_object",
    "no_user",
    "no_event",
    "bad_type",
    "bad_time",
)
FAILURES: Final = ("loop", "error")

_SUMMED: Final = {
    "nudge_records_total": "records",
    "nudge_relevant_records_total": "relevant",
    "nudge_duplicates_total": "duplicates",
    "nudge_profile_updates_refused_total": "too_large",
    "nudge_early_forgotten_ids_total": "ids_forgotten",
    "nudge_unsupported_records_total": "unsupported",
    "nudge_actions_total": "actions",
    "nudge_journal_records_total": "journal",
    "nudge_skipped_replayed_records_total": "skipped",
}
_BY_FLOW: Final = {"entered": "nudge_entered_total", "converted": "nudge_converted_total"}
_BY_FLOW_AND_DETAIL: Final = {
    kind: f"nudge_{kind}_total" for kind in ("ended", "exited", "failed", "refused", "sent", "suppressed")
}


class JobCollector(Collector):
    """Looks at a job when it is asked.

    Args:
        wall_clock: seconds since 1970.
    """

    def __init__(self, runner: JobRunner, wall_clock: Callable[[], float] = time.time) -> None:
        self._runner = runner
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        # `Running` begins each execution with a new mapping. The old one stays as it was at its end, so whoever has
        # kept it can go on counting from there.
        self._execution = runner.running.by_process
        self._ended: dict[str, Samples] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, those without a sample included, so that their types are known."""
        measured = self.measure()
        for name, kind, text, labels in METRICS:
            made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family: Metric = made(name, text, labels=labels)
            for values, number in sorted(measured.get(name, {}).items()):
                family.add_metric(values, number)  # type: ignore[attr-defined]
            yield family
        yield from self._of_processes()

    def measure(self) -> dict[str, Samples]:
        """Return the samples of every metric of the job."""
        with self._lock:
            now = self._runner.running.by_process
            if now is not self._execution:
                _add(self._ended, _counted(self._execution))
                self._execution = now
            counters: dict[str, Samples] = {}
            _add(counters, self._zeros())
            _add(counters, self._ended)
            _add(counters, _counted(now))
        return {**counters, **self._gauges([status for _, status in sorted(now.copy().items())])}

    def _flows(self) -> list[tuple[str, str]]:
        """Return name and version of the flows that run."""
        programs = self._runner.job.loaded.checked.programs
        return [(one.name, str(one.version)) for one in programs if one.state != "draft"]

    def _zeros(self) -> dict[str, Samples]:
        """Return what is zero before it is first counted: an alert sees no rise where there was nothing before."""
        flows = self._flows()
        return {
            **{name: {(): 0.0} for name in _SUMMED},
            "nudge_dead_letters_total": {(reason,): 0.0 for reason in DEAD_LETTER_REASONS},
            "nudge_internal_errors_total": {(place,): 0.0 for place in PLACES},
            "nudge_entered_total": dict.fromkeys(flows, 0.0),
            "nudge_failed_total": {(*flow, reason): 0.0 for flow in flows for reason in FAILURES},
        }

    def _gauges(self, statuses: list[Status]) -> dict[str, Samples]:
        found: dict[str, Samples] = {name: {} for name, kind, _, _ in METRICS if kind == "gauge"}
        now = self._wall_clock()
        for status in statuses:
            process = (str(status["process"]),)
            found["nudge_checkpoint_seconds"][process] = status["checkpoint_s"]
            if status["checkpoint_age_s"] is not None:
                found["nudge_checkpoint_age_seconds"][process] = status["checkpoint_age_s"]
        _measure_sources(statuses, found, now)
        _measure_shards(statuses, found, now)
        if statuses:
            self._measure_journeys(statuses, found)
        found["nudge_processes"][()] = self._runner.job.processes
        ended = exit_statuses(self._runner)
        for index in range(self._runner.job.processes):
            is_up = index < len(ended) and ended[index] is None
            found["nudge_process_up"][(str(index),)] = float(is_up)
        return found

    def _measure_journeys(self, statuses: list[Status], found: dict[str, Samples]) -> None:
        totals: dict[str, dict[str, int]] = {f"{flow}\x1f{version}": {} for flow, version in self._flows()}
        for status in statuses:
            for flow, counts in status["totals"].items():
                kept = totals.setdefault(flow, {})
                for what, number in counts.items():
                    kept[what] = kept.get(what, 0) + number
        for flow, counts in totals.items():
            balance = Balance()
            balance.add_totals(counts)
            found["nudge_journeys_inside"][_flow_of(flow)] = balance.inside
            for kind in ("entered", "ended", "exited", "failed", "inside"):
                found["nudge_journeys"][(*_flow_of(flow), kind)] = getattr(balance, kind)
        found["nudge_conservation_difference"][()] = sum(status["difference"] for status in statuses)

    def _of_processes(self) -> Iterable[Metric]:
        """Return memory, CPU and open files of the processes that do the work; needs /proc."""
        families: dict[str, Metric] = {}
        for index, child in enumerate(list(self._runner._children)):
            if child.returncode is not None:
                continue
            for metric in ProcessCollector("nudge", pid=lambda pid=child.pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"process": str(index)}, sample.value)
        return families.values()


def _measure_sources(statuses: list[Status], found: dict[str, Samples], now: float) -> None:
    times: dict[tuple[str, ...], float] = {}
    for status in statuses:
        for partition, (offset, lag, stream_ms) in status["positions"].items():
            found["nudge_source_offset"][(partition,)] = offset
            if lag is not None:
                found["nudge_source_lag_records"][(partition,)] = lag
            if stream_ms >= 0:
                times[(partition,)] = stream_ms / 1000
        for partition, seconds in status["stands_s"].items():
            found["nudge_source_stands_seconds"][(partition,)] = seconds
    newest = max(times.values(), default=0.0)
    found["nudge_stream_time_seconds"] = times
    found["nudge_source_time_behind_seconds"] = {partition: now - at for partition, at in times.items()}
    found["nudge_source_holds_back_seconds"] = {partition: newest - at for partition, at in times.items()}


def _measure_shards(statuses: list[Status], found: dict[str, Samples], now: float) -> None:
    late: list[float] = []
    for status in statuses:
        for shard, (time_ms, due_ms) in status["shards_at"].items():
            if time_ms >= 0:
                found["nudge_shard_time_behind_seconds"][(shard,)] = now - time_ms / 1000
            if due_ms is not None:
                late.append(max(0.0, now - due_ms / 1000))
    behind = found["nudge_shard_time_behind_seconds"].values()
    if behind:
        found["nudge_time_held_back_seconds"][()] = max(behind)
    if statuses:
        found["nudge_wake_up_overdue_seconds"][()] = max(late, default=0.0)
        found["nudge_shards_overdue"][()] = sum(seconds > OVERDUE_S for seconds in late)


def _counted(by_process: dict[int, dict[str, Any]]) -> dict[str, Samples]:
    """Return what the processes of one execution have counted."""
    found: dict[str, Samples] = {}

    def count(name: str, labels: tuple[str, ...], number: float) -> None:
        samples = found.setdefault(name, {})
        samples[labels] = samples.get(labels, 0.0) + number

    for status in by_process.copy().values():
        for name, field in _SUMMED.items():
            count(name, (), status[field])
        for place, number in status["errors"].items():
            count("nudge_internal_errors_total", (place,), number)
        for reason, number in status["dead"].items():
            count("nudge_dead_letters_total", (reason,), number)
        count("nudge_checkpoints_total", (str(status["process"]),), status["checkpoints"])
        # Totals are kept in the state and go back with it after a crash; what was counted since the start does not.
        for flow, counts in status.get("counted", status["totals"]).items():
            for what, number in counts.items():
                kind, _, detail = what.partition(":")
                if kind in _BY_FLOW:
                    count(_BY_FLOW[kind], _flow_of(flow), number)
                elif kind in _BY_FLOW_AND_DETAIL:
                    count(_BY_FLOW_AND_DETAIL[kind], (*_flow_of(flow), detail), number)
    return found


def _add(to: dict[str, Samples], more: dict[str, Samples]) -> None:
    for name, samples in more.items():
        kept = to.setdefault(name, {})
        for labels, number in samples.items():
            kept[labels] = kept.get(labels, 0.0) + number


def _flow_of(label: str) -> tuple[str, str]:
    name, _, version = label.partition("\x1f")
    return name, version


# ---- health --------------------------------------------------------------------------------------------------------


def exit_statuses(runner: JobRunner) -> list[int | None]:
    """Return how the processes of this execution ended, None for those that run. The runner asks 50 times a second."""
    return [child.returncode for child in list(runner._children)]


class Health:
    """Whether the job lives, and whether it works.

    Args:
        monotonic: seconds of a clock that is never set.
    """

    def __init__(self, runner: JobRunner, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._monotonic = monotonic
        self._seen: dict[int, tuple[Status, float]] = {}

    def alive(self) -> tuple[bool, str]:
        """Tell whether all processes live and report, and why not.

        A job that is starting, stopping or between two executions is alive: nobody should kill it.
        """
        ended = exit_statuses(self._runner)
        for index, status in enumerate(ended):
            if status:
                return False, f"process {index} has ended with status {status}"
        now = self._monotonic()
        for index, report in sorted(self._runner.running.by_process.copy().items()):
            seen, since = self._seen.get(index, (None, now))
            if seen is not report:
                self._seen[index] = (report, now)
            elif now - since > SILENT_MAX_S and index < len(ended) and ended[index] is None:
                return False, f"process {index} has not reported for {now - since:.0f} s"
        return True, "stopping" if self._runner.stopping.is_set() else "alive"

    def ready(self) -> tuple[bool, str]:
        """Tell whether all processes have reported."""
        processes = self._runner.job.processes
        reported = min(len(self._runner.running.by_process), len(exit_statuses(self._runner)))
        return reported >= processes, f"{reported} of {processes} processes have reported"


# ---- over HTTP -----------------------------------------------------------------------------------------------------


class _HttpServer(ThreadingHTTPServer):
    """A server that strangers cannot keep busy: few connections, none of them for long."""

    request_queue_size = CONNECTIONS_MAX
    daemon_threads = True

    def __init__(self, host: str, port: int, runner: JobRunner) -> None:
        self.log = runner.log
        self.health = Health(runner)
        self.registry = CollectorRegistry()
        self.registry.register(JobCollector(runner))
        ProcessCollector(registry=self.registry)
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        self._open: dict[socket, float] = {}
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # That of HTTPServer asks the name service who we are, which can take long.
        self.server_name, self.server_port = "nudge", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._open[request]
            self._free.release()

    def service_actions(self) -> None:
        """End the connections that take too long; called now and then by the server's own loop."""
        now = time.monotonic()
        for connection, since in list(self._open.items()):
            if now - since > REQUEST_MAX_S:
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away or talk nonsense: that is no problem of the job."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of three paths, one request per connection, and reads no body."""

    server: _HttpServer
    timeout = READ_TIMEOUT_S
    server_version = "nudge"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, content_type, body = HTTPStatus.OK, "text/plain; charset=utf-8", b""
        try:
            if path == "/metrics":
                content_type, body = CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self.server.registry)
            elif path in ("/healthz", "/readyz"):
                holds, text = self.server.health.alive() if path == "/healthz" else self.server.health.ready()
                status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
                body = text.encode() + b"\n"
            else:
                status, body = HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n"
        except Exception as error:
            self.server.log.warning("metrics cannot be told", error=f"{type(error).__name__}: {error}")
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, b"the log says why\n"
        self._answer(status, content_type, body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request that we take; without a page that repeats what was sent."""
        self.close_connection = True
        self._answer(HTTPStatus(code), "text/plain; charset=utf-8", b"only GET and HEAD are answered\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: there is one every few seconds, for ever."""


class Server:
    """A server that runs until it is closed, in a thread of its own."""

    def __init__(self, http: _HttpServer) -> None:
        self._http = http
        self._thread = threading.Thread(target=http.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on, also when any was asked for."""
        return int(self._http.server_port)

    def close(self) -> None:
        """Stop listening. Closing twice is fine."""
        self._http.shutdown()
        self._http.server_close()


def serve(port: int, runner: JobRunner, *, host: str = "0.0.0.0") -> Server:  # noqa: S104 - whoever scrapes is elsewhere.
    """Serve metrics and health of *runner* on *port*; 0 takes a free one.

    Raises:
        UsageError: the port cannot be listened on.
    """
    try:
        return Server(_HttpServer(host, port, runner))
    except OSError as error:
        raise UsageError(f"--metrics-port {port}: {error.strerror or error}; choose another one") from None
