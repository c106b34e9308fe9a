"""The check for frequency caps: of the channel and over all, as many messages as in their windows."""

from __future__ import annotations

from operators.caps import against
from operators.rules.base import Check, Message, Refusal, Sending
from operators.visit import Visit


def check_of(sending: Sending) -> Check | None:
    """Return the check, None for a message that no cap concerns."""
    caps, exempt = sending.rules.caps, sending.rules.exempt
    if not caps:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        found = against(caps, visit.user.sends, visit.now)
        if found is None or any(name in visit.user.audiences for name in exempt):
            return None
        return Refusal("cap", found)

    return check
