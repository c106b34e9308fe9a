"""What mail servers report of a message by mail: RFC 3464, `multipart/report` with `message/delivery-status`.

A report names the action in the address that it comes to, else by the `Message-ID` of the message that it returns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from typing import Any, Final

from connectors.channels.base import Report

_STATUSES: Final = {"failed": "failed", "delivered": "delivered"}  # Others, such as `delayed`, are not final.
_IN_ADDRESS: Final = re.compile(r"\+([0-9a-f]{32})@")
_IN_MESSAGE_ID: Final = re.compile(r"<([0-9a-f]{32})@")
_TO: Final = ("to", "delivered-to", "x-original-to", "envelope-to")
_DETAIL_MAX: Final = 500


def reports_of(mail: bytes) -> list[Report]:
    """Return what *mail* reports; nothing where it is no report, or about no action.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return list(_reports(mail))
    except (RecursionError, LookupError, TypeError, AttributeError) as error:  # The parser's, on what is no mail.
        raise ValueError(f"it is no mail that can be read: {type(error).__name__}") from None


def _reports(mail: bytes) -> Iterator[Report]:
    message = message_from_bytes(mail, policy=default)
    if message.get_content_type() != "multipart/report":
        return
    action_id = _action_of(message)
    if not action_id:
        return
    event_id, at_ms = _event_of(message, mail), _at_ms(message)
    for block in [block for part in _parts(message) for block in _blocks(part)]:
        status = _STATUSES.get(_field(block, "action").lower())
        if status is not None:
            code, detail = _field(block, "status"), _field(block, "diagnostic-code")
            yield Report(status, action_id=action_id, code=code, detail=detail, event_id=event_id, at_ms=at_ms)


def _parts(message: EmailMessage) -> Iterator[Message]:
    payload: Any = message.get_payload()
    yield from payload if isinstance(payload, list) else ()


def _blocks(part: Message) -> list[Message]:
    """Return the blocks of fields in a part that is a delivery status; the first is about no recipient."""
    payload: Any = part.get_payload() if part.get_content_type() == "message/delivery-status" else []
    return payload if isinstance(payload, list) else []


def _action_of(message: EmailMessage) -> str:
    for name in _TO:
        for value in message.get_all(name, []):
            if (found := _IN_ADDRESS.search(str(value))) is not None:
                return found[1]
    for part in _parts(message):
        returned: Any = part.get_payload()
        if part.get_content_type() == "message/rfc822" and isinstance(returned, list) and returned:
            found = _IN_MESSAGE_ID.search(str(returned[0]["message-id"]))
        elif part.get_content_type() == "text/rfc822-headers":
            found = _IN_MESSAGE_ID.search(str(returned))
        else:
            continue
        if found is not None:
            return found[1]
    return ""


def _event_of(message: EmailMessage, mail: bytes) -> str:
    """Return what tells this report from another one: it may come twice."""
    return hashlib.blake2b(str(message["message-id"] or mail).encode(errors="replace"), digest_size=8).hexdigest()


def _field(block: Message, name: str) -> str:
    return " ".join(str(block[name] or "").split())[:_DETAIL_MAX]


def _at_ms(message: EmailMessage) -> int | None:
    moment = getattr(message["date"], "datetime", None)
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        return None
    return int(moment.timestamp() * 1000)
