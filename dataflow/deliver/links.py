"""Links of a channel that lead through the gateway, so that clicks are receipts."""

from __future__ import annotations

from typing import Annotated, Final, TypeGuard
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from connectors.channels.base import Secret
from connectors.tokens import KEY_CHARS_MIN, Token, make_link
from state.outgoing import Action

TARGET_MAX: Final = 2000  # A longer one stays as it is.


def _base(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address; write https://s.example.com")
    return text.rstrip("/")


def _key(key: Secret) -> Secret:
    if len(key.reveal()) < KEY_CHARS_MIN:
        raise ValueError(f"a key of links has {KEY_CHARS_MIN} characters at least")
    return key


class Links(BaseModel):
    """`links:` of a channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Annotated[str, AfterValidator(_base), Field(description="The gateway as the world sees it: https://..")]
    key: Annotated[Secret, AfterValidator(_key)]
    vars: Annotated[list[str], Field(min_length=1, description="The variables that are addresses.")]

    def put_into(self, action: Action) -> Action:
        """Return *action* with the addresses in its variables replaced; the same ones each time."""
        token = Token(action.action_id, action.user_id, action.channel, action.category)
        found = {
            name: f"{self.base}/l/{make_link(self.key.reveal(), token, target)}"
            for name in self.vars
            if is_target(target := action.vars.get(name))
        }
        return msgspec.structs.replace(action, vars={**action.vars, **found}) if found else action


def is_target(value: object) -> TypeGuard[str]:
    """Tell whether *value* is an address that a link may lead to."""
    if not isinstance(value, str) or len(value) > TARGET_MAX or not value.startswith(("http://", "https://")):
        return False
    return value.isprintable() and " " not in value and bool(urlsplit(value).hostname)
