"""A deployment: all flows that run together, with one match index, one set of counters and one order of priority."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from operators.conditions.index import Hits, MatchIndex
from operators.conditions.tree import Condition
from operators.language.values import DAY
from operators.machine.memory import Memory
from operators.program.build import Interest
from operators.program.compile import Alternative, Program
from state.user import NEVER, User

PLANS_MAX = 20_000  # Distinct sets of interests that events satisfy; a few hundred in practice.


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window that `did` conditions ask: what enters it, how many times it keeps, how far back it reaches."""

    id: str
    live: Condition | None
    keep: int
    reach_ms: int
    program: Program


@dataclass(frozen=True, slots=True)
class Plan:
    """What an event that satisfies a certain set of interests sets in motion."""

    windows: tuple[Window, ...]
    triggers: tuple[tuple[Program, tuple[Alternative, ...]], ...]


class Deployment:
    """All programs that run together.

    `programs` has every version that is not a draft, by (flow, version); `entering` the one version per flow that new
    journeys start in, by priority downwards, then name.
    """

    def __init__(self, programs: Iterable[Program]) -> None:
        running = [program for program in programs if program.state != "draft"]
        self.programs = {(program.name, program.version): program for program in running}
        self.entering = sorted(_entering(running), key=lambda program: (-program.priority, program.name))
        self.entering_by_name = {program.name: program for program in self.entering}
        self.paused = sorted(program.label for program in running if program.is_paused)
        self._windows: dict[int, list[Window]] = {}
        self._alternatives: dict[int, list[tuple[int, Alternative]]] = {}
        self.plans: dict[Hits, Plan] = {}  # What `plan` has answered before.
        self.index = self._number_interests(running)
        self._collect_windows(running)
        reaches: dict[str, int | None] = {
            window.id: window.reach_ms for windows in self._windows.values() for window in windows
        }
        for program in self.entering:
            reaches.update({alternative.counter: alternative.within for alternative in program.alternatives})
        self.memory = Memory(running, self.entering_by_name, reaches)
        for order, program in enumerate(self.entering):
            for alternative in program.alternatives:
                number = alternative.ask.interest.number
                self._alternatives.setdefault(number, []).append((order, alternative))

    def _number_interests(self, running: list[Program]) -> MatchIndex:
        numbers: dict[str, int] = {}
        interests: list[Interest] = []
        entering = set(self.entering)
        for program in running:
            triggers = {id(alternative.ask) for alternative in program.alternatives}
            for ask in program.asks:
                if id(ask) in triggers and program not in entering:
                    continue  # Nobody enters there, so nobody is interested in its trigger.
                number = numbers.get(ask.interest.key)
                if number is None:
                    number = numbers[ask.interest.key] = len(interests)
                    interests.append(ask.interest)
                ask.interest.number = number
        return MatchIndex((interest.event, interest.fixed) for interest in interests)

    def _collect_windows(self, running: list[Program]) -> None:
        found: dict[str, tuple[int, Window]] = {}
        for program in running:
            for clause, ask in program.windows:
                keep, reach = clause.enough, clause.within or 0
                if clause.window_id in found:
                    other = found[clause.window_id][1]
                    keep, reach = max(keep, other.keep), max(reach, other.reach_ms)
                window = Window(clause.window_id, ask.live, keep, reach, program)
                found[clause.window_id] = (ask.interest.number, window)
        for number, window in found.values():
            self._windows.setdefault(number, []).append(window)

    def plan(self, hits: Hits) -> Plan:
        """Return what an event that satisfies *hits* sets in motion."""
        plan = self.plans.get(hits)
        if plan is None:
            if len(self.plans) >= PLANS_MAX:
                self.plans.clear()
            plan = self.plans[hits] = self._make_plan(hits)
        return plan

    def _make_plan(self, hits: Hits) -> Plan:
        windows = tuple(window for number in hits for window in self._windows.get(number, ()))
        by_program: dict[int, list[Alternative]] = {}
        for number in hits:
            for order, alternative in self._alternatives.get(number, ()):
                by_program.setdefault(order, []).append(alternative)
        triggers = tuple((self.entering[order], tuple(found)) for order, found in sorted(by_program.items()))
        return Plan(windows, triggers)

    def program(self, flow: str, version: int) -> Program:
        """Return the program of a journey; a state whose journeys lack theirs is refused before it runs."""
        return self.programs[(flow, version)]

    def due_of(self, user: User, paused: Sequence[str] | None = None) -> int:
        """Return when *user* has to be looked at: at the earliest wake-up in a flow that is not paused.

        Without any journey it is when what is remembered of the user can go; `NEVER` for none of both.

        Args:
            paused: the labels of the flow versions that stand still; None for those of this deployment.
        """
        journeys = user.journeys
        if not journeys:
            day = user.day  # As `Memory.due`, without a call per event.
            return day * DAY if day and (user.seen or user.windows or user.entries) else NEVER
        if paused is None:
            paused = self.paused
        due = NEVER
        for journey in journeys:
            if paused and f"{journey.flow}\x1f{journey.version}" in paused:
                continue
            for branch in journey.branches:
                if branch.wake_ms < due:  # noqa: PLR1730 - a call of min() per branch shows in profiles.
                    due = branch.wake_ms
        return due


def _entering(programs: list[Program]) -> list[Program]:
    """Return, per flow, the version in which journeys start: the highest live one, else the highest paused one."""
    best: dict[str, Program] = {}
    for program in programs:
        if program.state not in ("live", "paused"):
            continue
        other = best.get(program.name)
        rank = (program.state == "live", program.version)
        if other is None or rank > (other.state == "live", other.version):
            best[program.name] = program
    return list(best.values())
