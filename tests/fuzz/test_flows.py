"""Whatever a flow file holds, `nudge check` answers soon, with a program or with problems, and never a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dataflow.cli import main
from dataflow.demo import FLOWS
from operators.language.problems import PROBLEMS_MAX, TEXT_SHOWN_MAX
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from tests.fuzz.bounds import cpu_at_most
from tests.fuzz.corpus_files import built, examples
from tests.jobs import REPO

CHECK_CPU_S = 20.0


@pytest.mark.parametrize("example", examples("flows"), ids=lambda one: one["name"])
def test_a_hostile_flow_has_problems_and_they_are_told_soon(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / example.get("file", "flow.yaml")
    file.write_bytes(built(example["text"]))
    with cpu_at_most(CHECK_CPU_S):
        status = main(["check", str(file)])
    said = capsys.readouterr()
    assert said.err == ""
    assert status == (2 if example["codes"] else 0), said.out
    missing = [code for code in example["codes"] if f" {code}" not in said.out]
    assert not missing, said.out
    assert len(said.out) < PROBLEMS_MAX * 3 * TEXT_SHOWN_MAX


def test_many_problems_are_cut_and_the_cut_is_told() -> None:
    text = built(["HEAD", {"numbered": "  - frobnicate%d: 1\n", "times": 500}]).decode()
    problems = compile_texts([FlowText("f.yaml", text)], Workspace()).problems
    assert len(problems) == PROBLEMS_MAX + 1
    assert problems[-1].message == f"there are more than {PROBLEMS_MAX} problems in this file, the others are not told"


def test_the_same_problem_is_told_once() -> None:
    text = "flow: f\ntrigger: {event: e}\nsteps: [{goto: x}]\nentry: {when: {did: {event: e}}}\n"
    found = compile_texts([FlowText("f.yaml", text)], Workspace()).problems
    assert len(set(found)) == len(found)


def test_a_flow_with_as_many_steps_as_are_allowed_is_a_flow() -> None:
    text = built(["HEAD", {"numbered": "  - set: {a: %d}\n", "times": 10_000}]).decode()
    with cpu_at_most(CHECK_CPU_S):
        checked = compile_texts([FlowText("f.yaml", text)], Workspace())
        assert checked.problems == []
        Deployment(checked.programs)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"channels: [", b"\xef\xbb\xbf", b"- 1", b"x" * 2_000_000, b"channels: &a {b: *a}"]
)
@pytest.mark.parametrize("command", ["check", "simulate"])
def test_a_hostile_workspace_is_a_problem_and_no_traceback(command: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_bytes(built(["HEAD", "  - end\n"]))
    (tmp_path / "nudge.yaml").write_bytes(content)
    (tmp_path / "events.jsonl").write_bytes(b"")
    more = ["--events", str(tmp_path / "events.jsonl")] if command == "simulate" else []
    assert main([command, str(tmp_path), *more]) == (0 if content == b"\xef\xbb\xbf" else 2)


def test_a_file_whose_name_is_no_text_is_told_of(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad-\xff.yaml")
    (tmp_path / name).write_bytes(b"flow: [")
    assert main(["check", str(tmp_path / name)]) == 2
    assert main(["check", str(tmp_path / (name + "-missing"))]) == 2


def test_every_flow_that_was_ever_written_for_the_examples_still_loads() -> None:
    """The bounds are for hostile files: what people write is far from them."""
    files = [str(FLOWS), *(str(path) for path in sorted((REPO / "examples").iterdir()) if path.is_dir())]
    assert files
    for folder in files:
        assert main(["check", folder]) == 0
