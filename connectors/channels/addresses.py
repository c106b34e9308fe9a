"""Which addresses may be called: none that lead into a network of one's own.

A name is looked up and what it stands for is checked when connecting, and the connection goes to what was checked. So a
name that stands for something else a moment later leads nowhere else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

import httpcore
from httpcore._backends.auto import AutoBackend

_NAT64: Final = IPv6Network("64:ff9b::/96")
_GLOBAL: Final = IPv6Network(
    "2000::/3"
)  # All of IPv6 that is given to anybody; every other block is for something else.
_NOT_GLOBAL: Final = (
    IPv6Network("2001::/23"),  # Teredo, ORCHID and other protocols.
    IPv6Network("2001:db8::/32"),  # Documentation.
    IPv6Network("2002::/16"),  # 6to4.
    IPv6Network("3fff::/20"),  # Documentation.
)
_ISATAP: Final = 0x00005EFE  # With an IPv4 address behind it, the last half of an address that is a tunnel's.
_NOT_PUBLIC: Final = (
    IPv4Network("192.0.0.0/24"),  # Protocols; at one provider the address of a machine's own data.
    IPv4Network("192.88.99.0/24"),  # Relays of 6to4.
    IPv4Network("168.63.129.16/32"),  # At one provider of machines, their own host.
)


class ForbiddenAddress(httpcore.ConnectError):
    """A name that stands for an address which may not be called."""


def is_public(text: str) -> bool:
    """Tell whether an address is one of the public network."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        is_special = any(address in network for network in _NOT_PUBLIC)
        return address.is_global and not address.is_multicast and not is_special
    inside = address.ipv4_mapped
    if inside is None and address in _NAT64:
        inside = IPv4Address(int(address) & 0xFFFFFFFF)
    if inside is not None:
        return _is_public(inside)
    if address not in _GLOBAL or any(address in network for network in _NOT_GLOBAL):
        return False
    return int(address) >> 32 & 0xFDFFFFFF != _ISATAP


class Guarded(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only.

    Args:
        allowed: names of hosts that may be called wherever they are.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)
        self._inner = AutoBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look *host* up and connect to an address of it that may be called.

        Raises:
            ForbiddenAddress: none of them may.
        """
        if host in self._allowed:
            return await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not found in time") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host} is not known: {error}") from error
        addresses = _addresses(found)
        public = [one for one in addresses if is_public(one)]
        if not public:
            raise ForbiddenAddress(f"{host} is {', '.join(addresses) or 'nowhere'}, which may not be called")
        failure: Exception | None = None
        for address in public:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse it.

        Raises:
            ForbiddenAddress: always.
        """
        raise ForbiddenAddress(f"{path} is no host")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)


def _addresses(found: Sequence[tuple[Any, ...]]) -> list[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in found))
