"""What a command refuses. The tree that it belongs to is in `state/errors.py`."""

from __future__ import annotations

from state.errors import Refused


class UsageError(Refused):
    """The command was given something it cannot work with; the message says what next."""
