"""What `nudge check` warns of, and what it does not warn of: a warning that is wrong is worse than none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from dataflow.cli import main
from operators.language.problems import WARNINGS_MAX, Problem
from operators.language.workspace import Workspace
from operators.program.doubts import Doubts
from operators.program.flows import FlowText, compile_texts
from state.iso import parse_iso_ms
from tests.jobs import REPO

NOW: Final = parse_iso_ms("2026-11-23T08:00:00Z") or 0
HEAD: Final = "flow: f\ntrigger: {event: cart_updated}\n"
STEPS: Final = "steps: [{send: sms, template: t}]\n"


def warnings(*flows: str) -> list[Problem]:
    """Return the warnings about these flow files, which have no errors."""
    texts = [FlowText(f"flow-{number}.yaml", text) for number, text in enumerate(flows, 1)]
    found = compile_texts(texts, Workspace(), Doubts(NOW)).problems
    assert [one for one in found if one.severity == "error"] == []
    return found


def told(*flows: str) -> list[tuple[str, str]]:
    return [(one.code, one.path) for one in warnings(*flows)]


def with_steps(*steps: str) -> str:
    return HEAD + "steps:\n" + "".join(f"  - {step}\n" for step in steps)


TELLING: Final[dict[str, dict[str, list[str]]]] = {
    "leading-zero": {
        "flow: f\ntrigger: {event: a, where: {zip: 02142}}\n" + STEPS: ["trigger.where.zip"],
        with_steps("{set: {zip: -007.5, phone: [+4915112345678]}}"): ["steps.0.set.zip", "steps.0.set.phone.0"],
    },
    "literal-address": {
        with_steps("{send: sms, template: t, to: phone}"): ["steps.0.to"],
        with_steps("{send: email, template: t, to: mobile_mail}"): ["steps.0.to"],
        with_steps("{send: webhook, template: t, to: profile.url}"): ["steps.0.to"],
        with_steps('{send: push, template: t, to: "{token}"}'): ["steps.0.to"],
    },
    "literal-reference": {
        HEAD + 'exit: [{event: b, where: {order_id: "entry.order_id"}}]\n' + STEPS: ["exit.0.where.order_id"],
        HEAD + "exit: [{event: b, where: {any: [{a: profile.b}, {not: {c: [event.c]}}]}}]\n" + STEPS: [
            "exit.0.where.any.0.a",
            "exit.0.where.any.1.not.c.0",
        ],
        'flow: f\ntrigger: {event: a, where: {x: {eq: "{name}"}}}\n' + STEPS: ["trigger.where.x.eq"],
        HEAD + "entry: {when: {entry.city: profile.city}}\n" + STEPS: ["entry.when.entry.city"],
        with_steps("{send: sms, template: t, vars: {n: '${name}', m: {k: [entry.k]}}}"): [
            "steps.0.vars.n",
            "steps.0.vars.m.k.0",
        ],
        with_steps("{set: {tier: profile.plan}}"): ["steps.0.set.tier"],
        with_steps("{wait_for: {x: {event: b, where: {id: entry.id}}}, timeout: 1h}"): ["steps.0.wait_for.x.where.id"],
        with_steps("{branch: [{when: {did: {event: b, where: {id: entry.id}}}}]}"): [
            "steps.0.branch.0.when.did.where.id"
        ],
    },
    "number-as-text": {
        'flow: f\ntrigger: {event: a, where: {x: {gt: "50"}, y: {between: ["1", "2.5"]}}}\n' + STEPS: [
            "trigger.where.x.gt",
            "trigger.where.y.between.0",
            "trigger.where.y.between.1",
        ],
        HEAD + 'entry: {when: {profile.age: ">= 18"}}\n' + STEPS: ["entry.when.profile.age"],
        HEAD + 'entry: {when: {profile.age: {lt: "<18"}}}\n' + STEPS: ["entry.when.profile.age.lt"],
    },
    "past-moment": {
        HEAD + "active: {until: 2026-11-23T08:00:00Z}\n" + STEPS: ["active.until"],
        HEAD + "timezone: Asia/Shanghai\nactive: {until: 2026-11-23T16:00}\n" + STEPS: ["active.until"],
        with_steps("{wait: {until: 2026-11-23T16:00:00+08:00}}"): ["steps.0.wait.until"],
        with_steps("{wait: {until: 2026-11-22T20:00}}"): ["steps.0.wait.until"],
        with_steps("{times: [{at: 2026-11-23T16:00:00+08:00}, {at: '07:00'}]}"): ["steps.0.times.0.at"],
        with_steps("{parallel: [[], [{wait: {until: 2026-11-01}}]]}"): ["steps.0.parallel.1.0.wait.until"],
    },
    "profile-in-where": {
        "flow: f\ntrigger: {any: [{event: a}, {event: b, where: {profile.x: 1}}]}\n" + STEPS: [
            "trigger.any.1.where.profile.x"
        ],
        HEAD + "exit: [{event: b, where: {not: {entry.x: 1}}}]\n" + STEPS: ["exit.0.where.not.entry.x"],
    },
    "times-out-of-order": {
        with_steps("{times: [{at: 2026-12-24}, {at: '09:00'}, {at: 2026-12-25T01:00Z}, {at: 2026-12-23}]}"): [
            "steps.0.times.3.at"
        ],
        with_steps("{times: [{at: 2026-12-24T00:00Z}, {at: 2026-12-24T01:00+08:00}, {at: 2026-12-24T00:00Z}]}"): [
            "steps.0.times.1.at"
        ],
    },
    "shadowed-arm": {
        with_steps("{branch: [{when: {profile.x: {gte: 50}}}, {when: {profile.x: {gt: 50, lt: 9000}}}]}"): [
            "steps.0.branch.1"
        ],
        with_steps("{branch: [{when: {profile.x: [1, 2]}}, {when: {profile.x: 2, profile.y: 1}}]}"): [
            "steps.0.branch.1"
        ],
        with_steps(
            "{branch: [{when: {did: {event: b}}, label: any}, {when: {did: {event: b, at_least: 3}}, steps: [end]}]}"
        ): ["steps.0.branch.1"],
        with_steps("{branch: [{when: {profile.x: {exists: true}}}, {when: {profile.x: {starts_with: a}}}]}"): [
            "steps.0.branch.1"
        ],
        with_steps("{wait_for: {a: {event: b}, c: {event: b, where: {x: 1}, at_least: 2}}, timeout: 1h}"): [
            "steps.0.wait_for.c"
        ],
    },
    "similar-event": {
        HEAD + "exit: [{event: Cart Updated}]\n" + STEPS: ["exit.0.event"],
        with_steps("{wait_for: {x: {event: cart_udpated}}, timeout: 1h}"): ["steps.0.wait_for.x.event"],
        with_steps("{branch: [{when: {did: {event: cart_updatd}}}]}"): ["steps.0.branch.0.when.did.event"],
    },
    "space-around-name": {
        'flow: f\ntrigger: {event: "a "}\n' + STEPS: ["trigger.event"],
        HEAD + 'exit: [{event: b, where: {" x": 1}}]\nentry: {key: "id\\u200b", when: {"profile.x ": 1}}\n' + STEPS: [
            "entry.key",
            "entry.when.profile.x ",
            "exit.0.where. x",
        ],
        with_steps('{send: sms, template: "t "}'): ["steps.0.template"],
        with_steps('{set: {"x ": 1}}'): ["steps.0.set.x "],
    },
    "template-not-rendered": {
        with_steps('{send: sms, template: "hi {{ profile.name }}"}'): ["steps.0.template"],
        HEAD + 'exit: [{event: "{{ entry.e }}", where: {"{{ entry.k }}": 1}}]\n' + STEPS: [
            "exit.0.event",
            "exit.0.where.{{ entry.k }}",
        ],
        HEAD + 'entry: {key: "{{ entry.id }}"}\n' + STEPS: ["entry.key"],
    },
    "unknown-receipt": {
        "flow: f\ntrigger: {event: $sms_bounced}\n" + STEPS: ["trigger.event"],
        HEAD + "exit: [{event: $email_open}]\n" + STEPS: ["exit.0.event"],
        with_steps("{wait_for: {x: {event: $push_suppressed}}, timeout: 1h}"): ["steps.0.wait_for.x.event"],
        with_steps("{branch: [{when: {did: {event: $ads_seen}}}]}"): ["steps.0.branch.0.when.did.event"],
    },
    "wait-beyond-active": {
        HEAD
        + "active: {from: 2026-11-01, until: 2026-12-01}\nsteps: [{wait: 31d}, {wait: {for: 31d}}, {wait: 30d}]\n": [
            "steps.0.wait",
            "steps.1.wait.for",
        ],
        HEAD + "active: {from: 2026-11-23, until: 2026-11-24}\nsteps: [{wait_for: {x: {event: b}}, timeout: 25h}]\n": [
            "steps.0.timeout"
        ],
    },
}
"""By code: flows, and where each of them has it."""


@pytest.mark.parametrize(
    ("code", "flow"), [(code, flow) for code, flows in TELLING.items() for flow in flows], ids=lambda one: one[:40]
)
def test_what_is_most_likely_a_mistake_gets_a_warning_at_its_place(code: str, flow: str) -> None:
    assert sorted(told(flow)) == sorted((code, path) for path in TELLING[code][flow])


SILENT: Final = [
    "flow: f\ntrigger: {any: [{event: $sms_failed}, {event: $pageview}, {event: sms_bounced}]}\n" + STEPS,
    "flow: f\ntrigger: {any: [{event: $sms}, {event: $sms_}, {event: $webhook_paid}, {event: $line_seen}]}\n" + STEPS,
    "flow: f\ntrigger: {event: a, where: {zip: '02142', n: 0, m: 0.5, h: 0x0F, k: [-0.5, +5]}}\n" + STEPS,
    "flow: f\ntrigger: {event: a, where: {kind: entry.create, type: event.opened, t: '{', u: 'a {b} c'}}\n" + STEPS,
    "flow: f\ntrigger: {event: a, where: {properties.profile.x: 1, profile: 1, day: {gt: '2026-11-23'}, s: {gt: m}}}\n"
    + STEPS,
    "flow: f\ntrigger: {any: [{event: add_to_cart}, {event: Add To Cart}, {event: 'add_to_cart'}]}\n" + STEPS,
    HEAD + "exit: [{event: purchase, where: {order_id: '{{ entry.order_id }}', n: '50', c: '>'}}]\n" + STEPS,
    HEAD + "exit: [{event: card_updated}, {event: step_1}, {event: step_2}, {event: cart_removed}]\n" + STEPS,
    HEAD + "exit: [{event: order_shipped}]\nsteps: [{wait_for: {x: {event: order_skipped}}, timeout: 1h}]\n",
    with_steps("{send: sms, template: t, to: '+4915112345678'}", "{send: email, template: t, to: ops@example.com}"),
    with_steps("{send: webhook, template: t, to: crm}", "{send: push, template: t, to: abcdef}"),
    with_steps("{send: sms, template: t, vars: {a: 'Hi {name}', b: entry, c: 'see profile.x', d: '{{ entry.x }}'}}"),
    HEAD + "state: ended\nactive: {until: 2020-01-01}\n" + STEPS,
    HEAD + "active: {from: 2020-01-01}\nentry: {when: {profile.since: {before: 2020-01-01}}}\n" + STEPS,
    HEAD + "active: {from: 2026-11-01, until: 2026-12-01}\nsteps: [{wait: 30d}]\n",
    with_steps(
        "{wait: {until: 2026-11-23T08:00:01Z}}", "{wait: {until: 2026-11-22T20:01}}", '{wait: {until: "07:00"}}'
    ),
    with_steps("{branch: [{when: {profile.x: {gte: 100}}}, {when: {profile.x: {gte: 50}}}]}"),
    with_steps("{branch: [{when: {profile.x: 1}}, {when: {profile.x: true}}, {when: {profile.x: '1'}}]}"),
    with_steps("{branch: [{when: {profile.x: {gt: 1}}}, {when: {profile.x: {gt: 'a'}}}]}"),
    with_steps("{branch: [{when: {profile.x: 1, profile.y: 1}}, {when: {profile.x: 1}}, {when: {profile.z: 1}}]}"),
    with_steps("{branch: [{when: {profile.x: {after: 2026-01-01}}}, {when: {profile.x: {within_last: 1d}}}]}"),
    with_steps("{branch: [{when: {did: {event: b, within: 1d}}}, {when: {did: {event: b, within: 7d}}}]}"),
    with_steps("{branch: [{when: {did: {event: b, at_most: 2}}}, {when: {did: {event: b}}}]}"),
    with_steps("{branch: [{when: {profile.x: {ne: 1}}}, {when: {profile.x: {eq: '{{ entry.x }}'}}}]}"),
    with_steps("{wait_for: {a: {event: b, at_least: 2}, c: {event: b}}, timeout: 1h}"),
    with_steps("{times: [{at: '20:00'}, {at: '08:00'}, {at: 2026-12-24T09:00Z}, {at: 2026-12-24}, {at: 2026-12-24}]}"),
]


@pytest.mark.parametrize("flow", SILENT, ids=lambda one: one[:60])
def test_what_may_be_meant_gets_none(flow: str) -> None:
    assert told(flow) == []


def test_a_name_that_is_written_otherwise_in_another_flow_is_told_with_the_place_of_the_usual_one() -> None:
    usual = "flow: a\ntrigger: {event: purchase_made}\n" + STEPS
    again = "flow: b\ntrigger: {event: purchase_made}\n" + STEPS
    other = "flow: c\ntrigger: {event: purchase_mad}\nexit: [{event: Purchase_Made}]\n" + STEPS
    found = warnings(other, usual, again)
    assert [(one.file, one.line, one.code) for one in found] == [("flow-1.yaml", 3, "similar-event")]
    assert "'Purchase_Made' is nearly 'purchase_made' of flow-2.yaml:2" in found[0].message
    assert found[0].hint == "if it is the same event, write purchase_made"


def test_a_split_without_id_is_told() -> None:
    flow = with_steps("{split: {a: 50%, b: 50%}}", "{id: s, split: {a: 50%, b: 50%}}")
    assert [(one.code, one.path) for one in warnings(flow)] == [("missing-id", "steps.0")]


EXPERIMENT = "arms: {a: 50%, b: 50%}, stop_after: 9, winner: best"


def test_an_experiment_without_id_is_told_and_its_goal_is_looked_at() -> None:
    flow = with_steps(f"{{experiment: {{{EXPERIMENT}, goal: {{event: 'buy ', where: {{profile.a: 1}}, within: 1d}}}}}}")
    assert sorted((one.code, one.path) for one in warnings(flow)) == [
        ("missing-id", "steps.0"),
        ("profile-in-where", "steps.0.experiment.goal.where.profile.a"),
        ("space-around-name", "steps.0.experiment.goal.event"),
    ]


def test_a_receipt_as_goal_of_a_flow_with_a_key_is_told() -> None:
    step = f"{{id: x, experiment: {{{EXPERIMENT}, goal: {{event: $sms_clicked, within: 1d}}}}}}"
    (found,) = warnings(with_steps(step).replace("steps:", "entry: {key: k}\nsteps:", 1))
    assert (found.code, found.path) == ("unreachable-goal", "steps.0.experiment.goal.event")
    assert warnings(with_steps(step)) == []


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("trigger: {event: a, where: {city: profile.city}}", 'entry: {when: {entry.city: "{{ profile.city }}"}}'),
        ("trigger: {event: a, where: {city: '{city}'}}", "write the value itself"),
        (
            "trigger: {event: a}\nentry: {when: {did: {event: b, where: {c: profile.c}, within: 1d}}}",
            "the value itself",
        ),
        ("trigger: {event: a, where: {profile.city: x}}", "entry: {when: {profile.city: ..}}"),
        ("trigger: {event: a, where: {entry.city: x}}", "write city;"),
    ],
)
def test_where_no_template_is_allowed_none_is_offered(where: str, hint: str) -> None:
    (found,) = [one for one in warnings(f"flow: f\n{where}\n{STEPS}") if one.code != "similar-event"]
    assert hint in found.hint


def test_warnings_are_told_beside_errors_and_do_not_crowd_them_out() -> None:
    text = (
        HEAD + "exit: [{event: b, where: {" + ", ".join(f"p{n}: 0{n}" for n in range(500)) + "}}]\nsteps: [{gto: x}]\n"
    )
    found = compile_texts([FlowText("f.yaml", text)], Workspace(), Doubts(NOW)).problems
    assert [one.code for one in found if one.severity == "error"] == ["unknown-kind"]
    assert len(found) == WARNINGS_MAX + 1


def test_the_flows_of_the_project_have_no_warnings() -> None:
    for folder in ("examples", "dataflow/demo/flows", "tests/samples/flows"):
        files = [path for path in sorted((REPO / folder).rglob("*.yaml")) if path.name != "nudge.yaml"]
        assert files
        assert warnings(*(path.read_text() for path in files)) == []


def test_strict_makes_errors_of_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.yaml").write_text("flow: f\ntrigger: {event: a, where: {zip: 02142}}\n" + STEPS)
    assert main(["check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "f.yaml: f v1: 1 warning\n" in said
    assert "2:34   warning leading-zero at trigger.where.zip: 02142 is the number 2142: '0' at its head is lost" in said
    assert main(["check", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["severity"] == "warning"
    assert main(["check", str(tmp_path), "--strict", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["severity"] == "error"
    (tmp_path / "events.jsonl").write_bytes(b"")
    assert main(["simulate", str(tmp_path / "f.yaml"), "--events", str(tmp_path / "events.jsonl")]) == 0
    assert "leading-zero" not in "".join(capsys.readouterr())
