"""What a job says of itself over HTTP: metrics for Prometheus, health for whatever supervises it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dataflow.delays import BOUNDS_S, Delayed
from dataflow.demo import FLOWS
from dataflow.errors import UsageError
from dataflow.gateway import metrics as gateway
from dataflow.job.silence import ProcessState
from dataflow.job.status import PartitionStatus, Report, Running, ShardStatus, Status, Work
from dataflow.keep.decidedby import decided_by
from dataflow.serve import delivery
from dataflow.serve import http as serving
from dataflow.serve.health import Health
from dataflow.serve.http import Server, serve
from dataflow.serve.metrics import EVENT_TO_ACTION, METRICS, OF_A_PROCESS, JobCollector
from operators.machine.outbox import PLACES
from state.outgoing import DEAD_REASONS
from tests.jobs import REPO, RunningJob
from tests.scenarios.scenario_files import instant

NOON_S = 1_795_435_200.0  # 2026-11-23T12:00:00Z
NOON_MS = int(NOON_S * 1000)
CART = "cart\x1f3"


def partition(
    position: int = 1, lag: int | None = 0, stream_ms: int = NOON_MS, *, moved_s: float = 0.0
) -> PartitionStatus:
    return PartitionStatus(position, lag, stream_ms, moved_s)


class FakeRunner:
    """A job of which only the outside is there: processes that report what a test says."""

    def __init__(self, processes: int = 2) -> None:
        programs = [
            SimpleNamespace(label=CART, state="live", name="cart", runs=None),
            SimpleNamespace(label="later\x1f1", state="draft", name="later", runs=None),
        ]
        checked = SimpleNamespace(programs=programs)
        self.job = SimpleNamespace(processes=processes, loaded=SimpleNamespace(checked=checked))
        self.running = Running()
        self.stopping = threading.Event()
        self.log = structlog.get_logger()
        self.reloads = {"done": 0, "refused": 0}
        self.is_refusing = False
        self._states: list[ProcessState] = []

    def process_states(self) -> list[ProcessState]:
        heard = [self.running.heard_s(index) for index in range(len(self._states))]
        return [
            one._replace(heard_s=max(one.heard_s, heard_s)) for one, heard_s in zip(self._states, heard, strict=True)
        ]

    def start(self, at_s: float | None = None) -> None:
        at_s = time.monotonic() if at_s is None else at_s
        self._states = [ProcessState(os.getpid(), None, at_s, at_s) for _ in range(self.job.processes)]

    def report(self, process: int = 0, *, sent_s: float | None = None, taken_s: float = 0.0, **fields: Any) -> None:
        sent_s = time.monotonic() if sent_s is None else sent_s
        self.running.take(Report(sent_s, Status(process, taken_s, **fields)))

    def end(self, process: int, exit_status: int) -> None:
        self._states[process] = self._states[process]._replace(exit_status=exit_status)


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def server(runner: FakeRunner) -> Iterator[Server]:
    made = serve(0, runner, host="127.0.0.1")  # type: ignore[arg-type]
    yield made
    made.close()


def collector(runner: FakeRunner, now_s: float = NOON_S, monotonic_s: float = 0.0) -> JobCollector:
    return JobCollector(runner, wall_clock=lambda: now_s, monotonic=lambda: monotonic_s)  # type: ignore[arg-type]


Answer = tuple[int, dict[str, str], str]


def ask(server: Server, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """Return status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    """Return the samples of an exposition, as `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


# ---- metrics -------------------------------------------------------------------------------------------------------


def test_metrics_add_up_what_all_processes_report(runner: FakeRunner, server: Server) -> None:
    runner.start()
    first = {CART: {"entered": 5, "sent:sms": 4, "ended": 1, "ended:cold": 1, "refused:reentry": 2}}
    second = {CART: {"entered": 2, "exited": 1, "failed:loop": 1, "suppressed:no_address": 6, "converted": 1}}
    runner.report(
        0,
        work=Work(
            records=1000,
            tombstones=5,
            relevant=90,
            actions=7,
            journal=30,
            duplicates=2,
            too_large=3,
            receipts=12,
            unknown_receipts=2,
            memberships=6,
            updates=2,
            ignored=3,
            memberships_cut=1,
            skipped=4,
        ),
        mistakes={"step": 1, "entry": 2},
        dead={"no_user": 3},
        totals=first,
        counted=first,
        partitions={"events-0": PartitionStatus(120, 30, NOON_MS, 0.0, ahead_ms=7_500, late_ms=250)},
        shards={0: ShardStatus(NOON_MS, NOON_MS + 1)},
        runs={"vip-week": 3},
        clock_held_back_ms=1_500,
        checkpoints=3,
        checkpoint_s=0.25,
    )
    runner.report(
        1,
        work=Work(records=500, relevant=10, actions=1, journal=5),
        dead={"no_user": 1, "not_json": 1},
        totals=second,
        counted=second,
        partitions={"events-1": partition(80, None, -1)},
        shards={1: ShardStatus(NOON_MS - 5000)},
        runs={"vip-week": 2},
        checkpoints=2,
        checkpoint_s=0.5,
    )
    code, headers, body = ask(server, "/metrics")
    found = samples(body)
    assert code == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    flow = 'flow="cart"'
    wanted = {
        "nudge_flows_refused": 0,
        'nudge_reloads_total{result="done"}': 0,
        'nudge_reloads_total{result="refused"}': 0,
        "nudge_records_total": 1500,
        "nudge_tombstones_total": 5,
        "nudge_relevant_records_total": 100,
        "nudge_actions_total": 8,
        "nudge_journal_records_total": 35,
        "nudge_duplicates_total": 2,
        "nudge_receipts_total": 12,
        "nudge_unknown_receipts_total": 2,
        "nudge_memberships_total": 6,
        "nudge_audience_updates_total": 2,
        "nudge_ignored_records_total": 3,
        "nudge_memberships_cut_total": 1,
        "nudge_profile_updates_refused_total": 3,
        "nudge_early_forgotten_ids_total": 0,
        **{f'nudge_internal_errors_total{{place="{place}"}}': 0 for place in PLACES},
        'nudge_internal_errors_total{place="step"}': 1,
        'nudge_internal_errors_total{place="entry"}': 2,
        "nudge_skipped_replayed_records_total": 4,
        **{f'nudge_dead_letters_total{{reason="{reason}"}}': 0 for reason in DEAD_REASONS},
        'nudge_dead_letters_total{reason="no_user"}': 4,
        'nudge_dead_letters_total{reason="not_json"}': 1,
        f'nudge_entered_total{{{flow},version="3"}}': 7,
        f'nudge_converted_total{{{flow},version="3"}}': 1,
        f'nudge_ended_total{{{flow},reason="",version="3"}}': 1,
        f'nudge_ended_total{{{flow},reason="cold",version="3"}}': 1,
        f'nudge_exited_total{{{flow},reason="",version="3"}}': 1,
        f'nudge_failed_total{{{flow},reason="loop",version="3"}}': 1,
        f'nudge_failed_total{{{flow},reason="error",version="3"}}': 0,
        f'nudge_refused_total{{{flow},reason="reentry",version="3"}}': 2,
        f'nudge_suppressed_total{{{flow},reason="no_address",version="3"}}': 6,
        f'nudge_sent_total{{channel="sms",{flow},version="3"}}': 4,
        'nudge_runs_under_way{flow="vip-week"}': 5,
        f'nudge_journeys_inside{{{flow},version="3"}}': 3,
        f'nudge_journeys{{{flow},kind="entered",version="3"}}': 7,
        f'nudge_journeys{{{flow},kind="ended",version="3"}}': 2,
        f'nudge_journeys{{{flow},kind="exited",version="3"}}': 1,
        f'nudge_journeys{{{flow},kind="failed",version="3"}}': 1,
        f'nudge_journeys{{{flow},kind="inside",version="3"}}': 3,
        "nudge_conservation_difference": 0,
        'nudge_source_holds_back_seconds{partition="events-0"}': 0,
        'nudge_source_ahead_seconds{partition="events-0"}': 7.5,
        'nudge_source_ahead_seconds{partition="events-1"}': 0,
        'nudge_source_late_seconds{partition="events-0"}': 0.25,
        'nudge_source_late_seconds{partition="events-1"}': 0,
        'nudge_clock_held_back_seconds{process="0"}': 1.5,
        'nudge_clock_held_back_seconds{process="1"}': 0,
        'nudge_source_offset{partition="events-0"}': 120,
        'nudge_source_offset{partition="events-1"}': 80,
        'nudge_source_lag_records{partition="events-0"}': 30,
        'nudge_stream_time_seconds{partition="events-0"}': NOON_S,
        'nudge_checkpoints_total{process="0"}': 3,
        'nudge_checkpoints_total{process="1"}': 2,
        'nudge_checkpoint_seconds{process="0"}': 0.25,
        'nudge_checkpoint_seconds{process="1"}': 0.5,
        "nudge_processes": 2,
        'nudge_process_up{process="0"}': 1,
        'nudge_process_up{process="1"}': 1,
    }
    clock = (
        "nudge_time_held_back_seconds", "nudge_source_time_behind_seconds", "nudge_shard", "nudge_wake_up", "process_",
        "nudge_process_", "nudge_source_stands", "nudge_status_age", "nudge_checkpoint_age",
    )  # fmt: skip
    labels = re.search(r"^nudge_build_info\{(.*)\} 1\.0$", body, re.MULTILINE)
    assert labels is not None
    assert set(re.findall(r'(\w+)="', labels[1])) == {"version", "decided_by", "state_format", "compiled"}
    assert f'decided_by="{decided_by()}"' in labels[1]
    apart = (*clock, EVENT_TO_ACTION, "nudge_build_info")
    told = {name: value for name, value in found.items() if not name.startswith(apart) or name in wanted}
    assert told == wanted


def test_every_metric_has_its_type_and_a_unit_that_fits(runner: FakeRunner, server: Server) -> None:
    _, _, body = ask(server, "/metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body, re.MULTILINE))
    for family in METRICS:
        assert types[family.name] == family.kind
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert f"# HELP {family.name} {family.text}" in body


def test_how_long_actions_took_adds_up_over_the_processes_and_executions(runner: FakeRunner, server: Server) -> None:
    def delayed(counts: dict[int, int], total_ms: int) -> Delayed:
        return Delayed(tuple(counts.get(place, 0) for place in range(len(BOUNDS_S) + 1)), total_ms)

    runner.report(0, delayed=delayed({0: 3, 2: 1}, 40))
    runner.running.end_execution()
    runner.report(0, delayed=delayed({2: 1}, 20))
    runner.report(1, delayed=delayed({len(BOUNDS_S): 2}, 9_000_000))
    found = samples(ask(server, "/metrics")[2])
    told = {bound: found[f'{EVENT_TO_ACTION}_bucket{{le="{bound}"}}'] for bound in (*BOUNDS_S, "+Inf")}
    assert (told[0.005], told[0.01], told[0.02], told[3600.0], told["+Inf"]) == (3, 3, 5, 5, 7)
    assert found[f"{EVENT_TO_ACTION}_count"] == 7
    assert found[f"{EVENT_TO_ACTION}_sum"] == 9000.06


def test_nothing_is_known_before_a_process_has_reported(runner: FakeRunner) -> None:
    measured = collector(runner).measure()
    assert measured["nudge_records_total"] == {(): 0}
    assert measured["nudge_entered_total"] == {("cart", "3"): 0}  # A draft does not run.
    assert measured["nudge_journeys_inside"] == {}  # Not zero: millions may be waiting.
    assert measured["nudge_time_held_back_seconds"] == {}
    assert measured["nudge_process_up"] == {("0",): 0, ("1",): 0}


def test_time_is_held_back_by_the_shard_that_is_furthest_behind(runner: FakeRunner) -> None:
    runner.report(0, shards={0: ShardStatus(NOON_MS - 90_500)})
    runner.report(1, shards={1: ShardStatus(NOON_MS - 1_000), 2: ShardStatus(-1)})
    measured = collector(runner).measure()
    assert measured["nudge_time_held_back_seconds"] == {(): 90.5}
    assert measured["nudge_shard_time_behind_seconds"] == {("0",): 90.5, ("1",): 1}


def test_a_shard_without_time_says_nothing_about_it(runner: FakeRunner) -> None:
    runner.report(0, shards={0: ShardStatus(-1)})
    runner.report(1)
    assert collector(runner).measure()["nudge_time_held_back_seconds"] == {}


def test_the_partition_that_holds_time_back_is_told_and_for_how_long(runner: FakeRunner) -> None:
    ahead, behind = partition(stream_ms=NOON_MS - 1000, moved_s=99.5), partition(stream_ms=NOON_MS - 61_000, moved_s=40)
    runner.report(0, partitions={"a-0": ahead, "a-1": behind})
    runner.report(1, partitions={"a-2": partition(stream_ms=-1, moved_s=95.0)})
    measured = collector(runner, monotonic_s=100.0).measure()
    assert measured["nudge_source_time_behind_seconds"] == {("a-0",): 1, ("a-1",): 61}
    assert measured["nudge_source_holds_back_seconds"] == {("a-0",): 0, ("a-1",): 60}
    assert measured["nudge_source_stands_seconds"] == {("a-0",): 0.5, ("a-1",): 60, ("a-2",): 5}


def test_the_latest_wake_up_that_has_not_happened_is_told_and_in_how_many_shards_there_is_one(
    runner: FakeRunner,
) -> None:
    def due(since_ms: int | None) -> ShardStatus:
        return ShardStatus(NOON_MS, None if since_ms is None else NOON_MS - since_ms)

    runner.report(0, shards={0: due(-5_000), 1: due(None), 2: due(59_000)})
    measured = collector(runner).measure()
    assert measured["nudge_wake_up_overdue_seconds"] == {(): 59}
    assert measured["nudge_shards_overdue"] == {(): 0}
    runner.report(1, shards={3: due(61_000), 4: due(3600_000)})
    measured = collector(runner).measure()
    assert measured["nudge_wake_up_overdue_seconds"] == {(): 3600}
    assert measured["nudge_shards_overdue"] == {(): 2}


def test_journeys_that_are_not_accounted_for_add_up_over_the_processes(runner: FakeRunner) -> None:
    assert collector(runner).measure()["nudge_conservation_difference"] == {}
    runner.report(0, difference=2)
    runner.report(1, difference=1)
    assert collector(runner).measure()["nudge_conservation_difference"] == {(): 3}


def test_counters_go_on_when_an_execution_of_the_run_ends(runner: FakeRunner) -> None:
    asked = collector(runner)
    counters = [family.name for family in METRICS if family.kind == "counter"]

    def told() -> dict[tuple[str, ...], float]:
        measured = asked.measure()
        return {(name, *labels): n for name in counters for labels, n in measured.get(name, {}).items()}

    def report(number: int) -> None:
        totals = {CART: dict.fromkeys(("entered", "ended:cold", "failed:loop", "refused:limit", "sent:sms"), number)}
        work = Work(records=number, actions=number, skipped=number)
        runner.report(work=work, dead={"no_user": number}, checkpoints=number, counted=totals)

    report(10)
    first = told()
    report(15)  # Nobody asks before the execution ends, and these must not be lost.
    runner.running.end_execution()
    between = told()
    report(3)
    last = told()
    counted = [key for key, number in first.items() if number]
    assert len(counted) == 10
    assert [first[key] for key in counted] == [10] * 10
    assert [between[key] for key in counted] == [15] * 10
    assert [last[key] for key in counted] == [18] * 10


def test_what_the_state_remembers_of_earlier_runs_is_not_counted_again(runner: FakeRunner) -> None:
    """After a crash totals go back with the state, which Prometheus would take for a new start from zero."""
    runner.report(0, totals={CART: {"entered": 1_000_000, "ended": 999_990}}, counted={CART: {"entered": 4}})
    measured = collector(runner).measure()
    assert measured["nudge_entered_total"] == {("cart", "3"): 4}
    assert measured["nudge_journeys_inside"] == {("cart", "3"): 10}


def test_what_is_told_grows_old_when_nothing_comes_any_more(runner: FakeRunner) -> None:
    """A process that is stopped or waits for Kafka says nothing new, and nobody may take its numbers for new ones."""
    runner.report(0, taken_s=90.0, checkpointed_s=88.0, partitions={"a-0": partition(moved_s=70.0)})
    for now_s in (100.0, 160.0):
        measured = collector(runner, monotonic_s=now_s).measure()
        assert measured["nudge_status_age_seconds"] == {("0",): now_s - 90}
        assert measured["nudge_checkpoint_age_seconds"] == {("0",): now_s - 88}
        assert measured["nudge_source_stands_seconds"] == {("a-0",): now_s - 70}


def test_what_has_not_been_yet_is_as_old_as_the_process(runner: FakeRunner) -> None:
    """Else no alert could fire for a process that hangs before its first checkpoint."""
    runner.start(at_s=90.0)
    runner.report(0, taken_s=99.0)
    measured = collector(runner, monotonic_s=230.0).measure()
    assert measured["nudge_checkpoint_age_seconds"] == {("0",): 140, ("1",): 140}
    assert measured["nudge_status_age_seconds"] == {("0",): 131, ("1",): 140}
    runner.report(0, taken_s=200.0, checkpointed_s=190.0)
    measured = collector(runner, monotonic_s=230.0).measure()
    assert measured["nudge_checkpoint_age_seconds"] == {("0",): 40, ("1",): 140}


def test_labels_can_hold_anything(runner: FakeRunner, server: Server) -> None:
    odd = 'file:/tmp/a "b"\\c\nd-ü-{}'
    runner.report(partitions={odd: partition()})
    _, _, body = ask(server, "/metrics")
    (family,) = [one for one in text_string_to_metric_families(body) if one.name == "nudge_source_offset"]
    assert [sample.labels for sample in family.samples] == [{"partition": odd}]


def test_processes_of_the_system_are_told_apart(runner: FakeRunner, server: Server) -> None:
    runner.start()
    found = samples(ask(server, "/metrics")[2])
    assert found["process_resident_memory_bytes"] > 0
    assert found['nudge_process_resident_memory_bytes{process="1"}'] > 0
    assert found['nudge_process_cpu_seconds_total{process="0"}'] > 0
    assert {re.sub(r"\{.*", "", name) for name in found if "process_" in name} >= set(OF_A_PROCESS)
    runner.end(1, 0)
    found = samples(ask(server, "/metrics")[2])
    assert 'nudge_process_resident_memory_bytes{process="1"}' not in found
    assert found['nudge_process_up{process="1"}'] == 0


# ---- health --------------------------------------------------------------------------------------------------------


def test_a_job_is_ready_once_all_processes_have_reported(runner: FakeRunner, server: Server) -> None:
    assert ask(server, "/readyz")[0] == 503
    runner.start()
    runner.report(0)
    code, _, body = ask(server, "/readyz")
    assert (code, body) == (503, "1 of 2 processes have reported\n")
    runner.report(1)
    assert ask(server, "/readyz")[0] == 200


def test_a_job_is_not_ready_between_two_executions(runner: FakeRunner, server: Server) -> None:
    runner.start()
    runner.report(0)
    runner.report(1)
    runner.running.end_execution()
    assert ask(server, "/readyz")[0] == 503
    assert ask(server, "/healthz")[0] == 200


def test_a_job_is_alive_while_it_starts_works_and_stops(runner: FakeRunner, server: Server) -> None:
    assert ask(server, "/healthz")[0] == 200
    runner.start()
    runner.report(0)
    assert ask(server, "/healthz")[0::2] == (200, "alive\n")
    runner.stopping.set()
    runner.end(0, 0)
    assert ask(server, "/healthz")[0::2] == (200, "stopping\n")


def test_a_job_is_dead_when_one_of_its_processes_is(runner: FakeRunner, server: Server) -> None:
    runner.start()
    runner.end(1, -signal.SIGKILL)
    code, _, body = ask(server, "/healthz")
    assert (code, body) == (503, "process 1 has ended with status -9\n")


def test_a_process_that_no_longer_reports_is_stuck(runner: FakeRunner) -> None:
    now = 0.0
    health = Health(runner, monotonic=lambda: now)  # type: ignore[arg-type]
    runner.start(at_s=0.0)
    runner.report(0, sent_s=60.0)
    runner.report(1, sent_s=20.0)
    now = 50.0
    assert health.alive()[0]
    assert health.ready()[0]
    now = 61.0
    assert health.alive() == (False, "process 1 has not reported for 41 s")
    assert health.ready() == (False, "process 1 has not reported for 41 s")
    assert collector(runner, monotonic_s=now).measure()["nudge_process_up"] == {("0",): 1, ("1",): 0}
    runner.report(1, sent_s=61.0)
    assert health.alive()[0]
    assert health.ready()[0]
    assert collector(runner, monotonic_s=now).measure()["nudge_process_up"] == {("0",): 1, ("1",): 1}


def test_a_process_that_hangs_before_its_first_report_is_stuck_and_one_that_starts_slowly_is_not(
    runner: FakeRunner,
) -> None:
    health = Health(runner, monotonic=lambda: 140.0)  # type: ignore[arg-type]
    runner.start(at_s=100.0)
    runner.report(0, sent_s=139.0)
    assert health.alive() == (False, "process 1 has not reported for 40 s")
    runner.running.hear(1, 139.5)  # It waits for a broker.
    assert health.alive()[0]
    assert health.ready() == (False, "1 of 2 processes have reported")


def test_a_process_that_reports_old_numbers_is_at_work(runner: FakeRunner) -> None:
    """It waits for a broker that is away, or has much to do: to end it would not help."""
    runner.start(at_s=1000.0)
    runner.report(0, sent_s=1000.0, taken_s=1.0)
    assert Health(runner, monotonic=lambda: 1001.0).alive()[0]  # type: ignore[arg-type]


def test_a_process_that_has_ended_well_need_not_report(runner: FakeRunner) -> None:
    now = 0.0
    health = Health(runner, monotonic=lambda: now)  # type: ignore[arg-type]
    runner.start()
    runner.report(1, sent_s=0.0)
    assert health.alive()[0]
    runner.end(1, 0)
    now = 1000.0
    assert health.alive()[0]


# ---- over HTTP -----------------------------------------------------------------------------------------------------


def test_port_0_takes_a_free_port(runner: FakeRunner) -> None:
    made = serve(0, runner, host="127.0.0.1")  # type: ignore[arg-type]
    try:
        assert made.port > 0
        with pytest.raises(UsageError, match=f"127.0.0.1 --metrics-port {made.port}: .*choose another one"):
            serve(made.port, runner, host="127.0.0.1")  # type: ignore[arg-type]
    finally:
        made.close()
        made.close()
    with pytest.raises(ConnectionRefusedError):
        ask(made, "/healthz")


def test_who_does_not_say_where_is_heard_on_this_machine_alone(runner: FakeRunner) -> None:
    made = serve(0, runner)  # type: ignore[arg-type]
    try:
        assert made.address == "127.0.0.1"
    finally:
        made.close()


def test_an_address_of_ipv6_can_be_listened_on(runner: FakeRunner) -> None:
    made = serve(0, runner, host="::1")  # type: ignore[arg-type]
    try:
        with socket.create_connection(("::1", made.port), timeout=20):
            pass
    finally:
        made.close()


def test_an_address_that_is_not_of_this_machine_is_wrong_use(runner: FakeRunner) -> None:
    with pytest.raises(UsageError, match=r"--metrics-host 192\.0\.2\.1 --metrics-port 0: .*choose another one"):
        serve(0, runner, host="192.0.2.1")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/healthz/../metrics", "*", "/%6detrics"])
def test_there_is_nothing_else(server: Server, path: str) -> None:
    code, headers, body = ask(server, path)
    assert code == 404
    assert headers["Content-Type"].startswith("text/plain")
    assert path not in body.split() or path == "/"


def test_a_query_changes_nothing(server: Server) -> None:
    assert ask(server, "/metrics?name[]=nudge_records_total")[0] == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nowhere"])
def test_head_answers_without_a_body(server: Server, path: str) -> None:
    code, headers, body = ask(server, path, "HEAD")
    assert code == ask(server, path)[0]
    assert body == ""
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert ask(server, "/metrics", method)[0] == 501
    assert ask(server, "/healthz")[0] == 200


ODD = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /metrics\r\n",
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1 extra\r\n\r\n",
    b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc",
    b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /\x00\xff\xfe HTTP/1.1\r\n\r\n",
    b"GET /<script>alert(1)</script> HTTP/1.1\r\n\r\n",
    b"GET /\r\nSet-Cookie: a=b HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n: c\r\nno colon\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("sent", ODD, ids=range(len(ODD)))
def test_odd_requests_do_no_harm(server: Server, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    assert b"<script>" not in answer
    assert b"Set-Cookie" not in answer
    assert ask(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def test_who_asks_for_nothing_keeps_nobody_out(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are few and short, so that the next probe gets its turn."""
    monkeypatch.setattr(serving, "REQUEST_MAX_S", 0.5)
    made = serve(0, runner, host="127.0.0.1")  # type: ignore[arg-type]
    before = threading.active_count()
    idle = []
    try:
        for _ in range(100):
            idle.append(socket.create_connection(("127.0.0.1", made.port), timeout=20))
            idle[-1].send(b"GET /met")
        assert threading.active_count() - before <= serving.CONNECTIONS_MAX
        for _ in range(1000):
            try:
                if ask(made, "/healthz")[0] == 200:
                    break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail("nobody else was let in")
    finally:
        for one in idle:
            one.close()
        made.close()


