"""What a call means that got no whole answer: whether anything was written decides."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx

from connectors.channels.http import Answered, HttpClient
from state.delivery import RETRY, UNKNOWN, Answer
from tests.providers.server import HANGS, Server


def test_a_call_that_waited_for_a_connection_was_not_sent_and_one_that_had_it_may_have_been() -> None:
    async def call(url: str) -> list[Answered | Answer]:
        client = HttpClient(0.5, 2)
        found = await asyncio.gather(*(client.send(httpx.Request("POST", url)) for _ in range(5)))
        await client.close()
        return list(found)

    with Server(lambda _: HANGS) as server:
        found = asyncio.run(call(server.url))
    kinds = Counter((one.kind, one.code) for one in found if isinstance(one, Answer))
    assert kinds == {(UNKNOWN, "no_answer"): 2, (RETRY, "connect_timeout"): 3}
