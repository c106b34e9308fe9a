"""Other flows take over while the job runs: from one moment on, for everybody, and only if they are good."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import Emitted, RunningJob, audited, in_folder
from tests.test_metrics import TOPIC, Broker, record
from tests.test_run import wait_until

TICK = """\
flow: tick
version: {version}
{state}trigger: {{event: tick}}
entry: {{concurrent: 1000}}
steps: [{{send: webhook, template: v{version}}}]
"""
ENDED = "state: ended\n"
HOLDS = "flow: holds\ntrigger: {event: hold}\nsteps: [{wait: 30d}]\n"


class Live:
    """A job on a broker in memory that makes an action of every event."""

    def __init__(self, folder: Path, *more: str, **environment: str) -> None:
        self.folder = folder
        self.flows = folder / "flows"
        self.flows.mkdir()
        self.write("tick.yaml", TICK.format(version=1, state=""))
        self.write("holds.yaml", HOLDS)
        self.broker = Broker()
        self.sent = 0
        self.more = more
        self.job = self.start(**environment)

    def start(self, **environment: str) -> RunningJob:
        source, sink = f"kafka://{self.broker.bootstrap}/{TOPIC}", f"file:{self.folder / 'out'}"
        arguments = [self.flows, "--source", source, "--sink", sink, "--state", self.folder / "state"]
        return RunningJob([*arguments, "--shards", "4", *self.more], self.folder / "log", **environment)

    def write(self, name: str, text: str) -> None:
        (self.flows / name).write_text(text)

    def new_version(self, version: int) -> None:
        self.write(f"tick-{version - 1}.yaml", TICK.format(version=version - 1, state=ENDED))
        self.write("tick.yaml", TICK.format(version=version, state=""))

    def hup(self) -> None:
        self.job.process.send_signal(signal.SIGHUP)

    def send(self, event: str = "tick") -> None:
        self.broker.send(record(f"u{self.sent}", event), partition=self.sent % self.broker.partitions)
        self.sent += event == "tick"

    def templates(self) -> list[str]:
        return [action["template"] for action in self.out.actions]

    @property
    def out(self) -> Emitted:
        return in_folder(self.folder / "out")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, holds: Callable[[], bool], send: bool = True) -> None:
        """Send an event now and then until something holds."""

        def look() -> bool:
            assert self.job.process.poll() is None, self.job.tail()
            if send:
                self.send()
            return holds()

        wait_until(look)

    def until_acts(self, template: str) -> None:
        self.until(lambda: template in self.templates())

    def ends_well(self) -> None:
        """Stop it, and see that every event has made one action."""
        if self.job.process.poll() is None:
            last = self.sent
            wait_until(lambda: len(self.out.actions) >= last)
            self.job.terminate()
            self.job.wait()
        assert sorted(action["user_id"] for action in self.out.actions) == sorted(f"u{one}" for one in range(self.sent))
        audited(self.folder / "state")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def start(*more: str, **environment: str) -> Live:
        made.append(Live(tmp_path, *more, **environment))
        return made[-1]

    yield start
    for one in made:
        one.job.kill()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_changed_flows_take_over_and_every_event_is_handled_once(live: Any, processes: str) -> None:
    one = live("--processes", processes)
    one.until_acts("v1")
    for version in (2, 3):
        one.new_version(version)
        one.hup()
        one.until_acts(f"v{version}")
    one.ends_well()
    journal = one.out.journal
    for user in {entry["user_id"] for entry in journal}:
        assert len({entry["version"] for entry in journal if entry["user_id"] == user}) == 1


def test_bad_flows_are_refused_with_all_that_is_wrong_and_good_ones_taken_in_later(live: Any) -> None:
    one = live()
    one.until_acts("v1")
    one.send("hold")
    one.until(lambda: any(record["flow"] == "holds" for record in one.out.journal))

    one.write("tick.yaml", TICK.format(version=1, state="").replace("v1", "other"))
    one.write("bad.yaml", "flow: bad\ntrigger: {event: x}\nsteps: [{sned: webhook}]\n")
    one.write("worse.yaml", "flow: [")
    one.hup()
    one.until(lambda: "those before stay in force" in one.log())
    for code in ("bad.yaml", "worse.yaml"):
        assert code in one.log()
    assert '"line": 3' in one.log()

    (one.flows / "bad.yaml").unlink()
    (one.flows / "worse.yaml").unlink()
    one.hup()
    one.until(lambda: "version-reused" in one.log())

    one.write("tick.yaml", TICK.format(version=1, state=""))
    (one.flows / "holds.yaml").unlink()
    one.hup()
    one.until(lambda: "holds v1: 1 inside" in one.log())

    one.write("holds.yaml", HOLDS)
    one.hup()
    one.until(lambda: "nothing changes" in one.log())
    assert set(one.templates()) == {"v1"}

    one.new_version(2)
    one.hup()
    one.until_acts("v2")
    one.ends_well()


def test_watched_flows_are_taken_in_when_their_files_have_settled(live: Any, tmp_path: Path) -> None:
    """Also where a folder is swapped for another one, as Kubernetes does it."""
    one = live("--watch")
    one.until_acts("v1")
    one.new_version(2)
    one.until_acts("v2")

    other = tmp_path / "next"
    other.mkdir()
    for file in one.flows.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "tick.yaml").write_text("flow: [")
    one.flows.rename(tmp_path / "old")
    one.flows.symlink_to(other)
    one.until(lambda: "those before stay in force" in one.log())
    refused = one.log().count("those before stay in force")
    time.sleep(2.5)
    assert one.log().count("those before stay in force") == refused, "it is said once"
    for file in (tmp_path / "old").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    one.until(lambda: "nothing changes" in one.log())
    one.ends_well()


def test_two_changes_at_once_both_come_into_force(live: Any) -> None:
    one = live()
    one.until_acts("v1")
    one.new_version(2)
    one.hup()
    one.until(lambda: "preparing an exchange" in one.log())
    one.new_version(3)
    one.hup()
    one.until_acts("v3")
    one.ends_well()


def test_asked_to_stop_during_an_exchange_it_stops(live: Any) -> None:
    one = live()
    one.until_acts("v1")
    one.new_version(2)
    one.hup()
    one.until(lambda: "finish their epoch" in one.log())
    one.job.terminate()
    one.job.wait()
    one.job = one.start()
    one.until_acts("v2")
    one.ends_well()


def test_a_new_process_that_dies_leaves_the_old_ones_at_work(live: Any) -> None:
    one = live("--processes", "2")
    one.until_acts("v1")
    old = set(one.job.workers())
    one.new_version(2)
    one.hup()
    one.until(lambda: len(one.job.workers()) > len(old), send=False)  # Nothing may take time now.
    os.kill((set(one.job.workers()) - old).pop(), signal.SIGKILL)
    one.until(lambda: "those before stay in force" in one.log())
    assert set(one.job.workers()) == old
    one.hup()
    one.until_acts("v2")
    one.ends_well()


@pytest.mark.parametrize("after", ["preparing an exchange", "finish their epoch", "the changed flows take over"])
@pytest.mark.parametrize("who", ["job", "process"])
def test_killed_during_an_exchange_nothing_is_lost_or_repeated(live: Any, after: str, who: str) -> None:
    one = live("--processes", "2", "--epoch", "60s")
    one.until_acts("v1")
    old = one.job.workers()
    one.new_version(2)
    one.hup()
    one.until(lambda: after in one.log())
    if who == "job":
        one.job.kill()
    else:  # One that works: without one that is only being prepared the job would go on.
        wait_until(lambda: one.job.kill_a_worker(random.Random(after), first=old))
    one.job = one.start()
    one.until_acts("v2")
    one.ends_well()
