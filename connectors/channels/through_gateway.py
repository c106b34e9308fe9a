"""Addresses in messages that lead through the gateway: where it is for the world, and the key that it knows, too."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from connectors.channels.base import Secret
from connectors.tokens import KEY_CHARS_MIN


def _base(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address; write https://s.example.com")
    return text.rstrip("/")


def _key(key: Secret) -> Secret:
    if len(key.reveal()) < KEY_CHARS_MIN:
        raise ValueError(f"a key of links has {KEY_CHARS_MIN} characters at least")
    return key


class ThroughGateway(BaseModel):
    """Settings of what leads through the gateway."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Annotated[str, AfterValidator(_base), Field(description="The gateway as the world sees it: https://..")]
    key: Annotated[Secret, AfterValidator(_key)]
