"""How many webhooks go out of one process: what a call costs in each client, and all of `nudge deliver` on a Kafka.

`python -m benchmarks.delivery clients` compares clients; `python -m benchmarks.delivery deliver` runs the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import kafka, machine, process_cpu_s, versions

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LATENCY_S = 0.05
AT_ONCE = 120
BODY = json.dumps({"type": "action.webhook", "data": {"text": "y" * 600}}).encode()
HEADERS = {
    "content-type": "application/json", "user-agent": "nudge", "webhook-id": "a" * 32,
    "webhook-timestamp": "1795420800", "webhook-signature": "v1," + "b" * 44,
}  # fmt: skip


# ---- the receiver --------------------------------------------------------------------------------------------------


class Receiver(asyncio.Protocol):
    """Answers every request with 200 after a while; `GET /` says at once what has come."""

    ids: dict[bytes, int] = {}
    last: dict[bytes, int] = {}
    out_of_order = 0
    times: list[float] = []

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = int(_after(head.lower(), b"\r\ncontent-length:") or 0)
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            if head.startswith(b"GET"):
                self._answer(json.dumps(self._seen()).encode())
                continue
            self._take(body)
            asyncio.get_running_loop().call_later(LATENCY_S, self._answer, b'{"ok":true}')

    def _take(self, body: bytes) -> None:
        one, user, number = _after(body, b'"action_id":'), _after(body, b'"user_id":'), _after(body, b'"seq":')
        cls = type(self)
        cls.times.append(time.time())
        cls.ids[one] = cls.ids.get(one, 0) + 1
        if number:
            cls.out_of_order += int(number) < cls.last.get(user, 0)
            cls.last[user] = int(number)

    def _seen(self) -> dict[str, Any]:
        times = sorted(self.times)
        return {
            "calls": len(times), "actions": len(self.ids), "out_of_order": self.out_of_order,
            "seconds": times[-1] - times[0] if times else 0.0,
        }  # fmt: skip

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def _after(text: bytes, name: bytes) -> bytes:
    """Return what follows *name*, up to a comma or the end of a line, without blanks and quotes."""
    _, found, rest = text.partition(name)
    return rest.split(b"\r\n", 1)[0].split(b",", 1)[0].strip(b' "}') if found else b""


async def _receive(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Running:
    """A receiver in a process of its own."""

    def __enter__(self) -> Running:
        command = [sys.executable, "-m", "benchmarks.delivery", "receive"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def seen(self) -> dict[str, Any]:
        import httpx

        return dict(httpx.get(self.url, trust_env=False, timeout=30).json())


# ---- clients -------------------------------------------------------------------------------------------------------

Call = Callable[[], Awaitable[None]]


async def _driven(call: Call, calls: int) -> dict[str, float]:
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    cpu_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began_s
    return {"calls_per_s": round(calls / wall_s), "cpu_ms_per_call": round(1000 * cpu_s / calls, 3)}


async def _client(name: str, url: str, calls: int) -> dict[str, float]:
    if name == "httpx":
        import httpx

        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=30) as client:

            async def by_httpx() -> None:
                assert (await client.post(url, content=BODY, headers=HEADERS)).status_code == 200

            return await _driven(by_httpx, calls)
    if name == "httpcore":
        import httpcore

        async with httpcore.AsyncConnectionPool(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE) as pool:

            async def by_httpcore() -> None:
                assert (await pool.request("POST", url, headers=HEADERS, content=BODY)).status == 200

            return await _driven(by_httpcore, calls)
    if name == "aiohttp":
        import aiohttp

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

            async def by_aiohttp() -> None:
                async with session.post(url, data=BODY, headers=HEADERS) as response:
                    await response.read()
                    assert response.status == 200

            return await _driven(by_aiohttp, calls)
    assert name == "nudge"
    from connectors.channels.http import Answered, HttpClient, Request

    ours = HttpClient(30.0, AT_ONCE, ["127.0.0.1"])

    async def by_ours() -> None:
        answered = await ours.send(Request("POST", url, HEADERS, BODY))
        assert isinstance(answered, Answered)

    try:
        return await _driven(by_ours, calls)
    finally:
        await ours.close()


def _clients(calls: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Running() as receiver:
        for name in ("httpx", "httpcore", "aiohttp", "nudge"):
            command = [sys.executable, "-m", "benchmarks.delivery", "client", name, receiver.url, "--calls", str(calls)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:10} {found[name]}", file=sys.stderr, flush=True)
    return found


# ---- all of it -----------------------------------------------------------------------------------------------------


def _deliver(actions: int, at_once: int, rate: str | None, work: Path) -> dict[str, Any]:
    from tests.delivery.actions import action
    from tests.delivery.jobs import send

    with kafka(None, work, "768m") as broker, Running() as receiver, tempfile.TemporaryDirectory(dir=work) as name:
        for topic in ("actions.webhook", "events", "dead-letters"):
            broker.create_topic(topic, 4)
        users = max(1, actions // 10)
        some = [action(f"a{number}", f"u{number % users}", seq=number // users + 1) for number in range(actions)]
        send(broker, "actions.webhook", some)
        folder = Path(name)
        how = {
            "provider": "webhook", "url": receiver.url, "private": True, "secret": {"env": "HOOK"},
            "concurrency": at_once, "timeout": "30s", **({"rate": rate} if rate else {}),
        }  # fmt: skip
        (folder / "nudge.yaml").write_text(json.dumps({"channels": {"webhook": {"deliver": how}}}))
        command = [
            sys.executable, "-m", "dataflow.cli", "deliver", "--source", f"kafka://{broker.bootstrap}", "--config",
            str(folder / "nudge.yaml"), "--ledger", f"sqlite:{folder / 'ledger.db'}", "--stop-at-end",
        ]  # fmt: skip
        process = subprocess.Popen(command, env={**os.environ, "HOOK": SECRET}, stderr=subprocess.DEVNULL)
        cpu_s, peak_mb = 0.0, 0.0
        while process.poll() is None:
            cpu_s = process_cpu_s(process.pid) or cpu_s
            status = Path(f"/proc/{process.pid}/status")
            if status.exists() and "VmHWM" in (text := status.read_text()):
                peak_mb = int(text.partition("VmHWM:")[2].split()[0]) / 1024
            time.sleep(0.2)
        seen = receiver.seen()
    assert process.returncode == 0
    assert seen["actions"] == actions, seen
    per_s = round((actions - 1) / seen["seconds"], 1)
    return {
        **seen, "calls_per_s": per_s, "cpu_ms_per_action": round(1000 * cpu_s / actions, 3),
        "peak_mb": round(peak_mb, 1), "at_once": at_once, "rate": rate,
    }  # fmt: skip


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivery", description=__doc__)
    parser.add_argument("what", choices=["clients", "deliver", "client", "receive"])
    parser.add_argument("of", nargs="*")
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--actions", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="calls at a time")
    parser.add_argument("--rate", help="such as 500/s")
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks"))
    options = parser.parse_args()
    if options.what == "receive":
        asyncio.run(_receive(0))
    elif options.what == "client":
        name, url = options.of
        print(json.dumps(asyncio.run(_client(name, url, options.calls))))
    else:
        found = (
            _clients(options.calls)
            if options.what == "clients"
            else _deliver(options.actions, options.at_once, options.rate, options.work)
        )
        print(json.dumps({"machine": machine(), "versions": versions(), options.what: found}))


if __name__ == "__main__":
    main()
