"""The check for quiet times: what they hold goes out when they are over, or never."""

from __future__ import annotations

from operators.quiet import QuietTimes
from operators.rules.base import Check, Message, Postponement, Refusal, Sending
from operators.visit import Visit
from state.iso import TIME_MS_MAX


def check_of(sending: Sending) -> Check | None:
    """Return the check, None for a message that no quiet time concerns."""
    rules, exempt, postpones = sending.rules.quiet, sending.rules.exempt, sending.postpones
    if not rules:
        return None
    times = QuietTimes(rules)

    def check(visit: Visit, message: Message) -> Refusal | Postponement | None:
        found = times.at(visit.now, visit.zone())
        if found is None or any(name in visit.user.audiences for name in exempt):
            return None
        if found.until_ms <= TIME_MS_MAX and (found.postpones if postpones is None else postpones):
            return Postponement(found.until_ms, "quiet", found.by)
        return Refusal("quiet", found.by)

    return check
