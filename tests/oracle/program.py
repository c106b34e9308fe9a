"""A flow taken apart: every step under its id, with the step that comes after it and the first of each nested
list.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.oracle.conditions import did_clauses
from tests.oracle.values import share

KINDS = (
    "send",
    "set",
    "audience",
    "wait",
    "wait_for",
    "branch",
    "result_of",
    "split",
    "experiment",
    "parallel",
    "times",
    "goto",
    "end",
)
WITH_THEN = ("wait_for", "result_of", "split", "experiment")
Border = tuple[tuple[str, int], ...]  # The forks around a step, each with the number of the arm.


@dataclass
class Step:
    id: str
    kind: str
    written: dict[str, Any]
    after: str | None  # The id of the step that runs after this one; None: the flow, or the arm around it, is over.
    border: Border
    first_of: dict[str, str | None] = field(default_factory=dict)  # Per nested list: where it begins.


@dataclass
class Flow:
    """One version of a flow, with the defaults of the top level."""

    written: dict[str, Any]
    steps: dict[str, Step] = field(default_factory=dict)
    first: str | None = None
    id_of: dict[str, str] = field(default_factory=dict)  # By path.
    clauses: list[dict[str, Any]] = field(default_factory=list)  # All `did` of branches.

    @property
    def name(self) -> str:
        return str(self.written["flow"])

    @property
    def version(self) -> int:
        return int(self.written.get("version", 1))

    @property
    def state(self) -> str:
        return str(self.written.get("state", "live"))

    @property
    def priority(self) -> int:
        return int(self.written.get("priority", 0))

    @property
    def entry(self) -> dict[str, Any]:
        return self.written.get("entry") or {}

    @property
    def key(self) -> str | None:
        return self.entry.get("key")

    @property
    def holdout(self) -> Fraction:
        return share(self.entry.get("holdout", "0%"))

    @property
    def alternatives(self) -> list[dict[str, Any]]:
        """Trigger: "`{event, where?, count?}`, or `any: [..]` of up to 8 of them"; none for audiences."""
        trigger = self.written["trigger"]
        if "audience" in trigger:
            return []
        return trigger.get("any", [trigger])  # type: ignore[no-any-return]

    @property
    def audiences(self) -> list[str]:
        """Trigger: "`{audience: [a, b], schedule: {..}, skip_unchanged?: false}`"; none for events."""
        return list(self.written["trigger"].get("audience", []))


def take_apart(written: dict[str, Any]) -> Flow:
    flow = Flow(written)
    flow.first = add_list(flow, written["steps"], "steps", None, ())
    by_path = dict(flow.steps)  # Paths first; then the ids that authors gave.
    name_of = flow.id_of = {path: step.id for path, step in by_path.items()}
    flow.steps = {step.id: step for step in by_path.values()}
    assert len(flow.steps) == len(by_path), "ids are unique in a flow"
    for step in flow.steps.values():
        step.after = name_of[step.after] if step.after else None
        step.first_of = {label: name_of[path] if path else None for label, path in step.first_of.items()}
    flow.first = name_of[flow.first] if flow.first else None
    return flow


def add_list(flow: Flow, steps: list[Any], path: str, after: str | None, border: Border) -> str | None:
    """Add a list of steps; return the path at which to begin it, which is *after* for an empty one.

    Steps: each "runs after the one before it. Nested lists rejoin after their parent, unless they end".
    """
    for position, written in enumerate(steps):
        following = f"{path}.{position + 1}" if position + 1 < len(steps) else after
        add_step(flow, written, f"{path}.{position}", following, border)
    return f"{path}.0" if steps else after


def add_step(flow: Flow, given: Any, path: str, after: str | None, border: Border) -> None:
    # S21: "`- end` and `- end:` are both allowed".
    written: dict[str, Any] = {given: None} if isinstance(given, str) else given
    (kind,) = [kind for kind in KINDS if kind in written]
    step = Step(written.get("id", path), kind, written, after, border)
    flow.steps[path] = step
    if kind == "branch":  # V7: "Default ids are the literal document path, positions from 0".
        for number, arm in enumerate(written["branch"]):
            flow.clauses += did_clauses(arm.get("when"))
            inner = "else" if "else" in arm else "steps"
            label = "else" if "else" in arm else str(number)
            inner_path = f"{path}.branch.{number}.{inner}"
            step.first_of[label] = add_list(flow, arm.get(inner) or [], inner_path, after, border)
    if kind in WITH_THEN:
        for label, nested in (written.get("then") or {}).items():
            step.first_of[label] = add_list(flow, nested or [], f"{path}.then.{label}", after, border)
    if kind in ("parallel", "times"):  # An arm is over at its end: the last one goes on after the fork.
        for number, arm in enumerate(written[kind]):
            inner_path = f"{path}.{kind}.{number}"
            nested = arm.get("steps") if kind == "times" else arm
            inner_path += ".steps" if kind == "times" else ""
            step.first_of[str(number)] = add_list(flow, nested or [], inner_path, None, (*border, (path, number)))