def test_a_failure_of_ours_is_an_error_for_who_asks_and_nothing_else(
    runner: FakeRunner, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    runner.report(0, totals=None)
    code, _, body = ask(server, "/metrics")
    assert (code, body) == (500, "the log says why\n")
    assert "Traceback" not in capfd.readouterr().err
    runner.report(0)
    assert ask(server, "/metrics")[0] == 200


def test_the_number_of_series_is_bounded_by_the_flows(runner: FakeRunner) -> None:
    """A thousand journeys more make no series more."""

    def series() -> int:
        return sum(len(values) for values in collector(runner).measure().values())

    def report(number: int) -> None:
        totals = {CART: {"entered": number, "sent:sms": number}}
        partitions = {"events-0": partition(number)}
        runner.report(work=Work(records=number), totals=totals, counted=totals, partitions=partitions)

    report(10)
    before = series()
    report(10_000)
    assert series() == before


# ---- a real job ----------------------------------------------------------------------------------------------------

FLOW = {
    "flow": "cart",
    "trigger": {"event": "add_to_cart"},
    "steps": [{"send": "webhook", "template": "t"}, {"wait": "1h"}, {"end": "cold"}],
}


def test_a_real_job_tells_what_it_did(tmp_path: Path) -> None:
    """The names that the processes report under are those that are read here."""
    from dataflow.flows import load
    from dataflow.job.lifecycle import Job
    from dataflow.job.processes import JobRunner
    from dataflow.urls import SinkUrl, SourceUrl

    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "cart.json").write_text(json.dumps(FLOW))
    lines = [json.dumps({"user_id": f"u{n}", "event": "add_to_cart", "timestamp": instant("08:00")}) for n in range(20)]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "no json"]) + "\n")
    job = Job(
        loaded=load([tmp_path / "flows"], None),
        sources=[SourceUrl("file", "", str(tmp_path / "events.jsonl"))],
        sink=SinkUrl("file", folder=str(tmp_path / "out")),
        state=tmp_path / "state",
        processes=2,
        shards=4,
        stop_at_end=True,
        log_level="error",
    )
    runner = JobRunner(job, structlog.get_logger())
    made = serve(0, runner, host="127.0.0.1")
    try:
        runner.run()
        code, _, body = ask(made, "/metrics")
        ready = ask(made, "/readyz")[0]
        alive = ask(made, "/healthz")[0]
    finally:
        made.close()
    assert (code, ready, alive) == (200, 200, 200)
    found = samples(body)
    assert found["nudge_records_total"] == 21
    assert found["nudge_actions_total"] == 20
    assert found['nudge_dead_letters_total{reason="not_json"}'] == 1
    assert found['nudge_entered_total{flow="cart",version="1"}'] == 20
    assert found['nudge_sent_total{channel="webhook",flow="cart",version="1"}'] == 20
    assert found['nudge_journeys_inside{flow="cart",version="1"}'] == 20
    assert found['nudge_journeys{flow="cart",kind="entered",version="1"}'] == 20
    assert found["nudge_conservation_difference"] == 0
    assert found["nudge_wake_up_overdue_seconds"] >= 0
    assert any(name.startswith("nudge_checkpoint_age_seconds") for name in found)
    assert {f'nudge_shard_time_behind_seconds{{shard="{shard}"}}' for shard in range(4)} <= set(found)
    assert found["nudge_processes"] == 2
    partition = f'{{partition="file:{tmp_path / "events.jsonl"}"}}'
    assert found[f"nudge_source_offset{partition}"] == 22
    assert found[f"nudge_stream_time_seconds{partition}"] == NOON_S - 4 * 3600
    assert found[f"nudge_source_holds_back_seconds{partition}"] == 0
    assert found[f"nudge_source_stands_seconds{partition}"] >= 0


