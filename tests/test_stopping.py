"""A run can be asked to stop at any moment: while it loads, waits for a broker or works; and then once more."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflow.job.launch import launch
from dataflow.job.plan import Plan
from dataflow.job.stopping import AT_ONCE, NOT_BEGUN, NOT_BEGUN_STATUS
from tests.jobs import RunningJob, in_folder
from tests.test_run import wait_until

FLOW = "flow: f\ntrigger: {event: a}\nentry: {reentry: always}\nsteps: [{send: webhook, template: t}]\n"
MANY = 300_000  # More than can be decided before the first report.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f.yaml").write_text(FLOW)
    return tmp_path


@pytest.fixture
def mute_broker() -> Iterator[socket.socket]:
    """Takes connections, and never answers on any."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


def command(folder: Path, source: str, sink: str, *more: str) -> list[str | Path]:
    return [folder / "f.yaml", "--source", source, "--sink", sink, "--state", folder / "state", *more]


def write_events(folder: Path, count: int) -> str:
    line = '{{"user_id": "u{0}", "message_id": "m{0}", "event": "a", "timestamp": "2026-11-23T08:00:00Z"}}\n'
    (folder / "events.jsonl").write_text("".join(line.format(number) for number in range(count)))
    return f"file:{folder / 'events.jsonl'}"


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def must_have_begun_nothing(job: RunningJob, workers: list[int], folder: Path) -> None:
    assert job.status() == 0, job.tail()
    assert [line for line in job.log.read_text().splitlines() if NOT_BEGUN in line] != []
    assert all(map(is_gone, workers))
    assert not (folder / "state" / "nudge.json").exists()
    # Nothing is left that a start with other sources would be refused for.
    RunningJob(
        command(folder, write_events(folder, 3), f"file:{folder / 'out'}", "--stop-at-end"), folder / "log"
    ).wait()
    assert len(in_folder(folder / "out").actions) == 3


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_while_it_loads_begins_nothing(folder: Path, asked: signal.Signals) -> None:
    source = write_events(folder, MANY)
    job = RunningJob(command(folder, source, f"file:{folder / 'other'}"), folder / "log")
    wait_until(job.workers)  # That is what it does first, before it loads the rest of itself.
    workers = job.workers()
    job.process.send_signal(asked)
    must_have_begun_nothing(job, workers, folder)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["source", "sink"])
def test_a_start_that_waits_for_a_mute_broker_is_left(
    folder: Path, mute_broker: socket.socket, asked: signal.Signals, where: str
) -> None:
    there = f"kafka://{address(mute_broker)}"
    source, sink = (f"{there}/events", "stdout:") if where == "source" else (write_events(folder, 3), there)
    job = RunningJob(command(folder, source, sink, "--processes", "2"), folder / "log")
    mute_broker.accept()
    workers = job.workers()
    job.process.send_signal(asked)
    must_have_begun_nothing(job, workers, folder)


def test_a_start_that_waits_for_a_host_that_nobody_knows_is_left(folder: Path) -> None:
    job = RunningJob(command(folder, "kafka://nobody.invalid:9092/events", "stdout:"), folder / "log")
    wait_until(lambda: "does not answer" in job.log.read_text())
    workers = job.workers()
    job.terminate()
    must_have_begun_nothing(job, workers, folder)


def test_a_process_that_still_waits_for_a_broker_says_that_it_has_not_begun(
    folder: Path, mute_broker: socket.socket
) -> None:
    plan = Plan(
        state=str(folder), job="j", shards=1, shard_keys="even", processes=1, addresses=[], partitions=[],
        ordered=True, until_ms=None,
        sink_kind="kafka", sink_bootstrap=address(mute_broker), sink_folder="", sink_options={}, sink_number=1,
        create_topics=True, kafka={}, flows=[("f.yaml", FLOW)], workspace="", read_back=None, positions={},
        epoch_s=10, users_in_memory=100, log_level="info", log_format="json",
    )  # fmt: skip
    one = launch(0)
    with (folder / "lock").open("w") as lock:
        os.close(one.lend_lock(lock.fileno()))
    assert one.process.stdin is not None
    with one.process.stdin as plans:
        plans.write(plan.dump())
    mute_broker.accept()
    one.process.terminate()
    assert one.process.wait(timeout=30) == NOT_BEGUN_STATUS


def test_a_second_signal_ends_a_job_at_once_and_the_next_start_goes_on(folder: Path) -> None:
    source = write_events(folder, MANY // 10)
    job = RunningJob(command(folder, source, f"file:{folder / 'out'}", "--processes", "2"), folder / "log")
    wait_until(lambda: '"running"' in job.log.read_text())
    workers = job.workers()
    os.kill(workers[0], signal.SIGSTOP)  # Without it the other one cannot finish the epoch.
    job.terminate()
    wait_until(lambda: "the epoch is being finished" in job.log.read_text())
    job.terminate()
    assert job.status() == 1
    assert AT_ONCE in job.tail(1)
    assert all(map(is_gone, workers))
    assert json.loads((folder / "state" / "nudge.json").read_text())["run"]["is_clean"] is False
    RunningJob(command(folder, source, f"file:{folder / 'out'}"), folder / "log").wait()
    assert len({action["action_id"] for action in in_folder(folder / "out").actions}) == MANY // 10
