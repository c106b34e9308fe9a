"""How long events wait while very many waits end at one instant: `python -m benchmarks.mass_wake_ups --users 1000000`.

Everybody enters a flow and waits for the same moment. Before it, events begin to come at a steady pace, as in
`benchmarks.latency`. Measured are how long their actions take while the many are worked off, and how long that takes.
A second job gets SIGTERM amid it: how long it takes to stop, and that after a restart everybody has had one message.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from benchmarks import measure
from benchmarks.latency import ACTIONS, FLOWS, NOW, RESULTS, WORK, Load, Seen, consume, send
from state.iso import format_ms
from tests.kafka.broker import ROOT, Broker, ForeignBroker

MANY: Final = "actions.email"
MASS: Final = (
    "flow: mass\ntrigger: {event: enter}\nsteps:\n  - wait: {until: '{{ entry.at }}', if_missing: end}\n"
    "  - {send: email, template: mass, to: somebody@example.com}\n"
)
MARGIN_S: Final = 20.0
PATIENCE_S: Final = 600.0


def main() -> int:
    """Measure, and print one JSON object, which is kept in `benchmarks/results`, too."""
    return measure_many("mass_wake_ups", __doc__, Many, entering=5_000)


class Many:
    """A job whose users all wait for one moment."""

    def __init__(self, options: argparse.Namespace, kafka: Broker | ForeignBroker, work: Path) -> None:
        self.kafka = kafka
        self.users: int = options.users
        self.entering: int = options.entering
        self.prefix = f"mass-{uuid.uuid4().hex[:8]}."
        self.events = self.prefix + "events"
        kafka.create_topic(self.events, 4, {"message.timestamp.type": "LogAppendTime"})
        for topic in (ACTIONS, MANY, "journal"):
            kafka.create_topic(self.prefix + topic, 4)
        self.flows = flows = work / "flows"
        flows.mkdir()
        for name, text in {**FLOWS, "mass.yaml": MASS}.items():
            (flows / name).write_text(text, "utf-8")
        self._command = [
            sys.executable, "-m", "dataflow.cli", "run", str(flows), "--source", f"kafka://{kafka.bootstrap}/{self.events}",
            "--sink", f"kafka://{kafka.bootstrap}?prefix={self.prefix}", "--state", str(work / "state"),
            "--processes", str(options.processes), "--log-format", "json",
        ]  # fmt: skip
        self._log = work / "log"
        self.moment_s = 0.0
        self.job: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Let everybody enter, and return once all wait."""
        self.moment_s = time.time() + MARGIN_S + self.users / self.entering
        at = format_ms(int(self.moment_s * 1000))
        for first in range(0, self.users, 100_000):
            numbers = range(first, min(self.users, first + 100_000))
            self.kafka.produce(self.events, [_enter(f"m-{number}", at) for number in numbers])
        self.start()
        self.wait_for("journal", 2 * self.users)  # Each has entered, and waits.
        if time.time() > self.moment_s - 1:
            raise RuntimeError(
                f"{time.time() - self.moment_s:.0f} s too late: they enter slower than --entering {self.entering}"
            )

    def start(self) -> None:
        with self._log.open("ab") as stream:
            self.job = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=ROOT)

    def sent(self, topic: str) -> int:
        return sum(self.kafka.end_offsets(self.prefix + topic).values())

    def wait_for(self, topic: str, number: int) -> float:
        """Return when *topic* has *number* records."""
        deadline = time.monotonic() + PATIENCE_S
        while self.sent(topic) < number:
            assert self.job is not None, "it has been started"
            if self.job.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{topic} has {self.sent(topic)} of {number} records:\n{self._log.read_text()[-2000:]}"
                )
            time.sleep(0.2)
        return time.time()

    def stop(self) -> float:
        """Stop the job, and return how many seconds that took."""
        assert self.job is not None, "it has been started"
        began = time.monotonic()
        self.job.send_signal(signal.SIGTERM)
        status = self.job.wait()
        if status:
            raise RuntimeError(f"the job ended with status {status}:\n{self._log.read_text()[-2000:]}")
        return round(time.monotonic() - began, 2)