def test_a_port_that_is_taken_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "cart.json").write_text(json.dumps(FLOW))
    (tmp_path / "events.jsonl").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        source, sink = f"file:{tmp_path / 'events.jsonl'}", "stdout:"
        arguments: list[str | Path] = [tmp_path / "cart.json", "--source", source, "--sink", sink, "--stop-at-end"]
        job = RunningJob([*arguments, "--metrics-port", port], tmp_path / "log")
        assert job.status() == 2
    assert f"--metrics-host 127.0.0.1 --metrics-port {port}: Address already in use" in job.tail()


def test_the_reasons_of_dead_letters_are_those_of_the_docs() -> None:
    _, _, text = (REPO / "docs" / "records.md").read_text().partition("## Dead letters")
    text, _, _ = text.partition("\n## ")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(DEAD_REASONS)


# ---- dashboard and alerts ------------------------------------------------------------------------------------------

OPERATIONS = (REPO / "docs" / "operations.md").read_text()
DECLARED = {family.name for family in METRICS} | {EVENT_TO_ACTION, *OF_A_PROCESS}
DECLARED |= {family.name for family in delivery.METRICS} | {delivery.CALL_SECONDS}
OF_THE_GATEWAY = {f"{name}_total" for name in gateway.COUNTERS}
DECLARED |= OF_THE_GATEWAY | {gateway.SECONDS, *gateway.GAUGES}
NAMES = DECLARED | {f"{EVENT_TO_ACTION}_{part}" for part in ("bucket", "sum", "count")}
LABELS = {label for family in METRICS for label in family.labels} | {"job", "instance", "le"}
LABELS |= {label for family in delivery.METRICS for label in family.all_labels}
LABELS |= {label for _, labels in gateway.COUNTERS.values() for label in labels}
DASHBOARD = REPO / "docs" / "grafana-dashboard.json"
ALERTS = REPO / "docs" / "prometheus-alerts.yaml"


