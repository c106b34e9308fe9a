"""The JSON Schemas say what `nudge check`, the reader of records, and the records themselves say."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from connectors.formats.native import NAME_CHARACTERS_MAX, USER_ID_CHARACTERS_MAX, decode
from dataflow.cli import main
from dataflow.demo import FLOWS
from dataflow.flows import find_flows
from operators.conditions.tests import TESTS
from operators.language.flowfile import read_document
from operators.language.workspace import Workspace, read_workspace
from operators.program.flows import FlowText, compile_texts
from operators.schemas import SCHEMAS
from operators.steps import KINDS
from state.records import MEMBERSHIP, UPDATED, Reject
from tests.oracle.generate import random_case
from tests.scenarios.scenario_files import load

Capture = pytest.CaptureFixture[str]
REPO = Path(__file__).parents[1]
EXAMPLES = REPO / "examples"


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[name]())


FLOW, WORKSPACE, EVENT = validator("flow"), validator("workspace"), validator("event")
MEMBERSHIPS = validator("membership")


def read(text: str) -> Any:
    """Return the data of a YAML 1.2 or JSON text, as the job reads it."""
    return read_document("flow.yaml", text.encode())[0].data


def codes(flow: Any, workspace: Workspace | None = None) -> set[str]:
    """Return the codes of the errors that `nudge check` finds in *flow*, a text or data."""
    text = flow if isinstance(flow, str) else json.dumps(flow)
    checked = compile_texts([FlowText("flow.yaml", text)], workspace or Workspace())
    return {problem.code for problem in checked.problems if problem.severity == "error"}


def complaints(of: Draft202012Validator, data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in of.iter_errors(data)]


# ---- the schemas as such -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_is_a_schema_on_its_own(name: str) -> None:
    made = SCHEMAS[name]()
    Draft202012Validator.check_schema(made)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["title"]
    assert made["description"]
    assert '"$id"' not in json.dumps(made)
    assert set(references(made)) == {f"#/$defs/{definition}" for definition in made.get("$defs", {})}


def references(of: Any) -> Iterator[str]:
    if isinstance(of, dict):
        if isinstance(of.get("$ref"), str):
            yield of["$ref"]
        for value in of.values():
            yield from references(value)
    elif isinstance(of, list):
        for value in of:
            yield from references(value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_says_what_it_is_for(name: str) -> None:
    made = SCHEMAS[name]()
    mappings = {"": made, **made.get("$defs", {}), "test": made.get("$defs", {}).get("Test", {})}
    silent = [
        f"{where}.{key}"
        for where, mapping in mappings.items()
        for key, value in mapping.get("properties", {}).items()
        if not value.get("description") and value != {"$ref": "#/$defs/LocalTime"}
    ]
    assert not silent, "say in the model what these are for"


@pytest.mark.parametrize("name", SCHEMAS)
def test_nudge_schema_prints_it(name: str, capsys: Capture) -> None:
    assert main(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMAS[name]()


def test_nudge_schema_without_a_name_prints_that_of_flows(capsys: Capture) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMAS["flow"]()


def test_every_kind_of_step_is_in_it() -> None:
    definitions = SCHEMAS["flow"]()["$defs"]
    listed = [definitions[one["$ref"].rpartition("/")[2]] for one in definitions["Step"]["anyOf"] if "$ref" in one]
    assert [one["title"] for one in listed] == list(KINDS)
    assert all(one["title"] in one["required"] for one in listed)


def test_a_new_test_of_conditions_cannot_be_forgotten() -> None:
    tests = SCHEMAS["flow"]()["$defs"]["Test"]["anyOf"][2]["properties"]
    assert set(tests) == set(TESTS)


# ---- flows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", find_flows([EXAMPLES, FLOWS]), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert complaints(FLOW, read(path.read_text())) == []


def test_the_workspace_of_the_demo_is_valid() -> None:
    assert complaints(WORKSPACE, read((FLOWS / "nudge.yaml").read_text())) == []


def test_what_check_takes_the_schema_takes() -> None:
    """Every flow of every scenario: a false alarm in an editor costs more than a problem that only `check` finds."""
    seen = 0
    for scenario in load():
        flows = [*scenario.flows, *(flow for phase in scenario.phases for flow in phase.get("flows", ()))]
        config = scenario.config if isinstance(scenario.config, str) else json.dumps(scenario.config or {})
        workspace, problems = read_workspace("nudge.yaml", config.encode())
        if not problems and scenario.config is not None:
            assert complaints(WORKSPACE, read(config)) == [], scenario.name
        for flow in flows:
            if not codes(flow, workspace):
                seen += 1
                data = read(flow) if isinstance(flow, str) else flow
                assert complaints(FLOW, data) == [], f"{scenario.topic}: {scenario.name}"
    assert seen > 200


FULL = """
flow: everything
version: 12
state: live
title: t
description: d
owner: o
labels: {any: [thing, 1, null]}
timezone: Asia/Shanghai
active: {from: 2026-11-01T00:00:00+08:00, until: 2027-01-01}
priority: -3
trigger:
  any:
    - {event: a, where: {amount: {gte: 50, lt: 99.5}, currency: [CNY, USD]}, count: {at_least: 2, within: 30m}}
    - {event: b, where: {any: [{a: 1}, {not: {b: null}}], properties.any: {between: [1, 2]}}}
