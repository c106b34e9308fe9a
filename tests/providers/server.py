"""An HTTP server that can do what servers should not: hang, hang up, answer half, or answer nonsense."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import httpx

HANGS = "hangs"
"""The request is read, and nothing comes."""
HANGS_UP = "hangs up"
"""The request is read, and the connection is closed."""
HALF = "half"
"""Half an answer comes, and the connection is closed."""
NONSENSE = "nonsense"
"""What comes is no HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0


Handler = Callable[[Request], Response | str]


class Server:
    """Serves on 127.0.0.1 in a thread of its own.

    Args:
        handle: called in that thread with each request.
        context: for TLS; None for none.
        host: another address of this machine.
        port: which one; 0: any.
    """

    def __init__(
        self, handle: Handler, context: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._handle, self._context, self._host = handle, context, host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: Any = None
        self.port = port

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, self._host, self.port, ssl=self._context), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        here = asyncio.current_task()
        tasks = [one for one in asyncio.all_tasks() if one is not here]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The address."""
        return f"{'http' if self._context is None else 'https'}://{self._host}:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                answer = self._handle(request)
                if answer == HANGS:
                    await asyncio.sleep(3600)
                if answer == NONSENSE:
                    writer.write(b"\x00\x01 this is no answer\r\n\r\n")
                if isinstance(answer, str):
                    if answer == HALF:
                        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
                    await writer.drain()
                    return
                if answer.after_s:
                    await asyncio.sleep(answer.after_s)
                head = {"content-length": str(len(answer.body)), **answer.headers}
                lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in head.items()), "", ""]
                writer.write("\r\n".join(lines).encode("latin-1") + answer.body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)


def without_network(handle: Handler) -> httpx.MockTransport:
    """Return a transport that gives requests to *handle*; what misbehaves is a time-out or a broken connection."""

    def answer(request: httpx.Request) -> httpx.Response:
        query = dict(parse_qsl(request.url.query.decode(), keep_blank_values=True))
        headers = {name.lower(): value for name, value in request.headers.items()}
        said = handle(Request(request.method, request.url.path, query, headers, request.content))
        if said == HANGS:
            raise httpx.ReadTimeout("it hangs", request=request)
        if isinstance(said, str):
            raise httpx.RemoteProtocolError(said, request=request)
        head = {name: value.encode("latin-1") for name, value in said.headers.items()}
        return httpx.Response(said.status, headers=head, content=said.body)  # type: ignore[arg-type]

    return httpx.MockTransport(answer)
