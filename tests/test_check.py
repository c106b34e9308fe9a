"""What `nudge check` says: where, what, and what to try next; every code has a section in the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dataflow.cli import main
from tests.jobs import REPO

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


def test_json_output_has_one_object_per_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cart.yaml").write_text(FLOW)
    (tmp_path / "bad.yaml").write_bytes(b"flow: \xff\n")
    assert main(["check", str(tmp_path), "--json"]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["code"] for row in rows} == {"bad-encoding", "unknown-step"}
    assert set(rows[0]) == {"file", "line", "column", "path", "code", "severity", "message", "hint"}


@pytest.mark.parametrize("arguments", [[], ["nope"], ["check"], ["simulate", "x"], ["run", "--epoch"], ["schema", "x"]])
def test_wrong_use_is_status_2_without_a_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_every_problem_code_has_a_section_in_the_reference() -> None:
    code = re.compile(r"""["']([a-z]+(?:-[a-z]+)+)["']""")
    calls = re.compile(r"(?:BadValue|problem|problems\.add|add)\(\s*[^\"']*?(?=[\"'])", re.S)
    found = set()
    for file in [
        *(REPO / "operators").rglob("*.py"),
        REPO / "dataflow" / "job" / "lifecycle.py",
        REPO / "dataflow" / "flows.py",
    ]:
        text = file.read_text()
        for call in calls.finditer(text):
            name = code.match(text, call.end())
            if name:
                found.add(name[1])
    reference = (REPO / "docs" / "flow-language.md").read_text()
    sections = set(re.findall(r"^### `([a-z-]+)`", reference, re.M))
    assert len(found) > 20
    assert found <= sections, f"without a section: {sorted(found - sections)}"


@pytest.mark.parametrize("topic", ["journal", "dead-letters"])
def test_a_channel_cannot_have_the_topics_of_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    (tmp_path / "a.yaml").write_text("flow: a\ntrigger: {event: x}\nsteps: [{send: sms, template: t}]\n")
    (tmp_path / "nudge.yaml").write_text(f"channels:\n  sms: {{topic: {topic}}}\n")
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert f"2:16   reserved-topic at channels.sms.topic: {topic} is a topic of the job's own" in said