entry:
  when: {profile.country: CN, did: {event: b, at_least: 1, within: 7d}}
  reentry: {at_most: 3, within: 30d}
  concurrent: 2
  key: order.id
  holdout: 12.5%
exit:
  - {event: c, where: {order: "{{ entry.order_id }}", at: {after: "{{ profile.since }}"}}, goal: true, label: bought}
steps:
  - wait: 30m
  - wait: {until: 2026-12-01T10:00:00}
  - wait: {until: "09:00", days: [mon, fri]}
  - wait: {for: 7d, at: "12:00:30", days: [sat]}
  - wait: {until: "{{ profile.renewal }}", offset: -3d, if_missing: skip, if_past: end}
  - branch:
      - {when: {profile.tier: gold}, label: gold, steps: [{send: push, template: cart}]}
      - when: {any: [{local_time: {after: "22:00", before: "06:00", days: [fri]}}, {did_not: {event: view}}]}
        steps: []
      - when:
          did: {all: [{event: x, exactly: 0}, {event: y, at_most: 3, since: entry}]}
          not: {entry.a.b: {exists: true}}
      - else: [{end: unreachable}]
  - id: remind
    send: sms
    template: cart
    to: "{{ profile.mobile }}"
    vars: {n: "{{ profile.name | default: 'x' }}", list: [1, {a: null}]}
    category: notification
    expires: 2h
    if_missing: end
  - {set: {reminded: true, old: null, seen: "{{ now }}", deep: {a: [1]}}}
  - wait_for:
      viewed: {event: view, where: {sku: {eq: "{{ entry.sku }}"}}, at_least: 2}
      paid: {event: pay}
    timeout: 1d
    then:
      viewed: [{goto: remind}]
      timeout: [end]
  - end:
