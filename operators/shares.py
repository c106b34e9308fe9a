"""Shares of the users: who falls into which arm, by a stable hash, with sums that are exact."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Final

from operators.ids import DRAWS, draw_of

WHOLE: Final = Decimal(100)


class Shares:
    """Arms with a share each, in percent; together they are the whole.

    A user takes the first arm, in the order given, up to which the shares come to more than where the user falls.
    """

    __slots__ = ("_ends",)

    def __init__(self, shares: Mapping[str, Decimal]) -> None:
        total = Fraction(0)
        self._ends: list[tuple[int, str]] = []
        for arm, share in shares.items():
            total += Fraction(share) / 100
            self._ends.append((ceil(total * DRAWS), arm))

    def arm_of(self, flow: str, user_id: str, salt: str) -> str:
        """Return the arm of a user, the same for ever."""
        draw = draw_of(flow, user_id, salt)
        return next(arm for end, arm in self._ends if draw < end)
