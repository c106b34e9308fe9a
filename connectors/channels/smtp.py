"""E-mail over SMTP: a message of `templates/` is handed to a mail server, with a link that unsubscribes.

A server takes a second message with the same `Message-ID` for another one, and cannot be asked. So when the connection
breaks after the message was written, `on_unknown` decides.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import Annotated, Any, ClassVar, Final, Literal

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from aiosmtplib.errors import SMTPConnectError
from pydantic import AfterValidator, Field, model_validator

from connectors.channels.base import Callback, OneWay, Reply, Secret, Settings, Surroundings
from connectors.channels.bounces import reports_of
from connectors.channels.mail import ONE_CLICK, Mail, Mailbox, Unsubscribing, added, address, mail_of, mailbox, token_of
from connectors.tokens import OPEN
from state.delivery import CONFIG, OK, PERMANENT, RETRY, UNKNOWN, Answer
from state.outgoing import Action

PORTS: Final = {"implicit": 465, "starttls": 587, "none": 25}
IDLE_MAX_S: Final = 30.0  # Servers close idle connections after a minute or more.
GREYLISTED_MS: Final = 180_000  # Who greylists wants to see the next attempt some minutes later.
DETAIL_MAX: Final = 500

_OURS: Final = frozenset({"from", "to", "subject", "date", "message-id", "reply-to", "mime-version"})
_WHOLE: Final = frozenset({"message-id", "list-unsubscribe", "list-unsubscribe-post"})
_NOT_LET_IN: Final = frozenset({530, 534, 535, 538})
_TOO_LARGE: Final = 552


def _headers(given: dict[str, str]) -> dict[str, str]:
    return added(given, _OURS | _WHOLE)


class SmtpSettings(Settings):
    """`deliver:` of a channel with `provider: smtp`."""

    provider: Literal["smtp"] = "smtp"
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int | None, Field(ge=1, le=65535, strict=True)] = None
    tls: Annotated[Literal["starttls", "implicit", "none"], Field(description="How the connection is encrypted.")] = (
        "starttls"
    )
    ca: Annotated[str | None, Field(description="A file with the authorities to trust, instead of the system's.")] = (
        None
    )
    user: Secret | None = None
    password: Secret | None = None
    sender: Annotated[Mailbox, Field(alias="from")]
    reply_to: Mailbox | None = None
    bounces: Annotated[
        Annotated[str, AfterValidator(address)] | None, Field(description="Where bounces go, with the action's id.")
    ] = None
    unsubscribe: Annotated[Unsubscribing | Literal[False], Field(union_mode="left_to_right")]
    opens: Annotated[
        bool, Field(description="Whether messages in HTML have a picture that tells the gateway when they are opened.")
    ] = False
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = {}
    connections: Annotated[int, Field(ge=1, le=1000, strict=True)] = 10

    @model_validator(mode="after")
    def _is_safe(self) -> SmtpSettings:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.tls == "none":
            raise ValueError("with tls: none a password could be read on the way; write tls: starttls or implicit")
        if self.opens and not self.unsubscribe:
            raise ValueError("opens: true wants unsubscribe: with base and key: the picture comes from there, too")
        return self


class _Unfolded(EmailPolicy):
    """Folds headers, but none with an address in it: whoever splits that breaks it."""

    def fold(self, name: str, value: str) -> str:
        return f"{name}: {value}\r\n" if name.lower() in _WHOLE else super().fold(name, value)

    def fold_binary(self, name: str, value: str) -> bytes:
        return self.fold(name, value).encode("ascii") if name.lower() in _WHOLE else super().fold_binary(name, value)


_POLICY: Final = _Unfolded(linesep="\r\n", cte_type="7bit")


class _Letter:
    """A message with its envelope; `is_written` from when it may have been sent."""

    __slots__ = ("content", "is_written", "recipient", "sender")

    def __init__(self, sender: str, recipient: str, content: bytes) -> None:
        self.sender, self.recipient, self.content = sender, recipient, content
        self.is_written = False


class Smtp(OneWay):
    """One account at a mail server.

    A call that broke after the message was written may have sent it. Nobody can tell: `on_unknown: retry` risks that it
    comes twice, with the same `Message-ID`, `park` that it does not come.
    """

    settings: ClassVar[type[Settings]] = SmtpSettings

    def __init__(self, settings: SmtpSettings, around: Surroundings) -> None:
        self._settings, self._around = settings, around
        self._from = mailbox(settings.sender)
        self._slots = asyncio.Semaphore(settings.connections)
        self._idle: list[tuple[SMTP, float]] = []
        self._context: ssl.SSLContext | None = None
        if settings.tls != "none":
            try:
                ca = None if settings.ca is None else str(around.folder / settings.ca)
                self._context = ssl.create_default_context(cafile=ca)
            except OSError as error:
                raise ValueError(f"ca: {settings.ca} has no certificates that can be read: {error}") from None

    # ---- the message -------------------------------------------------------------------------------------------

    def _message(self, action: Action, mail: Mail, *, is_shown: bool) -> EmailMessage:
        settings, content, html = self._settings, mail.content, mail.content.html
        if html and settings.opens and settings.unsubscribe:
            opened = token_of(action, settings.unsubscribe, OPEN, is_shown=is_shown)
            html = _with_picture(html, f"{settings.unsubscribe.base}/o/{opened}")
        message = EmailMessage(policy=_POLICY)
        message["From"] = self._from
        message["To"] = mail.recipient
        if settings.reply_to is not None:
            message["Reply-To"] = settings.reply_to
        message["Subject"] = content.subject
        message["Date"] = format_datetime(datetime.fromtimestamp(self._around.now_ms() / 1000, UTC))
        message["Message-ID"] = f"<{action.action_id}@{self._from.domain}>"
        if mail.url is not None:
            message["List-Unsubscribe"] = f"<{mail.url}>"
            message["List-Unsubscribe-Post"] = ONE_CLICK
        for name, value in settings.headers.items():
            message[name] = value
        if content.text:
            message.set_content(content.text)
        if content.text and html:
            message.add_alternative(html, subtype="html")
            message.set_boundary(f"=_{action.action_id}")  # So that each attempt sends the same.
        elif html:
            message.set_content(html, subtype="html")
        return message

    def _letter(self, action: Action) -> _Letter:
        mail = mail_of(action, self._around, self._settings.unsubscribe, is_shown=False)
        message = self._message(action, mail, is_shown=False)
        sender = self._from.addr_spec
        if self._settings.bounces is not None:
            local, _, domain = self._settings.bounces.rpartition("@")
            sender = f"{local}+{action.action_id}@{domain}"
        return _Letter(sender, mail.recipient, message.as_bytes())

    # ---- connections -------------------------------------------------------------------------------------------

    async def _connect(self) -> SMTP:
        settings = self._settings
        connection = SMTP(
            hostname=settings.host,
            port=settings.port or PORTS[settings.tls],
            username=None if settings.user is None else settings.user.reveal(),
            password=None if settings.password is None else settings.password.reveal(),
            local_hostname=self._from.domain,
            timeout=self._around.timeout_s,
            use_tls=settings.tls == "implicit",
            start_tls=settings.tls == "starttls",
            tls_context=self._context,
        )
        await connection.connect()
        return connection

    def _idle_one(self) -> SMTP | None:
        """Return a connection that was used before, the youngest first."""
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection, since_s = self._idle.pop()
            if connection.is_connected and now_s - since_s < IDLE_MAX_S:
                return connection
            connection.close()
        return None

    async def close(self) -> None:
        """Take leave of the server."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            with suppress(SMTPException, OSError, TimeoutError):
                await connection.quit(timeout=1)
            connection.close()

    # ---- the call ----------------------------------------------------------------------------------------------

    async def call(self, action: Action) -> Answer:
        """Hand *action* to the server; see `Provider`."""
        letter = self._letter(action)
        try:
            async with asyncio.timeout(self._around.timeout_s), self._slots:
                return await self._send(letter)
        except TimeoutError:
            return Answer(UNKNOWN if letter.is_written else RETRY, "timeout")

    async def _send(self, letter: _Letter) -> Answer:
        connection = self._idle_one()
        if connection is not None and (answer := await self._over(connection, letter, is_used=True)) is not None:
            return answer
        try:
            connection = await self._connect()
        except (SMTPException, OSError) as error:
            return _not_connected(error)
        answer = await self._over(connection, letter, is_used=False)
        assert answer is not None, "a new connection says what it is"
        return answer

    async def _over(self, connection: SMTP, letter: _Letter, *, is_used: bool) -> Answer | None:
        """Send *letter* over *connection*; return None where it was used before and has ended since."""
        try:
            try:
                await connection.mail(letter.sender)
                await connection.rcpt(letter.recipient)
                letter.is_written = True
                response = await connection.data(letter.content)
                answer = Answer(OK, f"smtp_{response.code}", response.message[:DETAIL_MAX])
            except SMTPResponseException as error:
                if is_used and error.code == 421 and isinstance(error, SMTPSenderRefused):
                    letter.is_written = False
                    connection.close()
                    return None
                answer = _refused(error, letter)
                if connection.is_connected:
                    with suppress(SMTPException, OSError):
                        await connection.rset()
        except (SMTPServerDisconnected, SMTPTimeoutError, OSError) as error:
            connection.close()
            if is_used and not letter.is_written:
                return None
            said = f"{type(error).__name__} {error}"[:DETAIL_MAX]
            return Answer(UNKNOWN if letter.is_written else RETRY, "no_answer", said)
        except BaseException:
            connection.close()  # It stands in the middle of something.
            raise
        if connection.is_connected:
            self._idle.append((connection, asyncio.get_running_loop().time()))
        return answer

    def callback(self, came: Callback) -> Reply:
        """Return what a bounce reports, which is posted as it came; see `Provider`."""
        return Reply(reports_of(came.body), 204)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return the message; see `Provider`."""
        mail = mail_of(action, self._around, self._settings.unsubscribe, is_shown=True)
        message = self._message(action, mail, is_shown=True)
        shown: dict[str, Any] = {name: str(value) for name, value in message.items()}
        for part in message.walk():
            if not part.is_multipart():
                shown[part.get_content_subtype()] = part.get_content()
        return shown


def _with_picture(html: str, url: str) -> str:
    """Return *html* with a picture of one pixel at its end."""
    picture = f'<img src="{url}" width="1" height="1" alt="">'
    end = html.lower().rfind("</body>")
    return html + picture if end < 0 else html[:end] + picture + html[end:]


def _not_connected(error: Exception) -> Answer:
    """Return what it means that no connection came about: nothing was sent."""
    said = f"{error}"[:DETAIL_MAX]
    if isinstance(error.__cause__ or error, ssl.SSLCertVerificationError):
        return Answer(CONFIG, "certificate", said)
    if isinstance(error, SMTPResponseException):
        kind = CONFIG if 500 <= error.code < 600 else RETRY
        return Answer(kind, f"smtp_{error.code}", f"{error.code} {error.message}"[:DETAIL_MAX])
    if isinstance(error, SMTPConnectError | SMTPTimeoutError | SMTPServerDisconnected | OSError):
        return Answer(RETRY, "connect", said)
    return Answer(CONFIG, "not_supported", said)  # No STARTTLS, or no way to sign in.


def _refused(error: SMTPResponseException, letter: _Letter) -> Answer:
    """Return what the server's *error* means."""
    code, detail = f"smtp_{error.code}", f"{error.code} {error.message}"[:DETAIL_MAX]
    if error.code in _NOT_LET_IN:
        return Answer(CONFIG, code, detail)
    if 400 <= error.code < 500:
        return Answer(RETRY, code, detail, wait_ms=None if error.code == 421 else GREYLISTED_MS)
    if 500 <= error.code < 600:
        # The sender is the same for all messages.
        is_ours = isinstance(error, SMTPSenderRefused) and error.code != _TOO_LARGE
        return Answer(CONFIG if is_ours else PERMANENT, code, detail)
    return Answer(UNKNOWN if letter.is_written else RETRY, code, detail)