"""


def test_a_flow_that_uses_everything_is_valid() -> None:
    assert codes(FULL) == set()
    assert complaints(FLOW, read(FULL)) == []


ALL_TESTS = {
    "eq": 1, "ne": "a", "in": [1, "a", True], "not_in": ["a"], "gt": 1, "gte": "a", "lt": 1.5, "lte": 2,
    "between": ["a", "b"], "contains": "a", "not_contains": 1, "starts_with": "a", "ends_with": "{{ entry.x }}",
    "matches": "(?i)^a{2}$", "exists": False, "before": "2026-11-01", "after": "2026-11-01 10:00+0800",
    "within_last": "7d", "within_next": "1h30m",
}  # fmt: skip


def asking(**tests: Any) -> dict[str, Any]:
    """Return a flow with these tests of one property."""
    exits = [{"event": "x", "where": {"v": {op: wanted}}} for op, wanted in tests.items()]
    return {"flow": "f", "trigger": {"event": "a"}, "exit": exits, "steps": [{"wait": "1h"}]}


def test_every_test_of_a_value_can_be_written() -> None:
    flow = asking(**ALL_TESTS)
    assert codes(flow) == set()
    assert complaints(FLOW, flow) == []
    assert set(ALL_TESTS) == set(TESTS)


START = "flow: f\ntrigger: {event: a}\n"
REFUSED = {
    "an unknown key": START + "versoin: 2\nsteps: [{wait: 1h}]",
    "an unknown key of a trigger": "flow: f\ntrigger: {event: a, wehre: {x: 1}}\nsteps: [{wait: 1h}]",
    "an unknown key of a count": "flow: f\ntrigger: {event: a, count: {atleast: 2}}\nsteps: [{wait: 1h}]",
    "an unknown key of an entry": START + "entry: {reentri: never}\nsteps: [{wait: 1h}]",
    "an unknown key of an exit": START + "exit: [{event: b, gaol: true}]\nsteps: [{wait: 1h}]",
    "an unknown key of a step": START + "steps: [{send: sms, template: t, tempalte: u}]",
    "an unknown key of a wait": START + "steps: [{wait: {for: 1h, whenever: 1}}]",
    "an unknown key of a wait_for": START + "steps: [{wait_for: {x: {event: x, wihtin: 1h}}, timeout: 1h}]",
    "an unknown key of an arm": START + "steps: [{branch: [{when: {profile.x: 1}, stesp: []}]}]",
    "an unknown key beside else": START + "steps: [{branch: [{else: [], label: x}]}]",
    "an unknown key of a did": START + "steps: [{branch: [{when: {did: {event: x, atleast: 1}}}]}]",
    "an unknown key of a local_time": START + "steps: [{branch: [{when: {local_time: {from: '10:00'}}}]}]",
    "no name": "trigger: {event: a}\nsteps: [{wait: 1h}]",
    "no trigger": "flow: f\nsteps: [{wait: 1h}]",
    "an empty trigger": "flow: f\ntrigger: {}\nsteps: [{wait: 1h}]",
    "no trigger behind the key": "flow: f\ntrigger:\nsteps: [{wait: 1h}]",
    "a trigger with any and event": "flow: f\ntrigger: {any: [{event: a}], event: b}\nsteps: [{wait: 1h}]",
    "a trigger of nothing": "flow: f\ntrigger: {any: []}\nsteps: [{wait: 1h}]",
    "nine triggers": f"flow: f\ntrigger: {{any: [{', '.join('{event: a}' for _ in range(9))}]}}\nsteps: [{{wait: 1h}}]",
    "no steps": START,
    "no step": START + "steps: []",
    "one step, not in a list": START + "steps: {wait: 1h}",
    "a list of flows": "- flow: f",
    "a bad name": "flow: Bad\ntrigger: {event: a}\nsteps: [{wait: 1h}]",
    "a name that is a number": "flow: 5\ntrigger: {event: a}\nsteps: [{wait: 1h}]",
    "a bad id": START + "steps: [{id: Remind, wait: 1h}]",
    "a version that is no number": START + "version: one\nsteps: [{wait: 1h}]",
    "a version below 1": START + "version: 0\nsteps: [{wait: 1h}]",
    "an unknown state": START + "state: running\nsteps: [{wait: 1h}]",
    "a priority that is no number": START + "priority: high\nsteps: [{wait: 1h}]",
    "a moment that is none": START + "active: {from: soon}\nsteps: [{wait: 1h}]",
    "a count of nothing": "flow: f\ntrigger: {event: a, count: {at_least: 0}}\nsteps: [{wait: 1h}]",
    "an unknown rule of re-entry": START + "entry: {reentry: sometimes}\nsteps: [{wait: 1h}]",
    "two rules of re-entry": START + "entry: {reentry: {after: 1d, at_most: 1, within: 1d}}\nsteps: [{wait: 1h}]",
    "a rule of re-entry without window": START + "entry: {reentry: {at_most: 1}}\nsteps: [{wait: 1h}]",
    "no concurrent journey": START + "entry: {concurrent: 0}\nsteps: [{wait: 1h}]",
    "a key that is no text": START + "entry: {key: 5}\nsteps: [{wait: 1h}]",
    "a percentage without its sign": START + "entry: {holdout: 10}\nsteps: [{wait: 1h}]",
    "a percentage below zero": START + "entry: {holdout: -1%}\nsteps: [{wait: 1h}]",
    "an exit without event": START + "exit: [{where: {x: 1}}]\nsteps: [{wait: 1h}]",
    "a goal that is a text": START + "exit: [{event: b, goal: yes}]\nsteps: [{wait: 1h}]",
    "two kinds": START + "steps: [{wait: 1h, set: {a: 1}}]",
    "no kind": START + "steps: [{id: none}]",
    "an empty step": START + "steps: [{}]",
    "an unknown kind": START + "steps: [{sned: sms, template: t}]",
    "an experiment without arms": START + "steps: [{experiment: {}}]",
    "a parallel of steps": START + "steps: [{parallel: [{wait: 1h}]}]",
    "a parallel without branches": START + "steps: [{parallel: []}]",
    "a parallel with eleven branches": START + f"steps: [{{parallel: [{', '.join(['[]'] * 11)}]}}]",
    "a bad step in a parallel": START + "steps: [{parallel: [[{wiat: 1h}]]}]",
    "times without branches": START + "steps: [{times: []}]",
    "times without a time": START + "steps: [{times: [{steps: []}]}]",
    "times at a duration": START + "steps: [{times: [{at: 1h}]}]",
    "times at a time of day that is none": START + "steps: [{times: [{at: '24:00'}]}]",
    "times with eleven branches": START + f"steps: [{{times: [{', '.join(['{at: 2026-12-24}'] * 11)}]}}]",
    "a bad step in times": START + "steps: [{times: [{at: '09:00', steps: [{wiat: 1h}]}]}]",
    "a split of one arm": START + "steps: [{split: {a: 100%}}]",
    "a split by numbers": START + "steps: [{split: {a: 50, b: 50}}]",
    "a split with a bad label": START + "steps: [{split: {A: 50%, b: 50%}}]",
    "a split into a list": START + "steps: [{split: [a, b]}]",
    "a bad step in an arm of a split": START + "steps: [{split: {a: 50%, b: 50%}, then: {a: [{wiat: 1h}]}}]",
    "a word that is no step": START + "steps: [stop]",
    "a send without template": START + "steps: [{send: sms}]",
    "a send with an empty template": START + "steps: [{send: sms, template: ''}]",
    "an unknown category": START + "steps: [{send: sms, template: t, category: spam}]",
    "an unknown if_missing": START + "steps: [{send: sms, template: t, if_missing: fail}]",
    "a postpone that is no boolean": START + "steps: [{send: sms, template: t, postpone: later}]",
    "a cap_left of several channels": START + "steps: [{branch: [{when: {cap_left: [sms, push]}, steps: []}]}]",
    "a set of nothing": START + "steps: [{set: {}}]",
    "a set that is no mapping": START + "steps: [{set: 5}]",
    "a set with a path": START + "steps: [{set: {a.b: 5}}]",
    "a goto to a list": START + "steps: [{goto: [a]}]",
    "a number for a duration": START + "steps: [{wait: 30}]",
    "a duration without unit": START + "steps: [{wait: 1h30}]",
    "a duration with an unknown unit": START + "steps: [{wait: 10ms}]",
    "a duration with a fraction": START + "steps: [{wait: 1.5h}]",
    "a duration in capitals": START + "steps: [{wait: 1H}]",
    "a duration with a space": START + "steps: [{wait: 1 h}]",
    "a duration with a sign": START + "steps: [{wait: -1h}]",
    "a bad duration to expire": START + "steps: [{send: sms, template: t, expires: soon}]",
    "a wait for nothing": START + "steps: [{wait: {}}]",
    "a wait that has only a time": START + "steps: [{wait: {at: '12:00'}}]",
    "a time of day that is none": START + "steps: [{wait: {for: 1d, at: noon}}]",
    "a time of day after midnight": START + "steps: [{wait: {for: 1d, at: '24:00'}}]",
    "no weekday": START + "steps: [{wait: {until: '12:00', days: []}}]",
    "an unknown weekday": START + "steps: [{wait: {until: '12:00', days: [funday]}}]",
    "no timeout": START + "steps: [{wait_for: {x: {event: x}}}]",
    "a bad timeout": START + "steps: [{wait_for: {x: {event: x}}, timeout: soon}]",
    "a wait_for without events": START + "steps: [{wait_for: {}, timeout: 1h}]",
    "a wait_for with nine events": START
    + f"steps: [{{wait_for: {{{', '.join(f'{label}: {{event: x}}' for label in 'abcdefghi')}}}, timeout: 1h}}]",
    "a wait_for with a bad label": START + "steps: [{wait_for: {Viewed: {event: x}}, timeout: 1h}]",
    "a then that is no list": START + "steps: [{wait_for: {x: {event: x}}, timeout: 1h, then: {x: {wait: 1h}}}]",
    "a bad step in a then": START + "steps: [{wait_for: {x: {event: x}}, timeout: 1h, then: {x: [{wiat: 1h}]}}]",
    "a branch without arms": START + "steps: [{branch: []}]",
    "an arm without condition": START + "steps: [{branch: [{steps: []}]}]",
    "an arm with condition and else": START + "steps: [{branch: [{when: {profile.x: 1}, else: []}]}]",
    "a bad step in an arm": START + "steps: [{branch: [{when: {profile.x: 1}, steps: [{wiat: 1h}]}]}]",
    "a bad step in an else": START + "steps: [{branch: [{else: [{wiat: 1h}]}]}]",
    "a when about anything else": START + "steps: [{branch: [{when: {tier: gold}}]}]",
    "a when about half a field": START + "steps: [{branch: [{when: {profile: gold}}]}]",
    "a when about nothing": START + "steps: [{branch: [{when: {}}]}]",
    "a when about no audience": START + "steps: [{branch: [{when: {audience: []}}]}]",
    "a when about an audience that is no name": START + "steps: [{branch: [{when: {audience: VIP}}]}]",
    "a when about a list of what is no name": START + "steps: [{branch: [{when: {audience: [5]}}]}]",
    "an audience step for nothing": START + "steps: [{audience: {}}]",
    "an audience step that is a name": START + "steps: [{audience: vip}]",
    "an audience step that adds no name": START + "steps: [{audience: {add: {a: 1}}}]",
    "a did without event": START + "steps: [{branch: [{when: {did: {at_least: 1}}}]}]",
    "a did below zero": START + "steps: [{branch: [{when: {did: {event: x, at_most: -1}}}]}]",
    "a did since whenever": START + "steps: [{branch: [{when: {did: {event: x, since: yesterday}}}]}]",
    "a did in a list": START + "steps: [{branch: [{when: {did: [{event: x}]}}]}]",
    "a did of nothing": START + "steps: [{branch: [{when: {did: {any: []}}}]}]",
    "a local_time of nothing": START + "steps: [{branch: [{when: {local_time: {}}}]}]",
    "a local_time that is a number": START + "steps: [{branch: [{when: {local_time: {before: 10}}}]}]",
    "a condition of nothing": START + "exit: [{event: x, where: {}}]\nsteps: [{wait: 1h}]",
    "a test of nothing": START + "exit: [{event: x, where: {v: {}}}]\nsteps: [{wait: 1h}]",
    "an any of nothing": START + "exit: [{event: x, where: {any: []}}]\nsteps: [{wait: 1h}]",
    "an any of an empty condition": START + "exit: [{event: x, where: {any: [{}]}}]\nsteps: [{wait: 1h}]",
    "an any that is a mapping": START + "exit: [{event: x, where: {any: {a: 1}}}]\nsteps: [{wait: 1h}]",
    "a not that is a list": START + "exit: [{event: x, where: {not: [{a: 1}]}}]\nsteps: [{wait: 1h}]",
    "a path with a hole": START + "exit: [{event: x, where: {a..b: 1}}]\nsteps: [{wait: 1h}]",
    "an unknown test": START + "exit: [{event: x, where: {v: {equals: 1}}}]\nsteps: [{wait: 1h}]",
    "a test of nested properties": START + "exit: [{event: x, where: {v: {inner: {gt: 1}}}}]\nsteps: [{wait: 1h}]",
    "an empty file": "",
}  # fmt: skip
BAD_ARGUMENTS = [
    ("eq", None), ("ne", None), ("eq", [1]), ("eq", {"a": 1}), ("in", ["a", None]), ("in", [[1]]), ("in", []),
    ("in", "a"), ("not_in", 5), ("contains", [1]), ("not_contains", None), ("between", [1]), ("between", [1, 2, 3]),
    ("between", 1), ("between", [True, False]), ("gt", True), ("lte", None), ("starts_with", 5), ("ends_with", True),
    ("exists", 1), ("exists", "{{ entry.x }}"), ("matches", 5), ("matches", "{{ entry.x }}"), ("before", "tomorrow"),
    ("after", 5), ("within_last", 3), ("within_last", "{{ entry.x }}"), ("within_next", "soon"),
]  # fmt: skip
for op, wanted in BAD_ARGUMENTS:
    REFUSED[f"{op}: {wanted}"] = json.dumps(asking(**{op: wanted}))


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_check_refuses_for_its_shape_the_schema_refuses(text: str) -> None:
    assert codes(text), "this is no problem for `nudge check`"
    assert complaints(FLOW, read(text))


Place = tuple[str | int, ...]


def places(data: Any, path: Place = ()) -> Iterator[Place]:
    """Yield the place of every value in *data*."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def value_at(data: Any, path: Place) -> Any:
    for part in path:
        data = data[part]
    return data


