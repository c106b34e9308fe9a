"""A deployment: all flows that run together, with one match index, one set of counters and one order of priority."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from operators.conditions.base import Condition
from operators.conditions.index import Hits, MatchIndex
from operators.conditions.wanted import Wanted
from operators.ids import label_of
from operators.language.schedule import Schedule
from operators.language.values import DAY
from operators.machine.memory import Memory
from operators.program.program import Goal, Program
from operators.triggers.event import Alternative
from state.user import NEVER, User

REACTIONS_MAX: Final = 20_000  # Distinct sets of interests that events satisfy; a few hundred in practice.


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window that `did` conditions ask: what enters it, how many times it keeps, how far back it reaches."""

    id: str
    live: Condition | None
    keep: int
    reach_ms: int
    program: Program


@dataclass(frozen=True, slots=True)
class Reaction:
    """What an event that satisfies a certain set of interests sets in motion."""

    satisfied: frozenset[str]
    windows: tuple[Window, ...]
    triggers: tuple[tuple[Program, tuple[Alternative, ...]], ...]
    goals: tuple[tuple[Program, Goal], ...]


class Deployment:
    """All programs that run together.

    `programs` has every version that is not a draft, by (flow, version); `entering` the one version per flow that new
    journeys start in, by priority downwards, then name. The numbers that the match index gives to interests belong to
    the deployment: programs know interests by what they are.
    """

    def __init__(self, programs: Iterable[Program]) -> None:
        running = [program for program in programs if program.state != "draft"]
        self.programs = {(program.name, program.version): program for program in running}
        self.entering = sorted(_entering(running), key=lambda program: (-program.priority, program.name))
        self.entering_by_name = {program.name: program for program in self.entering}
        self.scheduled = [program for program in self.entering if program.runs is not None]
        """Those in which users enter by runs over audiences."""
        self.watched: dict[str, list[Schedule]] = {}
        """The audiences of which a run asks whether they were updated, and the schedules of these runs."""
        for program in self.scheduled:
            if program.runs is not None and program.runs.skips_unchanged:
                for audience in program.runs.audiences:
                    self.watched.setdefault(audience, []).append(program.runs.schedule)
        self.topics = {channel.name: channel.topic for program in running for channel in program.channels}
        """The topic of every channel that a flow in force sends to."""
        self.asks_for_receipts = any(_asks_for_receipts(program, self.topics) for program in running)
        """Whether a flow asks what became of messages: by a step, or by an event that is a receipt."""
        self.paused = sorted(program.label for program in running if program.is_paused)
        self.reactions: dict[Hits, Reaction] = {}
        """What `reaction` has answered before."""
        interests = _interests(running, set(self.entering))
        self._interests = list(interests)
        self.index = MatchIndex((wanted.event, wanted.fixed) for wanted in interests.values())
        windows = _windows(running)
        self._windows: dict[str, list[Window]] = {}
        for interest, window in windows:
            self._windows.setdefault(interest, []).append(window)
        self._alternatives: dict[str, list[tuple[int, Alternative]]] = {}
        for order, program in enumerate(self.entering):
            for alternative in program.alternatives:
                self._alternatives.setdefault(alternative.wanted.interest, []).append((order, alternative))
        self.asks = any(program.asks for program in running)
        """Whether flows ask what no single user decides."""
        self._goals: dict[str, list[tuple[Program, Goal]]] = {}
        self._judges: dict[tuple[str, int], Program] = {}
        self._newest_judges: dict[str, Program] = {}
        for program in sorted(running, key=lambda one: (-one.priority, one.name, one.version)):
            for goal in program.goals:
                self._goals.setdefault(goal.wanted.interest, []).append((program, goal))
                self._judges[(goal.experiment, program.version)] = program
                self._newest_judges[goal.experiment] = program
        reaches: dict[str, int | None] = {window.id: window.reach_ms for _, window in windows}
        for program in self.entering:
            reaches.update({alternative.counter: alternative.within for alternative in program.alternatives})
        goals: dict[str, int] = {}
        for goal in (goal for program in running for goal in program.goals):
            goals[goal.experiment] = max(goal.within_ms, goals.get(goal.experiment, 0))
        sends = {counts: reach for program in running for counts, reach in program.cap_reaches.items()}
        self.memory = Memory(running, self.entering_by_name, reaches, sends, goals)

    def reaction(self, hits: Hits) -> Reaction:
        """Return what an event with these *hits* of the match index sets in motion."""
        reaction = self.reactions.get(hits)
        if reaction is None:
            if len(self.reactions) >= REACTIONS_MAX:
                self.reactions.clear()
            reaction = self.reactions[hits] = self._react(hits)
        return reaction

    def _react(self, hits: Hits) -> Reaction:
        satisfied = [self._interests[number] for number in hits]
        windows = tuple(window for interest in satisfied for window in self._windows.get(interest, ()))
        by_program: dict[int, list[Alternative]] = {}
        for interest in satisfied:
            for order, alternative in self._alternatives.get(interest, ()):
                by_program.setdefault(order, []).append(alternative)
        triggers = tuple((self.entering[order], tuple(found)) for order, found in sorted(by_program.items()))
        goals = tuple(one for interest in satisfied for one in self._goals.get(interest, ()))
        return Reaction(frozenset(satisfied), windows, triggers, goals)

    def judge(self, experiment: str, version: int) -> Program | None:
        """Return the program whose goal counts for a user who passed *experiment* in *version*.

        Versions go when nobody is inside any more, and users may still convert: then by the newest that has the step.
        """
        return self._judges.get((experiment, version)) or self._newest_judges.get(experiment)

    def program(self, flow: str, version: int) -> Program:
        """Return the program of a journey; a state whose journeys lack theirs is refused before it runs."""
        return self.programs[(flow, version)]

    @staticmethod
    def due_of(user: User, without: Sequence[str] = ()) -> int:
        """Return when *user* has to be looked at: at the earliest wake-up, whether its flow is paused or not.

        Without any journey it is when what is remembered of the user can go; `NEVER` for none of both.

        Args:
            without: the labels of flow versions to leave out: in states of format 1 those that were paused.
        """
        journeys = user.journeys
        if not journeys:
            day = user.day  # As `Memory.due`, without a call per event.
            if not day:
                return NEVER
            return day * DAY if user.seen or user.windows or user.entries or user.sends or user.trials else NEVER
        due = NEVER
        for journey in journeys:
            if without and label_of(journey.flow, journey.version) in without:
                continue
            for branch in journey.branches:
                if branch.wake_ms < due:  # noqa: PLR1730 - a call of min() per branch shows in profiles.
                    due = branch.wake_ms
        return due


