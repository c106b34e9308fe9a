"""The channels that flows may send to: those that are built in, and those of the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from operators.language.workspace import Workspace

DEFAULT_ADDRESSES: Final[dict[str, str | None]] = {
    "sms": "phone",
    "email": "email",
    "push": "push_token",
    "wechat": "openid",
    "webhook": None,
    "kafka": None,
    "coupon": None,
    "ads": None,
}
"""The channels that are built in, with the profile attribute that is the user's address there."""


STATUSES: Final = (
    "accepted", "unknown", "delivered", "failed", "rejected", "opened", "clicked", "ignored", "unsubscribed",
)  # fmt: skip
"""What receipts report."""
SUPPRESSED: Final = "suppressed"
"""What counts as the result of a message that is not sent."""
_OWN_STATUSES: Final = ("webhook", "kafka")


def may_report(channel: str, status: str) -> bool:
    """Tell whether a receipt of *channel* may have *status*: those behind which anybody may be have their own."""
    return status in STATUSES or channel not in DEFAULT_ADDRESSES or channel in _OWN_STATUSES


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: its topic, and the profile attribute that is the user's address there, None when none is needed."""

    name: str
    topic: str
    address: str | None


def channel_of(name: str, workspace: Workspace) -> Channel | None:
    """Return the channel *name*, or None when nobody knows it."""
    written = workspace.channels.get(name)
    if written is None and name not in DEFAULT_ADDRESSES:
        return None
    address = DEFAULT_ADDRESSES.get(name)
    topic = f"actions.{name}"
    if written is not None:
        if "address" in written.model_fields_set:
            address = written.address
        topic = written.topic or topic
    return Channel(name, topic, address)
