"""Arms that users are spread over by a stable hash: what `split` and `experiment` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Annotated, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from operators.ids import share_of
from operators.language.values import Name, Percent

ARMS_MIN: Final = 2
ARMS_MAX: Final = 30
THEN: Final = {"type": "object", "additionalProperties": {"type": "array", "items": {"$ref": "#/$defs/Step"}}}
"""The schema of what happens next, by label."""

_ALL: Final = Decimal(100)


def _must_be_all(arms: dict[str, Decimal]) -> dict[str, Decimal]:
    total = sum(arms.values())
    if total != _ALL:
        text = f"the shares of the arms add up to {total.normalize():f}%"  # type: ignore[union-attr]
        raise PydanticCustomError("bad-sum", "{text}", {"text": text, "hint": "together they are 100%"})
    return arms


WrittenArms = Annotated[
    dict[Name, Percent],
    Field(min_length=ARMS_MIN, max_length=ARMS_MAX),
    AfterValidator(_must_be_all),
]
"""Labels with their shares, which add up to 100 %."""


class Arms:
    """Arms in written order, and which of them a user takes at a step."""

    def __init__(self, written: Mapping[str, Decimal]) -> None:
        self.labels = tuple(written)
        self._up_to = [float(one / _ALL) for one in accumulate(written.values())]

    def of(self, flow: str, step: str, user_id: str) -> str:
        """Return the arm of a user: always the same in this flow at this step."""
        share = share_of(flow, user_id, step)
        for label, up_to in zip(self.labels, self._up_to, strict=True):
            if share < up_to:
                return label
        raise AssertionError("shares are below 1, up to where the last arm goes")
