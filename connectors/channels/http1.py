"""HTTP/1.1 by aiohttp with the errors of httpx: less than a tenth of the CPU time for a call.

httpx's own pool looks at all its connections for each call, so a hundred calls at a time cost ten times as much as one.

Of aiohttp this takes the connector, which has the pool, and its protocol, which has the parser. A session of aiohttp
does much more for a call, and nearly all of it is for what is not wanted here. Beside what its documentation has
(`TCPConnector`, `connect`, `Connection`), these are relied on, as they are in 3.14: `ClientRequest` with its
`headers`, once for an address; `http.StreamWriter`; and of a connection's `protocol` `should_close`,
`set_response_params` and `read`.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, StreamWriter
from multidict import CIMultiDict
from yarl import URL

from connectors.channels.addresses import ForbiddenAddress, is_public

_NOT_ADDED: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_CHECKED_MAX: Final = 100
IS_TOO_LATE: Final[ContextVar[Callable[[], bool]]] = ContextVar("is_too_late", default=lambda: False)
"""Asked just before a request is written: whether another process may have called by now."""

TOO_LATE: Final = "the process stood still until it was too late to call"

Answered = tuple[int, Mapping[str, str], bytes]


class _Resolver(AbstractResolver):
    """Looks names up when connecting; the connection goes to what this returns, and to nothing else."""

    def __init__(self, allowed: frozenset[str] | None) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of *host* that may be called.

        Raises:
            ForbiddenAddress: none of them may.
        """
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        some: list[tuple[Any, str]] = [(kind, str(address[0])) for kind, _, _, _, address in found]
        may = [one for one in some if self._allowed is None or host in self._allowed or is_public(one[1])]
        if not may:
            raise _forbidden(host, [address for _, address in some])
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in may
        ]

    async def close(self) -> None:
        """There is nothing to let go of."""


class _Unwritten(Exception):
    """A request was not written, and will not be; the message says why."""


def _forbidden(host: str, addresses: Iterable[str]) -> ForbiddenAddress:
    listed = ", ".join(dict.fromkeys(addresses))
    return ForbiddenAddress(f"{host} is {listed or 'nowhere'}, which may not be called")


def _head(target: aiohttp.ClientRequest, headers: Iterable[tuple[str, str]], content: bytes) -> CIMultiDict[str]:
    """Return the whole head: the host, what is given, and the length, which nobody else says."""
    head = target.headers.copy()
    head.update(headers)
    if content or target.method not in target.GET_METHODS:
        head["Content-Length"] = str(len(content))
    else:
        head.popall("Content-Length", None)
    return head


