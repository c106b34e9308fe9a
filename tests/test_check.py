"""What `nudge check` says: where, what, and what to try next."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dataflow.cli import main
from operators.language.workspace import Workspace
from operators.program.flows import FlowText, compile_texts

FLOW = """\
flow: cart-reminder
version: 3
trigger: {event: add_to_cart}
steps:
  - id: again
    branch:
      - when: {profile.tier: gold}
        steps:
          - {id: remind, send: sms, template: cart}
  - {id: back, goto: remnd}
"""


def test_a_problem_is_told_with_place_code_cause_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cart.yaml"
    file.write_text(FLOW)
    assert main(["check", str(file)]) == 2
    assert capsys.readouterr().out == (
        f"{file}: cart-reminder v3: 1 problem\n"
        "  10:22  unknown-step at steps.1.goto: 'remnd' is not a step of this flow\n"
        "         did you mean 'remind'?\n"
    )


def test_a_loop_without_a_wait_is_told_with_its_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cart.yaml"
    file.write_text(FLOW.replace("remnd", "again"))
    assert main(["check", str(file)]) == 2
    said = capsys.readouterr().out
    assert "endless-loop" in said
    assert "again -> " in said
    assert "nothing on this loop waits" in said


def test_a_key_without_effect_is_a_warning_and_the_flow_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "birthday.yaml"
    wait = '{until: "{{ profile.birthday }}", yearly: true, if_missing: end, if_past: end}'
    file.write_text(f"flow: birthday\ntrigger: {{event: a}}\nsteps:\n  - wait: {wait}\n")
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "warning no-effect at steps.0.wait.if_past: 'if_past' has no effect beside 'yearly'" in said


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("flow: f\ntrigger:\n\tevent: a\n", "a tab stands where YAML allows spaces only", "indent with spaces"),
        (
            "flow: f\ntrigger: {event: a}\nentry: {when: {country: DE}}\nsteps: [{end: x}]\n",
            "'country' is not a field of the user",
            "write profile.country",
        ),
        (
            "flow: f\ntrigger: {event: a}\nentry: {when: {did_nott: {event: a}}}\nsteps: [{end: x}]\n",
            "'did_nott' is not a field of the user",
            "did you mean 'did_not'?",
        ),
        (
            "flow: f\ntrigger: {event: a}\nsteps:\n- {id: t, set: {x: 1}}\n"
            '- wait: {until: "{{ profile.d }}", if_missing: end}\n- goto: t\n',
            "nothing on this loop surely waits",
            "wait for a duration or a time of day",
        ),
    ],
)
def test_what_many_get_wrong_is_told_with_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str, hint: str
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    assert main(["check", str(file)]) == 2
    said = capsys.readouterr().out
    assert message in said
    assert hint in said


def flow(rest: str, steps: str = "[{end: x}]") -> str:
    return f"flow: f\ntrigger: {{event: a}}\n{rest}steps: {steps}\n"


MISTAKES = {
    flow("", "[{branch: [{when: {profile.a: 1}, then: [{end: x}]}]}]"): "write steps",
    flow("", "[{branch: [{if: {profile.a: 1}, steps: []}]}]"): "write when",
    flow("entry: {when: {did: {event: x, last: 30d}}}\n"): "write within",
    flow("entry: {when: {did: {event: x, count: 3, within: 1d}}}\n"): "write at_least",
    flow("entry: {reentry: 7d}\n"): "write {after: 7d}",
    flow("entry: {reentry: 3}\n"): "write {at_most: 3, within: 30d}",
    flow("", "[{wait_for: {event: x}, timeout: 1d}]"): "wait_for: {done: {event: x}}",
    flow("", "[{wait_for: x, timeout: 1d}]"): "write wait_for: {paid: {event: purchase}}, where paid is a label",
    flow("exit: {event: purchase}\n"): "write exit: [{event: purchase}]",
    "flow: f\ntrigger: [{event: a}, {event: b}]\nsteps: [{end: x}]\n": "trigger: {any: [{event: a}, {event: b}]}",
    "flow: f\ntrigger: add_to_cart\nsteps: [{end: x}]\n": "trigger: {event: add_to_cart}",
    "flow: f\ntrigger: {event: a, count: 5}\nsteps: [{end: x}]\n": "write count: {at_least: 5}",
    flow("", ""): "write steps: [{wait: 1h}, {send: sms, template: hello}]",
    flow("", "{send: sms, template: t}"): "write steps: [{wait: 1h}, {send: sms, template: hello}]",
    flow("timezone: Europe/berlin\n"): "did you mean Europe/Berlin?",
    flow("timezone: Berlin\n"): "did you mean Europe/Berlin?",
    flow("timezone: asia/shangai\n"): "did you mean Asia/Shanghai?",
    flow("timezone: nowhere at all\n"): "write an IANA name such as Asia/Shanghai",
    flow("", "[{set: {a: '{{ entry.amount | money }}'}}]"): "the filters are abs, append,",
    flow("", "[{branch: [{when: {local_time: {from: '09:00', before: '18:00'}}}]}]"): "write after",
    flow("", "[{branch: [{when: {local_time: {after: '09:00', to: '18:00'}}}]}]"): "write before",
    "flow: f\ntrigger:\nevent: a\nsteps: [{end: x}]\n": "'event' belongs to 'trigger': is the indentation right?",
    flow("template: t\n"): "'template' belongs to a step: is the indentation right?",
    flow("", "\n  - send: sms\n   template: t"): "begins in the same column",
    flow("", "\n  - send: sms\n    template: t\n - wait: 1h"): "begins in the same column",
    flow("", "\n  - send:\n      sms\n      template: t"): "begins in the same column",
    flow("", "\n  - wait_for:\n    paid: {event: x}\n    timeout: 1d"): "if it belongs to 'wait_for', begin",
    flow("", "\n  - branch:\n    - when: {profile.a: 1}\n    steps: []"): "'steps' belongs to an arm in the list",
    flow("", "\n- set: {a: {{ profile.name }}}"): 'put quotes around it: "{{ profile.name }}"',
    flow("", '\n- set:\n    a: {{ profile.name | default: "x" }}'): "it: '{{ profile.name | default: \"x\" }}'",
    flow("", "\n- set:\n    a: {{ profile.name }} and more"): "put quotes around the text with the template",
    flow("", "\n- set:\n    a: {% if profile.name %}x{% endif %}"): "put quotes around the text with the template",
    flow("", "\n- &a {send: sms, template: t}\n- {<<: *a, id: x}"): "write the keys out",
    flow("", "[{when: {profile.a: 1}, steps: []}]"): "write branch: [{when:",
    flow("", "[{sms: hello}]"): "write send: sms",
    flow("", "[{delay: 1h}]"): "write wait: 2h",
    flow("exit: [{event: b, where: {x: {min: 3}}}]\n"): "write gte",
    flow("exit: [{event: b, where: {x: {'>': 3}}}]\n"): "write gt",
    flow("", "[{send: sms, template: t, tempalte: u}]"): "is it 'template', which is written already?",
}
"""What people write, and what they are told to write."""


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_that_many_make_gets_the_hint_that_mends_it(text: str) -> None:
    found = compile_texts([FlowText("f.yaml", text)], Workspace()).problems
    assert any(MISTAKES[text] in one.hint for one in found), found
    further = {one.code for one in found} - {"missing-key"}  # It is missing where another name stands.
    assert len(further) == 1 or "indent" in MISTAKES[text] or "belongs" in MISTAKES[text], found


OFFERED = [
    flow("entry: {limt: 5}\n"),
    flow("entry: {when: {audiences: vip}}\n"),
    flow("entry: {when: {cap_lft: sms}}\n"),
    flow("", "[{send: sms, template: t, postpon: true}]"),
    flow(
        "",
        "[{id: x, experimnt: {arms: {a: 50%, b: 50%}, goal: {event: g, within: 1d}, stop_after: 9, winner: best}, "
        "then: {a: [], b: []}}]",
    ),
    flow("", "[{wait: {for: 1d, untill: '09:00'}}]"),
    flow("", "[{wait: {until: '09:00', fro: 1d}}]"),
    flow("entry: {when: {did: {event: x, within: 1d, sinc: entry}}}\n"),
    flow("", "[{branch: [{when: {did: {event: x, exactly: 1, at_leas: 1}}}]}]"),
    flow("", "[{branch: [{when: {did: {event: x, exactly: 1, times: 1}}}]}]"),
    flow("versoin: 2\n"),
    flow("exit: [{event: b, gaol: true}]\n"),
    flow("", "[{wait_for: {x: {event: x, atleast: 1}}, timeout: 1h}]"),
]


A_DAY = {"from": "2027-02-06", "until": "2027-02-06"}


@pytest.mark.parametrize("text", OFFERED)
def test_no_hint_offers_a_key_that_is_refused_next(text: str) -> None:
    (found,) = compile_texts([FlowText("f.yaml", text)], Workspace()).problems
    offered = re.fullmatch(r"did you mean '(.+)'\?|write (\w+)", found.hint)
    if offered is not None:
        mended = text.replace(found.path.rpartition(".")[2] + ":", (offered[1] or offered[2]) + ":")
        assert mended != text
        rules = Workspace.model_validate({"caps": [{"at_most": 1, "per": "1d"}], "quiet": {"holidays": [A_DAY]}})
        assert compile_texts([FlowText("f.yaml", mended)], rules).problems == []
    for name in ("result_of", "receipts"):
        assert f"'{name}'?" not in found.hint


BROKEN = [
    "{id: x, send: sms, template: t, to: 5}",
    "{id: x, send: sms, templat: t}",
    "{id: x, send: nowhere, template: t}",
    "{id: x, set: {}}",
    "{id: x, set: {a: '{{ a }}'}, more: 1}",
    "{id: x, branch: [{wen: {profile.a: 1}}]}",
]
"""Steps with a problem at which no journey could ever wait."""


@pytest.mark.parametrize("broken", BROKEN)
def test_a_loop_and_a_step_nobody_reaches_are_told_beside_other_problems(broken: str) -> None:
    steps = f"- {broken}\n- {{goto: x}}\n- {{id: dead, set: {{a: 1}}}}\n- {{id: deader, set: {{a: 1}}}}\n"
    found = problems_of(steps)
    assert {("steps.0", "endless-loop"), ("steps.2", "unreachable-step")} < set(found)
    assert [code for _, code in found].count("unreachable-step") == 1
    assert len(found) > 2, found


@pytest.mark.parametrize(
    "broken", ["{id: x, wait: 1x}", "{id: x, wait_for: {a: {event: b}}}", "{id: x, wiat: 1h}", "wait 1h"]
)
def test_where_a_step_that_cannot_be_read_may_wait_there_is_no_endless_loop(broken: str) -> None:
    steps = f"- {{id: y, set: {{a: 1}}}}\n- {broken}\n- {{goto: y}}\n"
    assert [path for path, code in problems_of(steps) if code in ("endless-loop", "unreachable-step")] == []


@pytest.mark.parametrize("broken", ["{goto: nowher}", "{gotto: nowhere}", "{goto: 5}", "{goto: }", "goto nowhere"])
def test_a_step_with_a_name_may_be_the_one_that_was_meant(broken: str) -> None:
    steps = f"- {{set: {{a: 1}}}}\n- {broken}\n- {{id: nowhere, set: {{a: 1}}}}\n- end\n- {{set: {{a: 1}}}}\n"
    found = problems_of(steps)
    assert [path for path, code in found if code == "unreachable-step"] == ["steps.4"]


@pytest.mark.parametrize(
    "broken",
    [
        "{wait_for: {a: {event: b}}, then: {a: [INSIDE]}}",
        "{wait_for: {event: b}, timeout: 1h, then: {a: [INSIDE]}}",
        "{branch: [{when: {profile.a: 1}, then: [INSIDE]}]}",
        "{branch: [{when: {}, steps: [INSIDE]}]}",
        "{branch: [{when: {profile.a: 1}, steps: [], more: [INSIDE]}]}",
        "{parallel: [[INSIDE], 5]}",
        "{times: [{at: 9:00, steps: [INSIDE]}]}",
        "{split: {a: 50, b: 50}, then: {a: [INSIDE]}}",
        "{if: {profile.a: 1}, steps: [INSIDE]}",
    ],
)
def test_the_steps_inside_one_that_cannot_be_read_are_looked_at(broken: str) -> None:
    inside = "{id: x, send: sms, template: t, to: '{{ nobody }}'}, {set: {a: 1}, idd: 1}, end, {set: {a: 1}}"
    found = problems_of(f"- {broken.replace('INSIDE', inside)}\n- {{wait: 1h}}\n- {{goto: x}}\n")
    codes = [code for _, code in found]
    assert {"bad-template", "unknown-key", "unreachable-step"} <= set(codes)
    assert "unknown-step" not in codes
    assert len(set(found)) == len(found) > 3


def test_all_parts_of_a_key_that_is_wrong_are_looked_at() -> None:
    text = """\
