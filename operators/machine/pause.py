"""Flows that stand still: what a deployment that pauses or resumes some of them means for a user inside.

While a flow is paused its wake-ups wait. Resumed, what fell due meanwhile acts as of the resume.
"""

from __future__ import annotations

from collections.abc import Iterable

from operators.ids import label_of
from operators.machine.deployment import Deployment
from state.user import User


class PauseChange:
    """From one set of paused flow versions to that of a deployment.

    Args:
        before: the labels of the flow versions that stood still so far.
    """

    def __init__(self, before: Iterable[str], deployment: Deployment) -> None:
        self._deployment = deployment
        self._before = sorted(before)
        self._resumed = {*self._before} - {*deployment.paused}
        self._changed = {*self._before} ^ {*deployment.paused}

    @property
    def resumes(self) -> bool:
        """Whether some flow goes on."""
        return bool(self._resumed)

    def concerns(self, user: User) -> bool:
        """Tell whether *user* is in a flow that pauses or goes on."""
        return any(label_of(journey.flow, journey.version) in self._changed for journey in user.journeys)

    def due_before(self, user: User) -> int:
        """Return when *user* was to be looked at while the flows stood as before, or `NEVER`."""
        return self._deployment.due_of(user, self._before)

    def resume(self, user: User, now: int) -> None:
        """Let what fell due in flows that go on act as of *now*."""
        for journey in user.journeys:
            if label_of(journey.flow, journey.version) in self._resumed:
                for branch in journey.branches:
                    branch.wake_ms = max(branch.wake_ms, now)
