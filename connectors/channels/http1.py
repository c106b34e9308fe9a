"""HTTP/1.1 by aiohttp with the errors of httpx: less than a tenth of the CPU time for a call.

httpx's own pool looks at all its connections for each call, so a hundred calls at a time cost ten times as much as one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from connectors.channels.addresses import ForbiddenAddress, is_public

_NOT_ADDED: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_CHECKED_MAX: Final = 100
IS_TOO_LATE: Final[ContextVar[Callable[[], bool]]] = ContextVar("is_too_late", default=lambda: False)
"""Asked just before a request is written: whether another process may have called by now."""


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


class _Late(Exception):
    """It was too late to write a request, and nothing was written."""


class _Timely(aiohttp.ClientRequest):
    """A request that is not written once it may not be any more, as it may come where the whole process stood still.

    The loop would see that too late: what it has begun to do it does before it looks at the time again.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Write it, or its head where it has a body."""
        if IS_TOO_LATE.get()():
            raise _Late
        return await super().send(conn)

    async def write_bytes(self, writer: Any, conn: Any, content_length: int | None = None) -> None:
        """Write the head and the body, a round of the loop later."""
        if IS_TOO_LATE.get()():
            conn.close()  # Whoever waits for an answer gets none.
        else:
            await super().write_bytes(writer, conn, content_length)


def _forbidden(host: str, addresses: Iterable[str]) -> ForbiddenAddress:
    listed = ", ".join(dict.fromkeys(addresses))
    return ForbiddenAddress(f"{host} is {listed or 'nowhere'}, which may not be called")


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
        self._session: aiohttp.ClientSession | None = None
        self._checked: dict[str, URL] = {}

    async def send(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], content: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request, and return the answer's status, its head, and its body up to the most bytes.

        Raises:
            httpx.UnsupportedProtocol: the address is none.
            httpx.ConnectError: there is no connection, so that nothing was sent; also where it is forbidden, which
                its cause says.
            httpx.ConnectTimeout: there is none in time.
            httpx.ReadError: no whole answer came.
        """
        session = self._session = self._session or self._opened()
        target = self._checked.get(url) or self._check(url)
        try:
            async with session.request(
                method,
                target,
                headers=[(name, value) for name, value in headers if name.lower() != "content-length"],
                data=content or None,
                allow_redirects=False,
                skip_auto_headers=_NOT_ADDED,
            ) as response:
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) >= self._answer_max:
                        break
            return response.status, response.headers, body[: self._answer_max]
        except ForbiddenAddress as error:
            raise httpx.ConnectError(str(error)) from error
        except _Late as error:
            raise httpx.ConnectTimeout("the process stood still until it was too late to call") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(str(error)) from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise httpx.UnsupportedProtocol(f"no address: {type(error).__name__}") from error
        except aiohttp.ClientResponseError as error:  # Its text has the address, which may have a token.
            raise httpx.ReadError(f"{type(error).__name__} {error.message}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(f"{type(error).__name__} {error}") from error

    def _opened(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._connections, resolver=_Resolver(self._allowed), use_dns_cache=False
        )
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_s)
        session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), request_class=_Timely
        )
        # A GET whose connection broke may have sent a message: only the one who called says whether it goes again.
        session._retry_connection = False
        return session

    def _check(self, url: str) -> URL:
        """Return *url*, whose host may be called as far as can be told before it is looked up."""
        parts = httpx.URL(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise httpx.UnsupportedProtocol(f"{parts.scheme or 'nothing'} is no protocol that is spoken here")
        # As it stands, since it may be signed; only the host is written as it is looked up.
        found = URL(str(parts), encoded=True)
        self._check_literal(found.raw_host or "")
        if len(self._checked) >= _CHECKED_MAX:
            self._checked.clear()
        self._checked[url] = found
        return found

    def _check_literal(self, host: str) -> None:
        """Check what aiohttp takes for an address, and so looks up nowhere."""
        is_literal = ":" in host or host.replace(".", "").isdigit()
        if is_literal and self._allowed is not None and host not in self._allowed and not is_public(host):
            error = _forbidden(host, [host])
            raise httpx.ConnectError(str(error)) from error

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
