"""What providers of e-mail have in common: addresses, headers, and what a message says, with a link to unsubscribe."""

from __future__ import annotations

import re
from collections.abc import Collection
from email.headerregistry import Address
from email.utils import parseaddr
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, field_validator

from connectors.channels.base import Content, Surroundings, Unfit
from connectors.channels.through_gateway import ThroughGateway
from connectors.tokens import UNSUBSCRIBE, Token, make_token
from state.outgoing import Action

LINE_MAX: Final = 998
PREVIEW: Final = "preview"  # Stands for a token: a real one would let whoever sees it unsubscribe the user.
ONE_CLICK: Final = "List-Unsubscribe=One-Click"

_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HEADER: Final = re.compile(r"[!-9;-~]+")


def address(text: str) -> str:
    """Return *text* as it stands in an envelope.

    Raises:
        ValueError: it is no address that can be sent to.
    """
    local, at, domain = text.rpartition("@")
    try:
        ascii_domain = domain.encode("idna").decode()
    except UnicodeError:
        ascii_domain = ""
    if not at or len(local) > 64 or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(ascii_domain):
        raise ValueError("it is no address; write name@host.example")
    return f"{local}@{ascii_domain}"


def mailbox(text: str) -> Address:
    """Return the name and the address in *text*.

    Raises:
        ValueError: it is neither an address nor `Name <address>`.
    """
    name, written = parseaddr(text)
    if "\n" in text or "\r" in text:
        raise ValueError("it is more than one line")
    return Address(name, addr_spec=address(written))


Mailbox = Annotated[str, AfterValidator(lambda text: str(mailbox(text)))]


def added(headers: dict[str, str], ours: Collection[str]) -> dict[str, str]:
    """Return *headers* that a message gets besides.

    Raises:
        ValueError: one is no header, or one of *ours*, which are in lower case.
    """
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in ours or "\n" in value or "\r" in value:
            raise ValueError(f"{name!r} is no header that can be added")
    return headers


class Unsubscribing(ThroughGateway):
    """The link that unsubscribes, which stands in the head of a message: RFC 8058 wants it to be https."""

    @field_validator("base")
    @classmethod
    def _is_https(cls, base: str) -> str:
        if not re.fullmatch(r"https://[!-~]+", base):
            raise ValueError("the link has to begin with https://")
        return base


class Mail(NamedTuple):
    """Whom a message is for and what it says; `url` unsubscribes, None where there is no such link."""

    recipient: str
    content: Content
    url: str | None


def token_of(action: Action, through: ThroughGateway, purpose: str, *, is_shown: bool) -> str:
    """Return the token of a link in the message of *action*; one that does nothing where that `is_shown`."""
    about = Token(action.action_id, action.user_id, action.channel, action.category)
    return PREVIEW if is_shown else make_token(through.key.reveal(), purpose, about)


def mail_of(
    action: Action, around: Surroundings, unsubscribing: Unsubscribing | Literal[False], *, is_shown: bool
) -> Mail:
    """Return what *action* is as a message.

    Raises:
        Unfit: it cannot be one.
    """
    if action.to is None:
        raise Unfit("no_address", "the action has no address")
    try:
        recipient = address(action.to)
    except ValueError as error:
        raise Unfit("bad_address", str(error)) from None
    url = None
    if unsubscribing and action.category != "notification":
        url = f"{unsubscribing.base}/u/{token_of(action, unsubscribing, UNSUBSCRIBE, is_shown=is_shown)}"
        if len(url) > LINE_MAX - len("List-Unsubscribe: <>"):
            raise Unfit("user_id_too_long", "the link that unsubscribes would not go into a line")
    content = around.content(action, url)
    if not content.subject:
        raise Unfit("no_subject", f"the message {action.template!r} has no subject")
    if not content.text and not content.html:
        raise Unfit("no_body", f"the message {action.template!r} has neither text nor HTML")
    return Mail(recipient, content, url)
