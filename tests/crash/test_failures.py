"""What else can fail: stopped and continued processes, the broker, the disk, and a state directory from a backup."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.points import environment, killed_at
from tests.crash.shopjob import ShopInput, ShopJob
from tests.jobs import RunningJob, audited, on_kafka
from tests.kafka.broker import Broker, KafkaTopics
from tests.test_run import wait_until

SLOWLY = environment(NUDGE_CRASH_PACE="20/10/300")  # Some seconds for the whole input, in short epochs.
SMALL = ("--shards", "16", "--epoch", "1s")

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> ShopInput:
    return ShopInput.make(tmp_path_factory.mktemp("shop"), seed=8, records=5000)


@pytest.fixture
def job(broker: KafkaTopics, topic_prefix: str, given: ShopInput, tmp_path: Path) -> ShopJob:
    one = ShopJob(broker, topic_prefix, given, tmp_path / "state")
    one.fill()
    return one


def in_the_middle(job: ShopJob, log: Path, *, processes: int = 1, state: Path | None = None) -> RunningJob:
    """Start the job, and return once it has written something new."""
    journal = f"{job.prefix}journal"

    def written() -> int:
        return sum(job.broker.end_offsets(journal).values())

    before = written()
    running = RunningJob(job.command(*SMALL, processes=processes, state=state), log, **SLOWLY)
    wait_until(lambda: running.process.poll() is not None or written() > before)
    assert running.process.poll() is None, f"it ended too early\n{running.tail()}"
    return running


def goes_on(job: ShopJob, log: Path, *, processes: int = 1, state: Path | None = None) -> None:
    RunningJob(job.command(*SMALL, processes=processes, state=state), log).wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_stands_still_for_a_while(job: ShopJob, tmp_path: Path, processes: int) -> None:
    running = in_the_middle(job, tmp_path / "log", processes=processes)
    for process in [running.workers()[0], running.process.pid]:
        os.kill(process, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process, signal.SIGCONT)
    running.wait()
    assert job.differences() == []


def test_a_stopped_process_does_not_outlive_the_job(job: ShopJob, tmp_path: Path) -> None:
    running = in_the_middle(job, tmp_path / "log", processes=2)
    workers = running.workers()
    os.kill(workers[0], signal.SIGSTOP)
    running.kill()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    goes_on(job, tmp_path / "log", processes=2)
    assert job.differences() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_stop_and_started_again(job: ShopJob, tmp_path: Path, processes: int) -> None:
    for _ in range(2):
        running = in_the_middle(job, tmp_path / "log", processes=processes)
        running.terminate()
        assert running.status() == 0
    goes_on(job, tmp_path / "log", processes=processes)
    assert job.differences() == []


def test_asked_to_stop_while_its_processes_start(job: ShopJob, tmp_path: Path) -> None:
    running = RunningJob(job.command(*SMALL, processes=2), tmp_path / "log")
    wait_until(lambda: len(running.workers()) == 2)
    running.terminate()
    assert running.status() == 0, running.tail()
    goes_on(job, tmp_path / "log")
    assert job.differences() == []


def test_one_process_of_two_is_killed(job: ShopJob, tmp_path: Path) -> None:
    chance = random.Random(3)
    for _ in range(2):
        running = in_the_middle(job, tmp_path / "log", processes=2)
        assert running.kill_a_worker(chance)
        assert running.process.returncode == 1
        assert "signal SIGKILL" in running.tail(5)
    goes_on(job, tmp_path / "log", processes=2)
    assert job.differences() == []


def test_another_number_of_processes_after_each_kill(job: ShopJob, tmp_path: Path) -> None:
    for processes in (2, 3, 1, 2):
        in_the_middle(job, tmp_path / "log", processes=processes).kill()
    goes_on(job, tmp_path / "log", processes=3)
    assert job.differences() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_partitions_that_are_added_before_the_restart_change_nothing_that_was_decided(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path, processes: int
) -> None:
    """The purchase was in a partition that the job did not know when it sent the reminder."""
    flows = tmp_path / "flow.yaml"
    flows.write_text(
        "flow: reminder\ntrigger: {event: cart}\nentry: {reentry: always}\nexit: [{event: buy}]\n"
        "steps: [{wait: 2s}, {send: webhook, template: reminder}]\n"
    )
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 1, {"message.timestamp.type": "LogAppendTime"})
    command: list[str | Path] = [
        flows, "--source", f"kafka://{broker.bootstrap}/{topic}", "--sink",
        f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--state", tmp_path / "state", "--epoch", "60s",
        "--processes", str(processes),
    ]  # fmt: skip

    def send(name: str, number: int, partition: int, user: str = "u") -> None:
        value = f'{{"user_id": "{user}", "event": "{name}", "message_id": "m{number}"}}'.encode()
        broker.produce(topic, [(user, value, None)], partition=partition)

    def seen(kind: str, user: str = "u") -> list[int]:
        records = on_kafka(broker, topic_prefix).journal
        return [record["seq"] for record in records if record["kind"] == kind and record["user_id"] == user]

    job = RunningJob(command, tmp_path / "log")
    wait_until(lambda: '"running"' in job.log.read_text())
    send("cart", 1, 0)
    wait_until(lambda: seen("entered") == [1])
    broker.add_partitions(topic, 2)
    send("buy", 2, 1)
    send("cart", 3, 1, "behind it")
    wait_until(lambda: len(seen("ended")) == 1)
    job.kill()
    job = RunningJob(command, tmp_path / "log")
    wait_until(lambda: len(seen("ended", "behind it")) == 1)
    send("cart", 4, 0)
    wait_until(lambda: len(seen("ended")) == 2)
    job.terminate()
    assert job.status() == 0
    assert len(seen("entered")) == len(seen("sent")) == 2
    audited(tmp_path / "state")


# ---- the broker --------------------------------------------------------------------------------------------------


def test_a_broker_that_is_killed_and_comes_back(breakable_broker: Broker, job: ShopJob, tmp_path: Path) -> None:
    running = in_the_middle(job, tmp_path / "log")
    breakable_broker.kill()
    time.sleep(1)
    breakable_broker.start()
    running.wait()
    assert job.differences() == []


def test_a_broker_that_answers_nobody_for_some_seconds(breakable_broker: Broker, job: ShopJob, tmp_path: Path) -> None:
    running = in_the_middle(job, tmp_path / "log")
    breakable_broker.pause()
    time.sleep(7)
    breakable_broker.resume()
    running.wait()
    assert job.differences() == []


def test_a_job_that_is_killed_while_the_broker_is_dead(breakable_broker: Broker, job: ShopJob, tmp_path: Path) -> None:
    running = in_the_middle(job, tmp_path / "log", processes=2)
    breakable_broker.kill()
    running.kill()
    breakable_broker.start()
    goes_on(job, tmp_path / "log", processes=1)
    assert job.differences() == []


# ---- the disk ----------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of a few megabytes of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=64m", "nudge-tests", path)

    def _mount(self, *arguments: str | Path) -> None:
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(
                f"this test may not mount a small tmpfs: {done.stderr.strip()}; run it as root with CAP_SYS_ADMIN "
                "(docker run --cap-add SYS_ADMIN)"
            )

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}", self.path)

    def fill(self) -> None:
        with (self.path / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_is_full(job: ShopJob, tmp_path: Path, small_disk: SmallDisk, processes: int) -> None:
    state = small_disk.path / "state"
    running = in_the_middle(job, tmp_path / "log", processes=processes, state=state)
    small_disk.fill()
    assert running.status() == 1
    assert says_why(running, "No space left on device", "is full"), running.tail()
    again = RunningJob(job.command(*SMALL, processes=processes, state=state), tmp_path / "log2")
    assert again.status() != 0  # Still full.
    assert says_why(again, "No space left on device", "is full"), again.tail()
    (small_disk.path / "filler").unlink()
    goes_on(job, tmp_path / "log", processes=processes, state=state)
    assert job.differences() == []


def test_a_state_directory_that_becomes_read_only(job: ShopJob, tmp_path: Path, small_disk: SmallDisk) -> None:
    state = small_disk.path / "state"
    running = in_the_middle(job, tmp_path / "log", state=state)
    running.kill()
    small_disk.remount("ro")
    refused = RunningJob(job.command(*SMALL, state=state), tmp_path / "refused")
    assert refused.status() == 2
    assert "Read-only file system: it must be a folder we may write to" in refused.tail()
    small_disk.remount("rw")
    goes_on(job, tmp_path / "log", state=state)
    assert job.differences() == []


def says_why(running: RunningJob, *reasons: str) -> bool:
    return any(reason in running.tail(60) for reason in reasons)


# ---- a state directory from a backup -------------------------------------------------------------------------------


def restored(copy: Path, state: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(copy, state)


def test_a_copy_made_between_two_clean_stops(job: ShopJob, tmp_path: Path) -> None:
    """What was sent after the copy is found on the topics and not sent again."""
    first = in_the_middle(job, tmp_path / "log")
    first.terminate()
    assert first.status() == 0
    shutil.copytree(job.state, tmp_path / "copy")
    second = in_the_middle(job, tmp_path / "log")
    second.terminate()
    assert second.status() == 0
    restored(tmp_path / "copy", job.state)
    goes_on(job, tmp_path / "log", processes=2)
    assert job.differences() == []


def test_a_copy_made_after_a_kill(job: ShopJob, tmp_path: Path) -> None:
    killed_at(job.command(*SMALL), tmp_path / "log", "store.write:after:6", pace="20/10/300")
    shutil.copytree(job.state, tmp_path / "copy")
    killed_at(job.command(*SMALL), tmp_path / "log", "store.sync:before:6", pace="20/10/300")
    restored(tmp_path / "copy", job.state)
    in_the_middle(job, tmp_path / "log").kill()
    goes_on(job, tmp_path / "log")
    assert job.differences() == []


def test_an_old_copy_that_is_restored_when_everything_is_done(job: ShopJob, tmp_path: Path) -> None:
    first = in_the_middle(job, tmp_path / "log")
    first.terminate()
    assert first.status() == 0
    shutil.copytree(job.state, tmp_path / "copy")
    goes_on(job, tmp_path / "log")
    assert job.differences() == []
    restored(tmp_path / "copy", job.state)
    killed_at(job.command(*SMALL), tmp_path / "log", "epoch.recorded:after:4", pace="20/10/200")
    goes_on(job, tmp_path / "log", processes=2)
    assert job.differences() == []
