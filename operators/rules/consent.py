"""The check for consent: the attribute that stands for the category of the message must be true."""

from __future__ import annotations

from operators.conditions.values import dig
from operators.limits import told
from operators.rules.base import Check, Message, Refusal, Sending
from operators.visit import Visit


def check_of(sending: Sending) -> Check | None:
    """Return the check, None for a category that needs no consent."""
    path = sending.rules.consent
    if path is None:
        return None

    def check(visit: Visit, message: Message) -> Refusal | None:
        given = dig(visit.profile, path)
        if given is True:
            return None
        return Refusal("no_consent", {"path": ".".join(("profile", *path)), "value": told(given)})

    return check
