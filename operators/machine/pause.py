"""Flows that stand still, and what their resume does.

While a flow is paused its wake-ups wait. One that falls due is parked: taken note of by user, so that a resume finds
those concerned without a look at anybody else. Resumed, what fell due meanwhile acts as of the resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from operators.ids import label_of
from operators.machine.outbox import Outbox
from operators.program.program import Program
from state.user import PARKED, Branch, User


def park(user_id: str, program: Program, branch: Branch, out: Outbox) -> None:
    """Let *branch*, whose wake-up has fallen due, wait for the resume of its flow."""
    branch.wake_ms = PARKED
    out.parked.append((program.label, user_id))


def resumer(resumed: Mapping[str, int]) -> Callable[[User], None]:
    """Return what lets everything that is parked of a user in flows be due at their resume.

    Args:
        resumed: the flow versions by their labels, and the moment of the resume (ms).
    """

    def resume(user: User) -> None:
        for journey in user.journeys:
            at_ms = resumed.get(label_of(journey.flow, journey.version))
            if at_ms is not None:
                for branch in journey.branches:
                    if branch.wake_ms == PARKED:
                        branch.wake_ms = at_ms

    return resume
