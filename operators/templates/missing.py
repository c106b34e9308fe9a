"""What is missing: what is not there, and null everywhere; an empty text is there.

A template that would write, loop over or pass to a filter (other than `default`) what is missing gives `MISSING` as a
whole. Conditions may ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final


class Missing(Enum):
    """The type of `MISSING`, so that type checkers can tell it from values."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What rendering gives instead of a value that is not there."""


class MissingValue(Exception):
    """Something missing was about to be used; makes the whole template missing."""


class Gap:
    """What Liquid works with in place of what is missing: false for a condition, and an error for any other use.

    Raises:
        MissingValue: it was about to be used.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        raise MissingValue

    def __int__(self) -> int:
        raise MissingValue

    def __len__(self) -> int:  # Asked before each loop.
        raise MissingValue

    def __iter__(self) -> Iterator[Any]:
        raise MissingValue
