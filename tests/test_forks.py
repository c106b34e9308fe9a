"""Branches of a journey: whatever steps stand in them, each has what wakes it, and in the end one journey has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.language.values import DAY, HOUR, MINUTE
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.machine.event import on_record
from operators.machine.invariants import UserInvariants
from operators.machine.outbox import Outbox
from operators.machine.totals import read_totals
from operators.machine.wakeup import on_due
from operators.program.flows import FlowText, compile_texts
from operators.steps.build import BRANCHES_MAX
from operators.steps.set import SetStep
from state.records import Input
from state.user import User, dump_user, load_user

START = 1_795_435_200_000
Steps = list[dict[str, Any]]


def deployment(steps: Steps) -> Deployment:
    flow = {"flow": "f", "trigger": {"event": "begin"}, "exit": [{"event": "leave"}], "steps": steps}
    checked = compile_texts([FlowText("f.json", json.dumps(flow))], Workspace())
    assert not checked.has_errors, checked.problems
    return Deployment(checked.programs)


class Driven:
    """One user in one flow, looked at after each event, and written down and read again."""

    def __init__(self, steps: Steps) -> None:
        self.deployed = deployment(steps)
        self.user = User()
        self.out = Outbox()
        self.at = START
        self.most = 0
        self._number = 0

    def tell(self, name: str, after_ms: int = 0) -> None:
        self.wait(after_ms)
        self._number += 1
        hits = self.deployed.index.match(name, {})
        record = Input("u", self.at, name, f"m{self._number}", True, self.at, {}, None, hits, 0, self._number)
        on_record(self.deployed, self.user, record, self.out)
        self._look()

    def wait(self, ms: int) -> None:
        self.at += ms
        on_due(self.deployed, "u", self.user, self.at, self.out)
        self._look()

    def _look(self) -> None:
        invariants = UserInvariants(self.deployed, self.at)
        assert list(invariants.look_at(self.user, invariants.due(self.user))) == []
        self.user = load_user(dump_user(self.user))
        self.most = max([self.most, *(len(journey.branches) for journey in self.user.journeys)])

    def journal(self, kind: str) -> list[Any]:
        return [record for record in self.out.journal if record.kind == kind]


# ---- any steps in any branches -------------------------------------------------------------------------------------

WAITS = ("5m", "10m", "1h")
PLAIN: st.SearchStrategy[Steps] = st.one_of(
    st.builds(lambda value: [{"set": {"a": value}}], st.integers(0, 3)),
    st.builds(lambda wait: [{"wait": wait}], st.sampled_from(WAITS)),
    st.builds(lambda at: [{"times": [{"at": at, "steps": []}]}], st.sampled_from(["12:30", "13:00", "2026-11-23"])),
    st.builds(
        lambda name, wait: [{"wait_for": {"heard": {"event": name}}, "timeout": wait}],
        st.sampled_from(["x", "y"]),
        st.sampled_from(WAITS),
    ),
    st.just([{"wait": {"for": "10m", "without": {"event": "x"}}}]),
    st.just([{"branch": [{"when": {"did": {"event": "y", "at_least": 3}}, "steps": [{"end": "enough"}]}]}]),
    st.just([{"loop": "x"}]),
)


def nested(inner: st.SearchStrategy[Steps]) -> st.SearchStrategy[Steps]:
    lists = st.lists(inner, max_size=3).map(lambda parts: [step for part in parts for step in part])
    return st.one_of(
        st.builds(lambda lanes: [{"parallel": lanes}], st.lists(lists, min_size=1, max_size=3)),
        st.builds(
            lambda lanes: [{"times": [{"at": at, "steps": lane} for at, lane in lanes]}],
            st.lists(st.tuples(st.sampled_from(["12:30", "13:00", "2026-11-23T12:10"]), lists), min_size=1, max_size=3),
        ),
        st.builds(lambda steps: [{"branch": [{"when": {"profile.a": 1}, "steps": steps}]}], lists),
    )


def named(steps: Steps, names: list[int]) -> Steps:
    """Return *steps* with every loop written out: a wait, to which the journey comes back until the event came."""
    found: Steps = []
    for step in steps:
        if "loop" in step:
            names.append(len(names))
            again = f"again-{len(names)}"
            heard = {"when": {"did": {"event": step["loop"], "at_least": 2}}, "steps": []}
            found += [{"id": again, "wait": "7m"}, {"branch": [heard, {"else": [{"goto": again}]}]}]
        elif "parallel" in step:
            found.append({"parallel": [named(lane, names) for lane in step["parallel"]]})
        elif "times" in step:
            found.append({"times": [{**one, "steps": named(one["steps"], names)} for one in step["times"]]})
        elif "branch" in step and "profile.a" in step["branch"][0]["when"]:
            found.append({"branch": [{**step["branch"][0], "steps": named(step["branch"][0]["steps"], names)}]})
        else:
            found.append(step)
    return found


FLOWS = st.lists(st.recursive(PLAIN, nested, max_leaves=12), min_size=1, max_size=4).map(
    lambda parts: named([step for part in parts for step in part], [])
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["x", "y", "x", "y", "begin", "leave"]), st.sampled_from([0, 0, MINUTE, 10 * MINUTE, HOUR])
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(steps=FLOWS, events=EVENTS)
def test_each_branch_has_what_wakes_it_and_each_journey_ends_once(steps: Steps, events: list[tuple[str, int]]) -> None:
    driven = Driven(steps)
    driven.tell("begin")
    for name, after_ms in events:
        driven.tell(name, after_ms)
    for name in ("x", "x"):  # So that every loop comes to its end.
        driven.tell(name, MINUTE)
    driven.wait(30 * DAY)
    assert driven.user.journeys == []
    assert driven.out.mistakes == []
    (totals,) = read_totals(driven.out.totals).values()
    assert totals.failed == {}
    assert totals.entered == len(driven.journal("ended")) + len(driven.journal("exited")) > 0


# ---- a few in particular -------------------------------------------------------------------------------------------


def test_a_hundred_branches_at_once_are_allowed_and_work() -> None:
    ten = [[{"wait_for": {"heard": {"event": "x"}}, "timeout": "1d"}] for _ in range(10)]
    driven = Driven([{"parallel": [[{"parallel": ten}] for _ in range(10)]}, {"set": {"a": 1}}])
    driven.tell("begin")
    assert len(driven.user.journeys[0].branches) == BRANCHES_MAX == 100
    driven.tell("x", HOUR)
    assert (len(driven.journal("moved")), len(driven.journal("set")), len(driven.journal("ended"))) == (100, 1, 1)


def test_a_long_row_of_forks_takes_no_stack() -> None:
    driven = Driven([{"parallel": [[], [{"set": {"a": 1}}]]} for _ in range(3000)])
    driven.tell("begin")
    assert (len(driven.journal("set")), len(driven.journal("ended")), driven.out.mistakes) == (3000, 1, [])


def test_a_mistake_of_ours_in_one_branch_closes_the_journey_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SetStep, visit: Any) -> Any:
        raise KeyError("a bug")

    steps = [{"parallel": [[{"wait": "2h"}], [{"wait": "1h"}, {"set": {"a": 1}}], [{"wait": "1h"}]]}]
    driven = Driven(steps)
    driven.tell("begin")
    monkeypatch.setattr(SetStep, "enter", broken)
    driven.wait(DAY)
    assert driven.user.journeys == []
    assert [(record.kind, record.reason, record.step) for record in driven.out.journal[-1:]] == [
        ("failed", "error", "steps.0.parallel.1.1")
    ]
    assert [record.kind for record in driven.out.journal].count("failed") == len(driven.out.mistakes) == 1


def test_a_mistake_of_ours_keeps_later_branches_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SetStep, visit: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(SetStep, "enter", broken)
    driven = Driven([{"parallel": [[{"wait": "2h"}], [{"set": {"a": 1}}], [{"wait": "1h"}]]}])
    driven.tell("begin")
    assert [record.kind for record in driven.out.journal] == ["entered", "waiting", "failed"]


def test_branches_are_numbered_by_the_content_of_the_flow_not_by_its_layout() -> None:
    """An edit of comments and layout keeps the version, and branches that are open know theirs by number."""
    fork = {"parallel": [[{"wait": "1h"}], [{"wait": "2h"}]]}
    arms = {
        "x": [{"parallel": [[{"id": "in-x", "wait": "1h"}]]}],
        "y": [{"parallel": [[{"id": "in-y", "wait": "1h"}]]}],
    }
    labels = {"x": {"event": "x"}, "y": {"event": "y"}}

    def numbers(then: dict[str, Steps]) -> dict[str, int]:
        steps = [{"wait_for": labels, "timeout": "1h", "then": then}, fork]
        (program,) = deployment(steps).programs.values()
        return {name: node.lane.number for name, node in program.nodes.items()}

    assert numbers(arms) == numbers(dict(reversed(arms.items())))