def measure_many(name: str, text: str | None, kind: type[Many], *, entering: int) -> int:
    """Measure a *kind* of many users beside events, and stopped amid them.

    Args:
        name: of the benchmark.
        text: what it measures.
        entering: how many come per second at least, unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=500, help="events per second beside it (%(default)s)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--entering",
        type=int,
        default=entering,
        help="who come per second at least; the moment is set by it (%(default)s)",
    )
    parser.add_argument("--broker", metavar="HOST:PORT", help="use this Kafka")
    parser.add_argument("--output", type=Path, help="result file (default: a new one in benchmarks/results)")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    with measure.kafka(options.broker, WORK, "1g") as kafka:
        report = {
            "benchmark": name,
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": measure.machine(),
            "versions": measure.versions(),
            "users": options.users,
            "rate": options.rate,
            "processes": options.processes,
            "beside_events": run(options, kafka, beside_events, kind),
            "stopped": run(options, kafka, stopped, kind),
        }
    found = json.dumps(report, indent=1)
    print(found)
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    output = options.output or RESULTS / f"{name.replace('_', '-')}-{at}.json"
    output.write_text(found + "\n", "utf-8")
    return 0


def run(options: argparse.Namespace, kafka: Broker | ForeignBroker, what: Any, kind: type[Many]) -> dict[str, Any]:
    """Return what one job shows: *what* is done once everybody waits for the moment."""
    work = Path(tempfile.mkdtemp(prefix="mass-", dir=WORK))
    many = kind(options, kafka, work)
    try:
        many.begin()
        found: dict[str, Any] = what(options, many)
        return found
    finally:
        if many.job is not None and many.job.poll() is None:
            many.job.kill()
            many.job.wait()
        kafka.delete_topics(kafka.topics(many.prefix))
        shutil.rmtree(work, ignore_errors=True)


def beside_events(options: argparse.Namespace, many: Many) -> dict[str, Any]:
    """Return how long events waited before the moment and amid what follows it."""
    began_s = time.time() + 1
    takes_s = 10 + many.users / 10_000
    load = Load(many.kafka.bootstrap, [many.events], options.rate, 0.5, began_s, began_s, many.moment_s + takes_s)
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        done = manager.Event()
        consuming = pool.submit(consume, many.kafka.bootstrap, many.prefix + ACTIONS, 4, done)
        sending = pool.submit(send, load)
        over_s = many.wait_for(MANY, many.users)
        expected, late_ms = sending.result()
        many.wait_for(ACTIONS, expected)
        time.sleep(1)
        done.set()
        seen: list[Seen] = [one for one in consuming.result() if one.template == NOW]
    stopped_s = many.stop()
    before = [one.arrived - one.sent for one in seen if one.sent < (many.moment_s - 1) * 1000]
    amid = [one.arrived - one.sent for one in seen if many.moment_s * 1000 <= one.sent <= over_s * 1000]
    return {
        "worked_off_s": round(over_s - many.moment_s, 1),
        "before_ms": _spread(before),
        "amid_ms": _spread(amid),
        "sender_late_ms": late_ms,
        "stopped_s": stopped_s,
        "load_average": round(os.getloadavg()[0], 2),
    }


def stopped(_: argparse.Namespace, many: Many) -> dict[str, Any]:
    """Return how long a stop amid it took, and how many messages there were in the end."""
    time.sleep(max(0.0, many.moment_s + 2 - time.time()))
    many.wait_for(MANY, many.users // 20)
    stopped_s = many.stop()
    sent = many.sent(MANY)
    many.start()
    many.wait_for(MANY, many.users)
    time.sleep(3)
    after = many.sent(MANY)
    many.stop()
    return {"stopped_s": stopped_s, "sent_by_then": sent, "sent_in_the_end": after, "of": many.users}


def _enter(user: str, at: str) -> tuple[bytes, bytes, int]:
    text = json.dumps({"user_id": user, "event": "enter", "message_id": user, "properties": {"at": at}})
    return user.encode(), text.encode(), int(time.time() * 1000)


def _spread(values: list[float]) -> dict[str, float]:
    values.sort()
    if not values:
        return {"events": 0}
    last = len(values) - 1
    found = {
        name: round(values[last * share // 1000], 1) for name, share in {"p50": 500, "p99": 990, "max": 1000}.items()
    }
    return {"events": len(values), **found}


if __name__ == "__main__":
    sys.exit(main())
