"""The gap that changed flows make: steady events, an exchange in the middle, and the longest time without an action.

`python -m benchmarks.exchange` starts a broker, and runs the job with each number of flows. Every event makes an
action; the time of an action is the moment at which it was produced. What the log says about the exchange tells where
the time went.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from benchmarks.workload import flow_files
from tests.jobs import RunningJob
from tests.kafka.broker import ForeignBroker, KafkaTopics, running_broker

EVERY_S = 0.01
SETTLED_S = 4.0  # Before the exchange and behind it.
TAKES_OVER = "the changed flows take over"

TICK = """\
flow: tick
version: {version}
{state}trigger: {{event: tick}}
entry: {{concurrent: 100}}
steps: [{{send: webhook, template: v{version}}}]
"""


def main() -> int:
    """Measure, and print one line per exchange."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, nargs="+", default=[20, 1000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--exchanges", type=int, default=3, help="in each run")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--kafka", help="host:port of a broker that runs already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kafka:
            _measure_all(options, ForeignBroker(options.kafka), Path(folder))
        else:
            with running_broker(Path(folder) / "kafka") as broker:
                _measure_all(options, broker, Path(folder))
    return 0


def _measure_all(options: argparse.Namespace, broker: KafkaTopics, folder: Path) -> None:
    for flows in options.flows:
        for processes in options.processes:
            for gap_s, steps in measure(broker, folder / f"{flows}-{processes}", flows, processes, options):
                parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in steps.items())
                print(f"{flows} flows, {processes} processes: gap {gap_s:.2f} s ({parts})", flush=True)


def measure(
    broker: KafkaTopics, folder: Path, flows: int, processes: int, options: argparse.Namespace
) -> list[tuple[float, dict[str, float]]]:
    """Return the gap of each exchange in seconds, and the moments of its steps since it was asked for."""
    prefix = f"exchange-{flows}-{processes}-{os.getpid()}."
    broker.create_topic(f"{prefix}events", options.partitions, {"message.timestamp.type": "LogAppendTime"})
    files = folder / "flows"
    files.mkdir(parents=True)
    for name, text in flow_files(flows - 1).items():
        (files / name).write_text(text)
    (files / "tick.yaml").write_text(TICK.format(version=1, state=""))
    log = folder / "log"
    job = RunningJob(
        [
            files, "--source", f"kafka://{broker.bootstrap}/{prefix}events",
            "--sink", f"kafka://{broker.bootstrap}?prefix={prefix}", "--state", folder / "state",
            "--processes", str(processes), "--log-format", "json",
        ],
        log,
    )  # fmt: skip
    stop = threading.Event()
    feeder = threading.Thread(target=_feed, args=(broker.bootstrap, f"{prefix}events", stop))
    feeder.start()
    asked: list[float] = []
    try:
        _wait_for(lambda: '"running"' in log.read_text(), job)
        time.sleep(SETTLED_S)
        for version in range(2, options.exchanges + 2):
            before = log.read_text().count(TAKES_OVER)
            (files / f"tick-{version - 1}.yaml").write_text(TICK.format(version=version - 1, state="state: ended\n"))
            (files / "tick.yaml").write_text(TICK.format(version=version, state=""))
            asked.append(time.time())
            job.process.send_signal(signal.SIGHUP)
            _wait_for(lambda before=before: log.read_text().count(TAKES_OVER) > before, job)  # type: ignore[misc]
            time.sleep(SETTLED_S)
    finally:
        stop.set()
        feeder.join()
        job.terminate()
        job.wait()
    times = sorted(record.timestamp_ms / 1000 for record in broker.read_all(f"{prefix}actions.webhook"))
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    found = []
    for at_s, until_s in pairwise([*asked, times[-1]]):
        gap_s, gap_from_s = max((later - one, one) for one, later in pairwise(times) if at_s <= later < until_s)
        steps = {"last action": gap_from_s - at_s}
        for line in said:
            moment = _moment(line)
            if at_s <= moment < until_s and line["event"] in STEPS:
                steps[line["event"]] = moment - at_s
        steps["first action"] = gap_from_s + gap_s - at_s
        found.append((gap_s, steps))
    return found


STEPS = ("preparing an exchange of the processes", "the new processes are prepared; the old ones finish their epoch",
         "starting")  # fmt: skip


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _feed(bootstrap: str, topic: str, stop: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
    for number in count():
        if stop.wait(EVERY_S):
            break
        user = f"u{number % 5000}"
        producer.produce(topic, json.dumps({"user_id": user, "event": "tick"}), user)
        producer.poll(0)
    producer.flush()


def _wait_for(holds: Any, job: RunningJob) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert job.process.poll() is None, job.tail()
        assert time.monotonic() < deadline, job.tail()
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
