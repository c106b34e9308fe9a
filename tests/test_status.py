"""What a process reports to its parent, and what the parent makes of it."""

from __future__ import annotations

import os
import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from dataflow.delays import BOUNDS_S, Delayed
from dataflow.job.outside import Machine
from dataflow.job.plan import Plan
from dataflow.job.ports import PartitionPort, ShardPort
from dataflow.job.process import _report
from dataflow.job.processes import JobRunner
from dataflow.job.silence import ProcessState, SilenceLog
from dataflow.job.status import STARTING, PartitionStatus, Report, Running, ShardStatus, Status, Work, load_report
from dataflow.job.worker import Worker
from dataflow.keep.statedir import StateDir
from dataflow.read.discovery import PartitionPlan
from state.undo import undo_parts

FULL = Status(
    process=1,
    taken_s=5.0,
    work=Work(records=7, skipped=1),
    delayed=Delayed(tuple(range(len(BOUNDS_S) + 1)), 9),
    dead={"no_user": 1},
    mistakes={"step": 2},
    partitions={"events-0": PartitionStatus(9, None, 1_000, 4.5, 3, 2)},
    shards={12: ShardStatus(1_000, None)},
    totals={"cart\x1f3": {"entered": 4}},
    counted={"cart\x1f3": {"entered": 1}},
    checkpointed_s=4.0,
)


def test_a_report_comes_out_as_it_went_in() -> None:
    report = Report(6.5, FULL)
    assert load_report(report.dump()) == report
    assert report.dump().count(b"\n") == 1


def test_who_is_busy_goes_on_reporting_and_says_how_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflow.job.process.STATUS_EVERY_S", 0.01)
    reading, writing = os.pipe()
    done = threading.Event()
    worker: Any = SimpleNamespace(status=FULL)  # At work on something that takes long: its status stays the same.
    begun: list[Any] = []
    thread = threading.Thread(target=_report, args=(begun, writing, done))
    thread.start()
    with os.fdopen(reading, "rb") as lines:
        assert lines.readline() == STARTING  # It waits for a broker, say, and lives.
        begun.append(worker)
        while lines.readline() == STARTING:
            pass
        reports = [load_report(lines.readline()) for _ in range(3)]
        done.set()
        thread.join()
    os.close(writing)
    assert [report.status for report in reports] == [FULL] * 3
    sent = [report.sent_s for report in reports]
    assert sent == sorted(set(sent))
    assert sent[-1] <= time.monotonic()


def test_a_report_that_a_kill_has_torn_is_left_out() -> None:
    reading, writing = os.pipe()
    os.write(writing, Report(6.0, FULL).dump() + Report(7.0, FULL).dump()[:-9])
    os.close(writing)
    heard: list[float] = []
    runner = JobRunner(
        SimpleNamespace(processes=2),  # type: ignore[arg-type]
        structlog.get_logger(),
        lambda running: heard.extend(report.sent_s for report in running.reports.values()),
    )
    runner._listen(1, reading)
    assert heard == [6.0]


def test_a_process_is_heard_of_before_it_has_anything_to_report() -> None:
    reading, writing = os.pipe()
    os.write(writing, STARTING)
    os.close(writing)
    runner = JobRunner(SimpleNamespace(processes=2), structlog.get_logger())  # type: ignore[arg-type]
    before_s = time.monotonic()
    runner._listen(1, reading)
    assert runner.running.heard_s(0) == 0
    assert before_s <= runner.running.heard_s(1) <= time.monotonic()
    assert runner.running.reports == {}
    assert not runner.is_ready


@pytest.mark.parametrize(("shards_to_open", "lines"), [(3, 1), (4, 0), (0, 0)])
def test_a_job_runs_once_all_shards_are_open_unless_it_only_finishes_what_a_dead_one_began(
    shards_to_open: int, lines: int
) -> None:
    log = CapturingLogger()
    runner = JobRunner(SimpleNamespace(processes=2), log)  # type: ignore[arg-type]
    runner._processes, runner._shards_to_open = 2, shards_to_open
    reading, writing = os.pipe()
    for process, shards in ((0, 0), (1, 0), (0, 2), (1, 1), (1, 1)):
        opened = {10 * process + number: ShardStatus(0) for number in range(shards)}
        os.write(writing, Report(1.0, Status(process, 1.0, shards=opened)).dump())
    os.close(writing)
    runner._listen(0, reading)
    assert [call.args[0] for call in log.calls] == ["running"] * lines


def test_a_process_that_hangs_is_one_line_in_the_log_and_so_is_its_going_on() -> None:
    log = CapturingLogger()
    silence = SilenceLog(log)  # type: ignore[arg-type]

    def said_at(now_s: float, heard_s: float, exit_status: int | None = None) -> list[tuple[str, int]]:
        before = len(log.calls)
        hung = ProcessState(12, exit_status, 0.0, heard_s)
        silence.look([ProcessState(11, None, 0.0, now_s), hung], now_s)
        return [(call.method_name, call.kwargs["process"]) for call in log.calls[before:]]

    assert said_at(30.0, 1.0) == []
    assert said_at(32.0, 1.0) == [("error", 1)]
    assert log.calls[-1].kwargs["pid"] == 12
    assert log.calls[-1].kwargs["silent_s"] == 31
    assert said_at(60.0, 1.0) == []
    assert said_at(61.0, 60.9) == [("warning", 1)]
    assert said_at(99.0, 61.0) == [("error", 1)]
    assert said_at(99.5, 61.0, -9) == [], "how it ended is said by whoever sees it end"


