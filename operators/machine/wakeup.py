"""A wake-up that has fallen due: the branches of one user that are to go on, in the promised order."""

from __future__ import annotations

from typing import Final

from operators.language.values import DAY, HOUR
from operators.machine.context import InJourney
from operators.machine.deployment import Deployment
from operators.machine.journey import wake
from operators.machine.outbox import Outbox
from operators.machine.pause import park
from operators.program.program import Program
from state.user import Branch, Journey, User

POSTPONED_MS: Final = HOUR


def on_due(deployment: Deployment, user_id: str, user: User, now: int, out: Outbox) -> None:
    """Fire the wake-ups of *user* that are due by *now*: by due time, priority, entry; each as of its time.

    Those of a flow that is paused are parked.
    """
    while True:
        first: tuple[int, int, int, int] | None = None
        found: tuple[Program, Journey, Branch] | None = None
        for journey in user.journeys:
            program = deployment.program(journey.flow, journey.version)
            for branch in journey.branches:
                if branch.wake_ms <= now:
                    if program.is_paused:
                        park(user_id, program, branch, out)
                        continue
                    rank = (branch.wake_ms, -program.priority, journey.number, branch.number)
                    if first is None or rank < first:
                        first, found = rank, (program, journey, branch)
        if first is None or found is None:
            break
        program, journey, branch = found
        wake(InJourney(user_id, user, program, first[0], out, journey), branch)
    if not user.journeys and deployment.memory.due(user) <= now:
        deployment.memory.forget(user, now)


def postpone(deployment: Deployment, user: User, now: int) -> None:
    """Put off what is due for *user* by now: waking it went wrong, before any journey was there to be failed.

    So nothing is lost and nobody else has to wait; the next software may be able to do it.
    """
    for journey in user.journeys:
        for branch in journey.branches:
            if branch.wake_ms <= now:
                branch.wake_ms = now + POSTPONED_MS
    if not user.journeys:
        user.day = now // DAY + 1 + deployment.memory.days