class Http1:
    """Calls over HTTP/1.1.

    Args:
        connections: how many there may be.
        connect_s: how long it may take to get one.
        answer_max: how many bytes of an answer are read.
        allowed: hosts that may be called in any network; None: all may.
    """

    def __init__(self, connections: int, connect_s: float, answer_max: int, allowed: Iterable[str] | None) -> None:
        self._connections, self._connect_s, self._answer_max = connections, connect_s, answer_max
        self._allowed = None if allowed is None else frozenset(allowed)
        self._connector: aiohttp.TCPConnector | None = None
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self._checked: dict[tuple[str, str], aiohttp.ClientRequest] = {}

    async def send(self, method: str, url: str, headers: Iterable[tuple[str, str]], content: bytes) -> Answered:
        """Send a request, and return the answer's status, its head, and its body up to the most bytes.

        Raises:
            httpx.UnsupportedProtocol: the address is none, or the head cannot be written.
            httpx.ConnectError: there is no connection, so that nothing was sent; also where it is forbidden, which
                its cause says.
            httpx.ConnectTimeout: there is none in time, or the time to write is over.
            httpx.ReadError: no whole answer came.
        """
        is_written = False
        try:
            target = self._checked.get((method, url)) or self._check(method, url)
            head = _head(target, headers, content)
            connection = await self._connected(target)
            try:
                writer = await self._ready(connection, target, head)
                # Where the whole process stands still, the loop sees it too late: what it has begun it does before it
                # looks at the time. So it is asked here. What follows writes the head and the body without a pause.
                if IS_TOO_LATE.get()():
                    raise _Unwritten(TOO_LATE)
                is_written = True
                await writer.write(content, drain=False)
                answered = await self._answered(connection)
            except BaseException:  # It stands anywhere in an answer: nobody else may have it.
                connection.close()
                raise
            if connection.transport is not None and connection.transport.get_write_buffer_size():
                connection.close()  # An answer has come before the whole request was sent.
            else:
                connection.release()  # This closes it where more of the answer is still to come.
            return answered
        except ForbiddenAddress as error:
            raise httpx.ConnectError(str(error)) from error
        except _Unwritten as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(str(error)) from error
        except (aiohttp.InvalidURL, ValueError, TypeError, AttributeError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} in {where.name}, line {where.lineno}"
            if is_written:
                raise httpx.ReadError(said) from error
            raise httpx.UnsupportedProtocol(f"no request can be made of it: {said}") from error
        except HttpProcessingError as error:
            raise httpx.ReadError(f"{type(error).__name__} {error.message}") from error
        except (aiohttp.ClientError, OSError) as error:
            failed = httpx.ReadError if is_written else httpx.ConnectError
            raise failed(f"{type(error).__name__} {error}") from error

    async def _connected(self, target: aiohttp.ClientRequest) -> Connection:
        """Return a connection that nobody else has, and over which nothing has come yet."""
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(
                limit=self._connections, resolver=_Resolver(self._allowed), use_dns_cache=False
            )
        clock = asyncio.get_running_loop().time
        timeout, until_s = self._timeout, clock() + self._connect_s
        while True:
            try:
                connection = await self._connector.connect(target, [], timeout)
            except TimeoutError as error:
                raise _Unwritten("there was no connection in time") from error
            assert connection.protocol is not None
            if not connection.protocol.should_close:
                return connection
            connection.close()  # What was not asked for would be taken for the answer to this request.
            if (left_s := until_s - clock()) <= 0:
                raise _Unwritten("answers came before the request")
            timeout = aiohttp.ClientTimeout(total=None, connect=left_s)

    async def _ready(
        self, connection: Connection, target: aiohttp.ClientRequest, head: CIMultiDict[str]
    ) -> StreamWriter:
        """Return what writes a request, with its head, of which nothing has gone out."""
        protocol = connection.protocol
        assert protocol is not None
        protocol.set_response_params(skip_payload=target.method == "HEAD", read_until_eof=True)
        writer = StreamWriter(protocol, target.loop)
        await writer.write_headers(f"{target.method} {target.url.raw_path_qs} HTTP/1.1", head)
        return writer

    async def _answered(self, connection: Connection) -> Answered:
        """Return the answer as far as it is wanted."""
        protocol = connection.protocol
        assert protocol is not None
        message, payload = await protocol.read()
        while 100 <= message.code < 200 and message.code != 101:  # The answer is still to come.
            message, payload = await protocol.read()
        body = b""
        while len(body) < self._answer_max and not payload.at_eof():
            body += await payload.readany()
        return message.code, message.headers, body[: self._answer_max]

    def _check(self, method: str, url: str) -> aiohttp.ClientRequest:
        """Return a request to *url*, whose host may be called as far as can be told before it is looked up."""
        parts = httpx.URL(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise httpx.UnsupportedProtocol(f"{parts.scheme or 'nothing'} is no protocol that is spoken here")
        # As it stands, since it may be signed; only the host is written as it is looked up.
        target = URL(str(parts), encoded=True)
        self._check_literal(target.raw_host or "")
        if len(self._checked) >= _CHECKED_MAX:
            self._checked.clear()
        loop = asyncio.get_running_loop()
        found = aiohttp.ClientRequest(method, target, skip_auto_headers=_NOT_ADDED, loop=loop)
        self._checked[method, url] = found
        return found

    def _check_literal(self, host: str) -> None:
        """Check what aiohttp takes for an address, and so looks up nowhere."""
        is_literal = ":" in host or host.replace(".", "").isdigit()
        if is_literal and self._allowed is not None and host not in self._allowed and not is_public(host):
            error = _forbidden(host, [host])
            raise httpx.ConnectError(str(error)) from error

    async def close(self) -> None:
        """Let go of the connections."""
        if self._connector is not None:
            await self._connector.close()
