"""Nobody gets a call into a network of our own by a webhook's address: whatever it is, looks like, or stands for."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from connectors.channels import addresses, http
from connectors.channels.addresses import is_public
from connectors.channels.base import Surroundings
from connectors.channels.http import Answered, HttpClient
from connectors.channels.webhook import Webhook, WebhookSettings
from state.delivery import CONFIG, OK, Answer
from tests.delivery.actions import action
from tests.providers.server import Request, Response, Server
from tests.providers.smtp import make_certificate

INSIDE: Final = {
    "this machine": ["127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "0.1.2.3", "::"],
    "private": ["10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fdff::1"],
    "link-local": ["169.254.0.1", "169.254.169.254", "fe80::1", "febf::1", "fe80::1%eth0", "fe80::1%25eth0"],
    "site-local": ["fec0::1", "feff::1"],
    "shared by customers of a provider": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "data of a machine": ["169.254.170.2", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "broadcast": ["255.255.255.255"],
    "reserved": ["240.0.0.1", "100::1", "4000::1", "e000::1", "5f00::1", "1fff::1"],
    "protocols": ["192.0.0.1", "192.0.0.171", "2001:1::1", "2001:10::1", "2001:20::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:0"],
    "IPv4-compatible": ["::127.0.0.1", "::7f00:1", "::a00:1"],
    "IPv4-translated": ["::ffff:0:127.0.0.1", "::ffff:0:a00:1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::6440:1", "64:ff9b:1::1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "192.88.99.1"],
    "Teredo": ["2001:0:53aa:64c:0:0:0:1", "2001::1"],
    "ISATAP": ["2606:4700::5efe:a00:1", "2606:4700::200:5efe:7f00:1"],
    "no address": ["", "nonsense", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5", "[::1]"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "address"), [(kind, one) for kind, some in INSIDE.items() for one in some])
def test_an_address_that_leads_inside_is_not_public(kind: str, address: str) -> None:
    assert not is_public(address), kind


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
        "192.0.1.1", "192.167.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "2001:4860:4860::8888",
        "2400:3200::1", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808", "::ffff:8.8.8.8",
    ],
)  # fmt: skip
def test_an_address_of_the_public_network_is(address: str) -> None:
    assert is_public(address)


class Trap:
    """A server that nobody should reach."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(200, b"secrets of the house", {"x-here": "1"})


def called(url: str, allowed: Sequence[str] = (), times: int = 1, *, http2: bool = False) -> list[Answered | Answer]:
    """Return what comes of asking for *url*."""

    async def call() -> list[Answered | Answer]:
        client = HttpClient(3.0, 10, allowed, http2=http2)
        try:
            return [await client.send(http.Request("POST", url, {}, b"x")) for _ in range(times)]
        finally:
            await client.close()

    return asyncio.run(call())


