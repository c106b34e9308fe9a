"""How long an action takes from its trigger, and how late waits end, at a steady load on a real Kafka.

`python -m benchmarks.latency` sends events at fixed moments, whether or not anybody keeps up, and joins each action
with the moment at which the event that caused it was to be sent.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from state.iso import parse_iso_ms
from tests.kafka.broker import ROOT, Broker, BrokerError, ForeignBroker, KafkaUnavailableError

RESULTS: Final = Path(__file__).with_name("results")
WORK: Final = ROOT / ".cache" / "benchmarks"  # On disk, as a state directory is; `/tmp` may be memory.
WIDTH: Final = 130

USERS: Final = 100_000  # Each comes again after 20 s at 5 000 events/s, so nobody is still inside.
TICK_S: Final = 0.005  # How long a tracker gathers events.
WAIT_S: Final = 2
SETTLES_S: Final = 3.0  # Between the job's start and the first event.
START_TIMEOUT_S: Final = 60.0
DRAIN_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 30.0
ACTIONS: Final = "actions.webhook"
NOW, LATER = "now", "later"
SHARE_OF_LATER: Final = 0.5  # Of the relevant events; the others are answered at once.
FLOWS: Final = {
    "now.yaml": "flow: now\ntrigger: {event: checkout, where: {amount: {gte: 50}}}\n"
    "steps:\n  - {send: webhook, template: now}\n",
    "later.yaml": "flow: later\ntrigger: {event: add_to_cart, where: {amount: {gte: 50}}}\n"
    f"steps:\n  - {{wait: {WAIT_S}s}}\n  - {{send: webhook, template: later}}\n",
}
SHAPES: Final = {"one": (1, 0), "three": (3, 0), "idle": (3, 2)}


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        shape: `one` topic, `three` topics, or three of which two are `idle`.
        epoch: time between checkpoints, as `--epoch` takes it.
    """

    shape: str
    epoch: str

    @property
    def name(self) -> str:
        return f"{self.shape}, {self.epoch}"


@dataclass(frozen=True)
class Load:
    """What is sent. Moments are seconds since 1970.

    Attributes:
        topics: those that get something.
        began_s: when the first event is due.
        counts_from_s: when the warm-up is over.
        ends_s: up to when an event counts; some come after it, so that the last waits end amid events.
    """

    bootstrap: str
    topics: list[str]
    rate: int
    relevant: float
    began_s: float
    counts_from_s: float
    ends_s: float


class Seen(NamedTuple):
    """One action as it arrived. All in ms since 1970.

    Attributes:
        sent: when its event was to be sent.
        at: the stream time at which it was decided: the stamp of its event, or when the wait was over.
        produced: when the job gave it to its client.
        arrived: when a consumer had it.
    """

    template: str
    sent: float
    at: int
    produced: int
    arrived: float