MAPPINGS = [path for path in places(read(FULL)) if isinstance(value_at(read(FULL), path), dict)]


@pytest.mark.parametrize("path", MAPPINGS, ids=lambda path: ".".join(map(str, path)) or "top")
def test_an_unknown_key_is_refused_at_the_same_places(path: Place) -> None:
    flow = read(FULL)
    value_at(flow, path)["unheard-of"] = 1
    assert bool(complaints(FLOW, flow)) == bool(codes(flow))


JUNK: list[Any] = [
    None, 1, -1, 1.5, True, "", [], {}, "1h", "x", "a.b", "{{ entry.x }}", ["a"], {"a": 1}, "end", {"event": "a"},
    [{"end": "x"}], "2026-11-01", "10%", "09:00", [None], {"eq": 1}, "always", {"at_least": 2},
]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_random_edits_of_random_flows_raise_no_false_alarm(seed: int) -> None:
    chance = Random(seed)
    for flow in random_case(seed)[0]:
        assert complaints(FLOW, flow) == []
        for _ in range(5):
            edited = copy.deepcopy(flow)
            *path, last = chance.choice([place for place in places(edited) if place])
            at = value_at(edited, tuple(path))
            if chance.random() < 0.25:
                del at[last]
            else:
                at[last] = copy.deepcopy(chance.choice(JUNK))
                if last in ("where", "when") and at[last] is None:
                    continue  # The one exception; see below.
            if not codes(edited):
                assert complaints(FLOW, edited) == [], f"seed {seed}, {[*path, last]}"


