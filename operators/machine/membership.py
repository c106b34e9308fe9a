"""Which audiences a user is in: membership records and `audience` steps change it, and nothing else does."""

from __future__ import annotations

from typing import Any

from operators.limits import AUDIENCES_MAX, ROW_BYTES_MAX, fits
from state.user import User


def take_membership(user: User, fields: dict[str, Any]) -> bool:
    """Let *user* be in an audience, or no longer, as the membership record with *fields* says.

    Returns:
        Whether all of it was taken. Of a row that is too large nothing is: who is a member already keeps the row of
        before, who becomes one has an empty row. Nobody comes into more audiences than there may be.
    """
    audience = fields["audience"]
    if not fields["member"]:
        user.audiences.pop(audience, None)
        return True
    row = fields.get("row") or {}
    if fits(row, ROW_BYTES_MAX):
        return _put(user, audience, row)
    join(user, audience)
    return False


def join(user: User, audience: str) -> bool:
    """Let *user* be in *audience*, where a row that is there stays; tell whether the user is in it now."""
    return audience in user.audiences or _put(user, audience, {})


def _put(user: User, audience: str, row: dict[str, Any]) -> bool:
    if audience not in user.audiences and len(user.audiences) >= AUDIENCES_MAX:
        return False
    user.audiences[audience] = row
    return True
