"""What a call means that got no whole answer: whether anything was written decides."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from connectors.channels.http import Answered, HttpClient
from state.delivery import RETRY, UNKNOWN, Answer
from tests.providers.server import HANGS, HANGS_UP, Request, Response, Server


def test_a_call_that_waited_for_a_connection_was_not_sent_and_one_that_had_it_may_have_been() -> None:
    async def call(url: str) -> list[Answered | Answer]:
        client = HttpClient(2.0, 2)
        found = await asyncio.gather(*(client.send(httpx.Request("POST", url)) for _ in range(5)))
        await client.close()
        return list(found)

    with Server(lambda _: HANGS) as server:
        found = asyncio.run(call(server.url))
    kinds = Counter((one.kind, one.code) for one in found if isinstance(one, Answer))
    assert kinds == {(UNKNOWN, "no_answer"): 2, (RETRY, "connect_timeout"): 3}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_a_call_is_written_once_whatever_happens_to_its_connection(method: str) -> None:
    seen: list[str] = []

    def answer(request: Request) -> Response | str:
        seen.append(request.path)
        return Response() if len(seen) == 1 else HANGS_UP

    async def call(url: str) -> list[Answered | Answer]:
        client = HttpClient(5.0, 1)
        found = [await client.send(httpx.Request(method, f"{url}/{number}")) for number in range(2)]
        await client.close()
        return found

    with Server(answer) as server:
        first, second = asyncio.run(call(server.url))
    assert isinstance(first, Answered)
    assert isinstance(second, Answer)
    assert second.kind == UNKNOWN
    assert seen == ["/0", "/1"]
