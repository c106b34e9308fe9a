"""Killed at named points of the checkpoint and sink protocols, again and again, a job loses and repeats nothing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.points import ONLY_AT_THE_END, PARENTS, all_points, drawn, killed_at
from tests.crash.shopjob import ShopInput, ShopJob
from tests.jobs import RunningJob
from tests.kafka.broker import KafkaTopics

PACE = "40/5/150"  # Some seconds for the whole input, in epochs of 0.15 s.
CHAINS = 3
ALL = bool(os.environ.get("NUDGE_CRASH_ALL"))  # Every point with one process and with two, not with one of both.
SMALL = ("--shards", "16", "--cached-users", "1", "--epoch", "1s")  # Of four shards one process of two had all.
SPILLING = ("--shards", "4", *SMALL[2:])  # So few that commits are spilled.
NEEDS_MANY_CHANGES = "store.spill"  # Only a long epoch changes so many users; it has a test of its own.

ONLY_AFTER_ANOTHER = "run.finish_the_last"  # Nothing is to be finished where nothing was begun.


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> ShopInput:
    return ShopInput.make(tmp_path_factory.mktemp("shop"), seed=5, records=6000)


@pytest.fixture
def job(broker: KafkaTopics, topic_prefix: str, given: ShopInput, tmp_path: Path) -> ShopJob:
    one = ShopJob(broker, topic_prefix, given, tmp_path / "state")
    one.fill()
    return one


def ends_well(job: ShopJob, log: Path, processes: int = 1) -> list[str]:
    """Let the job run to its end, and return what is wrong on its topics."""
    RunningJob(job.command(processes=processes), log).wait()
    return job.differences()


@pytest.mark.kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_row_of_kills_at_named_points(job: ShopJob, tmp_path: Path, chain: int, processes: int) -> None:
    """All chains together are killed before and after everything that has a name."""
    points = [point for point in all_points() if point[0] != NEEDS_MANY_CHANGES]
    random.Random(7).shuffle(points)  # The same for all chains: each takes its share.
    parents = [point for point in points if point[0] in PARENTS]
    others = [point for point in points if point[0] not in PARENTS]
    points = others if ALL else others[processes - 1 :: 2]
    points += parents if processes == 1 else []
    chance = random.Random(100 * processes + chain)
    share = sorted(points[chain::CHAINS], key=lambda point: point[0] == ONLY_AFTER_ANOTHER)
    row = [drawn(name, when, chance) for name, when in share]
    row.append(ONLY_AT_THE_END[chain % len(ONLY_AT_THE_END)])
    for point in row:
        killed_at(
            job.command(*SMALL, processes=processes),
            tmp_path / "log",
            point,
            pace=PACE if point not in ONLY_AT_THE_END else "",
            who=chance.choice(["process", "job"]),
        )
    assert ends_well(job, tmp_path / "log", processes) == [], row


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_many_kills_without_a_complete_epoch_in_between(job: ShopJob, tmp_path: Path) -> None:
    row = ["store.write:before:1", "store.write:after:3", "store.sync:after:2", "shard.snapshot:after:4"]
    for point in row:
        killed_at(job.command(*SMALL), tmp_path / "log", point, pace="40/5/400")
    assert ends_well(job, tmp_path / "log") == []


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_second_crash_before_the_run_has_come_as_far_as_the_first(job: ShopJob, tmp_path: Path) -> None:
    """The first is killed at the end of a long epoch, the second after short ones that end before there."""
    killed_at(job.command(*SMALL), tmp_path / "log", "store.write:before:1", pace="200/5/1500")
    for _ in range(2):
        killed_at(job.command(*SMALL), tmp_path / "log", "epoch.recorded:before:8", pace="20/5/50")
    assert ends_well(job, tmp_path / "log") == []


@pytest.mark.kafka
@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_part_of_the_commit_is_written_early(job: ShopJob, tmp_path: Path, when: str) -> None:
    for number in (1, 2):
        killed_at(job.command(*SPILLING), tmp_path / "log", f"store.spill:{when}:{number}", pace="200/1/3000")
    assert ends_well(job, tmp_path / "log") == []


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_one_process_has_done_its_part_of_an_epoch_when_the_job_dies(job: ShopJob, tmp_path: Path) -> None:
    """Its snapshots are noted, the epoch is not complete; then epochs follow without a record, and another crash."""
    for index in (0, 1):
        for pace in ("200/5/600", "1/400/100"):
            killed_at(
                job.command(*SMALL, processes=2),
                tmp_path / "log",
                f"store.write:before:1@{index}" if pace.startswith("200") else f"epoch.recorded:after:2@{index}",
                pace=pace,
                who="hang" if pace.startswith("200") else "job",
            )
    assert ends_well(job, tmp_path / "log", processes=2) == []


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_other_flows_after_each_kill_and_kills_while_the_old_ones_are_finished(job: ShopJob, tmp_path: Path) -> None:
    """The first of the two executions of each start is the one that finishes what the run before had begun."""
    row = [
        "store.write:after:5",
        "store.write:after:2",
        "epoch.recorded:after:3",
        "run.finish_the_last:before:1",
        "shard.snapshot:after:9",
        "run.execute:after:1",
        "state.write:before:1",
        "state.write:after:1",
    ]
    try:
        for version, point in enumerate(row, start=1):
            killed_at(job.command(*SMALL), tmp_path / "log", point, pace=PACE)
            job.deploy_something_new(version)
        assert ends_well(job, tmp_path / "log") == []
    finally:
        job.nothing_new()