def _asks_for_receipts(program: Program, channels: Iterable[str]) -> bool:
    starts = tuple(f"${channel}_" for channel in channels)
    return bool(program.asked) or any(wanted.event.startswith(starts) for wanted in program.wants)


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


def _interests(running: Iterable[Program], entering: set[Program]) -> dict[str, Wanted]:
    """Return one of those who want it for each interest; what the match index calls its number is its place here."""
    found: dict[str, Wanted] = {}
    for program in running:
        triggers = {id(alternative.wanted) for alternative in program.alternatives}
        for wanted in program.wants:
            if id(wanted) in triggers and program not in entering:
                continue  # Nobody enters there, so nobody is interested in its trigger.
            found.setdefault(wanted.interest, wanted)
    return found


def _windows(running: Iterable[Program]) -> list[tuple[str, Window]]:
    """Return every rolling window with the interest that enters it; who asks the same of it shares it."""
    found: dict[str, tuple[str, Window]] = {}
    for program in running:
        for clause, wanted in program.windows:
            keep, reach = clause.enough, clause.within or 0
            if clause.window_id in found:
                other = found[clause.window_id][1]
                keep, reach = max(keep, other.keep), max(reach, other.reach_ms)
            window = Window(clause.window_id, wanted.live, keep, reach, program)
            found[clause.window_id] = (wanted.interest, window)
    return list(found.values())
