"""The check for a message that comes too late: refused when more than `expires` has passed since the step began."""

from __future__ import annotations

from operators.rules.base import Check, Message, Refusal, Sending
from operators.visit import Visit
from state.iso import format_ms


def check_of(sending: Sending) -> Check | None:
    """Return the check, None for a message that never expires."""
    expires_ms = sending.expires_ms
    if expires_ms is None:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        message.expires_at_ms = expires_at_ms = visit.branch.begun_ms + expires_ms
        if visit.now > expires_at_ms:
            return Refusal("expired", {"expires_at": format_ms(expires_at_ms)})
        return None

    return check