def test_a_where_or_when_with_nothing_behind_it_is_refused() -> None:
    for text in ("exit: [{event: x, where: }]\n", "entry: {when: }\n"):
        assert complaints(FLOW, read(START + text + "steps: [{wait: 1h}]"))


RULES = """
channels:
  sms: {topic: actions.sms, caps: [{at_most: 1, per: 1d}, {at_most: 4, per: 30d}]}
  email: {address: email, quiet: {from: "22:00", until: "08:00", postpone: false}}
caps: [{at_most: 3, per: 1d12h}]
quiet:
  holidays: [{name: spring, from: 2027-02-06, until: 2027-02-12}, {from: 2027-05-01T10:00, until: 2027-05-01T12:00Z}]
exempt: {audience: staff}
suppress: {audience: [do-not-contact, complained]}
consent: {marketing: profile.consents.ads, notification: profile.ok}
templates: [SMS_123, hello]
"""


def test_message_rules_are_valid() -> None:
    assert read_workspace("nudge.yaml", RULES.encode())[1] == []
    assert complaints(WORKSPACE, read(RULES)) == []


@pytest.mark.parametrize(
    "text",
    [
        "chanels: {}",
        "channels: {sms: {adress: phone}}",
        "channels: {SMS: {topic: a}}",
        "channels: {sms: {topic: 'a b'}}",
        "channels: [sms]",
        "caps: [{at_most: 0, per: 1d}]",
        "caps: {at_most: 3, per: 1d}",
        "channels: {sms: {caps: [{at_most: 3}]}}",
        "quiet: {from: 22, until: 08:00}",
        "quiet: {from: '22:00', until: '08:00', postpone: later}",
        "quiet: {holidays: [{from: 2027-02-06}]}",
        "exempt: staff",
        "suppress: {audience: []}",
        "consent: {spam: profile.ok}",
        "consent: {marketing: ok}",
        "templates: t",
        "run: 5",
    ],
)
def test_a_bad_workspace_is_refused(text: str) -> None:
    assert read_workspace("nudge.yaml", text.encode())[1]
    assert complaints(WORKSPACE, read(text))


