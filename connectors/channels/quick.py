"""HTTP/1.1 by aiohttp under the requests and errors of httpx: a tenth of the CPU time for a call, and less.

httpx's own pool looks at all its connections for each call, so a hundred calls at a time cost ten times as much as one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from connectors.channels.addresses import ForbiddenAddress, is_public

_NOT_ADDED = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


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


def _forbidden(host: str, addresses: Iterable[str]) -> ForbiddenAddress:
    listed = ", ".join(dict.fromkeys(addresses))
    return ForbiddenAddress(f"{host} is {listed or 'nowhere'}, which may not be called")


class QuickTransport(httpx.AsyncBaseTransport):
    """Calls over HTTP/1.1.

    Args:
        connections: how many there may be.
        connect_s: how long it may take to get one.
        allowed: hosts that may be called in any network; None: all may.
    """

    def __init__(self, connections: int, connect_s: float, allowed: Iterable[str] | None) -> None:
        self._connections, self._connect_s = connections, connect_s
        self._allowed = None if allowed is None else frozenset(allowed)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*; see httpx."""
        session = self._session = self._session or self._opened()
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise httpx.UnsupportedProtocol(f"{request.url.scheme or 'nothing'} is no protocol that is spoken here")
        self._check_literal(request.url.host)
        try:
            response = await session.request(
                request.method,
                URL(str(request.url), encoded=True),  # As it stands: it may be signed.
                headers=[(name, value) for name, value in request.headers.multi_items() if name != "content-length"],
                data=request.content or None,
                allow_redirects=False,
                skip_auto_headers=_NOT_ADDED,
            )
        except ForbiddenAddress as error:
            raise httpx.ConnectError(str(error)) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(str(error)) from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise httpx.UnsupportedProtocol(f"no address: {type(error).__name__}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(f"{type(error).__name__} {error}") from error
        return httpx.Response(response.status, headers=list(response.raw_headers), stream=_Body(response))

    def _opened(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._connections, resolver=_Resolver(self._allowed), use_dns_cache=False
        )
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_s)
        session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        # A GET whose connection broke may have sent a message: only the one who called says whether it goes again.
        session._retry_connection = False
        return session

    def _check_literal(self, host: str) -> None:
        """Check an address that stands where a name could: it is looked up nowhere."""
        try:
            ip_address(host.partition("%")[0])
        except ValueError:
            return
        if self._allowed is not None and host not in self._allowed and not is_public(host):
            error = _forbidden(host, [host])
            raise httpx.ConnectError(str(error)) from error

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()


class _Body(httpx.AsyncByteStream):
    """What comes of an answer; its connection is used again if it has come whole."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(f"{type(error).__name__} {error}") from error

    async def aclose(self) -> None:
        self._response.close()
