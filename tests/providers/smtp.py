"""A mail server, aiosmtpd's, that can refuse, greylist, break off and hang; and a certificate of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "nudge", "pass word"
HANGS_UP = "hangs up"
HANGS = "hangs"


class Mail(NamedTuple):
    """A message that was taken."""

    sender: str
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        found = message_from_bytes(self.content.replace(b"\r\n", b"\n"), policy=policy.default)
        assert isinstance(found, EmailMessage)
        return found


class Certificate(NamedTuple):
    """Files with a certificate, its key, and the authority that signed it: itself."""

    certificate: Path
    key: Path

    @property
    def context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.certificate, self.key)
        return made


def make_certificate(folder: Path, *, host: str = "127.0.0.1") -> Certificate:
    """Make a certificate for *host*."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail of tests")])
    address: x509.GeneralName = x509.DNSName(host)
    if host[0].isdigit():
        address = x509.IPAddress(ip_address(host))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    found = Certificate(folder / "mail.pem", folder / "mail.key")
    found.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


class MailServer:
    """Serves on 127.0.0.1 in a thread of its own.

    Args:
        certificate: for TLS; None for none.
        implicit: TLS from the first byte, else STARTTLS.
        login: whoever sends has to sign in.
        mood: called with the command (`MAIL`, `RCPT`, `DATA`) and the address or content; what it returns is answered
            instead, or done where it is `HANGS` or `HANGS_UP`.
        greeting: said instead of the usual one.
    """

    def __init__(
        self,
        certificate: Certificate | None = None,
        *,
        implicit: bool = False,
        login: bool = False,
        mood: Callable[[str, str], str | None] = lambda _, __: None,
        greeting: str | None = None,
    ) -> None:
        self._certificate, self._implicit, self._login, self._mood = certificate, implicit, login, mood
        self._greeting = greeting
        self.mails: list[Mail] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.commands: Counter[str] = Counter()
        self.logins: list[tuple[bytes, bytes]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._made: list[SMTP] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> asyncio.Server:
        context = None if self._certificate is None else self._certificate.context
        return await self._loop.create_server(self._protocol, "127.0.0.1", 0, ssl=context if self._implicit else None)

    async def _stop(self) -> None:
        self._server.close()
        self.hang_up()
        await asyncio.sleep(0)
        here = asyncio.current_task()
        tasks = [one for one in asyncio.all_tasks() if one is not here]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """Close all connections; to be called in the server's thread, see `hang_up_all`."""
        for one in self._made:
            if one.transport is not None:
                one.transport.abort()

    def hang_up_all(self) -> None:
        self._loop.call_soon_threadsafe(self.hang_up)

    def _protocol(self) -> SMTP:
        server = self

        class Counted(SMTP):
            def connection_made(self, transport: Any) -> None:
                if self.transport is None:
                    server.connections += 1
                    server.open += 1
                    server.most_open = max(server.open, server.most_open)
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                server.open -= 1
                super().connection_lost(error)

            async def push(self, status: Any) -> None:
                greeting = server._greeting
                if greeting is not None and status.startswith("220 ") and "Ready" not in status:
                    status = greeting
                await super().push(status)

        context = None if self._certificate is None or self._implicit else self._certificate.context
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It does not see that all of it is in TLS.
            made = Counted(
                self, hostname="mail.test", loop=self._loop, tls_context=context, require_starttls=context is not None,
                auth_required=self._login, authenticator=self._authenticate if self._login else None,
                auth_require_tls=not self._implicit, auth_exclude_mechanism=[] if self._login else ["LOGIN", "PLAIN"],
            )  # fmt: skip
        self._made.append(made)
        return made

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()), handled=False)

    async def _moody(self, server: Any, command: str, text: str) -> str | None:
        self.commands[command] += 1
        said = self._mood(command, text)
        if said == HANGS:
            await asyncio.sleep(3600)
        if said == HANGS_UP:
            server.transport.abort()
            await asyncio.sleep(0)
        return said

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        said = await self._moody(server, "MAIL", address)
        if said is None:
            envelope.mail_from = address
        return said or "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        said = await self._moody(server, "RCPT", address)
        if said is None:
            envelope.rcpt_tos.append(address)
        return said or "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        said = await self._moody(server, "DATA", "")
        if said is None or said in (HANGS_UP, HANGS):
            self.mails.append(Mail(envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return said or "250 2.0.0 queued as 7F3A"
