"""From the command line to a door that is open."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
import uvloop

from connectors.kafka_writer import KafkaWriter
from dataflow.errors import UsageError
from dataflow.flows import find_workspace, read_workspace_file, shown_path
from dataflow.gateway.app import application
from dataflow.gateway.config import read_gateway
from dataflow.gateway.http import Protocol
from dataflow.gateway.keys import Keys
from dataflow.gateway.metrics import Metrics
from dataflow.logs import configure_logs, get_logger
from dataflow.settings import kafka_options
from dataflow.urls import parse_sink
from operators.language.problems import FlowError
from operators.language.workspace import read_workspace

PATIENCE_S: Final = 4.5  # So that an answer is there within five seconds.
QUEUED: Final = 200_000
QUEUED_KIB: Final = 256 * 1024
CONNECTIONS_MAX: Final = 10_000
STOP_PATIENCE_S: Final = 10


def now_ms() -> int:
    """The time."""
    return time.time_ns() // 1_000_000


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: whoever asks us to stop gets status 0."""
        yield


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; choose another one") from None


class Start:
    """What one `nudge gateway` was told, read and checked."""

    def __init__(self, sink: str, host: str, port: int, config: Path | None, ledger: str, group: str) -> None:
        url = parse_sink(sink)
        if url.kind != "kafka":
            raise UsageError(f"--sink {sink}: the door writes to Kafka; write kafka://host:9092")
        self.bootstrap, self.prefix = url.bootstrap, url.options.get("prefix", "")
        self.host, self.port = host, port
        path = find_workspace([], config)
        workspace, problems = read_workspace(shown_path(path), read_workspace_file(path))
        if any(one.severity == "error" for one in problems):
            raise FlowError(problems)
        self.workspace = workspace
        self.folder = Path() if path is None else path.parent
        self.options = kafka_options(workspace.kafka)
        self.settings = read_gateway(workspace.gateway, self.folder)
        self.ledger, self.group = ledger, group
        if not self.settings.keys and not self.settings.receipts and self.settings.secret is None:
            file = shown_path(path) or "nudge.yaml"
            raise UsageError(f"{file}: gateway: has neither keys, nor receipts, nor a secret, so nobody could use it")

    def run(self) -> None:
        """Answer requests, until it is told to stop."""
        configure_logs()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(get_logger()))

    async def _serve(self, log: Any) -> None:
        writer = KafkaWriter(self.bootstrap, self.options, queued=QUEUED, queued_kib=QUEUED_KIB, patience_s=PATIENCE_S)
        keys, metrics = Keys(self.settings.keys, self.prefix, time.monotonic), Metrics()
        app = application(
            writer, keys, metrics, log, now_ms=now_ms, monotonic_s=time.monotonic, cors=self.settings.cors
        )
        config = uvicorn.Config(
            app, host=self.host, port=self.port, http=Protocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX, backlog=1024, timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_PATIENCE_S,
        )  # fmt: skip
        server = _Server(config)
        listening = _listening(self.host, self.port)

        def stop() -> None:
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        address = listening.getsockname()
        log.info("the gateway is open", host=address[0], port=address[1], keys=list(self.settings.keys))
        await server.serve(sockets=[listening])
        left = await writer.close()
        log.info("the gateway is closed", not_acknowledged=left)
