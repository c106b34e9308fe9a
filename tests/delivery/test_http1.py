"""What goes over one connection: whole requests, each with its own answer, and never what is left of another's."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from connectors.channels.http import ANSWER_MAX, Answered, HttpClient, Request
from connectors.channels.http1 import Http1
from state.delivery import CONFIG, RETRY, UNKNOWN, Answer

HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CLOSE = b""
"""In place of an answer: the connection is closed."""


class Provider:
    """Says what is written for it, one after the other, whoever asks.

    Args:
        answers: bytes for each request.
        reads: whether it reads more of a request than its head.
    """

    def __init__(self, answers: Sequence[bytes], *, reads: bool = True) -> None:
        self._answers, self._reads = list(answers), reads
        self.writers: list[asyncio.StreamWriter] = []
        """One for each connection."""
        self.came: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.came.append(head + (await reader.readexactly(int(length or b"0")) if self._reads else b""))
                answer = self._answers.pop(0)
                writer.write(answer)
                if not answer or b"connection: close" in answer:
                    writer.close()
                if not self._reads:
                    await asyncio.Event().wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


Calling = Callable[[HttpClient, Provider], Coroutine[Any, Any, Any]]


def with_provider(answers: Sequence[bytes], call: Calling, *, reads: bool = True, timeout_s: float = 5.0) -> Provider:
    """Run *call* with a provider that says *answers*."""
    provider = Provider(answers, reads=reads)

    async def run() -> None:
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = HttpClient(timeout_s, 1, ["127.0.0.1"])
        try:
            await call(client, provider)
        finally:
            await client.close()
            server.close()

    asyncio.run(run())
    return provider


def called(*answers: bytes, method: str = "POST", headers: Any = (), times: int = 2) -> tuple[list[Any], Provider]:
    """Return what becomes of calls, one after the other, and the provider."""
    found: list[Any] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        content = b"{}" if method == "POST" else b""
        for number in range(times):
            answered = await client.send(Request(method, f"{provider.url}/{number}", dict(headers), content))
            if isinstance(answered, Answered):
                found.append((answered.status, answered.body))
            else:
                found.append((answered.kind, answered.code))

    provider = with_provider(answers, call)
    return found, provider


def host_of(provider: Provider) -> bytes:
    return provider.url.removeprefix("http://").encode()


async def settle() -> None:
    """Let everything that is on its way on this machine arrive."""
    for _ in range(20):
        await asyncio.sleep(0)


# ---- the request ---------------------------------------------------------------------------------------------------


def test_a_request_is_written_as_it_is_given_with_its_host_and_its_length() -> None:
    given = {"X-One": "a b", "content-length": "99", "Accept": "x/y"}
    _, provider = called(HI, HI, headers=given)
    host = host_of(provider)
    assert provider.came == [
        b"POST /%d HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\nX-One: a b\r\nAccept: x/y\r\n\r\n{}" % (number, host)
        for number in range(2)
    ]
    _, provider = called(HI, method="GET", headers=given, times=1)
    assert provider.came == [b"GET /0 HTTP/1.1\r\nHost: %s\r\nX-One: a b\r\nAccept: x/y\r\n\r\n" % host_of(provider)]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://shop.example/x", "shop.example"), ("https://shop.example:443/x", "shop.example"),
        ("http://shop.example:443/x", "shop.example:443"), ("http://[2001:db8::1]:8080/x", "[2001:db8::1]:8080"),
        ("http://[2001:db8::1]/x", "[2001:db8::1]"), ("https://b\u00fccher.example/", "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_the_host_is_named_as_it_is_asked_for(url: str, host: str) -> None:
    async def checked() -> str:
        return str(Http1(1, 1.0, 1, None)._check("POST", url).headers["host"])

    assert asyncio.run(checked()) == host


@pytest.mark.parametrize("strange", ["a\r\nX-Two: b", "a\nb", "a\rb", "a\0b", "a\x1fb", "a\x7fb"])
@pytest.mark.parametrize("place", ["name", "value", "method"])
def test_nothing_that_is_given_can_end_a_line_of_the_head(strange: str, place: str) -> None:
    headers = {"name": {strange: "x"}, "value": {"X-One": strange}, "method": {}}[place]
    found, provider = called(HI, method=strange if place == "method" else "POST", headers=headers, times=1)
    assert (found, provider.came) == ([(CONFIG, "address")], [])


# ---- the answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body", "is_kept"),
    [
        (HI, b"hi", True),
        (b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HI, b"hi", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", b"hi", True),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s" % (
            len(gzip.compress(b"hi", mtime=0)), gzip.compress(b"hi", mtime=0)), b"hi", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (ANSWER_MAX, b"x" * ANSWER_MAX), b"x" * ANSWER_MAX, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + b"x" * ANSWER_MAX, b"x" * ANSWER_MAX, False),
        (HI + HI, b"hi", False),
    ],
    ids=["", "1xx", "chunked", "gzip", "close", "no length", "1.0", "just as long", "too long", "two"],
)  # fmt: skip
def test_an_answer_is_read_to_its_end_and_only_then_the_next_goes_over_the_same_connection(
    answer: bytes, body: bytes, is_kept: bool
) -> None:
    found, provider = called(answer, HI)
    assert found == [(200, body), (200, b"hi")]
    assert len(provider.writers) == (1 if is_kept else 2)


def test_what_has_no_body_is_not_waited_for() -> None:
    found, provider = called(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", HI[:-2], method="HEAD")
    assert (found, len(provider.writers)) == ([(200, b""), (200, b"")], 1)
    found, provider = called(b"HTTP/1.1 204 No\r\n\r\n", HI)
    assert (found, len(provider.writers)) == ([(204, b""), (200, b"hi")], 1)


@pytest.mark.parametrize(
    "answer",
    [
        CLOSE, b"\x00\x01 nonsense\r\n\r\n", b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhi",
    ],
    ids=["none", "nonsense", "status", "length", "chunk", "gzip", "head", "half"],
)  # fmt: skip
def test_after_what_is_no_whole_answer_nobody_can_tell_and_the_next_has_a_connection_of_its_own(answer: bytes) -> None:
    found, provider = called(answer, HI)
    assert found == [(UNKNOWN, "no_answer"), (200, b"hi")]
    assert len(provider.writers) == 2


# ---- the connection ------------------------------------------------------------------------------------------------


def test_an_answer_that_comes_too_late_is_not_the_next_ones() -> None:
    found: list[Answered | Answer] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        first = asyncio.create_task(client.send(Request("POST", provider.url, {}, b"first")))
        while not provider.came:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        provider.writers[0].write(HI)
        found.append(await client.send(Request("POST", provider.url, {}, b"second")))

    provider = with_provider([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 201 Yes\r\ncontent-length: 0\r\n\r\n"], call)
    (second,) = found
    assert isinstance(second, Answered)
    assert (second.status, len(provider.writers)) == (201, 2)


def test_an_answer_that_nobody_has_asked_for_is_nobodys() -> None:
    found: list[Answered | Answer] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        for number in range(3):
            found.append(await client.send(Request("POST", f"{provider.url}/{number}", {}, b"{}")))
            if number == 0:
                provider.writers[0].write(b"HTTP/1.1 408 Bored\r\ncontent-length: 0\r\n\r\n")
            await settle()

    provider = with_provider([HI, HI, HI], call)
    assert [one.status if isinstance(one, Answered) else one.kind for one in found] == [200, 200, 200]
    assert [came.split()[1] for came in provider.came] == [b"/0", b"/1", b"/2"]
    assert len(provider.writers) == 2, "the next one goes over another connection"


def test_a_connection_that_was_closed_meanwhile_is_not_taken() -> None:
    found: list[Answered | Answer] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        for _ in range(2):
            found.append(await client.send(Request("POST", provider.url, {}, b"{}")))
            provider.writers[-1].close()
            await settle()

    provider = with_provider([HI, HI], call)
    assert [isinstance(one, Answered) for one in found] == [True, True]
    assert len(provider.writers) == 2


def test_who_answers_before_the_whole_request_was_there_has_answered_and_gets_no_other_over_this_connection() -> None:
    found: list[Answered | Answer] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        for content in (bytes(20_000_000), b""):
            found.append(await client.send(Request("POST", provider.url, {}, content)))

    refused = b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n"
    provider = with_provider([refused, HI], call, reads=False)
    assert [one.status for one in found if isinstance(one, Answered)] == [413, 200]
    assert len(provider.writers) == 2


def sent_once(timeout_s: float = 5.0) -> tuple[Answered | Answer, Provider]:
    found: list[Answered | Answer] = []

    async def call(client: HttpClient, provider: Provider) -> None:
        found.append(await client.send(Request("POST", provider.url, {}, b"{}")))

    provider = with_provider([HI], call, timeout_s=timeout_s)
    return found[0], provider


@pytest.mark.parametrize(("name", "kind"), [("write_headers", CONFIG), ("write", UNKNOWN)])
def test_a_fault_before_anything_is_written_is_not_taken_for_an_unknown_message(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise AttributeError("a part of aiohttp that is there no more")

    monkeypatch.setattr(StreamWriter, name, fails)
    found, provider = sent_once()
    assert isinstance(found, Answer)
    assert (found.kind, "AttributeError in fails" in found.detail, provider.came) == (kind, True, [])


def test_connections_that_are_of_no_use_are_replaced_within_the_time_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseHandler, "should_close", True)
    found, provider = sent_once(timeout_s=0.2)
    assert isinstance(found, Answer)
    assert (found.kind, provider.came) == (RETRY, [])
