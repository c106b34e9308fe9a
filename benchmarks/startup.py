"""From the command to its first action, and to its end, for a new state and for a small one.

`python -m benchmarks.startup` runs `nudge run --stop-at-end` on files and on Kafka, over and over, each time in fresh
processes, and prints the medians in seconds. An action counts from the moment at which its topic's file has it, or a
consumer of its topic. `--code DIR` runs the code of another checkout, in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from confluent_kafka import Consumer, TopicPartition

from benchmarks import measure
from tests.kafka.broker import ROOT, Broker, ForeignBroker

HERE: Final = Path(__file__).parents[1]
WORK: Final = ROOT / ".cache" / "benchmarks"
FLOW: Final = "flow: f\ntrigger: {event: a}\nentry: {reentry: always}\nsteps: [{send: webhook, template: t}]\n"
LOOK_EVERY_S: Final = 0.002
SHOWS_WITHIN_S: Final = 5.0
LOOK_FOR_TOPIC_EVERY_S: Final = 0.03
NEW, SMALL = "new state", "small state"


class Took(NamedTuple):
    """One run, in seconds: until its first action was there, until its end, and of CPU in all its processes."""

    first_s: float
    end_s: float
    cpu_s: float


def event(number: int) -> str:
    return json.dumps({"user_id": f"u{number}", "event": "a", "timestamp": f"2026-11-23T08:{number:02d}:00Z"}) + "\n"


class Place(Protocol):
    """Where events come from and actions go."""

    name: str

    def urls(self) -> list[str]:
        """Return the arguments that name the source and the sink."""
        ...

    def send(self, numbers: Iterable[int]) -> None: ...

    def actions(self) -> int:
        """Return something that is greater after an action."""
        ...


class Files:
    """Everything in the files of a folder."""

    name = "files"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._actions = folder / "out" / "actions.webhook.jsonl"

    def urls(self) -> list[str]:
        return ["--source", "file:events.jsonl", "--sink", "file:out"]

    def send(self, numbers: Iterable[int]) -> None:
        with (self._folder / "events.jsonl").open("a") as events:
            events.writelines(map(event, numbers))

    def actions(self) -> int:
        return self._actions.stat().st_size if self._actions.exists() else 0


class Topics:
    """Everything on topics of their own."""

    name = "Kafka"

    def __init__(self, kafka: Broker | ForeignBroker) -> None:
        self._kafka = kafka
        self._prefix = f"start-{uuid.uuid4().hex[:8]}."
        self._source, self._sink = self._prefix + "events", self._prefix + "actions.webhook"
        kafka.create_topic(self._source, 4, {"message.timestamp.type": "LogAppendTime"})
        self._consumer = Consumer(kafka.client_config(group_id="start", enable_auto_commit=False, fetch_wait_max_ms=10))
        self._seen = 0
        self._look_s = 0.0

    def urls(self) -> list[str]:
        bootstrap = self._kafka.bootstrap
        return [
            "--source",
            f"kafka://{bootstrap}/{self._source}",
            "--sink",
            f"kafka://{bootstrap}?prefix={self._prefix}",
        ]

    def send(self, numbers: Iterable[int]) -> None:
        self._kafka.produce(self._source, [(f"u{number}", event(number), None) for number in numbers])

    def actions(self) -> int:
        if not self._consumer.assignment():  # The job makes the topic.
            if time.monotonic() < self._look_s:
                return 0
            self._look_s = time.monotonic() + LOOK_FOR_TOPIC_EVERY_S
            if self._sink not in self._kafka.topics(self._prefix):
                return 0
            self._consumer.assign([TopicPartition(self._sink, partition, 0) for partition in range(4)])
        message = self._consumer.poll(0.001)
        self._seen += message is not None and message.error() is None
        return self._seen


def run(folder: Path, place: Place, code: Path, processes: int) -> Took:
    """Run the job in *folder* to the end of its source."""
    command = [
        sys.executable, "-m", "dataflow.cli", "run", "f.yaml", *place.urls(),
        "--state", "state", "--processes", str(processes), "--stop-at-end",
    ]  # fmt: skip
    while (before := place.actions()) < place.actions():
        pass
    cpu_before, began_s, first_s = _children_cpu_s(), time.perf_counter(), 0.0
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(code)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as job:  # fmt: skip
        while job.poll() is None:
            if not first_s and place.actions() > before:
                first_s = time.perf_counter() - began_s
            time.sleep(LOOK_EVERY_S)
    end_s = time.perf_counter() - began_s
    while (is_there := place.actions() > before) is False and time.perf_counter() - began_s - end_s < SHOWS_WITHIN_S:
        time.sleep(LOOK_EVERY_S)
    if job.returncode or not is_there:
        raise SystemExit(f"the job in {code} failed with status {job.returncode}, or made no action")
    return Took(first_s or end_s, end_s, _children_cpu_s() - cpu_before)


def both_cases(place: Callable[[Path], Place], code: Path, processes: int, users: int) -> dict[str, Took]:
    """Run a job on a new state with four users, and one on a state that *users* are in."""
    found = {}
    for case, known in ((NEW, 0), (SMALL, users)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "f.yaml").write_text(FLOW)
            here = place(folder)
            if known:
                here.send(range(known))
                run(folder, here, code, processes)
            here.send(range(known, known + 4))
            found[f"{here.name}, {case}"] = run(folder, here, code, processes)
    return found


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=20, help="who are in the small state; at most 50")
    parser.add_argument("--code", type=Path, action="append", default=[], help="another checkout to compare with")
    parser.add_argument("--only", choices=["files", "kafka"], help="leave the other one out")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this Kafka")
    options = parser.parse_args()
    all_took: dict[tuple[str, int, str], list[Took]] = defaultdict(list)
    with ExitStack() as stack:
        places: list[Callable[[Path], Place]] = []
        if options.only != "kafka":
            places.append(Files)
        if options.only != "files":
            kafka = stack.enter_context(measure.kafka(options.broker, WORK, "1g"))
            places.append(lambda _: Topics(kafka))
            both_cases(places[-1], HERE, 1, options.users)  # A broker that has just started is slow.
        for _ in range(options.runs):
            for place in places:
                for processes in options.processes:
                    for code in (HERE, *options.code):
                        for case, took in both_cases(place, code, processes, options.users).items():
                            all_took[(case, processes, str(code))].append(took)
    print(f"{'case':<18} {'processes':>9} {'first action':>12} {'end':>6} {'CPU':>6}  code")
    for (case, processes, where), runs in sorted(all_took.items()):
        first_s, end_s, cpu_s = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{case:<18} {processes:>9} {first_s:>12.2f} {end_s:>6.2f} {cpu_s:>6.2f}  {where}")


if __name__ == "__main__":
    main()
