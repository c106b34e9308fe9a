"""What providers over HTTP have in common: one client, and what becomes of a call that gets no whole answer."""

from __future__ import annotations

import asyncio
import email.utils
import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import httpcore
import httpx
import orjson

from connectors.channels.addresses import ForbiddenAddress, Guarded
from connectors.channels.http1 import IS_TOO_LATE, TOO_LATE, Http1
from state.delivery import CONFIG, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer

ANSWER_MAX: Final = 64 * 1024
RETRY_AFTER_MAX_MS: Final = 24 * 3_600_000
DETAIL_MAX: Final = 500
NOT_SETTABLE: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that follow from the request."""
HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""What a header may be called."""
TO_CONNECT: Final = 0.4  # Of the time for a call: where none is written, that has to show before the time is over.


class Request(NamedTuple):
    """A request as it goes out. `httpx.Request`, which can do more, takes a tenth of a millisecond to make."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes


class Answered:
    """A whole answer: its status, its head, in which small and capital letters are the same, and its first 64 KiB."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        """The beginning of the body, for people."""
        return self.body[:DETAIL_MAX].decode("utf-8", errors="replace")

    @property
    def object(self) -> dict[str, Any]:
        """The body as an object of JSON, an empty one where it is none."""
        try:
            said = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return said if isinstance(said, dict) else {}


class HttpClient:
    """Calls hosts over HTTP.

    Args:
        timeout_s: how long a call may take in all.
        connections: how many there may be.
        allowed: hosts that may be called in any network; None: all may, as their addresses are ours to choose.
        transport: what to call instead, in tests.
    """

    def __init__(
        self,
        timeout_s: float,
        connections: int,
        allowed: Iterable[str] | None = None,
        *,
        http2: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        connect_s = timeout_s * TO_CONNECT
        self._timeout = httpx.Timeout(timeout_s, connect=connect_s, pool=connect_s).as_dict()
        self._http1 = Http1(connections, connect_s, ANSWER_MAX, allowed) if transport is None and not http2 else None
        if transport is None and http2:
            limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
            transport = httpx.AsyncHTTPTransport(http2=http2, limits=limits)
            if allowed is not None:
                transport._pool._network_backend = Guarded(allowed)
        self._transport = transport

    async def send(self, request: Request | httpx.Request) -> Answered | Answer:
        """Send *request*, and return what came back, or what it means that nothing whole did.

        What came back has none of the credentials that were sent: some who answer say back what they got.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._http1 is not None:
                    headers = request.headers
                    pairs = headers.multi_items() if isinstance(headers, httpx.Headers) else headers.items()
                    sent = await self._http1.send(request.method, str(request.url), pairs, request.content)
                    answered = Answered(*sent)
                else:
                    answered = await self._send_httpx(request)
            for credential in _credentials(request):
                answered.body = answered.body.replace(credential, b"<hidden>")
            return answered
        except (ForbiddenAddress, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            return Answer(CONFIG, "address", str(error))
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, ForbiddenAddress):
                return Answer(CONFIG, "forbidden_address", str(error.__cause__))
            if (fault := _fault_of_certificate(error)) is not None:
                return Answer(CONFIG, "certificate", fault)
            return Answer(RETRY, "connect", str(error)[:DETAIL_MAX])
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Answer(RETRY, "connect_timeout", str(error)[:DETAIL_MAX])
        except (httpx.HTTPError, httpcore.ProtocolError, TimeoutError, OSError) as error:
            return Answer(UNKNOWN, "no_answer", f"{type(error).__name__} {error}".strip()[:DETAIL_MAX])

    async def _send_httpx(self, request: Request | httpx.Request) -> Answered:
        assert self._transport is not None
        if isinstance(request, Request):
            request = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        request.extensions = {**request.extensions, "timeout": self._timeout, "trace": _in_time}
        if IS_TOO_LATE.get()():
            raise httpx.ConnectTimeout(TOO_LATE)
        response = await self._transport.handle_async_request(request)
        try:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= ANSWER_MAX:
                    break
        finally:
            await response.aclose()
        return Answered(response.status_code, response.headers, body[:ANSWER_MAX])

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http1 is not None:
            await self._http1.close()
        if self._transport is not None:
            await self._transport.aclose()


async def _in_time(event: str, _: Mapping[str, object]) -> None:
    """Stop before a request is written that is too late; httpcore tells this of each of its steps."""
    if event.endswith("send_request_headers.started") and IS_TOO_LATE.get()():
        raise httpcore.ConnectTimeout(TOO_LATE)


def _fault_of_certificate(error: BaseException | None) -> str | None:
    """Return why the certificate of a host is not trusted, None where *error* came of something else."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_message"):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None


def _credentials(request: Request | httpx.Request) -> list[bytes]:
    """Return what *request* is let in by."""
    found = [request.headers.get("authorization", "").rpartition(" ")[2]]
    _, is_there, rest = str(request.url).partition("access_token=")
    if is_there:
        found.append(rest.partition("&")[0])
    return [one.encode() for one in found if one]


def retry_after_ms(answered: Answered, now_ms: int) -> int | None:
    """Return how long `Retry-After` says to wait, None where it says nothing that can be read."""
    written = answered.headers.get("retry-after", "").strip()
    if written.isascii() and written.isdigit():
        return min(RETRY_AFTER_MAX_MS, int(written[:9]) * 1000)
    parsed = email.utils.parsedate_tz(written)
    if parsed is None:
        return None
    try:
        until_ms = email.utils.mktime_tz(parsed) * 1000
    except (ValueError, OverflowError):
        return None
    return max(0, min(RETRY_AFTER_MAX_MS, until_ms - now_ms))


def by_status(answered: Answered, now_ms: int) -> Answer | None:
    """Return what a status says by itself that is not 2xx, as receivers of webhooks mean it; None for 2xx."""
    status = answered.status
    if 200 <= status < 300:
        return None
    code, detail = f"http_{status}", answered.text
    if status in (429, 502, 503, 504):
        return Answer(THROTTLED, code, detail, wait_ms=retry_after_ms(answered, now_ms), is_of_recipient=status != 429)
    if status in (408, 425) or status >= 500:
        return Answer(RETRY, code, detail)
    return Answer(CONFIG if status == 410 else PERMANENT, code, detail)
