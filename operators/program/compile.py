"""A program: one version of one flow, compiled, with every problem that only the whole flow shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from operators.conditions.tree import Condition, key_text, where_field
from operators.conditions.when import Clause
from operators.language.flow import (
    COUNTED_MAX,
    Entry,
    Flow,
    ReentryAfter,
    ReentryAtMost,
    Trigger,
    TriggerAny,
    Workspace,
    checked,
)
from operators.language.localtime import zone_of
from operators.language.problems import PROBLEMS_MAX, BadValue, Problems
from operators.machine.outbox import Outbox
from operators.program.build import Ask, Build
from operators.steps.base import Node

LOOP_SHOWN_MAX: Final = 12  # Steps of an endless loop that are named.

_NOT_CONTENT: Final = ("flow", "version", "state", "title", "description", "owner", "labels")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One event that can start a journey, and how often it must come.

    `counter` names the user's counter, "" when every such event fires; `within` is its window in ms, None for none.
    """

    ask: Ask
    at_least: int
    within: int | None
    counter: str


@dataclass(frozen=True, slots=True)
class Exit:
    """An event that ends a journey."""

    ask: Ask
    goal: bool
    label: str | None


@dataclass(frozen=True, slots=True)
class EntryRules:
    """Who may enter; times in ms, `holdout` a share from 0 to 1."""

    when: Condition | None
    reentry: str | ReentryAfter | ReentryAtMost
    concurrent: int
    holdout: float


class Program:
    """One version of one flow, ready to run.

    `key_path` is where a trigger event has the entry key, None for a flow without one. `tallies` are the events that
    each journey counts for itself (`did .. since: entry`), under the names of `tally_keys`. `hears` has the names of
    all events that an open journey may want. `content` identifies what the flow does: title, owner and state aside.
    """

    def __init__(self, flow: Flow, raw: dict[str, Any], build: Build, first: Node | None) -> None:
        self.name = flow.flow
        self.version = flow.version
        self.state = flow.state
        self.title = flow.title or flow.flow
        self.priority = flow.priority
        self.label = f"{flow.flow}\x1f{flow.version}"
        self.zone = zone_of(flow.timezone) or ZoneInfo("UTC")
        self.active_from = flow.active.from_
        self.active_until = flow.active.until
        self.first = first
        self.nodes = build.nodes
        self.key_path = _key_path(flow.entry)
        self.alternatives: list[Alternative] = []
        self.exits: list[Exit] = []
        self.rules = EntryRules(None, "always", 1, 0.0)
        self.tally_keys: dict[Clause, str] = {}
        self.tallies: list[tuple[str, Ask]] = []
        self.windows: list[tuple[Clause, Ask]] = []
        self.hears: frozenset[str] = frozenset()
        self.asks = build.asks
        self.content = content_hash(raw)

    @property
    def is_paused(self) -> bool:
        return self.state == "paused"

    def tally(self, out: Outbox, what: str) -> None:
        """Count *what* for this version of the flow."""
        out.count(self.label, what)

    def __repr__(self) -> str:
        return f"{self.name} v{self.version}"


def content_hash(raw: dict[str, Any]) -> str:
    """Return what identifies what a flow does: its data without the keys that are for people, and without its state."""
    kept = {key: value for key, value in raw.items() if key not in _NOT_CONTENT}
    dumped = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.blake2b(dumped, digest_size=12).hexdigest()


def compile_flow(problems: Problems, workspace: Workspace) -> Program | None:
    """Return the program of the flow file behind *problems*, or None after noting every problem."""
    raw = problems.source.data
    flow = checked(Flow, raw, (), problems)
    if not isinstance(raw, dict):
        return None
    if flow is None:
        flow = _sound_part(raw, problems)
    build = Build(flow, workspace, problems)
    program = Program(flow, raw, build, build.program_steps())
    _add_trigger(program, flow, build)
    program.rules = _entry_rules(flow.entry, build)
    program.exits = [
        Exit(build.ask(rule, "exit", index), rule.goal, rule.label) for index, rule in enumerate(flow.exit)
    ]
    _add_clauses(program, build)
    program.hears = frozenset(_heard_by(program))
    if flow.active.from_ is not None and flow.active.until is not None and flow.active.from_ >= flow.active.until:
        problems.add(("active",), "impossible-condition", "'from' is not before 'until'", "nobody could ever enter")
    if not problems.has_errors:
        _check_paths(program, problems)
    return None if problems.has_errors else program


def _sound_part(raw: dict[str, Any], problems: Problems) -> Flow:
    """Return the flow without the keys that are wrong, so that the problems of the others are told in the same go."""
    wrong = {problem.path.partition(".")[0] for problem in problems.found}
    known = {field.alias or name for name, field in Flow.model_fields.items()}
    kept = {key: value for key, value in raw.items() if key in known and key not in wrong}
    return Flow.model_validate({"flow": "unnamed", "trigger": None, "steps": [], **kept})


def _key_path(entry: Entry) -> tuple[str, ...] | None:
    if entry.key is None:
        return None
    try:
        return where_field(entry.key)[1]
    except BadValue:
        return (entry.key,)


