"""Who connects and says nothing, or never comes to an end, is sent away; everybody else is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn

from dataflow.gateway import http
from dataflow.gateway.http import Protocol, _InOne
from dataflow.gateway.start import _listening, _Server

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def served(work: Callable[[int], Awaitable[Any]], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    """Return what *work* gives, called with the port of a server."""

    async def serve() -> Any:
        config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False)
        server, listening = _Server(config), _listening("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            return await work(listening.getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(serve())


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", REQUEST + b"GET / HTTP/1.1\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_PATIENCE_S", 0.3)

    async def work(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        found = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return found

    assert served(work).count(b"200 OK") == (said.startswith(REQUEST))


def test_a_client_that_comes_again_after_a_pause_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_PATIENCE_S", 0.3)

    async def work(port: int) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for _ in range(2):
            writer.write(REQUEST)
            found.append(await asyncio.wait_for(reader.readuntil(b"ok"), 10))
            await asyncio.sleep(0.7)
        writer.close()
        return found

    assert [one[:15] for one in served(work)] == [b"HTTP/1.1 200 OK"] * 2


def test_a_head_that_is_too_large_ends_the_connection() -> None:
    async def work(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 70_000)
        found = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return found

    assert b"200 OK" not in served(work)


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    head = [(b"content-length", b"2"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": head})
    await send({"type": "http.response.body", "body": b"no"})


def test_who_is_refused_amid_a_long_body_hears_why_and_no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of Python's standard library reads only when it has written all."""
    monkeypatch.setitem(globals(), "app", refuses)

    def post(port: int) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/", body=b"x" * 20_000_000)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    async def work(port: int) -> list[tuple[int, bytes]]:
        return [await asyncio.to_thread(post, port) for _ in range(5)]

    assert served(work) == [(413, b"no")] * 5


def test_who_goes_on_for_ever_is_heard_out_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "app", refuses)
    monkeypatch.setattr(http, "LINGER_S", 0.3)

    async def work(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")

        async def go_on() -> None:
            while True:
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(go_on(), 10)

    served(work)


class Written:
    """Stands for a transport: what was written, and when it was closed."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.writes.append(b"closed")

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> str:
        return name

    def pause_reading(self) -> None:
        self.writes.append(b"paused")


def test_a_head_goes_with_its_body_and_alone_where_there_is_none() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    async def check() -> None:
        real = Written()
        one = _InOne(real, asyncio.get_running_loop(), lambda: False)
        one.write(head)
        one.write(b"body")
        one.write(b"more")
        assert real.writes == [head + b"body", b"more"]
        one.write(head)
        await asyncio.sleep(0)
        assert real.writes[2:] == [head], "an answer to HEAD"
        one.write(head)
        one.close()
        assert real.writes[3:] == [head, b"closed"]
        one.pause_reading()
        assert real.writes[-1] == b"paused"

    asyncio.run(check())
