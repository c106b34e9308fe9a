"""A process that stands still between its decision to call and the call: by then another one may have called."""

from __future__ import annotations

import asyncio
import time
from collections.abc import ItemsView
from typing import Any

import pytest
from aiohttp.http_writer import StreamWriter

from connectors.channels.http import Answered, HttpClient, Request
from state.delivery import UNKNOWN, Answer
from tests.providers import server
from tests.providers.server import Response, Server

TIMEOUT_S = 1.0


class StandsStill(dict[str, str]):
    """A head, at which the whole process stands still for longer than a call may take."""

    def items(self) -> ItemsView[str, str]:
        time.sleep(1.2 * TIMEOUT_S)
        return super().items()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_is_late_by_the_time_it_would_be_written_is_not_written(method: str) -> None:
    came: list[str] = []

    def handle(request: server.Request) -> Response:
        came.append(request.path)
        return Response(200)

    async def call(url: str) -> list[Answered | Answer]:
        client = HttpClient(TIMEOUT_S, 10)
        content = b"{}" if method == "POST" else b""
        said = [
            await client.send(Request(method, f"{url}/first", {}, content)),  # Now there is a connection to write to.
            await client.send(Request(method, f"{url}/late", StandsStill(), content)),
        ]
        await client.close()
        return said

    with Server(handle) as provider:
        first, late = asyncio.run(call(provider.url))
        time.sleep(0.2)  # If anything was written, it is there by now.
    assert isinstance(first, Answered)
    assert isinstance(late, Answer)
    assert came == ["/first"]


def test_nor_is_it_where_the_process_stands_still_just_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[str] = []
    real = StreamWriter.write_headers

    async def stands_still(self: StreamWriter, *given: Any) -> None:
        if "/late" in given[0]:
            time.sleep(1.2 * TIMEOUT_S)
        await real(self, *given)

    def handle(request: server.Request) -> Response:
        came.append(request.path)
        return Response(200)

    async def call(url: str) -> Answered | Answer:
        client = HttpClient(TIMEOUT_S, 10)
        await client.send(Request("POST", f"{url}/first", {}, b"{}"))
        late = await client.send(Request("POST", f"{url}/late", {}, b"{}"))
        await client.close()
        return late

    monkeypatch.setattr(StreamWriter, "write_headers", stands_still)
    with Server(handle) as provider:
        late = asyncio.run(call(provider.url))
        time.sleep(0.2)
    assert isinstance(late, Answer)
    assert late.kind == UNKNOWN
    assert came == ["/first"]