# ---- records -------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"user_id": "u", "event": "e"}
TIMES: list[Any] = [
    "2026-11-23", "2026-11-23T08:00", "2026-11-23 08:00:00.1Z", "2026-11-23T08:00:00+0800", None, 0, -0.5,
    1_795_435_200_000.5, 253_402_300_799_999, 253_402_300_800_000, -1, True, {}, "", "yesterday", "1795435200000",
    "23.11.2026", "2026-11-23t08:00:00z", "2026-11-23T08", "2026-W48-1", "20261123",
    "2026-11-23T08:00 +0800", "2026-11-23 08:00:00 UTC", "2026-11-23T08:00GMT", "2026-11-23 UTC", "2026-11-23T08:00  Z",
    99_999_999_999.9, 100_000_000_000,
]  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "message_id": ["m", "", None, 5, []],
    "properties": [{}, {"a": [1, {"b": None}]}, None, [], "p"],
    "traits": [{}, None, [], "t", 5],
    "context": [{}, None, "c"],
    "type": ["track", 5, None],
    "unknown": [{}, None, "c"],
    "timestamp": TIMES,
    "received_at": TIMES,
}
EVENTS: list[Any] = [
    GOOD,
    {"user_id": "u" * USER_ID_CHARACTERS_MAX, "event": "e" * NAME_CHARACTERS_MAX},
    {"user_id": "u" * (USER_ID_CHARACTERS_MAX + 1), "event": "e"},
    {"user_id": "u", "event": "e" * (NAME_CHARACTERS_MAX + 1)},
    {"user_id": "\U0001f600" * USER_ID_CHARACTERS_MAX, "event": "e"},
    {"event": "e"},
    *({**GOOD, "user_id": user_id} for user_id in ("", None, 5)),
    {"user_id": "u"},
    *({**GOOD, "event": name} for name in ("", None, 5)),
    {"type": "identify", "user_id": "u", "traits": {"a": None}},
    {"type": "identify", "user_id": "u"},
    {"type": "identify", "user_id": "u", "event": 5, "properties": 5},
    {"type": "identify", "traits": {}},
    {"type": "identify", "user_id": "u", "traits": []},
    {"type": "track", "user_id": "u"},
    *({**GOOD, field: value} for field, values in VALUES.items() for value in values),
    [],
    "text",
    5,
    None,
]


