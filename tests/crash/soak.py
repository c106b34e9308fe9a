"""Break a running job at random for as long as you like: `make soak SECONDS_OF_SOAK=3600 ARGS='--report soak.md'`.

Each round is a shop of its own seed on a real Kafka, and a row of failures drawn from that seed: kills at random
moments and at named points, of the job or of one process, SIGSTOP, SIGTERM, a broker that is killed or paused, a state
directory that is put back to an earlier copy, each time with another number of processes, and at times with other
flows (one more that nobody enters, so the old ones must be finished first and nothing else changes), by a restart or by
SIGHUP while the job runs. Once in a round the topic gets a partition more, and once the job gets a topic more. In the
middle of each round many users are woken at one instant. Then the topics are compared with what `simulate` says. A
round that differs, ends in an error or takes too long is noted with its seed, its files are kept, and the soak goes on.
`--seed N --rounds 1` does one round again; only the moments differ a little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from tests.crash.points import PASSES, environment
from tests.crash.shopjob import LaterInput, ShopJob
from tests.jobs import RunningJob
from tests.kafka.broker import ROOT, Broker, running_broker

ROUND_LIMIT_S = 600.0
STATUS_LIMIT_S = 150.0  # Longer than any patience of the job's own.


class RoundFailed(Exception):
    """The job did something that it must not; the message says what."""


@dataclass
class Round:
    """What happened in one round."""

    seed: int
    failures: Counter[str] = field(default_factory=Counter)
    events: int = 0
    actions: int = 0
    journal: int = 0
    lost: int = 0
    too_many: int = 0
    memory_mb: int = 0
    state_kb: int = 0
    seconds: float = 0.0
    problem: str = ""


class Soak:
    """One round after the other on one broker."""

    def __init__(self, broker: Broker, folder: Path, records: int, failures: int) -> None:
        self.broker, self.folder, self.records, self.failures = broker, folder, records, failures

    def round(self, seed: int) -> Round:
        """Run the round of *seed*; never raises what the job or the harness does wrong."""
        done, began = Round(seed, events=self.records), time.monotonic()
        folder = self.folder / f"round-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, ROUND_LIMIT_S)
        one = _OneRound(self.broker, folder, done, self.failures)
        try:
            one.run()
        except Exception as error:
            done.problem = f"{type(error).__name__}: {error}"
            (folder / "problem.txt").write_text(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            one.end()
        done.seconds = round(time.monotonic() - began, 1)
        if not done.problem:
            shutil.rmtree(folder, ignore_errors=True)
        return done


class _OneRound:
    def __init__(self, broker: Broker, folder: Path, done: Round, failures: int) -> None:
        self.broker, self.folder, self.done, self.failures = broker, folder, done, failures
        self.chance = random.Random(done.seed)
        self.prefix = f"soak-{done.seed}."
        self.log = folder / "log"
        self.running: RunningJob | None = None
        self.copy: Path | None = None
        self.version = 0
        self.shards = self.chance.choice(["4", "16", "64"])
        self.left = {"partition", "topic"}  # What is to be added.

    def run(self) -> None:
        self.broker.ensure_ready()
        self.broker.delete_topics(self.broker.topics(self.prefix))
        given = self.given = LaterInput.make(self.folder / "shop", seed=self.done.seed, records=self.done.events)
        self.job = ShopJob(self.broker, self.prefix, given, self.folder / "state")
        self.job.fill()
        kinds: list[Callable[[], None]] = [
            self.kill, self.kill, self.worker, self.point, self.point, self.stand_still, self.terminate,
            self.broker_killed, self.broker_paused, self.both_killed, self.back_to_a_copy,
            self.hang_up, self.hang_up, self.partition_added, self.topic_added,
        ]  # fmt: skip
        for _ in range(self.failures):
            kind = self.chance.choice(kinds)
            if not self.start_and_wait(kind):
                break  # It has come to its end.
            kind()
        self.finish()
        differences = self.job.differences()
        self.done.actions, self.done.journal = len(given.expected.actions), len(given.expected.journal)
        for line in differences:  # "journal: 3 lost, 1 too many, of 400" beside the records concerned.
            words = line.split()
            if "lost," in words and "many," in words:
                self.done.lost += int(words[words.index("lost,") - 1])
                self.done.too_many += int(words[words.index("too") - 1])
        if differences:
            (self.folder / "differences.txt").write_text("\n".join(differences))
            raise RoundFailed(f"{self.done.lost} lost, {self.done.too_many} too many or wrong; {differences[0][:300]}")
        self.done.state_kb = sum(file.stat().st_size for file in self.job.state.rglob("*") if file.is_file()) // 1024

    def end(self) -> None:
        """Leave nothing running, and a broker that works."""
        try:
            if self.running is not None:
                self.running.kill()
            self.broker.ensure_ready()
            self.broker.delete_topics(self.broker.topics(self.prefix))
        except Exception as error:
            self.done.problem = self.done.problem or f"nothing comes to rest: {type(error).__name__}: {error}"

    # ---- the job -----------------------------------------------------------------------------------------------

    def start(self, **more: str) -> RunningJob:
        pace = (
            f"{self.chance.choice([10, 50, 200])}/{self.chance.choice([2, 10])}/{self.chance.choice([60, 300, 1000])}"
        )
        command = self.job.command(
            "--shards", self.shards, "--cached-users", "1", processes=self.chance.choice([1, 2, 3])
        )
        if self.chance.random() < 0.2:
            self.version += 1
            self.job.deploy_something_new(self.version)
            self.counted("other flows deployed")
        self.running = RunningJob(command, self.log, **environment(NUDGE_CRASH_PACE=pace, **more))
        return self.running

    def start_and_wait(self, kind: Callable[[], None]) -> bool:
        """Start the job and give it a moment; return whether it still runs."""
        if kind == self.point:
            return True  # Starts it by itself.
        running = self.start()
        return not self.ends_within(running, self.chance.uniform(0.5, 7.0))

    def ends_within(self, running: RunningJob, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if running.process.poll() is not None:
                self.must_be(running, 0)
                return True
            time.sleep(0.01)
        self.look_at_memory(running)
        return False

    def must_be(self, running: RunningJob, *statuses: int) -> int:
        """Wait for the end of the job, which must have one of *statuses*; as long as it reads, it does not hang."""
        read = -1
        while True:
            try:
                status = running.status(STATUS_LIMIT_S)
                break
            except subprocess.TimeoutExpired:
                counts = re.findall(r'"events": ([0-9]+)', running.log.read_text())
                if not counts or int(counts[-1]) == read:
                    failures = dict(self.done.failures)
                    raise RoundFailed(f"the job hangs after {failures}\n{running.tail()}") from None
                read = int(counts[-1])
        if status not in statuses:
            raise RoundFailed(f"status {status} after {dict(self.done.failures)}\n{running.tail()}")
        return status

    def finish(self) -> None:
        """Run to the end; while the broker comes back a run may give up, but not again and again."""
        self.broker.ensure_ready()
        self.partition_added()
        self.topic_added()
        for _ in range(3):
            if self.must_be(self.start(), 0, 1) == 0:
                return
            self.done.failures["gave up, and was started again"] += 1
        raise RoundFailed(f"the job does not come to its end\n{self.running.tail() if self.running else ''}")

    def look_at_memory(self, running: RunningJob) -> None:
        for process in running.workers():
            try:
                text = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue
            peak = [int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("VmHWM")]
            self.done.memory_mb = max(self.done.memory_mb, *peak, 0)

    @property
    def now(self) -> RunningJob:
        assert self.running is not None
        return self.running

    def counted(self, kind: str) -> None:
        self.done.failures[kind] += 1

    # ---- the failures ------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.counted("job killed")
        self.now.kill()

    def worker(self) -> None:
        self.counted("one process killed")
        if not self.now.kill_a_worker(self.chance):
            self.now.kill()

    def point(self) -> None:
        """At a point that the run may or may not reach."""
        name = self.chance.choice(list(PASSES))
        at = f"{name}:{self.chance.choice(['before', 'after'])}:{self.chance.randint(1, PASSES[name])}"
        if self.chance.random() < 0.3:
            at += f"+{self.chance.randint(1, 40)}ms"
        note = self.folder / "note"
        note.unlink(missing_ok=True)
        who = self.chance.choice(["process", "process", "job", "hang"])
        running = self.start(NUDGE_CRASH_AT=at, NUDGE_CRASH_NOTE=str(note), NUDGE_CRASH_WHO=who)
        status = self.must_be(running, 0, 1, -signal.SIGKILL)
        if note.exists():
            self.counted(f"killed at {name}")
        elif status != 0:
            raise RoundFailed(f"status {status}, though {at} was not reached\n{running.tail()}")

    def stand_still(self) -> None:
        self.counted("SIGSTOP and SIGCONT")
        process = self.chance.choice([*self.now.workers(), self.now.process.pid])
        try:
            os.kill(process, signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.3, 4.0))
            os.kill(process, signal.SIGCONT)
        except (OSError, ProcessLookupError):
            pass  # It has ended meanwhile.
        if not self.ends_within(self.now, self.chance.uniform(0.1, 2.0)):
            self.now.kill()

    def terminate(self) -> None:
        self.counted("SIGTERM")
        self.now.terminate()
        self.must_be(self.now, 0, -signal.SIGTERM)  # The latter while it is still importing.

    def broker_killed(self) -> None:
        self.counted("broker killed and started")
        self.broker.kill()
        time.sleep(self.chance.uniform(0, 3))
        self.broker.start()
        self.after_the_broker()

    def broker_paused(self) -> None:
        self.counted("broker paused")
        self.broker.pause()
        time.sleep(self.chance.uniform(1, 12))
        self.broker.resume()
        self.after_the_broker()

    def after_the_broker(self) -> None:
        """The job has lived through it, or has given up with status 1; then it is killed in any case."""
        time.sleep(self.chance.uniform(0, 3))
        if self.now.process.poll() is None:
            self.now.kill()
        elif self.must_be(self.now, 0, 1):
            self.counted("gave up, and was started again")

    def hang_up(self) -> None:
        """Other flows while the job runs, and at times a kill amid the exchange of its processes."""
        self.counted("SIGHUP")
        self.version += 1
        self.job.deploy_something_new(self.version)
        self.now.process.send_signal(signal.SIGHUP)
        kinds: list[Callable[[], None]] = [self.kill, self.worker, self.terminate]
        time.sleep(self.chance.uniform(0, 4.0))
        if self.now.process.poll() is None:
            self.chance.choice(kinds)()
        else:
            self.must_be(self.now, 0, -signal.SIGHUP)  # The latter while it is still importing.

    def partition_added(self) -> None:
        if "partition" in self.left:
            self.left.remove("partition")
            self.counted("partition added")
            self.job.add_partition(self.given.in_partition)
        self.at_rest()

    def topic_added(self) -> None:
        """After the partition: once what is on the topic has been read, time has passed what is in the partition."""
        if "partition" in self.left:
            self.partition_added()
        if "topic" in self.left:
            self.left.remove("topic")
            self.counted("topic added")
            self.job.add_topic(self.given.in_topic)
        self.at_rest()

    def at_rest(self) -> None:
        if self.running is not None and self.now.process.poll() is None and not self.ends_within(self.now, 1.0):
            self.now.kill()

    def both_killed(self) -> None:
        self.counted("broker and job killed")
        first, second = self.chance.sample([self.broker.kill, self.now.kill], 2)
        first()
        second()
        self.broker.start()

    def back_to_a_copy(self) -> None:
        self.now.kill()
        if not self.job.state.exists():
            return  # It was killed before it had any.
        if self.copy is None:
            self.counted("state directory copied")
            self.copy = self.folder / "copy"
            shutil.copytree(self.job.state, self.copy)
        else:
            self.counted("older copy of the state put back")
            shutil.rmtree(self.job.state)
            self.copy.rename(self.job.state)
            self.copy = None


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise RoundFailed(f"the round took longer than {ROUND_LIMIT_S:.0f} s")


# ---- the report ----------------------------------------------------------------------------------------------------


def summary(rounds: list[Round], seconds: float) -> dict[str, object]:
    """Return everything that a reader wants to know, as plain data."""
    kinds: Counter[str] = sum((one.failures for one in rounds), Counter())
    return {
        "rounds": len(rounds),
        "seconds": round(seconds),
        "seeds": [one.seed for one in rounds],
        "failures": sum(kinds.values()),
        "failures_by_kind": dict(sorted(kinds.items())),
        **{name: sum(getattr(one, name) for one in rounds) for name in ("events", "actions", "journal", "lost")},
        "wrong_or_repeated": sum(one.too_many for one in rounds),
        "failed_seeds": [one.seed for one in rounds if one.problem],
        "each": [{**asdict(one), "failures": dict(one.failures)} for one in rounds],
    }


def markdown(found: dict[str, object]) -> str:
    """Return *found* for people."""
    kinds, each = found["failures_by_kind"], found["each"]
    assert isinstance(kinds, dict)
    assert isinstance(each, list)
    lines = ["# Soak", "", "| what | number |", "|---|---|"]
    names = (
        "rounds",
        "seconds",
        "failures",
        "events",
        "actions",
        "journal",
        "lost",
        "wrong_or_repeated",
        "failed_seeds",
    )
    lines += [f"| {name.replace('_', ' ')} | {found[name]} |" for name in names]
    lines += ["", "| failure | times |", "|---|---|", *(f"| {kind} | {number} |" for kind, number in kinds.items())]
    lines += ["", "| seed | failures | seconds | memory, MB | state, kB | problem |", "|---|---|---|---|---|---|"]
    for one in each:
        problem = one["problem"].splitlines()[0][:200].replace("|", "/") if one["problem"] else ""
        count = sum(one["failures"].values())
        lines.append(
            f"| {one['seed']} | {count} | {one['seconds']} | {one['memory_mb']} | {one['state_kb']} | {problem} |"
        )
    return "\n".join(lines) + "\n"


def write_report(path: Path, found: dict[str, object]) -> None:
    text = markdown(found) if path.suffix == ".md" else json.dumps(found, indent=1) + "\n"
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text)
    draft.replace(path)


def main() -> int:
    """Go on until the time is over; 1 if any round failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no new round after so long")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=10**9, help="at most so many")
    parser.add_argument("--records", type=int, default=8_000, help="of each round")
    parser.add_argument("--failures", type=int, default=10, help="of each round")
    parser.add_argument(
        "--report", type=Path, action="append", default=[], help="a .md or .json file, after each round"
    )
    parser.add_argument("--keep", type=Path, default=ROOT / ".cache" / "soak", help="where files of failed rounds stay")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    rounds: list[Round] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.keep) as folder, running_broker(Path(folder)) as broker:
        soak = Soak(broker, options.keep, options.records, options.failures)
        while len(rounds) < options.rounds and (not rounds or time.monotonic() - began < options.seconds):
            rounds.append(soak.round(options.seed + len(rounds)))
            print(json.dumps({**asdict(rounds[-1]), "failures": dict(rounds[-1].failures)}), flush=True)
            for path in options.report:
                write_report(path, summary(rounds, time.monotonic() - began))
    print(markdown(summary(rounds, time.monotonic() - began)))
    return 1 if any(one.problem for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
