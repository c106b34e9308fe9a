"""From the command line to a door that is open."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
import uvloop

from connectors.kafka import KEPT_TWO_DAYS, STAMPED_BY_BROKER, how_to_create
from connectors.kafka_writer import KafkaWriter, WriteFailed
from dataflow.deliver.config import Delivered, delivered
from dataflow.deliver.start import a_nonce, now_ms, open_ledger, parse_ledger, warn_of_ledger
from dataflow.deliver.watch import watch
from dataflow.errors import UsageError, at_file
from dataflow.flows import find_workspace, read_workspace_file, shown_path
from dataflow.gateway.app import application
from dataflow.gateway.config import read_gateway
from dataflow.gateway.http import Handle, Protocol
from dataflow.gateway.keys import Keys
from dataflow.gateway.links import Links
from dataflow.gateway.metrics import Metrics
from dataflow.gateway.receipts import Receipts, Reporting
from dataflow.gateway.unmatched import Retrier
from dataflow.logs import configure_logs, get_logger
from dataflow.read.scanner import HOW_TO_COMPILE, WHY_NOT_COMPILED
from dataflow.settings import kafka_options
from dataflow.urls import parse_sink
from operators.language.channels import channel_of
from operators.language.problems import FlowError
from operators.language.workspace import read_workspace

PATIENCE_S: Final = 4.5  # So that an answer is there within five seconds.
QUEUED: Final = 200_000
QUEUED_KIB: Final = 256 * 1024
CONNECTIONS_MAX: Final = 10_000
STOP_PATIENCE_S: Final = 10
GARBAGE: Final = (50_000, 5, 1)  # More than the records of all that is usually on its way.


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


def _expect_little_garbage() -> None:
    """Let the collector of cycles look at what is new, and less often.

    Requests and connections leave it nothing. But the records of long lists make it run again and again, and with all
    modules to look through that takes a third of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


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
        with at_file(shown_path(path) or "nudge.yaml"):
            self.settings = read_gateway(workspace.gateway, self.folder)
        self.ledger, self.group = parse_ledger(ledger), group
        self.events, self.unmatched = f"{self.prefix}events", f"{self.prefix}receipts.unmatched"
        self.delivered = self._read_channels(shown_path(path) or "nudge.yaml")
        if not self.settings.keys and not self.settings.receipts and self.settings.link_key is None:
            file = shown_path(path) or "nudge.yaml"
            raise UsageError(f"{file}: gateway: has neither keys, nor receipts, nor link_key, so nobody could use it")

    def _read_channels(self, file: str) -> dict[str, Delivered]:
        found = {}
        for name in self.settings.receipts:
            channel = channel_of(name, self.workspace)
            written = self.workspace.channels[name].deliver if name in self.workspace.channels else None
            if channel is None or written is None:
                where = f"{file}: gateway.receipts.{name}"
                raise UsageError(f"{where}: channels.{name} has no deliver:, which says who reports")
            with at_file(file):
                found[name] = delivered(name, channel.topic, written, self.folder, now_ms, a_nonce, shares_rate=True)
        return found

    def _channels(self) -> dict[str, Reporting]:
        owner = f"gateway/{socket.gethostname()}/{os.getpid()}"
        return {
            name: Reporting(
                self.settings.receipts[name], how.provider, open_ledger(self.ledger, self.group, how, owner)
            )
            for name, how in self.delivered.items()
        }

    def run(self) -> None:
        """Answer requests, until it is told to stop."""
        configure_logs()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(get_logger()))

    def _command(self, topic: str) -> str:
        """Return how *topic* is created."""
        return how_to_create(self.bootstrap, topic, KEPT_TWO_DAYS if topic == self.unmatched else STAMPED_BY_BROKER)

    async def _say_what_is_missing(self, writer: KafkaWriter, topics: set[str], log: Any) -> None:
        with suppress(WriteFailed):  # Whoever asks /readyz is told, now and later.
            for topic in await writer.missing(topics):
                log.error("a topic is missing: what belongs there is answered with 503 until it is created",
                          topic=topic, create=self._command(topic))  # fmt: skip

    async def _serve(self, log: Any) -> None:
        writer = KafkaWriter(self.bootstrap, self.options, queued=QUEUED, queued_kib=QUEUED_KIB, patience_s=PATIENCE_S)
        keys, metrics = Keys(self.settings.keys, self.prefix, time.monotonic), Metrics()
        channels = self._channels()
        for how in list(self.delivered.values())[:1]:
            await warn_of_ledger(open_ledger(self.ledger, self.group, how, "gateway"), log)
        more: list[tuple[str, str, Handle, tuple[str, ...]]] = []
        topics, tasks = set[str](), []
        if channels:
            receipts = Receipts(
                channels, writer, self.events, self.unmatched, self.settings.url or "", metrics, now_ms, log
            )
            more.append(("/receipts", "/receipts/{channel}/{secret}", receipts.handle, ("GET", "POST")))
            ledgers = {name: one.ledger for name, one in channels.items()}
            retrier = Retrier(
                self.bootstrap, self.options, f"{self.group}-unmatched", self.unmatched, ledgers, writer, self.events,
                metrics, now_ms, log,
            )  # fmt: skip
            metrics.watch("nudge_gateway_waiting", lambda: retrier.held)
            topics |= {self.events, self.unmatched}
            tasks.append(asyncio.create_task(retrier.run()))
        if self.settings.link_key is not None:
            consent = {category: path for category, path in dict(self.workspace.consent).items() if path is not None}
            links = Links(self.settings.link_key, writer, self.events, consent, metrics, now_ms)
            topics.add(self.events)
            more += [
                ("/l", "/l/{code}", links.click, ("GET",)),
                ("/u", "/u/{token}", links.unsubscribe_or_ask, ("GET", "POST")),
                ("/o", "/o/{token}", links.open, ("GET",)),
            ]
        app = application(
            writer, keys, metrics, log, now_ms=now_ms, monotonic_s=time.monotonic, more=more, topics=topics,
            cors=self.settings.cors, create=self._command,
        )  # fmt: skip
        tasks.append(asyncio.create_task(self._say_what_is_missing(writer, topics | keys.topics, log)))
        config = uvicorn.Config(
            app, host=self.host, port=self.port, http=Protocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX, backlog=1024, timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_PATIENCE_S,
        )  # fmt: skip
        tasks.append(asyncio.create_task(watch(writer, log, "what comes is answered with 503")))
        server = _Server(config)
        listening = _listening(self.host, self.port)

        def stop() -> None:
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        address = listening.getsockname()
        if WHY_NOT_COMPILED:
            hint = f"events in lists take longer; {HOW_TO_COMPILE}"
            log.warning("the compiled part is missing", error=WHY_NOT_COMPILED, hint=hint)
        _expect_little_garbage()
        log.info("the gateway is open", host=address[0], port=address[1], keys=list(self.settings.keys))
        await server.serve(sockets=[listening])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in channels.values():
            await one.ledger.close()
            await one.provider.close()
        left = await writer.close()
        log.info("the gateway is closed", not_acknowledged=left)