flow: f
versoin: 2
trigger: {event: a, wehre: {}, where: {}}
exit: [{event: b, gaol: true}, {event: c, where: {}}]
entry: {reentri: never, when: {}}
steps: [{branch: [{when: {}, seps: []}]}]
"""
    found = compile_texts([FlowText("f.yaml", text)], Workspace()).problems
    assert sorted(one.path for one in found if one.code == "empty-condition") == [
        "entry.when",
        "exit.1.where",
        "steps.0.branch.0.when",
        "trigger.where",
    ]
    assert len(found) == 9


def problems_of(steps: str) -> list[tuple[str, str]]:
    """Return path and code of each problem of a flow with these *steps*."""
    text = f"flow: f\ntrigger: {{event: a}}\nsteps:\n{steps}"
    return [(one.path, one.code) for one in compile_texts([FlowText("f.yaml", text)], Workspace()).problems]


def test_json_output_has_one_object_per_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cart.yaml").write_text(FLOW)
    (tmp_path / "bad.yaml").write_bytes(b"flow: \xff\n")
    assert main(["check", str(tmp_path), "--json"]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["code"] for row in rows} == {"bad-encoding", "unknown-step"}
    assert set(rows[0]) == {"file", "line", "column", "path", "code", "severity", "message", "hint"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: nudge"),
        (["nope"], "No such command 'nope'"),
        (["check"], "Missing argument"),
        (["simulate", "x"], "--events"),
        (["run", "--epoch"], "'--epoch' requires an argument"),
        (["schema", "x"], "there is no schema of 'x'"),
    ],
)
def test_wrong_use_is_status_2_and_a_message_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = "".join(capsys.readouterr())
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("topic", ["journal", "dead-letters"])
def test_a_channel_cannot_have_the_topics_of_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    (tmp_path / "a.yaml").write_text("flow: a\ntrigger: {event: x}\nsteps: [{send: sms, template: t}]\n")
    (tmp_path / "nudge.yaml").write_text(f"channels:\n  sms: {{topic: {topic}}}\n")
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert f"2:16   reserved-topic at channels.sms.topic: {topic} is a topic of the job's own" in said
