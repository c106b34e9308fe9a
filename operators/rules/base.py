"""What a check of a send is: it looks at one message to one user, completes it, and lets it pass or refuses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from operators.language.channels import Channel
from operators.templates.json_template import JsonTemplate
from operators.templates.template import Template
from operators.visit import Visit
from state.outgoing import SendReason


@dataclass(frozen=True, slots=True)
class Sending:
    """What a `send` step says about each of its messages.

    `to` is the address as it is written, None for the channel's attribute of the profile. `expires_ms` is how long
    after the step began the message is of use, None for ever.
    """

    channel: Channel
    to: Template | None
    variables: tuple[tuple[str, JsonTemplate], ...]
    expires_ms: int | None


@dataclass(slots=True)
class Message:
    """One message on its way through the checks, which fill it in."""

    to: str | None = None
    vars: dict[str, Any] = field(default_factory=dict)
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message is not sent: a reason code, and what was compared."""

    reason: SendReason
    detail: dict[str, Any]


Check = Callable[[Visit, Message], Refusal | None]
"""Returns why the message may not be sent, None when it may as far as this check is concerned."""