def _add_trigger(program: Program, flow: Flow, build: Build) -> None:
    raw = flow.trigger
    if raw is None:
        if build.problems.has_errors:
            return  # It is missing, or wrong in a way that has been told.
        build.problems.add(("trigger",), "wrong-type", "a trigger names an event", "write {event: add_to_cart}")
        return
    if isinstance(raw, dict) and "audience" in raw:
        message = "a trigger on audiences is part of the language, but this version cannot run it yet"
        build.problems.add(("trigger", "audience"), "not-yet-supported", message, at_key=True)
        return
    listed: list[tuple[tuple[str | int, ...], Trigger]] = []
    if isinstance(raw, dict) and "any" in raw and "event" not in raw:
        several = build.checked(TriggerAny, raw, "trigger")
        listed = [(("trigger", "any", index), one) for index, one in enumerate(several.any)] if several else []
    else:
        single = build.checked(Trigger, raw, "trigger")
        listed = [(("trigger",), single)] if single else []
    for place, trigger in listed:
        ask = build.ask(trigger, *place, templates=False)
        if trigger.count is None:
            program.alternatives.append(Alternative(ask, 1, None, ""))
            continue
        if trigger.count.within is not None and trigger.count.at_least > COUNTED_MAX:
            message = f"a window counts up to {COUNTED_MAX}, not up to {trigger.count.at_least}"
            build.problems.add((*place, "count", "at_least"), "out-of-range", message, "ask for fewer")
            continue
        what = [
            flow.flow,
            ask.interest.key,
            key_text(ask.live),
            trigger.count.at_least,
            trigger.count.within,
            flow.entry.key,
        ]
        counter = "t" + hashlib.blake2b(orjson.dumps(what), digest_size=6).hexdigest()
        while any(counter == other.counter for other in program.alternatives):
            counter += "+"  # Two alternatives that ask the same have a counter each.
        program.alternatives.append(Alternative(ask, trigger.count.at_least, trigger.count.within, counter))


def _entry_rules(entry: Entry, build: Build) -> EntryRules:
    written = "when" in entry.model_fields_set
    when = build.when(entry.when, "entry", "when", at_entry=True) if written else None
    holdout = 0.0 if entry.holdout is None else float(entry.holdout / 100)
    return EntryRules(when, entry.reentry, entry.concurrent, holdout)


def _add_clauses(program: Program, build: Build) -> None:
    for clause, ask in build.clauses:
        if clause.within is not None:
            program.windows.append((clause, ask))
        else:
            # Named by what it counts, so that an edit which only moves a step leaves the count of open journeys alone.
            text = f"{ask.interest.key}\x1f{key_text(ask.live)}"
            name = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
            program.tally_keys[clause] = name
            if all(known != name for known, _ in program.tallies):
                program.tallies.append((name, ask))


def _heard_by(program: Program) -> Iterator[str]:
    for node in program.nodes.values():
        yield from node.step.hears()
    for rule in program.exits:
        yield rule.ask.interest.event
    for _, ask in program.tallies:
        yield ask.interest.event


# ---- ways through the steps ----------------------------------------------------------------------------------------


def _check_paths(program: Program, problems: Problems) -> None:
    """Note steps that no journey reaches, and loops on which nothing waits."""
    reached: set[Node] = set()
    todo = [program.first] if program.first is not None else []
    while todo:
        node = todo.pop()
        if node in reached:
            continue
        reached.add(node)
        todo.extend(following for following in node.step.ways(node) if following is not None)
    dead = [node for node in program.nodes.values() if node not in reached]
    inside = {following for node in dead for following in node.step.ways(node) if following is not node}
    for node in dead:
        if node not in inside:  # Only where a dead part begins is worth a message.
            hint = "remove it, or let a step lead here"
            problems.add(node.path, "unreachable-step", f"no way leads to '{node.id}'", hint)
    order = {node: number for number, node in enumerate(sorted(program.nodes.values(), key=_document_order))}
    for found in _loops(program):
        first = min(range(len(found)), key=lambda index: order[found[index]])
        loop = found[first:] + found[:first]
        names = [node.id for node in loop]
        if len(names) > LOOP_SHOWN_MAX:
            names[LOOP_SHOWN_MAX - 1 : -1] = ["..."]
        way = " -> ".join([*names, names[0]])
        hint = "put a wait on it, or end one of these paths"
        problems.add(loop[0].path, "endless-loop", f"{way}: nothing on this loop waits", hint)


def _document_order(node: Node) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in node.path)


def _loops(program: Program) -> list[list[Node]]:
    """Return one loop for each knot of steps on which nothing waits; no more than anybody is told of."""
    found: list[list[Node]] = []
    done: set[Node] = set()
    for start in program.nodes.values():
        if start in done or start.step.holds or len(found) >= PROBLEMS_MAX:
            continue
        path: list[Node] = []
        on_path: dict[Node, int] = {}
        stack: list[tuple[Node, Iterator[Node | None]]] = [(start, start.step.ways(start))]
        path.append(start)
        on_path[start] = 0
        while stack:
            node, ways = stack[-1]
            following = next(ways, _DONE)
            if following is _DONE:
                stack.pop()
                path.pop()
                del on_path[node]
                done.add(node)
            elif isinstance(following, Node) and not following.step.holds:
                if following in on_path:
                    if len(found) >= PROBLEMS_MAX:
                        continue
                    found.append(path[on_path[following] :])
                elif following not in done:
                    stack.append((following, following.step.ways(following)))
                    on_path[following] = len(path)
                    path.append(following)
    return found


_DONE: Final = object()
