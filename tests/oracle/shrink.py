"""Make a failing random case small enough to read."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from tests.oracle.generate import Case, Json, is_sound, jumps_in
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
            yield Case(case.flows[:number] + case.flows[number + 1 :], case.lines, case.until_ms)
    filled = [number for number, line in enumerate(case.lines) if line]
    size = len(filled) // 2
    while size:
        for start in range(0, len(filled), size):
            gone = set(filled[start : start + size])
            lines = [b"" if number in gone else line for number, line in enumerate(case.lines)]
            yield Case(case.flows, lines, case.until_ms)
        size //= 2
    if case.lines and not case.lines[-1]:
        yield Case(case.flows, case.lines[:-1], case.until_ms)
    for number, flow in enumerate(case.flows):
        for simpler in simpler_flows(flow):
            yield Case([*case.flows[:number], simpler, *case.flows[number + 1 :]], case.lines, case.until_ms)
    if case.until_ms is not None:
        yield Case(case.flows, case.lines, None)


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
                for name in ("branch", "then", "steps", "else"):
                    if name in step:
                        inside = (*path, position, name)
                        yield from places(step[name], inside, of_steps=name in ("steps", "else"))
    elif isinstance(value, dict):
        for label, steps in value.items():
            yield from places(steps, (*path, label))


def is_valid(flow: Json) -> bool:
    taken_apart = take_apart(flow)
    if any(jump["goto"] not in taken_apart.steps for jump in jumps_in(flow["steps"])):
        return False
    return is_sound(taken_apart, loops_on_time=True)
