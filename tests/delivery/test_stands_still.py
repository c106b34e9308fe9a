"""A process that stands still between its decision to call and the call: by then another one may have called."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp.http_writer import StreamWriter

from connectors.channels.http import Answered, HttpClient, Request
from connectors.channels.http1 import IS_TOO_LATE
from state.delivery import RETRY, Answer
from tests.providers import server
from tests.providers.server import Response, Server


class World:
    """A provider, and a process that stands still once."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.has_stood_still = False

    def handle(self, request: server.Request) -> Response:
        self.came.append(request.path)
        return Response(200)

    def stand_still(self) -> None:
        self.has_stood_still = True

    async def calls(self, url: str, requests: list[Request]) -> list[Answered | Answer]:
        """Make all calls at a time, over connections that are there."""
        client = HttpClient(5.0, len(requests))
        warm = [Request("POST", f"{url}/warm", {}, b"{}")] * len(requests)
        assert all(isinstance(one, Answered) for one in await asyncio.gather(*map(client.send, warm)))
        IS_TOO_LATE.set(lambda: self.has_stood_still)
        found = await asyncio.gather(*map(client.send, requests))
        await client.close()
        return list(found)

    def run(self, *paths: str, method: str = "POST", at: str = "") -> list[Answered | Answer]:
        """Return what becomes of calls to *paths*; at the one to *at* the process stands still."""
        content = b"{}" if method == "POST" else b""
        with Server(self.handle) as provider:
            requests = [
                Request(method, f"{provider.url}{path}", StandsStill(self) if path == at else {}, content)
                for path in paths
            ]
            found = asyncio.run(self.calls(provider.url, requests))
            time.sleep(0.2)  # If anything was written, it is there by now.
        self.came = [path for path in self.came if path != "/warm"]
        return found


class StandsStill(dict[str, str]):
    """A head, at which the whole process stands still until it is too late."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def items(self) -> Any:
        self._world.stand_still()
        return super().items()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_is_too_late_by_the_time_it_would_be_written_is_not_written(method: str) -> None:
    world = World()
    (late,) = world.run("/late", method=method, at="/late")
    assert isinstance(late, Answer)
    assert (late.kind, world.came) == (RETRY, [])


def test_nor_is_anything_that_would_be_written_after_it() -> None:
    world = World()
    found = world.run(*(f"/{number}" for number in range(10)), at="/3")
    assert sorted(world.came) == ["/0", "/1", "/2"]  # They were written before.
    assert {one.kind for one in found[3:] if isinstance(one, Answer)} == {RETRY}


def test_nor_is_it_where_the_process_stands_still_just_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    real = StreamWriter.write_headers

    async def stands_still(self: StreamWriter, *given: Any) -> None:
        if "/late" in given[0]:
            world.stand_still()
        await real(self, *given)

    monkeypatch.setattr(StreamWriter, "write_headers", stands_still)
    (late,) = world.run("/late")
    assert isinstance(late, Answer)
    assert (late.kind, world.came) == (RETRY, [])