def main() -> int:
    """Measure what the arguments ask for; 1 if a run failed or actions are missing, 2 on wrong use."""
    options = _options()
    for one in (signal.SIGTERM, signal.SIGINT):  # Said, since a shell lets what it starts in the background ignore it.
        signal.signal(one, signal.default_int_handler)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        with measure.kafka(options.broker, options.work, options.heap) as kafka:
            return _measure(options, kafka, console)
    except (KafkaUnavailableError, BrokerError) as error:
        console.print(f"no Kafka to measure on: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What stands after -- goes to `nudge run`: python -m benchmarks.latency --runs 5 -- --slack 500ms",
    )
    parser.add_argument("--rate", type=int, default=5_000, help="events per second over all topics (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40, help="measured, after the warm-up (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds that do not count (%(default)s)")
    parser.add_argument("--relevant", type=float, default=10, help="percent of the events (%(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="of each topic (%(default)s)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="which topics (%(default)s)")
    parser.add_argument("--epochs", default="10s,2s,1h", help="times between checkpoints (%(default)s)")
    parser.add_argument("--stamps", choices=["LogAppendTime", "CreateTime"], default="LogAppendTime")
    parser.add_argument("--runs", type=int, default=3, help="of each case (%(default)s)")
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this Kafka")
    parser.add_argument("--heap", default="1g", help="of a broker of its own (%(default)s)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for states (.cache/benchmarks)")
    parser.add_argument("--output", type=Path, help="result file (default: a new one in benchmarks/results)")
    parser.add_argument("more", nargs="*", metavar="-- ARGUMENT", help="more arguments for `nudge run`")
    options = parser.parse_args()
    options.shapes, options.epochs = options.shapes.split(","), options.epochs.split(",")
    if unknown := sorted(set(options.shapes) - set(SHAPES)):
        parser.error(f"--shapes: {unknown[0]} is none of {', '.join(SHAPES)}")
    if min(options.rate, options.seconds, options.partitions, options.runs) <= 0 or not 0 < options.relevant <= 100:
        parser.error("numbers must be positive, and --relevant at most 100")
    return options


def _measure(options: argparse.Namespace, kafka: Broker | ForeignBroker, console: Console) -> int:
    cases = [Case(shape, epoch) for shape in options.shapes for epoch in options.epochs]
    runs: list[dict[str, Any]] = []
    if isinstance(kafka, Broker):
        console.print("a broker that has just started is slow: one run that does not count", markup=False)
        work = Path(tempfile.mkdtemp(prefix="latency-", dir=options.work))
        try:
            _run(cases[0], options, kafka, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    for number in range(options.runs):
        # Interleaved, and every other time backwards, so that a slow minute of the machine does not hit one case.
        for case in cases if number % 2 == 0 else reversed(cases):
            work = Path(tempfile.mkdtemp(prefix="latency-", dir=options.work))
            try:
                run = {"run": number + 1, **_run(case, options, kafka, work)}
            finally:
                shutil.rmtree(work, ignore_errors=True)
            runs.append(run)
            console.print(f"[{len(runs)}/{options.runs * len(cases)}] {_line(run)}", markup=False, highlight=False)
    report = _report(options, cases, runs)
    console.print(_table(report))
    output = options.output or RESULTS / f"latency-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.json"
    output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    console.print(f"raw results: {output}", markup=False, soft_wrap=True)
    problems = [problem for run in runs for problem in run["problems"]]
    for problem in problems:
        console.print(f"wrong: {problem}", style="red", markup=False)
    return 1 if problems else 0


# --- One run ---------------------------------------------------------------------------------------------------------


def _command(case: Case, options: argparse.Namespace, bootstrap: str, flows: str, state: str, prefix: str) -> list[str]:
    sources = [f"kafka://{bootstrap}/{topic}" for topic in _topics(case, prefix)]
    command = [sys.executable, "-m", "dataflow.cli", "run", flows]
    command += [text for source in sources for text in ("--source", source)]
    command += ["--sink", f"kafka://{bootstrap}?prefix={prefix}", "--state", state, "--epoch", case.epoch]
    return [*command, "--log-format", "json", *options.more]


def _topics(case: Case, prefix: str) -> list[str]:
    return [f"{prefix}events-{number}" for number in range(SHAPES[case.shape][0])]


def _run(case: Case, options: argparse.Namespace, kafka: Broker | ForeignBroker, work: Path) -> dict[str, Any]:
    """Run the job beside a sender and a consumer, and return how long its actions took."""
    prefix = f"latency-{uuid.uuid4().hex[:8]}."
    topics = _topics(case, prefix)
    for topic in topics:
        kafka.create_topic(topic, options.partitions, {"message.timestamp.type": options.stamps})
    kafka.create_topic(prefix + ACTIONS, options.partitions)
    flows = work / "flows"
    flows.mkdir()
    for name, text in FLOWS.items():
        (flows / name).write_text(text, "utf-8")
    command = _command(case, options, kafka.bootstrap, str(flows), str(work / "state"), prefix)
    log = work / "log"
    with log.open("wb") as stream:
        job = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        with (
            multiprocessing.get_context("spawn").Manager() as manager,
            ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            deadline = time.monotonic() + START_TIMEOUT_S
            while '"running"' not in log.read_text("utf-8"):
                if job.poll() is not None or time.monotonic() > deadline:
                    return asdict(case) | {"problems": [f"{case.name}: it does not start: {_tail(log)}"]}
                time.sleep(0.1)
            began_s = time.time() + SETTLES_S
            counts_from_s = began_s + options.warm_up
            busy = topics[: len(topics) - SHAPES[case.shape][1]]
            load = Load(
                kafka.bootstrap, busy, options.rate, options.relevant / 100,
                began_s, counts_from_s, counts_from_s + options.seconds,
            )  # fmt: skip
            done = manager.Event()
            consuming = pool.submit(consume, kafka.bootstrap, prefix + ACTIONS, options.partitions, done)
            sending = pool.submit(send, load)
            time.sleep(max(0.0, counts_from_s - time.time()))
            before = _cpu_s(job.pid, kafka)
            time.sleep(max(0.0, load.ends_s - time.time()))
            used = [None if one is None or then is None else one - then
                    for one, then in zip(_cpu_s(job.pid, kafka), before, strict=True)]  # fmt: skip
            expected, late_ms = sending.result()
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while sum(kafka.end_offsets(prefix + ACTIONS).values()) < expected and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(0.5)
            done.set()
            seen: list[Seen] = consuming.result()
    finally:
        job.send_signal(signal.SIGTERM)
        try:
            job.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()
        kafka.delete_topics(kafka.topics(prefix))
    counted = [one for one in seen if counts_from_s * 1000 <= one.sent < load.ends_s * 1000]
    problems = []
    if len(seen) != expected:
        problems.append(f"{case.name}: {len(seen)} actions for {expected} events that cause one: {_tail(log)}")
    if job.returncode != 0:
        problems.append(f"{case.name}: the job ended with status {job.returncode}: {_tail(log)}")
    return asdict(case) | {
        "actions": len(counted),
        "ms": _latencies(counted),
        "sender_late_ms": late_ms,
        "cores": {name: None if cpu_s is None else round(cpu_s / options.seconds, 3)
                  for name, cpu_s in zip(("job", "broker", "machine"), used, strict=True)},
        "load_average": round(os.getloadavg()[0], 2),
        "problems": problems,
    }  # fmt: skip


def _cpu_s(job_pid: int, kafka: Broker | ForeignBroker) -> list[float | None]:
    """Return the CPU seconds that the job, the broker and the whole machine have used by now."""
    listed = subprocess.run(["ps", "--ppid", str(job_pid), "-o", "pid="], capture_output=True, text=True, check=False)
    job = [measure.process_cpu_s(pid) for pid in (job_pid, *map(int, listed.stdout.split()))]
    broker = measure.process_cpu_s(kafka.pid) if isinstance(kafka, Broker) else None
    return [sum(cpu_s for cpu_s in job if cpu_s is not None), broker, measure.machine_cpu_s()]


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-10:])


def send(load: Load) -> tuple[int, float]:
    """Send the load, each event at its moment, and return how many cause an action and how late the latest went, in ms.

    A moment that is missed is made up for at once, and counts as it was planned: who measures from the sending itself
    does not see what a stall did to all who came during it.

    Raises:
        RuntimeError: the broker did not take all of it.
    """
    draw = random.Random(1).random
    problems: list[str] = []

    def report(error: object, _: Message) -> None:
        if error is not None:
            problems.append(str(error))

    # Not idempotent: with more than five records of a partition on their way such a client keeps a core busy.
    producer = Producer(
        ForeignBroker(load.bootstrap).client_config(
            partitioner="murmur2_random", linger_ms=2 * len(load.topics), delivery_report_only_error=True
        )
    )
    expected, late_s, number = 0, 0.0, 0
    total = int((load.ends_s + 2 * WAIT_S - load.began_s) * load.rate)
    while number < total:
        now_s = time.time()
        due = min(total, int((now_s - load.began_s) * load.rate))
        if due > number:
            late_s = max(late_s, now_s - (load.began_s + number / load.rate))
        for event in range(number, due):
            name, amount = "page_view", 20
            if draw() < load.relevant:
                expected += 1
                name, amount = "add_to_cart" if draw() < SHARE_OF_LATER else "checkout", 90
            user, moment_us = f"u-{event % USERS:07d}", int((load.began_s + event / load.rate) * 1_000_000)
            text = (
                f'{{"message_id":"{moment_us}-{event}","user_id":"{user}","event":"{name}","properties":{{"sku":'
                f'"SKU-{event % 90_000 + 10_000}","amount":{amount},"currency":"CNY","category":"shoes"}},'
                '"device":"ios","context":{"app":"shop","locale":"zh-CN","screen":"1170x2532","version":"14.2.0"}}'
            )
            producer.produce(load.topics[int(draw() * len(load.topics))], text, user, on_delivery=report)
        number = max(number, due)
        producer.poll(0)
        time.sleep(TICK_S)
    if producer.flush(30) or problems:
        raise RuntimeError(f"not everything was sent: {problems[:3]}")
    return expected, round(late_s * 1000, 1)


def consume(bootstrap: str, topic: str, partitions: int, done: Event) -> list[Seen]:
    """Return the actions on *topic*, each with the moment of its arrival here, until *done* is set."""
    consumer = Consumer(
        ForeignBroker(bootstrap).client_config(
            group_id="latency", enable_auto_commit=False, auto_offset_reset="earliest", fetch_wait_max_ms=100
        )
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    arrived: list[tuple[float, Message]] = []
    looked_s = time.monotonic()
    while True:
        message = consumer.poll(0.05)
        if message is not None and message.error() is None:
            arrived.append((time.time() * 1000, message))
        if time.monotonic() - looked_s > 0.5:  # It is asked over a connection.
            looked_s = time.monotonic()
            if done.is_set():
                break
    consumer.close()
    return [_seen(arrived_ms, message) for arrived_ms, message in arrived]


def _seen(arrived_ms: float, message: Message) -> Seen:
    action = orjson.loads(message.value() or b"")
    at_ms = parse_iso_ms(action["at"])
    assert at_ms is not None
    sent_us = int(action["cause"]["message_id"].partition("-")[0])
    return Seen(action["template"], sent_us / 1000, at_ms, message.timestamp()[1], arrived_ms)


def _latencies(seen: Sequence[Seen]) -> dict[str, dict[str, float]]:
    """Return p50, p99 and the most of each latency, in ms."""
    at_once, waited = ([one for one in seen if one.template == template] for template in (NOW, LATER))
    ways: dict[str, tuple[list[Seen], Callable[[Seen], float]]] = {
        "trigger_to_action": (at_once, lambda one: one.arrived - one.sent),
        "of_that_to_the_broker": (at_once, lambda one: one.at - one.sent),
        "of_that_in_the_job": (at_once, lambda one: one.produced - one.at),
        "of_that_to_the_consumer": (at_once, lambda one: one.arrived - one.produced),
        "timer_late": (waited, lambda one: one.arrived - one.at),
    }
    found = {}
    for name, (some, way) in ways.items():
        values = sorted(map(way, some))
        if values:
            last = len(values) - 1
            found[name] = {
                "p50": round(values[last // 2], 1), "p99": round(values[last * 99 // 100], 1),
                "max": round(values[-1], 1),
            }  # fmt: skip
    return found


# --- After -----------------------------------------------------------------------------------------------------------


def _line(run: dict[str, Any]) -> str:
    if "ms" not in run:
        return f"{run['shape']:5} {run['epoch']:>4}  failed"
    said = [f"{name} {ms['p50']:.0f}/{ms['p99']:.0f}/{ms['max']:.0f}" for name, ms in run["ms"].items()]
    return f"{run['shape']:5} {run['epoch']:>4}  {', '.join(said)}; cores {run['cores']}, load {run['load_average']}"


def _report(options: argparse.Namespace, cases: list[Case], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return everything that a reader needs: machine, versions, load, commands, medians, raw runs."""
    medians = {}
    for case in cases:
        good = [run for run in runs if (run["shape"], run["epoch"]) == (case.shape, case.epoch) and run.get("actions")]
        if good:
            medians[case.name] = {
                name: {of: statistics.median([run["ms"][name][of] for run in good]) for of in ("p50", "p99", "max")}
                for name in good[0]["ms"]
            }
    return {
        "benchmark": "latency",
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": measure.machine(),
        "versions": measure.versions(),
        "command": shlex.join(["python", "-m", "benchmarks.latency", *sys.argv[1:]]),
        "commands": {
            case.name: shlex.join(["python", *_command(case, options, "HOST:PORT", "FLOWS", "STATE", "PREFIX.")[1:]])
            for case in cases
        },
        "workload": {
            "rate": options.rate,
            "seconds": options.seconds,
            "relevant_percent": options.relevant,
            "partitions": options.partitions,
            "stamps": options.stamps,
            "flows": FLOWS,
        },
        "medians_ms": medians,
        "runs": runs,
    }


def _table(report: dict[str, Any]) -> Table:
    load = report["workload"]
    table = Table(
        title=f"{load['rate']:,} events/s, {load['relevant_percent']:g} % relevant, {load['stamps']}; "
        f"{load['partitions']} partitions per topic; ms, medians of the runs"
    )
    table.add_column("topics, epoch")
    for column in ("trigger to action p50", "p99", "max", "timers late p50", "p99", "max"):
        table.add_column(column, justify="right")
    for name, found in report["medians_ms"].items():
        rows: Iterator[dict[str, float]] = (found[one] for one in ("trigger_to_action", "timer_late"))
        table.add_row(name, *(f"{ms[of]:.0f}" for ms in rows for of in ("p50", "p99", "max")))
    return table


if __name__ == "__main__":
    sys.exit(main())
