"""What a check of a send is: it looks at one message to one user, completes it, and lets it pass or holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from operators.caps import Cap, caps_of
from operators.language.channels import Channel
from operators.language.message_rules import Members
from operators.language.workspace import Workspace
from operators.quiet import QuietRule, quiet_of
from operators.templates.json_template import JsonTemplate
from operators.templates.template import Template
from operators.visit import Visit
from state.outgoing import SendReason

Category = Literal["marketing", "notification"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What `nudge.yaml` says about the messages of a channel and category.

    `caps` and `quiet` do not hold for members of the audiences `exempt`; those of the audiences `suppress` get nothing.
    `consent` is the path in the profile of what must be true, None for nothing.
    """

    suppress: tuple[str, ...] = ()
    consent: tuple[str, ...] | None = None
    quiet: tuple[QuietRule, ...] = ()
    caps: tuple[Cap, ...] = ()
    exempt: tuple[str, ...] = ()


def rules_of(workspace: Workspace, channel: str, category: Category) -> Rules:
    """Return what *workspace* says about such messages; caps and quiet times are about marketing alone."""
    is_marketing = category == "marketing"
    return Rules(
        suppress=_audiences(workspace.suppress),
        consent=getattr(workspace.consent, category),
        quiet=quiet_of(workspace, channel) if is_marketing else (),
        caps=caps_of(workspace, channel) if is_marketing else (),
        exempt=_audiences(workspace.exempt),
    )


def _audiences(members: Members | None) -> tuple[str, ...]:
    return () if members is None else tuple(members.audience)


@dataclass(frozen=True, slots=True)
class Sending:
    """What a `send` step says about each of its messages, and the rules for them.

    `to` is the address as it is written, None for the channel's attribute of the profile. `expires_ms` is how long
    after the step began the message is of use, None for ever. `postpones` says whether what quiet times hold goes out
    later, None as their rules say.
    """

    channel: Channel
    to: Template | None
    variables: tuple[tuple[str, JsonTemplate], ...]
    expires_ms: int | None
    postpones: bool | None = None
    rules: Rules = Rules()


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


@dataclass(frozen=True, slots=True)
class Postponement:
    """Until when (ms) a message is held, and by what; all checks are asked again then."""

    until_ms: int
    reason: SendReason
    detail: dict[str, Any]


Check = Callable[[Visit, Message], Refusal | Postponement | None]
"""Returns why the message may not be sent, or not yet; None when it may as far as this check is concerned."""