@pytest.mark.parametrize("record", EVENTS, ids=lambda record: json.dumps(record)[:60])
def test_the_schema_of_events_takes_what_the_job_reads(record: Any) -> None:
    found = decode(orjson.dumps(record))
    assert (complaints(EVENT, record) == []) == (not isinstance(found, Reject)), found


IN = {"audience": "vip", "user_id": "u", "member": True}
DONE = {"audience": "vip", "updated": True}
MEMBERS: list[Any] = [
    IN,
    DONE,
    {**IN, "member": False},
    {**IN, "updated": True},
    *({**IN, "row": row} for row in ({}, {"a": [{}]}, None, [], "r")),
    *({**IN, "member": member} for member in (None, "true", 1)),
    *({**IN, "user_id": user_id} for user_id in ("", None, 5, "u" * (USER_ID_CHARACTERS_MAX + 1))),
    *({**DONE, "user_id": user_id} for user_id in ("u", "", None, 5)),
    *({**DONE, "updated": updated} for updated in (False, None, 1, "true")),
    *({**one, "audience": name} for one in (IN, DONE) for name in (None, 5, "", "n" * 128, "n" * 129)),
    *({**one, field: value} for one in (IN, DONE) for field in ("message_id", "timestamp") for value in VALUES[field]),
    [],
]


@pytest.mark.parametrize("record", MEMBERS, ids=lambda record: json.dumps(record)[:60])
def test_the_schema_of_memberships_takes_what_the_job_takes_for_one(record: Any) -> None:
    found = decode(orjson.dumps(record))
    is_one = not isinstance(found, Reject) and found.kind in (MEMBERSHIP, UPDATED)
    assert (complaints(MEMBERSHIPS, record) == []) == is_one, found


