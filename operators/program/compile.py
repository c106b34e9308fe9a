"""Compile a flow file into a program, and note every problem that only the whole flow shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from operators.caps import reaches_of
from operators.conditions.base import Clause, identity
from operators.conditions.wanted import Wanted
from operators.conditions.where import where_field
from operators.ids import experiment_name, label_of
from operators.language.flow import Entry, ExitRule, Flow
from operators.language.localtime import zone_of
from operators.language.model import checked, keys_of, sound_part
from operators.language.problems import BadValue, Path, Problems
from operators.language.workspace import Workspace
from operators.program.audiences import KnownAudiences
from operators.program.doubts import Doubts
from operators.program.paths import check_paths
from operators.program.program import EntryRules, Exit, Goal, Program, Tally
from operators.steps import KINDS
from operators.steps.base import Node
from operators.steps.build import Build
from operators.steps.experiment import ExperimentStep
from operators.triggers import build_trigger
from operators.triggers.audience import Runs

_NOT_CONTENT: Final = ("flow", "version", "state", "title", "description", "owner", "labels")


def compile_flow(
    problems: Problems, workspace: Workspace, audiences: KnownAudiences, doubts: Doubts | None = None
) -> Program | None:
    """Return the program of the flow file behind *problems*, or None after noting every problem.

    Args:
        audiences: told which ones the flow asks for and adds to.
        doubts: also notes what is allowed and most likely a mistake.
    """
    raw = problems.document.data
    flow = checked(Flow, raw, (), problems)
    if not isinstance(raw, dict):
        return None
    if flow is None:
        flow = _sound_part(raw, problems)
    zone = zone_of(flow.timezone) or ZoneInfo("UTC")
    build = Build(workspace, problems, KINDS, zone)
    first = build.flow_steps(flow.steps)
    triggers = build_trigger(flow, build)
    rules = _entry_rules(flow.entry, build)
    exits = [Exit(build.wanted(rule, "exit", index), rule.goal, rule.label) for index, rule in _exit_rules(flow, raw)]
    active_from, active_until = (
        None if written is None else build.moment(written, "active", name)
        for name, written in (("from", flow.active.from_), ("until", flow.active.until))
    )
    if active_from is not None and active_until is not None and active_from >= active_until:
        problems.add(("active",), "impossible-condition", "'from' is not before 'until'", "nobody could ever enter")
    if not build.has_too_many and not problems.is_full:
        check_paths(first, build.nodes, problems, is_lost=build.is_lost)
    audiences.note(problems, build.asked, build.added)
    if doubts is not None:
        doubts.look_at(problems, build.nodes.values(), active_from=active_from, active_until=active_until)
    if problems.has_errors:
        return None
    tallies, tally_names = _tallies(build.clauses)
    return Program(
        name=flow.flow,
        version=flow.version,
        state=flow.state,
        title=flow.title or flow.flow,
        priority=flow.priority,
        zone=zone,
        active_from=active_from,
        active_until=active_until,
        key_path=_key_path(flow.entry),
        entry_rules=rules,
        channels=tuple(build.channels.values()),
        alternatives=() if isinstance(triggers, Runs) else tuple(triggers),
        runs=triggers if isinstance(triggers, Runs) else None,
        exits=tuple(exits),
        first=first,
        nodes=build.nodes,
        lanes=tuple(build.lanes),
        wants=tuple(build.wants),
        windows=tuple((clause, wanted) for clause, wanted in build.clauses if clause.within is not None),
        cap_reaches=reaches_of(workspace),
        tallies=tuple(tallies),
        tally_names=tally_names,
        hears=frozenset(_heard_by(build.nodes.values(), exits, tallies)),
        sends=tuple(node.id for node in build.nodes.values() if node.step.kind == "send"),
        asked=_asked(build.nodes.values()),
        goals=tuple(_goals(flow.flow, build.nodes.values(), problems.document.marks)),
        content=content_hash(raw, {**build.local_moments, **build.orders, **build.late_orders}),
        content_unordered=content_hash(raw, {**build.local_moments, **build.orders}),
        content_in_utc=content_hash(raw, build.orders),
        label=label_of(flow.flow, flow.version),
        is_paused=flow.state == "paused",
    )


def content_hash(raw: dict[str, Any], beside: Mapping[Path, int | list[str]]) -> str:
    """Return what identifies what a flow does: its data without the keys that are for people, and without its state.

    Args:
        beside: what the data does not say, by path: what moments mean that would be others in UTC, and the order of
            keys where that says something.
    """
    kept: Any = {key: value for key, value in raw.items() if key not in _NOT_CONTENT}
    if beside:
        kept = [kept, {".".join(map(str, path)): said for path, said in beside.items()}]
    dumped = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.blake2b(dumped, digest_size=12).hexdigest()


def _sound_part(raw: dict[str, Any], problems: Problems) -> Flow:
    """Return the flow without the keys that are wrong, so that the problems of the others are told in the same go."""
    wrong = {problem.path.partition(".")[0] for problem in problems.found if problem.severity == "error"}
    known = keys_of(Flow)
    kept = {key: value for key, value in raw.items() if key in known and key not in wrong}
    if "entry" in wrong and (entry := sound_part(Entry, raw.get("entry"))) is not None:
        kept["entry"] = entry
    return Flow.model_validate({"flow": "unnamed", "trigger": None, "steps": [], **kept})


def _exit_rules(flow: Flow, raw: dict[str, Any]) -> Iterator[tuple[int, ExitRule]]:
    """Yield the sound rules with their places in the list."""
    written = raw.get("exit")
    if flow.exit or not isinstance(written, list):
        yield from enumerate(flow.exit)
        return
    for index, one in enumerate(written):
        if (rule := sound_part(ExitRule, one)) is not None:
            yield index, rule


def _key_path(entry: Entry) -> tuple[str, ...] | None:
    if entry.key is None:
        return None
    try:
        return where_field(entry.key)[1]
    except BadValue:
        return (entry.key,)


def _entry_rules(entry: Entry, build: Build) -> EntryRules:
    written = "when" in entry.model_fields_set
    when = build.when(entry.when, "entry", "when", at_entry=True) if written else None
    holdout = 0.0 if entry.holdout is None else float(entry.holdout / 100)
    return EntryRules(when, entry.reentry, entry.concurrent, holdout, entry.limit)


def _tallies(clauses: list[tuple[Clause, Wanted]]) -> tuple[list[Tally], dict[Clause, str]]:
    """Return what journeys count for themselves, and which of it answers which clause."""
    tallies: dict[str, Tally] = {}
    names: dict[Clause, str] = {}
    for clause, wanted in clauses:
        if clause.within is None:
            # Named by what it counts, so that an edit which only moves a step leaves the count of open journeys alone.
            text = f"{wanted.interest}\x1f{identity(wanted.live)}"
            name = names[clause] = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
            tallies.setdefault(name, Tally(name, wanted))
    return list(tallies.values()), names


def _asked(nodes: Iterable[Node]) -> dict[str, frozenset[str]]:
    """Return the statuses that steps ask for, by the step that sends."""
    found: dict[str, frozenset[str]] = {}
    for node in nodes:
        for step, status in node.step.asks():
            found[step] = found.get(step, frozenset()) | {status}
    return found


def _goals(flow: str, nodes: Iterable[Node], marks: Mapping[Path, tuple[int, int]]) -> Iterator[Goal]:
    for node in sorted(nodes, key=lambda node: marks.get(node.path, (0, 0))):  # As they are written.
        if isinstance(node.step, ExperimentStep):
            yield Goal(experiment_name(flow, node.id), node.id, node.step.goal, node.step.within_ms)


def _heard_by(nodes: Iterable[Node], exits: Iterable[Exit], tallies: Iterable[Tally]) -> Iterator[str]:
    for node in nodes:
        yield from node.step.hears()
    for rule in exits:
        yield rule.wanted.event
    for tally in tallies:
        yield tally.wanted.event
