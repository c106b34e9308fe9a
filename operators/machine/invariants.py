"""What must hold of every user and every shard, whatever has happened: the pure part of `nudge audit`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from operators.ids import label_of
from operators.machine.deployment import Deployment
from operators.machine.totals import FlowTotals, Totals, read_totals
from operators.program.program import Program
from operators.steps.base import Lane, Node
from operators.steps.fork import ForkStep
from state.iso import format_ms
from state.user import NEVER, PARKED, Branch, Journey, User

RECORDS_OF_A_JOURNEY: Final = 2  # It is journaled when it enters, and then at least once more: it waits, or is over.


class Violation(NamedTuple):
    """What does not hold: a stable code (`docs/operations.md`, "Audit") and a sentence on what is wrong."""

    code: str
    text: str


class UserInvariants:
    """Looks at one user after the other.

    Args:
        fired_ms: up to where the wake-ups of the user's shard have fired.
        parking: the labels of the flow versions in which wake-ups may be parked.
        untimed: those in which users have no timer, as in states of format 1 those that are paused.
    """

    def __init__(
        self, deployment: Deployment, fired_ms: int, *, parking: Collection[str] = (), untimed: Sequence[str] = ()
    ) -> None:
        self._programs = deployment.programs
        self._due_of = deployment.due_of
        self._fired_ms = fired_ms
        self._parking = parking
        self._untimed = untimed
        self._inside: dict[tuple[str, int], int] = {}

    @property
    def inside(self) -> dict[str, int]:
        """How many open journeys the users so far have, by the label of their flow version."""
        return {label_of(flow, version): number for (flow, version), number in self._inside.items()}

    def due(self, user: User) -> int:
        """Return the one due time for which the user needs a timer, or `NEVER`."""
        return self._due_of(user, self._untimed)

    def look_at(self, user: User, due: int) -> Sequence[Violation]:
        """Count the user's open journeys, and return what is wrong with the user, who needs a timer for *due*."""
        journeys = user.journeys
        found: list[Violation] = []
        if user.seq < RECORDS_OF_A_JOURNEY * user.journeys_begun:
            text = f"the last journal record is number {user.seq}, but {user.journeys_begun} journeys began"
            found.append(Violation("seq-too-low", text))
        if not journeys:
            return found
        for journey in journeys:
            version = (journey.flow, journey.version)
            self._inside[version] = self._inside.get(version, 0) + 1
            program = self._programs.get(version)
            if program is None:
                text = f"a journey is in {journey.flow} v{journey.version}, which is not in force"
                found.append(Violation("flow-not-deployed", text))
            else:
                _look_at_journey(journey, program, found, may_be_parked=program.label in self._parking)
        if due < self._fired_ms:
            text = f"was to be woken at {format_ms(due)}, and everybody was up to {format_ms(self._fired_ms)}"
            found.append(Violation("wake-up-overdue", text))
        if len(journeys) > 1 or journeys[0].number > user.journeys_begun:
            numbers = [journey.number for journey in journeys]
            if len(set(numbers)) < len(numbers) or max(numbers) > user.journeys_begun:
                text = f"open journeys have the numbers {numbers}, and {user.journeys_begun} were begun"
                found.append(Violation("journey-repeated", text))
        return found


def parked_in(user: User) -> set[str]:
    """Return the labels of the flow versions in which something of *user* is parked."""
    return {
        label_of(journey.flow, journey.version)
        for journey in user.journeys
        for branch in journey.branches
        if branch.wake_ms == PARKED
    }


def _look_at_journey(journey: Journey, program: Program, found: list[Violation], *, may_be_parked: bool) -> None:
    branches = journey.branches
    if not branches:
        found.append(Violation("wake-up-missing", f"a journey of {program} stands nowhere: it has no open branch"))
    for branch in branches:
        node = program.nodes.get(branch.step)
        if node is None:
            text = f"a journey of {program} stands in '{branch.step}', which is no step of it"
            found.append(Violation("step-unknown", text))
            continue
        if branch.wake_ms >= NEVER and not (branch.wake_ms == PARKED and may_be_parked):
            found.append(Violation("wake-up-missing", f"nothing will wake a journey of {program} in '{branch.step}'"))
        if node.step.has_lost_its_memo(branch.memo):
            text = f"a journey of {program} in '{branch.step}' has lost what it counts its events in"
            found.append(Violation("subscription-lost", text))
        if not _is_in_its_lane(branch, node, program):
            text = f"a branch of a journey of {program} stands in '{branch.step}', and should be in another branch"
            found.append(Violation("branch-misplaced", text))
    if len(branches) > 1:
        _look_at_branches(branches, program, found)


def _is_in_its_lane(branch: Branch, node: Node, program: Program) -> bool:
    if not 0 <= branch.number < len(program.lanes):
        return False
    lane = program.lanes[branch.number]
    # At a step that forks nobody stands, but those who have forked there and wait for their time.
    is_there = node is lane.fork and node.step.kind == "times" if isinstance(node.step, ForkStep) else node.lane is lane
    return is_there and branch.scope == lane.scope


def _look_at_branches(branches: Sequence[Branch], program: Program, found: list[Violation]) -> None:
    """Look whether branches that are open side by side are of the same forks, each lane having one at most."""
    numbers = [branch.number for branch in branches]
    if len(set(numbers)) < len(numbers):
        found.append(Violation("journey-repeated", f"two branches of a journey of {program} have the same number"))
    elif numbers != sorted(numbers):
        found.append(Violation("branch-orphan", f"the branches of a journey of {program} are out of order: {numbers}"))
    forked_at: dict[Lane, Node] = {}
    for branch in branches:
        lane: Lane | None = program.lanes[branch.number] if 0 <= branch.number < len(program.lanes) else None
        while lane is not None and lane.fork is not None and lane.parent is not None:
            if lane.parent.number in numbers or forked_at.setdefault(lane.parent, lane.fork) is not lane.fork:
                text = f"a branch of a journey of {program} in '{branch.step}' is of none of the steps that are open"
                found.append(Violation("branch-orphan", text))
                break
            lane = lane.parent


class Balance(NamedTuple):
    """The journeys of one flow version: what the totals say, and how many open ones the users hold."""

    totals: FlowTotals
    inside_by_users: int

    @property
    def is_kept(self) -> bool:
        """Whether everybody who entered is accounted for."""
        return self.totals.inside == self.inside_by_users

    def __str__(self) -> str:
        entered, *others = (f"{kind} {number}" for kind, number in self.totals.balance().items())
        return f"{entered} = {' + '.join(others)}, but users hold {self.inside_by_users}"


def balances(totals: Totals, inside: Mapping[str, int]) -> dict[str, Balance]:
    """Return the balance of each flow version, from totals and the open journeys of the users."""
    read = read_totals(totals, inside)
    return {label: Balance(read[label], inside.get(label, 0)) for label in sorted(read)}
