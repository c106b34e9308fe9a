"""Doors for tests: one in this process with a broker that is made up, and `nudge gateway` as a process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from connectors.kafka_writer import Keyed, WriteFailed
from dataflow.gateway.app import application
from dataflow.gateway.config import read_gateway
from dataflow.gateway.keys import Keys
from dataflow.gateway.metrics import Metrics
from dataflow.logs import get_logger
from tests.jobs import REPO
from tests.kafka.broker import KafkaTopics

NOW_MS = 1_795_420_800_123
WRITE_KEY = "wk-of-the-tests-0001"
SEGMENT_KEY = "wk-of-the-tests-0002"


class Broker:
    """Stands for a writer with its broker: keeps what it is given, and fails as it is told."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, Any, bytes]] = []
        self.fails: Callable[[int, bytes], WriteFailed | None] = lambda place, value: None
        self.away = False
        self.gone: list[str] = []
        self.queued = 0

    def begin(self, topic: str, records: Sequence[Keyed]) -> asyncio.Future[Mapping[int, WriteFailed]]:
        done: asyncio.Future[Mapping[int, WriteFailed]] = asyncio.get_running_loop().create_future()
        failures = {}
        for place, (key, value) in enumerate(records):
            if (failure := self.fails(place, value)) is not None:
                failures[place] = failure
            else:
                self.stored.append((topic, key, value))
        done.set_result(failures)
        return done

    async def write(self, topic: str, key: Any, value: bytes) -> None:
        failures = await self.begin(topic, [(key, value)])
        if failures:
            raise failures[0]

    async def missing(self, topics: Any) -> list[str]:
        if self.away:
            raise WriteFailed("no answer")
        return [topic for topic in self.gone if topic in topics]


class Door:
    """A door in this process; `clock` is its time in seconds."""

    def __init__(self, monkeypatch: Any, folder: Path, **settings: Any) -> None:
        monkeypatch.setenv("WRITE_KEY", WRITE_KEY)
        monkeypatch.setenv("SEGMENT_KEY", SEGMENT_KEY)
        given = {"keys": {"web": {"key": {"env": "WRITE_KEY"}}}, **settings}
        self.settings = read_gateway(given, folder)
        self.broker = Broker()
        self.clock = 0.0
        self.metrics: Any = None
        self.more_of: Callable[[], Any] = tuple
        self.create: Callable[[str], str] = str

    def app(self) -> ASGIApp:
        self.metrics = Metrics()
        keys = Keys(self.settings.keys, "", lambda: self.clock)
        return application(
            self.broker, keys, self.metrics, get_logger(),  # type: ignore[arg-type]
            now_ms=lambda: NOW_MS + int(self.clock * 1000), monotonic_s=lambda: self.clock, cors=self.settings.cors,
            more=self.more_of(), create=self.create,
        )  # fmt: skip

    def ask(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """Run *work* with a client of the door."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app(), raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await work(client)

        return asyncio.run(run())

    def post(self, path: str, body: bytes, key: str = WRITE_KEY, **headers: str) -> httpx.Response:
        """Post *body* with the bearer *key*."""
        head = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        found: httpx.Response = self.ask(lambda client: client.post(path, content=body, headers=head))
        return found


class Gateway:
    """A `nudge gateway` that runs."""

    def __init__(self, broker: KafkaTopics, prefix: str, folder: Path, *more: str, **environment: str) -> None:
        self.log = folder / "gateway.log"
        command = [
            sys.executable, "-m", "dataflow.cli", "gateway", "--sink", f"kafka://{broker.bootstrap}?prefix={prefix}",
            "--config", str(folder / "nudge.yaml"), "--port", "0", *more,
        ]  # fmt: skip
        if "--ledger" not in more:
            command += ["--ledger", f"sqlite:{folder / 'ledger.db'}"]
        at = self.log.stat().st_size if self.log.exists() else 0
        keys = {"WRITE_KEY": WRITE_KEY, "SEGMENT_KEY": SEGMENT_KEY}
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, cwd=REPO, stdout=stream, stderr=stream, env={**os.environ, **keys, **environment}
            )
        deadline = time.monotonic() + 60
        while (found := re.search(rb'"port": (\d+)', self.log.read_bytes()[at:])) is None:
            assert time.monotonic() < deadline, self.tail()
            assert self.process.poll() is None, self.tail()
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{int(found[1])}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
