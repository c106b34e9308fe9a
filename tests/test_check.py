"""What `nudge check` says: where, what, and what to try next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflow.cli import main

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
