"""The tokens in links of messages: for which action, user, channel and category they are, signed.

A token is base64 of the action's id (16 bytes), channel, category and user, and of 16 bytes of their HMAC-SHA256. What
it is for is signed too, so the token of one kind of link is none of another kind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, NamedTuple

UNSUBSCRIBE: Final = "unsubscribe"
OPEN: Final = "open"
LINK: Final = "link"
KEY_CHARS_MIN: Final = 16
"""So long a key has to be at least."""
_SEAL_BYTES: Final = 16
_ID_BYTES: Final = 16
_CHARS_MAX: Final = 4096


class Token(NamedTuple):
    """What a link is about."""

    action_id: str
    user_id: str
    channel: str
    category: str


def make_token(key: str, purpose: str, token: Token) -> str:
    """Return the text of *token*, signed with *key* for *purpose*."""
    rest = "\0".join((token.channel, token.category, token.user_id))
    content = bytes.fromhex(token.action_id) + rest.encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(content + _seal(key, purpose, content)).rstrip(b"=").decode()


def read_token(keys: Iterable[str], purpose: str, text: str) -> Token | None:
    """Return the token in *text*, None unless it was signed with one of *keys* for *purpose*."""
    if len(text) > _CHARS_MAX or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    content, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if not any(hmac.compare_digest(seal, _seal(key, purpose, content)) for key in keys):
        return None
    channel, category, user_id = content[_ID_BYTES:].decode("utf-8", "surrogatepass").split("\0", 2)
    return Token(content[:_ID_BYTES].hex(), user_id, channel, category)


def make_link(key: str, token: Token, target: str) -> str:
    """Return the code of a link of *token* that leads to *target*."""
    return make_token(key, LINK, token._replace(user_id=f"{target}\0{token.user_id}"))


def read_link(keys: Iterable[str], code: str) -> tuple[Token, str] | None:
    """Return whose link *code* is and where it leads, None unless it was signed with one of *keys*."""
    token = read_token(keys, LINK, code)
    if token is None:
        return None
    target, _, user_id = token.user_id.partition("\0")
    return token._replace(user_id=user_id), target


def _seal(key: str, purpose: str, content: bytes) -> bytes:
    return hmac.digest(key.encode(), purpose.encode() + b"\0" + content, hashlib.sha256)[:_SEAL_BYTES]
