"""What a call to a provider shows, and what becomes of an action in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
"""The provider took it."""
PERMANENT: Final = "permanent"
"""This recipient or this content will never work."""
CONFIG: Final = "config"
"""Every action will fail, until somebody mends an account, a key or a setting."""
TOKEN: Final = "token"  # noqa: S105
"""A credential has run out, and another one can be had."""
THROTTLED: Final = "throttled"
"""Too fast; nothing was sent."""
RETRY: Final = "retry"
"""Something passing; nothing was sent."""
UNKNOWN: Final = "unknown"
"""It may have been sent, or not."""

KINDS: Final = (OK, PERMANENT, CONFIG, TOKEN, THROTTLED, RETRY, UNKNOWN)

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"
EXPIRED: Final = "expired"
"""The code of what was rejected because its time was over."""
GIVEN_UP: Final = "given_up"
"""The code of what was rejected because it was tried for too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call shows.

    `code` and `detail` are the provider's words, `provider_id` is what it calls the message. `status` is what an answer
    already says beyond that it was taken, such as `delivered`. `wait_ms` is how long to wait, where that was said, and
    `is_of_recipient` tells whether only for this recipient.
    """

    kind: str
    code: str = ""
    detail: str = ""
    provider_id: str = ""
    status: str = ""
    wait_ms: int | None = None
    is_of_recipient: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action: `accepted`, `rejected`, or `unknown`, at `at_ms`; for the rest see `Answer`."""

    status: str
    at_ms: int
    code: str = ""
    detail: str = ""
    provider_id: str = ""
    further: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger has of an action.

    `attempt` is the number of the last attempt, from 1; `since_ms` when the first one began. While `owner` is not
    empty, that attempt has begun and has shown nothing yet; until `lease_ms` nobody else may think that it has ended.
    `user_id` is whom the action is for: a provider that reports on it does not know. While `is_untold`, the receipt of
    its outcome may be missing, and no record is read again for it.
    """

    attempt: int
    since_ms: int
    user_id: str
    owner: str = ""
    lease_ms: int = 0
    outcome: Outcome | None = None
    is_untold: bool = False
