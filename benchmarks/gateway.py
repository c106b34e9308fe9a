"""How much `nudge gateway` takes on a real Kafka beside it, and how long an answer takes at half of that.

`python -m benchmarks.gateway` posts events over 100 connections, one by one and in lists of 100: first each connection
as fast as it is answered, then at fixed moments, whether or not anybody keeps up. An answer is success only when Kafka
has the events, and the topic is counted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from tests.kafka.broker import ROOT, Broker, BrokerError, ForeignBroker, KafkaUnavailableError

RESULTS: Final = Path(__file__).with_name("results")
WORK: Final = ROOT / ".cache" / "benchmarks"
KEY: Final = "write-key-of-the-benchmark"
TOPIC: Final = "events"
SIZES: Final = {"single": 1, "lists of 100": 100}
BODIES: Final = 500
WARM_UP_S: Final = 2.0
WIDTH: Final = 110


def bodies(size: int) -> list[bytes]:
    """Return requests with *size* events each, ready to be sent."""
    chance = random.Random(7)
    found = []
    for _ in range(BODIES):
        events = [
            {
                "message_id": f"{chance.getrandbits(96):024x}",
                "user_id": f"u-{chance.randrange(100_000)}",
                "event": chance.choice(("view", "add_to_cart", "checkout", "search")),
                "timestamp": "2026-11-23T08:00:00.123Z",
                "properties": {"sku": f"A-{chance.randrange(5_000)}", "amount": chance.randrange(1, 500)},
                "context": {"app": "ios", "page": "/shop/cart"},
            }
            for _ in range(size)
        ]  # fmt: skip
        body = orjson.dumps(events[0] if size == 1 else events)
        head = (
            f"POST /v1/events HTTP/1.1\r\nhost: door\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


class Connection(asyncio.Protocol):
    """Sends a request after the other; *answered* is told of each answer."""

    def __init__(self, answered: Callable[[Connection, bool], None]) -> None:
        self._answered = answered
        self._transport: Any = None
        self.began_s = 0.0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        # An answer is small and comes in one piece.
        self._answered(self, data.startswith(b"HTTP/1.1 200"))

    def send(self, request: bytes, began_s: float) -> None:
        self.began_s = began_s
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()


class Load:
    """Posts for some time; what is answered in the warm-up is only counted as stored.

    Args:
        rate: requests per second; None: as fast as they are answered.
    """

    def __init__(self, port: int, size: int, connections: int, seconds: float, rate: float | None) -> None:
        self._port, self._connections, self._seconds, self._rate = port, connections, seconds, rate
        self._requests = bodies(size)
        self._next = 0
        self.answers: list[float] = []
        self.stored = self.failed = 0
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self._is_over = False

    def _request(self) -> bytes:
        self._next += 1
        return self._requests[self._next % BODIES]

    def _answered(self, one: Connection, is_success: bool) -> None:
        now_s = time.monotonic()
        self.stored += is_success
        self.failed += not is_success
        if now_s >= self._counts_s and not self._is_over:
            self.answers.append(now_s - one.began_s)
        if self._is_over:
            return
        if self._rate is None:
            one.send(self._request(), now_s)
        elif self._due:
            one.send(self._request(), self._due.popleft())
        else:
            self._idle.append(one)

    async def run(self) -> dict[str, Any]:
        """Post, and return what came of it."""
        loop = asyncio.get_running_loop()
        made = [
            (await loop.create_connection(lambda: Connection(self._answered), "127.0.0.1", self._port))[1]
            for _ in range(self._connections)
        ]
        begin_s = time.monotonic()
        self._counts_s = begin_s + WARM_UP_S
        end_s = self._counts_s + self._seconds
        if self._rate is None:
            for one in made:
                one.send(self._request(), begin_s)
            await asyncio.sleep(end_s - begin_s)
        else:
            self._idle.extend(made)
            await self._at_fixed_moments(begin_s, end_s)
        self._is_over = True
        await asyncio.sleep(1.0)
        for one in made:
            one.close()
        self.answers.sort()
        return {
            "requests_per_second": round(len(self.answers) / self._seconds),
            "stored": self.stored,
            "failed": self.failed,
            "lost_connections": sum(one.lost for one in made),
            "unsent": len(self._due),
            "p50_ms": round(_of(self.answers, 0.50) * 1000, 1),
            "p99_ms": round(_of(self.answers, 0.99) * 1000, 1),
            "max_ms": round(max(self.answers, default=0.0) * 1000, 1),
        }

    async def _at_fixed_moments(self, begin_s: float, end_s: float) -> None:
        assert self._rate is not None
        count = 0
        while (now_s := time.monotonic()) < end_s:
            while (due_s := begin_s + count / self._rate) <= now_s:
                count += 1
                if self._idle:
                    self._idle.popleft().send(self._request(), due_s)
                else:
                    self._due.append(due_s)
            await asyncio.sleep(max(0.0005, begin_s + count / self._rate - time.monotonic()))


def _of(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Gateway:
    """The gateway that is measured."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path) -> None:
        (folder / "nudge.yaml").write_text(json.dumps({"gateway": {"keys": {"web": {"key": {"env": "KEY"}}}}}))
        command = [
            sys.executable, "-m", "dataflow.cli", "gateway", "--sink", f"kafka://{bootstrap}?prefix={prefix}",
            "--port", "0", "--config", str(folder / "nudge.yaml"), "--ledger", f"sqlite:{folder / 'ledger.db'}",
        ]  # fmt: skip
        log = folder / "gateway.log"
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stderr=stream, cwd=ROOT, env={**os.environ, "KEY": KEY})
        deadline = time.monotonic() + 60
        while (found := re.search(rb'"port": (\d+)', log.read_bytes())) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise measure.RunError(log.read_text()[-2000:])
            time.sleep(0.05)
        self.port = int(found[1])

    def rss_mb(self) -> float:
        """Return how much memory it holds now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        return round(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024, 1)  # type: ignore[index]

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def _run(broker: Broker | ForeignBroker, options: argparse.Namespace, size: int, rate: float | None) -> dict[str, Any]:
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    broker.create_topic(prefix + TOPIC, options.partitions)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        gateway = Gateway(broker.bootstrap, prefix, Path(folder))
        try:
            pid = broker.pid if isinstance(broker, Broker) else None
            before = (measure.process_cpu_s(gateway.process.pid), measure.process_cpu_s(pid), measure.machine_cpu_s())
            command = [
                sys.executable, "-m", "benchmarks.gateway", "--load", str(gateway.port), str(size),
                str(options.connections), str(options.seconds), str(rate or 0),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=600)
            found: dict[str, Any] = json.loads(done.stdout)
            after = (measure.process_cpu_s(gateway.process.pid), measure.process_cpu_s(pid), measure.machine_cpu_s())
            names = ("gateway_cpu_s", "broker_cpu_s", "machine_cpu_s")
            for name, early, late in zip(names, before, after, strict=True):
                found[name] = None if early is None or late is None else round(late - early, 2)
            found["rss_mb"] = gateway.rss_mb()
        finally:
            gateway.stop()
        found["events_per_second"] = found["requests_per_second"] * size
        found["on_topic"] = sum(broker.end_offsets(prefix + TOPIC).values())
        broker.delete_topics([prefix + TOPIC])
    if found["on_topic"] < found["stored"] * size:
        raise measure.RunError(
            f"{found['stored'] * size} events were answered with success, {found['on_topic']} are there"
        )
    return found


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", metavar="HOST:PORT", help="a Kafka that runs; default: one of our own")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run, after the warm-up")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--single-rate", type=float, default=2500.0, help="requests per second, one event each")
    parser.add_argument("--list-rate", type=float, default=300.0, help="requests per second, 100 events each")
    parser.add_argument("--quick", action="store_true", help="a short trial without a result file")
    parser.add_argument("--load", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        port, size, connections, seconds, rate = options.load
        load = Load(int(port), int(size), int(connections), float(seconds), float(rate) or None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.stdout.write(json.dumps(runner.run(load.run())))
        return 0
    if options.quick:
        options.seconds, options.runs = 5.0, 1
    rates = {"single": options.single_rate, "lists of 100": options.list_rate}
    cases: list[tuple[str, int, float | None]] = []
    for name, size in SIZES.items():
        cases += [(f"{name}, at once", size, None), (f"{name}, {rates[name]:g}/s", size, rates[name])]
    console = Console(width=WIDTH)
    runs: list[dict[str, Any]] = []
    try:
        with measure.kafka(options.broker, WORK, "1g") as broker:
            for number in range(options.runs):
                for name, size, rate in cases if number % 2 == 0 else reversed(cases):
                    found = _run(broker, options, size, rate)
                    runs.append({"case": name, "run": number, **found})
                    console.log(f"{name}: {found['events_per_second']:,} events/s, p99 {found['p99_ms']} ms")
    except (KafkaUnavailableError, BrokerError, measure.RunError) as error:
        console.print(f"[red]{error}")
        return 1
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": measure.machine(),
        "versions": measure.versions(),
        "command": shlex.join(["python", "-m", "benchmarks.gateway", *sys.argv[1:]]),
        "connections": options.connections,
        "partitions": options.partitions,
        "seconds": options.seconds,
        "medians": {name: _medians([one for one in runs if one["case"] == name]) for name, _, _ in cases},
        "runs": runs,
    }
    console.print(_table(report))
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"gateway-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        console.print(f"raw numbers: {path.relative_to(ROOT)}")
    return 0


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name, value in runs[0].items() if name not in ("case", "run") and isinstance(value, int | float)]
    return {name: statistics.median(one[name] for one in runs) for name in names}


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report['connections']} connections; medians of the runs")
    table.add_column("requests")
    for column in ("events/s", "requests/s", "p50 ms", "p99", "max", "gateway CPU", "Kafka CPU", "MB"):
        table.add_column(column, justify="right")
    for name, found in report["medians"].items():
        wall = report["seconds"] + WARM_UP_S
        table.add_row(
            name, f"{found['events_per_second']:,.0f}", f"{found['requests_per_second']:,.0f}",
            *(f"{found[one]:g}" for one in ("p50_ms", "p99_ms", "max_ms")),
            *(f"{found.get(one, 0) / wall:.0%}" for one in ("gateway_cpu_s", "broker_cpu_s")), f"{found['rss_mb']:g}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