def simulated(folder: Path, *arguments: str | Path) -> tuple[list[Any], list[Any]]:
    """Return the actions and the journal of a simulation."""
    files = [folder / "actions.jsonl", folder / "journal.jsonl"]
    command = ["simulate", *arguments, "--actions", files[0], "--journal", files[1]]
    assert main([str(one) for one in command]) == 0
    actions, journal = ([json.loads(line) for line in file.open()] for file in files)
    return actions, journal


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    """Return what the examples make of the shop's and of the quick start's events."""
    from itertools import islice

    from dataflow.demo.shop import Shop, Tracker

    folder = tmp_path_factory.mktemp("records")
    shop = Shop(seed=3, users=300, events_per_s=2.0, tracker=Tracker())
    events = folder / "events.jsonl"
    events.write_bytes(b"".join(record.value + b"\n" for record in islice(shop.events(), 4000)))
    flow = {
        "flow": "all-sorts",
        "trigger": {"event": "search"},
        "steps": [
            {"send": "sms", "template": "t", "vars": {"n": "{{ profile.unheard }}"}},
            {"id": "late", "send": "webhook", "template": "t", "vars": {"n": "{{ 1 | divided_by: 0 }}"}},
            {"send": "webhook", "template": "t", "expires": "1h"},
            {"wait": "1s"},
            {"end": "enough"},
        ],
    }
    (folder / "all-sorts.json").write_text(json.dumps(flow))
    (folder / "first").mkdir()
    (folder / "second").mkdir()
    shops = [FLOWS, folder / "all-sorts.json"]
    actions, journal = simulated(folder / "first", *shops, "--events", events)
    quickstart = EXAMPLES / "quickstart"
    more, further = simulated(folder / "second", quickstart, "--events", quickstart / "events.jsonl")
    return actions + more, journal + further


def test_the_shops_events_are_valid() -> None:
    from itertools import islice

    from dataflow.demo.shop import Shop, Tracker

    shop = Shop(seed=3, users=300, events_per_s=2.0, tracker=Tracker())
    for record in islice(shop.events(), 4000):
        try:
            data = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            continue
        assert (complaints(EVENT, data) == []) == (not isinstance(decode(record.value), Reject)), data


@pytest.mark.parametrize("name", ["action", "journal"])
def test_what_comes_out_is_as_its_schema_says(name: str, records: tuple[list[Any], list[Any]]) -> None:
    made = records[0] if name == "action" else records[1]
    against = validator(name)
    assert len(made) > 100
    for record in made:
        assert complaints(against, record) == []
    written: set[str] = set().union(*made)
    assert written == set(SCHEMAS[name]()["properties"]) - {"job"}


def test_the_simulation_had_something_of_everything(records: tuple[list[Any], list[Any]]) -> None:
    kinds = {record["kind"] for record in records[1]}
    assert kinds >= {
        "entered",
        "refused",
        "sent",
        "suppressed",
        "waiting",
        "moved",
        "set",
        "converted",
        "exited",
        "ended",
    }
    reasons = {record["reason"] for record in records[1] if record["kind"] == "suppressed"}
    assert reasons >= {"no_address", "missing_variable", "template_error"}


SPOILT: list[tuple[str, str, Callable[[dict[str, Any]], Any]]] = [
    ("action", "a field is missing", lambda record: record.pop("to")),
    ("action", "the id is short", lambda record: record.update(action_id="9f0c")),
    ("action", "the time is no text", lambda record: record.update(at=5)),
    ("action", "the time has no milliseconds", lambda record: record.update(at="2026-11-23T08:00:00Z")),
    ("action", "the variables are a list", lambda record: record.update(vars=[])),
    ("action", "the category is unknown", lambda record: record.update(category="spam")),
    ("action", "the visit is the zeroth", lambda record: record.update(visit=0)),
    ("action", "the cause is incomplete", lambda record: record["cause"].pop("event")),
    ("journal", "a field is missing", lambda record: record.pop("seq")),
    ("journal", "the kind is unknown", lambda record: record.update(kind="went")),
    ("journal", "refused, but with a journey", lambda record: record.update(kind="refused", reason="condition")),
    ("journal", "entered, but without a journey", lambda record: record.update(journey_id=None)),
    ("journal", "suppressed without reason", lambda record: record.update(kind="suppressed", step="a")),
    ("journal", "sent without detail", lambda record: record.update(kind="sent", step="a")),
    ("journal", "the detail is null", lambda record: record.update(detail=None)),
]


@pytest.mark.parametrize(("name", "what", "spoil"), SPOILT, ids=[f"{name}: {what}" for name, what, _ in SPOILT])
def test_a_record_that_is_not_as_promised_is_refused(
    name: str, what: str, spoil: Callable[[dict[str, Any]], Any], records: tuple[list[Any], list[Any]]
) -> None:
    made = records[0] if name == "action" else [one for one in records[1] if one["kind"] == "entered"]
    record = copy.deepcopy(made[0])
    assert complaints(validator(name), record) == []
    spoil(record)
    assert complaints(validator(name), record)
