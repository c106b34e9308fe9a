"""A small HTTP server beside the job: `/metrics` for Prometheus, `/healthz` and `/readyz` for whatever supervises it.

Run by the parent, which has nothing to do while its processes work.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from socketserver import TCPServer
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from dataflow.errors import UsageError
from dataflow.job.processes import JobRunner
from dataflow.serve.health import Health
from dataflow.serve.metrics import JobCollector

CONNECTIONS_MAX: Final = 16  # Prometheus and a few probes; whoever comes on top is turned away.
READ_TIMEOUT_S: Final = 5.0
REQUEST_MAX_S: Final = 15.0  # For a whole request, so that a client that trickles bytes cannot keep a connection.


class AnyHealth(Protocol):
    """Tells whether something lives, and whether it works, each with a text for people."""

    def alive(self) -> tuple[bool, str]: ...

    def ready(self) -> tuple[bool, str]: ...


class _HttpServer(ThreadingHTTPServer):
    """A server that strangers cannot keep busy: few connections, none of them for long."""

    request_queue_size = CONNECTIONS_MAX
    daemon_threads = True

    def __init__(self, host: str, port: int, collector: Collector, health: AnyHealth, log: Any) -> None:
        self.log, self.health = log, health
        self.registry = CollectorRegistry()
        self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        self._open: dict[socket, float] = {}
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # That of HTTPServer asks the name service who we are, which can take long.
        self.server_name, self.server_port = "nudge", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open[request] = time.monotonic()
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._open[request]
            self._free.release()

    def service_actions(self) -> None:
        """End the connections that take too long; called now and then by the server's own loop."""
        now = time.monotonic()
        for connection, since in list(self._open.items()):
            if now - since > REQUEST_MAX_S:
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away or talk nonsense: that is no problem of the job."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of three paths, one request per connection, and reads no body."""

    server: _HttpServer
    timeout = READ_TIMEOUT_S
    server_version = "nudge"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, content_type, body = HTTPStatus.OK, "text/plain; charset=utf-8", b""
        try:
            if path == "/metrics":
                content_type, body = CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self.server.registry)
            elif path in ("/healthz", "/readyz"):
                holds, text = self.server.health.alive() if path == "/healthz" else self.server.health.ready()
                status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
                body = text.encode() + b"\n"
            else:
                status, body = HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n"
        except Exception as error:
            self.server.log.warning("metrics cannot be told", error=f"{type(error).__name__}: {error}")
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, b"the log says why\n"
        self._answer(status, content_type, body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request that we take; without a page that repeats what was sent."""
        self.close_connection = True
        self._answer(HTTPStatus(code), "text/plain; charset=utf-8", b"only GET and HEAD are answered\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: there is one every few seconds, for ever."""


class Server:
    """A server that runs until it is closed, in a thread of its own."""

    def __init__(self, http: _HttpServer) -> None:
        self._http = http
        self._thread = threading.Thread(target=http.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on, also when any was asked for."""
        return int(self._http.server_port)

    @property
    def address(self) -> str:
        """The address that is listened on."""
        return str(self._http.server_address[0])

    def close(self) -> None:
        """Stop listening. Closing twice is fine."""
        self._http.shutdown()
        self._http.server_close()


def serve(port: int, runner: JobRunner, *, host: str = "127.0.0.1") -> Server:
    """Serve metrics and health of *runner* on *port* of *host*; port 0 takes a free one.

    Raises:
        UsageError: that cannot be listened on.
    """
    flags = f"--metrics-host {host} --metrics-port {port}"
    return serve_any(port, JobCollector(runner), Health(runner), runner.log, host=host, flags=flags)


def serve_any(port: int, collector: Collector, health: AnyHealth, log: Any, *, host: str, flags: str) -> Server:
    """Serve what *collector* measures and what *health* tells; *flags* said so.

    Raises:
        UsageError: that cannot be listened on.
    """
    try:
        return Server(_HttpServer(host, port, collector, health, log))
    except OSError as error:
        raise UsageError(f"{flags}: {error.strerror or error}; choose another one") from None
