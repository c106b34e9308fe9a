"""Make a failing random case small enough to read."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.oracle.generate import Case, Json, in_written_order, is_sound, jumps_in, may_be_asked
from tests.oracle.program import take_apart

OPTIONAL = ["active", "entry", "exit", "priority", "state", "timezone", "version"]


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Take away flows, parts of flows and lines of *case* as long as it *fails*; return what is left.

    Lines become blank before they go, so that the default ids of the others stay. Every flow stays valid.
    """
    assert fails(case)
    smaller = True
    while smaller:
        smaller = False
        for attempt in attempts(case):
            if fails(attempt):
                case, smaller = attempt, True
                break
    return case


def attempts(case: Case) -> Iterator[Case]:
    """Cases with something less, the biggest pieces first."""
    for number in range(len(case.flows)):
        if len(case.flows) > 1:
            yield replace(case, flows=case.flows[:number] + case.flows[number + 1 :])
    filled = [number for number, line in enumerate(case.lines) if line]
    size = len(filled) // 2
    while size:
        for start in range(0, len(filled), size):
            gone = set(filled[start : start + size])
            lines = [b"" if number in gone else line for number, line in enumerate(case.lines)]
            yield replace(case, lines=lines)
        size //= 2
    if case.lines and not case.lines[-1]:
        yield replace(case, lines=case.lines[:-1])
    for number, flow in enumerate(case.flows):
        for simpler in simpler_flows(flow):
            yield replace(case, flows=[*case.flows[:number], simpler, *case.flows[number + 1 :]])
    if case.until_ms is not None:
        yield replace(case, until_ms=None)
    for simpler in simpler_mappings(case.config):
        yield replace(case, config=simpler)


def simpler_mappings(given: Json) -> Iterator[Json]:
    """The mapping without each of its parts, and with each part simpler."""
    for name, value in given.items():
        rest = {key: other for key, other in given.items() if key != name}
        yield rest
        if isinstance(value, dict) and name in ("channels", "sms", "email", "push", "webhook"):
            for simpler in simpler_mappings(value):
                yield given | {name: simpler}


def simpler_flows(flow: Json) -> Iterator[Json]:
    for name in OPTIONAL:
        if name in flow:
            yield {key: value for key, value in flow.items() if key != name}
    for name in flow.get("entry") or {}:
        entry = {key: value for key, value in flow["entry"].items() if key != name}
        yield (flow | {"entry": entry} if entry else {key: value for key, value in flow.items() if key != "entry"})
    for path, position in places(flow["steps"]):
        simpler = copy.deepcopy(flow)
        steps = simpler["steps"]
        for key in path:
            steps = steps[key]
        del steps[position]
        if simpler["steps"] and is_valid(simpler):
            yield simpler


def places(value: Any, path: tuple[Any, ...] = (), *, of_steps: bool = True) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Where each step stands: the path to its list, and its position there."""
    if isinstance(value, list):
        for position, step in enumerate(value):
            if of_steps:
                yield path, position
            if isinstance(step, dict):
                for name in ("branch", "then", "steps", "else", "parallel", "times"):
                    if name in step:
                        inside = (*path, position, name)
                        if name == "parallel":
                            for number, arm in enumerate(step[name]):
                                yield from places(arm, (*inside, number))
                        else:
                            yield from places(step[name], inside, of_steps=name in ("steps", "else"))
    elif isinstance(value, dict):
        for label, steps in value.items():
            yield from places(steps, (*path, label))


def is_valid(flow: Json) -> bool:
    taken_apart = take_apart(flow)
    steps = taken_apart.steps
    for jump in jumps_in(flow["steps"]):
        own = next(one for one in steps.values() if one.written is jump)
        if jump["goto"] not in steps or steps[jump["goto"]].border != own.border:
            return False
    before = []
    for one, arms in in_written_order(flow["steps"]):
        if "send" in one:
            before.append((next(step.id for step in steps.values() if step.written is one), arms))
        elif "result_of" in one and not any(
            name == one["result_of"] and may_be_asked(others, arms) for name, others in before
        ):
            return False
    return is_sound(taken_apart, loops_on_time=True)
