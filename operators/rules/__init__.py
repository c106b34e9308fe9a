"""The checks of a send, one file each, in the order in which they are asked; a new one is one more file and one entry.

What a check does not need to ask, because the author wrote nothing of it, costs nothing: `checks_of` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from operators.rules import address, caps, consent, expiry, quiet, suppressed, variables
from operators.rules.base import Check, Sending

CHECKS: Final[tuple[Callable[[Sending], Check | None], ...]] = (
    suppressed.check_of,
    consent.check_of,
    address.check_of,
    variables.check_of,
    quiet.check_of,
    expiry.check_of,
    caps.check_of,
)


def checks_of(sending: Sending) -> tuple[Check, ...]:
    """Return the checks that *sending* needs, in their order."""
    return tuple(check for make in CHECKS if (check := make(sending)) is not None)
