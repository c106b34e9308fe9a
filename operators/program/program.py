"""A program: one version of one flow, compiled, ready to run. Nothing in it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from operators.conditions.base import Clause, Condition
from operators.conditions.wanted import Wanted
from operators.language.channels import Channel
from operators.language.flow import ReentryAfter, ReentryAtMost
from operators.steps.base import Lane, Node
from operators.triggers.audience import Runs
from operators.triggers.event import Alternative


@dataclass(frozen=True, slots=True)
class Exit:
    """An event that ends a journey."""

    wanted: Wanted
    goal: bool
    label: str | None


@dataclass(frozen=True, slots=True)
class EntryRules:
    """Who may enter; times in ms, `holdout` a share from 0 to 1, `limit` the most entries over all users."""

    when: Condition | None
    reentry: str | ReentryAfter | ReentryAtMost
    concurrent: int
    holdout: float
    limit: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """What each journey counts for itself (`did .. since: entry`), under a name that follows from what it counts."""

    name: str
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Goal:
    """What counts as success of an experiment: an event within so many ms of a user's first passage.

    `experiment` names it over all versions of the flow: `<flow> 0x1F <step>`.
    """

    experiment: str
    step: str
    wanted: Wanted
    within_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One version of one flow.

    `label` is what counts and reports call it: `<flow> 0x1F <version>`. `lanes` are known by their numbers. `key_path`
    is where a trigger event has the entry key, None for a flow without one. `alternatives` are the events that
    start journeys, `runs` what does over audiences, None for a flow that is started by events. `channels` are those
    that it sends to. `tallies` are what each journey counts; `tally_names` says which of them answers a clause.
    `windows` are the clauses that the user's rolling windows answer. `cap_reaches` says how far back (ms) caps ask
    for messages, per channel and over all; it is the same for all flows of a workspace. `wants` has every event
    that the flow wants, `hears` the names of those that an open journey may want, `goals` those of its experiments.
    `sends` are the ids of the steps that send, `asked` are those of them that others ask for results of, with the
    statuses that these want to know.
    `content` identifies what the flow does: title, owner and state aside. `content_in_utc` does, too, but takes
    moments without an offset for UTC, as they were read once; it is another one only where that makes a difference.
    Neither it nor `content_unordered` says in which order labels of a `wait_for` stand; once none did.
    """

    name: str
    version: int
    state: str
    title: str
    priority: int
    zone: ZoneInfo
    active_from: int | None
    active_until: int | None
    key_path: tuple[str, ...] | None
    entry_rules: EntryRules
    channels: tuple[Channel, ...]
    alternatives: tuple[Alternative, ...]
    runs: Runs | None
    exits: tuple[Exit, ...]
    first: Node | None
    nodes: dict[str, Node]
    lanes: tuple[Lane, ...]
    wants: tuple[Wanted, ...]
    windows: tuple[tuple[Clause, Wanted], ...]
    cap_reaches: Mapping[str, int]
    tallies: tuple[Tally, ...]
    tally_names: dict[Clause, str]
    hears: frozenset[str]
    sends: tuple[str, ...]
    asked: dict[str, frozenset[str]]
    goals: tuple[Goal, ...]
    content: str
    content_unordered: str
    content_in_utc: str
    label: str
    is_paused: bool

    @property
    def asks(self) -> bool:
        """Whether it asks the register anything."""
        return bool(self.goals) or self.entry_rules.limit is not None

    def __repr__(self) -> str:
        return f"{self.name} v{self.version}"
