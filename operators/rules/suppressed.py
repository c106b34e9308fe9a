"""The check for users whom nothing may be sent: the members of the audiences under `suppress`."""

from __future__ import annotations

from operators.rules.base import Check, Message, Refusal, Sending
from operators.visit import Visit


def check_of(sending: Sending) -> Check | None:
    """Return the check, None where nobody is suppressed."""
    suppress = sending.rules.suppress
    if not suppress:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        audiences = visit.user.audiences
        for name in suppress:
            if name in audiences:
                return Refusal("suppressed", {"audience": name})
        return None

    return check
