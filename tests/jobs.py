"""Start the real `nudge run`, kill it, and compare what is on its sink with what `simulate` says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kafka.broker import KafkaTopics

Json = dict[str, Any]
REPO = Path(__file__).parents[1]
NUDGE = [sys.executable, "-m", "dataflow.cli"]


@dataclass(frozen=True)
class Emitted:
    """What came out of a job, without the job's own name."""

    actions: list[Json]
    journal: list[Json]
    dead_letters: list[Json]

    def differences(self, other: Emitted) -> list[str]:
        """Say what *self* has that *other* lacks, what it lacks, and what it has more than once."""
        found = []
        for name in ("actions", "journal", "dead_letters"):
            mine, theirs = (Counter(_texts(getattr(side, name))) for side in (self, other))
            for text in list((theirs - mine).elements())[:3]:
                found.append(f"{name}: lacks {text}")
            for text in list((mine - theirs).elements())[:3]:
                found.append(f"{name}: {'repeats' if text in theirs else 'has'} {text}")
            if mine != theirs:
                lost, extra = sum((theirs - mine).values()), sum((mine - theirs).values())
                found.append(f"{name}: {lost} lost, {extra} too many, of {sum(theirs.values())}")
        return found


def _texts(records: Iterable[Json]) -> list[str]:
    return [json.dumps(record, sort_keys=True, ensure_ascii=False) for record in records]


def simulated(
    flows: Path, events: Path, folder: Path, *, until: str | None = None, more: Sequence[str] = ()
) -> Emitted:
    """Return what `nudge simulate` says, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("actions.jsonl", "journal.jsonl", "dead.jsonl")]
    command = [*NUDGE, "simulate", str(flows), "--events", str(events), *more]
    for flag, file in zip(("--actions", "--journal", "--dead-letters"), files, strict=True):
        command += [flag, str(file)]
    if until:
        command += ["--until", until]
    subprocess.run(command, check=True, cwd=REPO, stdout=subprocess.DEVNULL, timeout=240)
    return Emitted(*([json.loads(line) for line in file.open()] for file in files))


def in_folder(folder: Path) -> Emitted:
    """Return what a job has written to its file sink, without the line that it is about to write."""

    def read(topic: str) -> list[Json]:
        file = folder / f"{topic}.jsonl"
        return [json.loads(line) for line in file.open() if line.endswith("\n")] if file.exists() else []

    actions = [record for file in sorted(folder.glob("actions.*.jsonl")) for record in read(file.stem)]
    return Emitted(actions, read("journal"), read("dead-letters"))


def on_kafka(broker: KafkaTopics, prefix: str, *, source: str = "") -> Emitted:
    """Return what a job has written to the topics of *prefix*, without the name of the job."""

    def read(topic: str) -> list[Json]:
        records = [json.loads(record.value) for record in broker.read_all(topic)]
        for record in records:
            record.pop("job", None)
        return records

    topics = broker.topics(prefix)
    actions = [record for topic in topics if topic.startswith(f"{prefix}actions.") for record in read(topic)]
    return Emitted(actions, read(f"{prefix}journal"), read(f"{prefix}dead-letters"))


class RunningJob:
    """A `nudge run` in a process of its own."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, **environment: str) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*NUDGE, "run", *map(str, arguments)],
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, **environment},
            )

    def wait(self, timeout_s: float = 120) -> str:
        """Return the last line of a run that ends by itself with status 0."""
        output, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, f"status {self.process.returncode}\n{output}\n{self.tail()}"
        return output.strip().rpartition("\n")[2]

    def status(self, timeout_s: float = 60) -> int:
        """Return the exit status."""
        self.process.communicate(timeout=timeout_s)
        return self.process.returncode

    def workers(self) -> list[int]:
        """Return the process ids of the job's processes; on Linux without `ps`, which takes long on a busy machine."""
        listed = [path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/children")]
        if not listed:
            command = ["ps", "--ppid", str(self.process.pid), "-o", "pid="]
            listed = [subprocess.run(command, capture_output=True, text=True, check=False).stdout]
        return [int(pid) for pids in listed for pid in pids.split()]

    def kill(self) -> None:
        """SIGKILL the parent; its processes die with it."""
        self.process.kill()
        self.process.communicate(timeout=60)  # With a time limit it may be called more than once.

    def kill_a_worker(self, chance: random.Random, *, first: Sequence[int] = ()) -> bool:
        """SIGKILL one of the job's processes, if it has any now: none at its start, and not all through an exchange.

        Args:
            first: those that are taken before others.
        """
        workers = self.workers()
        chance.shuffle(workers)
        for pid in sorted(workers, key=lambda pid: pid not in first):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.process.communicate(timeout=60)
                return True
        return False

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def tail(self, lines: int = 30) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def audited(state: Path) -> None:
    """Check that `nudge audit` finds nothing in *state*, as a run that was killed, or is running, has left it."""
    from dataflow.keep.audit import Audit

    if (state / "nudge.json").exists():  # Else it died before it had anything.
        assert list(Audit(state).findings()) == []


def run_with_kills(
    arguments: Sequence[str | Path], log: Path, chance: random.Random, *, kills: int, within_s: tuple[float, float]
) -> int:
    """Run a job that stops by itself, killing it *kills* times on the way; return how often it was killed."""
    killed = 0
    state = Path(arguments[list(arguments).index("--state") + 1])
    while killed < kills:
        job = RunningJob(arguments, log)
        deadline = time.monotonic() + chance.uniform(*within_s)
        while time.monotonic() < deadline and job.process.poll() is None:
            time.sleep(0.01)
        if job.process.poll() is not None:
            break
        if chance.random() < 0.3 and job.kill_a_worker(chance):
            pass
        else:
            job.kill()
        killed += 1
        audited(state)
    RunningJob(arguments, log).wait()
    audited(state)
    return killed