def test_progress_logs_reach_the_disk_at_the_commit_that_ends_the_epoch_or_at_once_where_none_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = worker_on_a_file(tmp_path)
    side_by_side: list[int] = []
    all_at_once = worker.outside.all_at_once
    monkeypatch.setattr(
        worker.outside, "all_at_once", lambda tasks: (side_by_side.append(len(tasks)), all_at_once(tasks))
    )
    synced: list[str] = []
    try:
        worker._by_the_end_of_the_epoch(lambda: synced.append("no shard is open"))
        assert synced == ["no shard is open"]
        source, shard = PartitionPort(worker, 0, None), ShardPort(worker, None)
        shard.on_batch([parcel for _, parcel in source.next_batch()])
        for name in ("a", "b"):
            worker._by_the_end_of_the_epoch(lambda name=name: synced.append(name))  # type: ignore[misc]
        assert synced == ["no shard is open"]
        shard.snapshot()
        assert sorted(synced[1:]) == ["a", "b"]
        assert side_by_side == [3], "beside the commit of the shard"
        worker._by_the_end_of_the_epoch(lambda: synced.append("nothing to commit"))
        shard.snapshot()
        assert synced[3:] == ["nothing to commit"]
    finally:
        worker.close()


def test_a_shard_writes_a_part_of_its_commit_early_and_a_crash_takes_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = worker_on_a_file(tmp_path)
    monkeypatch.setattr(worker.outside, "monotonic_s", count(worker.outside.monotonic_s()).__next__)
    try:
        source, shard = PartitionPort(worker, 0, None), ShardPort(worker, None)
        shard.on_batch([parcel for _, parcel in source.next_batch()])
        store = worker.shards[0].store
        assert undo_parts(store._backend) == [(1, 0)]
        assert [user_id for user_id, _ in store.scan_users()] == ["ann"]
    finally:
        worker.close()
    worker, _ = worker_on_a_file(tmp_path)
    try:
        assert list(worker.open_shard(0, 0).store.scan_users()) == []
    finally:
        worker.close()


def test_work_goes_on_over_executions_and_the_rest_begins_anew() -> None:
    running = Running()
    running.take(Report(1.0, Status(0, 1.0, work=Work(records=3, actions=1))))
    running.take(Report(2.0, Status(0, 2.0, work=Work(records=5, actions=2))))
    running.end_execution()
    assert running.statuses == []
    running.take(Report(3.0, Status(1, 3.0, work=Work(records=1))))
    running.take(Report(3.0, Status(0, 3.0, work=Work(records=10))))
    assert running.work == Work(records=16, actions=2)
    assert [status.process for status in running.statuses] == [0, 1]
    summary = running.summary()
    assert (summary["events"], summary["actions"]) == (16, 2)


def test_how_things_stood_holds_until_the_processes_that_take_over_have_all_reported() -> None:
    running = Running()
    for process in (0, 1):
        running.take(Report(1.0, Status(process, 1.0, work=Work(records=5), counted={"f": {"entered": 2}})))
    running.end_execution(goes_on=True)
    running.take(Report(2.0, Status(1, 2.0, work=Work(records=1), counted={"f": {"entered": 1}})))
    assert [status.taken_s for status in running.statuses] == [1.0, 1.0]
    assert running.work == Work(records=11)
    running.take(Report(2.0, Status(0, 2.0, work=Work(records=2))))
    assert [status.taken_s for status in running.statuses] == [2.0, 2.0]
    assert running.work == Work(records=13)
    running.end_execution(goes_on=True)
    assert running.work == Work(records=13)
    assert sum(status.counted["f"]["entered"] for status in running.all_statuses) == 5


LINE = '{"user_id": "ann", "event": "a", "timestamp": "2026-11-23T08:00:00Z"}\nno json\n'


def worker_on_a_file(folder: Path) -> tuple[Worker, Path]:
    """Return a worker with one shard and one source, a file with an event and a line that cannot be read."""
    StateDir(folder / "state").create_folders()
    events = folder / "events.jsonl"
    events.write_text(LINE)
    flow = '{"flow": "f", "trigger": {"event": "a"}, "entry": {"concurrent": 9}, "steps": [{"wait": "1h"}]}'
    plan = Plan(
        state=str(folder / "state"), job="j", shards=1, shard_keys="even", processes=1, addresses=[],
        partitions=[PartitionPlan("file:e", "file", "", str(events), 0, 1)], ordered=True, until_ms=None,
        sink_kind="file", sink_bootstrap="", sink_folder=str(folder / "out"), sink_options={}, sink_number=1,
        create_topics=True, kafka={}, flows=[("f.json", flow)], workspace="", read_back=None, positions={},
        epoch_s=1.0, users_in_memory=100, log_level="error", log_format="text",
    )  # fmt: skip
    log = structlog.get_logger()
    return Worker(plan, 0, log, Machine(plan, log.warning, 1)), events


def test_stock_that_was_taken_never_changes(tmp_path: Path) -> None:
    """Another thread reports it while the work goes on."""
    worker, events = worker_on_a_file(tmp_path)
    try:
        source, shard = PartitionPort(worker, 0, None), ShardPort(worker, None)

        def work() -> Report:
            shard.on_batch([parcel for _, parcel in source.next_batch()])
            worker.take_stock()
            return Report(0.0, worker.status)

        first = work()
        said = first.dump()
        assert first.status.work == Work(records=2, relevant=1, journal=2, dead_letters=1)
        assert first.status.partitions["file:e"].position == 3
        with events.open("a") as more:
            more.write(LINE)
        second = work()
        assert second.status.work.records == 4
        assert second.status.counted != first.status.counted
        assert first.dump() == said
    finally:
        worker.close()