def expressions(of: Path) -> list[str]:
    """Return the PromQL in a dashboard or a file of alerts."""
    if of == ALERTS:
        groups = yaml.safe_load(of.read_text())["groups"]
        return [rule["expr"] for group in groups for rule in group["rules"]]
    board = json.loads(of.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("path", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_exists(path: Path) -> None:
    named = set(re.findall(r"\b(?:nudge|process)_[a-z_]+", path.read_text()))
    assert named - NAMES == set()
    assert named


@pytest.mark.parametrize("path", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_counters_are_asked_for_their_rise_and_gauges_are_not(path: Path) -> None:
    counters = {family.name for family in METRICS if family.kind == "counter"}
    counters |= {"nudge_process_cpu_seconds_total", f"{EVENT_TO_ACTION}_bucket"}
    counters |= {family.name for family in delivery.METRICS if family.kind == "counter"} | OF_THE_GATEWAY
    for expression in expressions(path):
        for function, name in re.findall(r"(?:(\w+)\()?\b((?:nudge|process)_[a-z_]+)", expression):
            assert (function in ("rate", "increase")) == (name in counters), expression


@pytest.mark.parametrize("path", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_labels_that_are_asked_for_exist(path: Path) -> None:
    for expression in expressions(path):
        assert expression.count("(") == expression.count(")"), expression
        for listed in re.findall(r"\b(?:by|without|on|ignoring) \(([a-z, ]*)\)", expression):
            assert {label.strip() for label in listed.split(",")} <= LABELS, expression


def test_the_dashboard_is_one_that_grafana_can_take() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"]
    assert board["id"] is None
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
        assert panel.get("datasource", {"uid": "${datasource}"})["uid"] == "${datasource}"


def test_every_alert_says_what_happened_and_what_next() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        commands = re.findall(r"`(.+?)`", rule["annotations"]["runbook"])
        assert commands, f"{rule['alert']} names no command to run next"
        assert {command.split()[1] for command in commands if command.startswith("nudge ")} <= subcommands()


def subcommands() -> set[str]:
    from dataflow.app import COMMANDS

    return {module.__name__.rpartition(".")[2] for module in COMMANDS}


def test_alerts_are_written_as_prometheus_takes_them() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert set(group) == {"name", "rules"}
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert all(isinstance(text, str) for part in ("labels", "annotations") for text in rule[part].values())
        used = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        assert set(used) <= LABELS


@pytest.mark.parametrize(
    "name",
    [
        # Lost: a journey, a step, a record, an update of a profile.
        "conservation_difference", "failed_total", "internal_errors_total", "dead_letters_total",
        "profile_updates_refused_total",
        # Twice: a repeat that is not seen.
        "early_forgotten_ids_total",
        # Stands still: a process, a wake-up, time, the reading, the checkpoints, the deployment.
        "process_up", "wake_up_overdue_seconds", "source_holds_back_seconds", "time_held_back_seconds",
        "source_lag_records", "checkpoint_age_seconds", "checkpoints_total", "flows_refused",
        # Slow.
        "event_to_action_seconds_bucket", "checkpoint_seconds", "build_info",
        # The same of delivery.
        "deliver_circuit_open", "deliver_ledger_away", "deliver_oldest_open_seconds", "deliver_outcomes_total",
        "deliver_dead_letters_total", "deliver_partitions",
        # The same of the gateway.
        "gateway_requests_total", "gateway_queued", "gateway_waiting", "gateway_forgotten_total",
        "gateway_rejected_total", "gateway_held_bytes",
    ],
)  # fmt: skip
def test_what_loses_or_repeats_or_stands_still_is_an_alert(name: str) -> None:
    assert re.search(rf"\bnudge_{name}\b", " ".join(expressions(ALERTS)))


def test_internal_errors_are_on_the_dashboard_and_in_the_table_of_what_to_do() -> None:
    assert any("nudge_internal_errors_total" in expression for expression in expressions(DASHBOARD))
    _, _, on_call = OPERATIONS.partition("## On call")
    assert "`an internal error: " in on_call


def test_the_docs_have_every_metric_with_its_labels_and_no_other() -> None:
    _, _, text = OPERATIONS.partition("### All metrics")
    text, _, _ = text.partition("\n## ")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.+?) \|$", text, re.MULTILINE)
    told = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels, _ in rows}
    of_a_process = {name: ("process",) if name.startswith("nudge_") else () for name in OF_A_PROCESS}
    assert told == {family.name: family.labels for family in METRICS} | {EVENT_TO_ACTION: ()} | of_a_process
    assert len(rows) == len(told), "each metric has one row"


# ---- containers ----------------------------------------------------------------------------------------------------

DOCKERFILE = (REPO / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((REPO / "compose.yaml").read_text())


def test_the_image_is_built_from_what_is_there_and_let_in() -> None:
    let_in = {line[1:].rstrip("/") for line in (REPO / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {name.partition("/")[0] for name in names} == let_in
    assert all((REPO / name).exists() for name in names)
    native = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools-rust"]["ext-modules"][0]
    assert f'python -P -c "import {native["target"]}"' in DOCKERFILE, (
        "without a compiler it would be left out in silence"
    )
    packages = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= names


def test_the_image_runs_without_rights() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1])  # Kubernetes cannot tell that a name is not root's.


def test_the_health_check_of_the_image_asks_the_job(runner: FakeRunner, server: Server) -> None:
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)
    assert found is not None
    program, *arguments = json.loads(found[1])
    assert program == "python"

    def check() -> int:
        environment = {**os.environ, "NUDGE_METRICS_PORT": str(server.port), "HTTP_PROXY": "http://127.0.0.1:1"}
        return subprocess.run(
            [sys.executable, *arguments], env=environment, check=False, capture_output=True, timeout=60
        ).returncode

    runner.start()
    assert check() == 0
    runner.end(0, 1)
    assert check() == 1


def test_compose_runs_the_examples_on_the_kafka_that_is_tested() -> None:
    services = COMPOSE["services"]
    tested = re.search(r"<kafka.version>(.+)</kafka.version>", (REPO / "tests" / "kafka" / "pom.xml").read_text())
    assert tested is not None
    assert {services[name]["image"] for name in ("kafka", "topics")} == {f"apache/kafka:{tested[1]}"}
    assert "message.timestamp.type=LogAppendTime" in "".join(services["topics"]["command"])
    assert all(one["condition"] in ("service_healthy", "service_completed_successfully") for one in waited_for())
    mounts = [mount for service in services.values() for mount in service.get("volumes", ())]
    for mount in mounts:
        source = mount.partition(":")[0]
        assert (REPO / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))


def waited_for() -> list[dict[str, str]]:
    return [one for service in COMPOSE["services"].values() for one in service.get("depends_on", {}).values()]


def test_compose_starts_a_job_that_can_be_started() -> None:
    from dataflow.commands.run import job_of

    command = COMPOSE["services"]["job"]["command"]
    assert command[:2] == ["run", "/flows"]
    flags = dict(zip(command[2::2], command[3::2], strict=True))
    source, sink = [flags.pop("--source")], flags.pop("--sink")
    assert flags.pop("--config") == "/etc/nudge/nudge.yaml"
    assert flags == {}
    job, _ = job_of([FLOWS], {"source": source, "sink": sink}, None)
    assert job.sources[0].bootstrap == job.sink.bootstrap == "kafka:19092"
    assert f"make {job.sources[0].name} " in "".join(COMPOSE["services"]["topics"]["command"])
    assert len(job.loaded.checked.programs) == 3


def test_the_image_serves_its_metrics_to_others() -> None:
    assert "NUDGE_METRICS_PORT=9100" in DOCKERFILE
    assert "NUDGE_METRICS_HOST=0.0.0.0" in DOCKERFILE, "whoever scrapes or probes stands outside"
