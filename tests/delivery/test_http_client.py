"""What a call means that got no whole answer: whether anything was written decides."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from pathlib import Path

import httpx
import pytest

from connectors.channels.http import Answered, HttpClient
from state.delivery import CONFIG, RETRY, UNKNOWN, Answer
from tests.certificates import certificates
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


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "unable to get local issuer certificate"), ("localhost", "Hostname mismatch")]
)
def test_a_certificate_that_nobody_trusts_or_is_anothers_stops_the_channel_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, http2: bool, host: str, why: str
) -> None:
    made = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.pem", made / "server.key")
    if host == "localhost":  # Then the authority is right, and the host is not.
        trusted = ssl.create_default_context(cafile=str(made / "ca.pem"))
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
        monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca.pem"))
    seen: list[str] = []

    async def call(port: int) -> Answered | Answer:
        client = HttpClient(5.0, 1, http2=http2)
        try:
            return await client.send(httpx.Request("POST", f"https://{host}:{port}/"))
        finally:
            await client.close()

    with Server(lambda request: seen.append(request.path) or Response(), context) as server:  # type: ignore[func-returns-value]
        found = asyncio.run(call(server.port))
    assert isinstance(found, Answer)
    assert (found.kind, found.code) == (CONFIG, "certificate")
    assert why in found.detail
    assert seen == []


def test_over_tls_a_whole_request_is_answered_and_the_next_goes_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.pem", made / "server.key")
    trusted = ssl.create_default_context(cafile=str(made / "ca.pem"))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
    content = bytes(300_000)

    async def call(url: str) -> list[Answered | Answer]:
        client = HttpClient(5.0, 1)
        found = [await client.send(httpx.Request("POST", url, content=content)) for _ in range(3)]
        await client.close()
        return found

    with Server(lambda request: Response(200, str(len(request.body)).encode()), context) as server:
        found = asyncio.run(call(server.url))
    assert [one.text for one in found if isinstance(one, Answered)] == ["300000"] * 3