WAYS: Final = {
    "an address": "http://127.0.0.1:{port}/",
    "with a name and a password": "http://user:pass@127.0.0.1:{port}/",
    "with a public host as the name": "http://example.com@127.0.0.1:{port}/",
    "with a public host and a backslash": "http://example.com\\@127.0.0.1:{port}/",
    "with a public host behind a hash": "http://127.0.0.1:{port}#@example.com/",
    "a decimal number": "http://2130706433:{port}/",
    "a number in hex": "http://0x7f000001:{port}/",
    "a number in octal": "http://017700000001:{port}/",
    "parts in octal": "http://0177.0.0.1:{port}/",
    "parts in hex": "http://0x7f.0x0.0x0.0x1:{port}/",
    "short": "http://127.1:{port}/",
    "shorter": "http://0:{port}/",
    "of this network": "http://0.0.0.0:{port}/",
    "another one of this machine": "http://127.8.8.8:{port}/",
    "IPv6": "http://[::1]:{port}/",
    "IPv6 in full": "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{port}/",
    "IPv6, none": "http://[::]:{port}/",
    "IPv4-mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "IPv4-mapped in hex": "http://[::ffff:7f00:1]:{port}/",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/",
    "a zone": "http://[fe80::1%25lo]:{port}/",
    "a name": "http://localhost:{port}/",
    "a name in capital letters": "http://LocalHost:{port}/",
    "a name with a dot behind": "http://localhost.:{port}/",
    "an address with a dot behind": "http://127.0.0.1.:{port}/",
    "digits of another script": "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "digits in circles": "http://\u2460\u2461\u2466.0.0.1:{port}/",
    "other dots": "http://127\u30020\u30020\u30021:{port}/",
    "letters of another script": "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54:{port}/",
    "a soft hyphen": "http://local\u00adhost:{port}/",
    "encoded": "http://%6c%6f%63%61%6c%68%6f%73%74:{port}/",
    "a line break": "http://127.0.0.1:{port}/\r\nHost: x",
    "a socket": "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "a file": "file:///etc/passwd",
    "no host": "http:///etc/passwd",
    "another protocol": "gopher://127.0.0.1:{port}/",
}


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_writing_an_address_leads_inside(way: str, http2: bool) -> None:
    trap = Trap()
    with Server(trap) as server:
        (found,) = called(WAYS[way].format(port=server.port), http2=http2)
    assert trap.seen == []
    assert isinstance(found, Answer)
    assert found.kind != "ok"
    assert "secrets" not in found.detail


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give what lets `name.example` stand for addresses, others at each look; 127.0.0.2 counts as a public one."""
    real = socket.getaddrinfo

    def let(*looks: Sequence[str]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host not in ("name.example", b"name.example"):
                return real(host, port, *rest, **more)
            found = looks[min(len(asked), len(looks) - 1)]
            asked.append(str(host))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        kept = addresses.is_public
        for module in ("connectors.channels.addresses", "connectors.channels.http1"):
            monkeypatch.setattr(f"{module}.is_public", lambda text: text == "127.0.0.2" or kept(text))
        return asked

    return let


def test_a_name_that_stands_for_something_else_a_moment_later_leads_nowhere_else(
    names: Callable[..., list[str]],
) -> None:
    inside, outside = Trap(), Trap()
    with Server(inside) as server, Server(outside, host="127.0.0.2", port=server.port):
        asked = names(["127.0.0.2"], ["127.0.0.1"])
        (found,) = called(f"http://name.example:{server.port}/")
        assert isinstance(found, Answered)
        assert (len(asked), len(outside.seen), inside.seen) == (1, 1, [])
        (found,) = called(f"http://name.example:{server.port}/")
    assert isinstance(found, Answer)
    assert (found.kind, found.code, inside.seen) == (CONFIG, "forbidden_address", [])


def test_of_several_addresses_only_the_public_ones_are_called(names: Callable[..., list[str]]) -> None:
    inside, outside = Trap(), Trap()
    with Server(inside) as server, Server(outside, host="127.0.0.2", port=server.port):
        names(["127.0.0.1", "127.0.0.2"])
        (found,) = called(f"http://name.example:{server.port}/")
    assert isinstance(found, Answered)
    assert (len(outside.seen), inside.seen) == (1, [])


def test_a_host_of_our_own_may_be_written_in_any_way_where_it_is_allowed() -> None:
    trap = Trap()
    with Server(trap) as server:
        hook = {"provider": "webhook", "url": f"http://LocalHost:{server.port}/x", "private": True}
        read = WebhookSettings.model_validate(hook)

        async def call() -> Answer:
            webhook = Webhook(read, Surroundings(lambda: 0, lambda: "n", Path(), 3.0))
            try:
                return await webhook.call(action())
            finally:
                await webhook.close()

        found = asyncio.run(call())
    assert (found.kind, len(trap.seen)) == (OK, 1), found


@pytest.mark.parametrize("url", ["http://me:hush@shop.example/", "ftp://shop.example/", "shop.example", "http://"])
def test_a_webhook_has_no_password_and_no_other_protocol_in_its_address(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        WebhookSettings.model_validate({"url": url})
    assert "hush" not in str(refused.value.errors(include_input=False, include_url=False))


def test_a_packed_answer_is_not_unpacked_without_bound() -> None:
    packed = gzip.compress(bytes(200_000_000), 9)
    assert len(packed) < 300_000

    def handle(_: Request) -> Response:
        return Response(200, packed, {"content-encoding": "gzip"})

    with Server(handle) as server:
        tracemalloc.start()
        called(server.url, allowed=["127.0.0.1"])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 20_000_000


def test_a_redirect_is_not_followed() -> None:
    trap = Trap()
    with Server(trap) as inside, Server(lambda _: Response(307, headers={"location": f"{inside.url}/x"})) as server:
        (found,) = called(server.url, allowed=["127.0.0.1"])
    assert isinstance(found, Answered)
    assert (found.status, trap.seen) == (307, [])


def test_the_environment_sends_calls_to_no_proxy_and_adds_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap, receiver = Trap(), Trap()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    (tmp_path / "netrc").chmod(0o600)
    with Server(trap) as proxy, Server(receiver) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        called(f"{server.url}/x", allowed=["127.0.0.1"])
        called("http://name.invalid/")
    assert trap.seen == []
    (came,) = receiver.seen
    assert "authorization" not in came.headers


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_a_certificate_that_nobody_trusts_is_not_taken(http2: bool, tmp_path: Path) -> None:
    trap = Trap()
    with Server(trap, make_certificate(tmp_path).context) as server:
        (found,) = called(server.url, allowed=["127.0.0.1"], http2=http2)
    assert isinstance(found, Answer)
    assert (found.kind, found.code, trap.seen) == (CONFIG, "certificate", [])
    assert "self-signed certificate" in found.detail


def test_what_one_answer_says_is_not_sent_with_the_next_call() -> None:
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"", {"set-cookie": "who=me"})

    with Server(handle) as server:
        called(server.url, allowed=["127.0.0.1"], times=2)
    assert ["cookie" in one.headers for one in seen] == [False, False]
