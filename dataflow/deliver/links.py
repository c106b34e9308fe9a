"""Links of a channel that lead through the gateway, so that clicks are receipts."""

from __future__ import annotations

from typing import Annotated, Final, TypeGuard
from urllib.parse import urlsplit

import msgspec
from pydantic import Field

from connectors.channels.through_gateway import ThroughGateway
from connectors.tokens import Token, make_link
from state.outgoing import Action

TARGET_MAX: Final = 2000  # A longer one stays as it is.


class Links(ThroughGateway):
    """`links:` of a channel."""

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
    if not isinstance(value, str) or len(value) > TARGET_MAX or not value.lower().startswith(("http://", "https://")):
        return False
    return value.isprintable() and " " not in value and bool(urlsplit(value).hostname)
