"""The register: answers to what no single user decides, and shards could not agree on by themselves.

A question has a set with a most: the entries of a flow with a `limit`, the users of an experiment until its winner is
decided. The answers go to one user at one place of that user's journal (`seq`), and asked again under the same two the
answer is the same, so a replay decides as the first time did.

Only a yes can become a no, since sets only grow and a winner stays. So only a yes has to be noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol


class ArmCounts(NamedTuple):
    """How many users of an experiment have taken an arm, and how many of them have converted."""

    entered: int
    converted: int


Decide = Callable[[Mapping[str, ArmCounts]], str]
"""Returns the arm that wins, given what has become of each arm that was taken."""


class Register(Protocol):
    """What the users of one shard may ask."""

    def enter(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        """Take one of *most* places in *flow*; None if that was possible, else how many are taken."""
        ...

    def look(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        """Answer as `enter` would, and take no place."""
        ...

    def join(self, experiment: str, user_id: str, seq: int, arm: str, most: int, decide: Decide) -> str | None:
        """Let the user be among the first *most* of *experiment*, and take *arm*.

        Returns None if that was possible, else the arm that has won. The first to ask when the set is full lets
        *decide* say which one that is.
        """
        ...

    def convert(self, experiment: str, user_id: str) -> None:
        """Note that the user has converted, for a decision that is still to come."""
        ...
