"""Actions for tests."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from state.outgoing import Action


def action(name: str = "a", user: str = "u", channel: str = "webhook", **more: Any) -> Action:
    """Return an action whose id follows from *name*."""
    fields = {
        "action_id": hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), "channel": channel, "user_id": user,
        "to": None, "flow": "cart", "version": 1, "journey_id": "0" * 32, "step": "remind", "visit": 1,
        "template": "hello", "vars": {"name": "Lina"}, "category": "marketing", "at": "2026-11-23T08:30:00.000Z",
        "expires_at": None, "seq": 1,
        "cause": {"message_id": "m", "event": "add_to_cart"}, **more,
    }  # fmt: skip
    return msgspec.convert(fields, Action)
