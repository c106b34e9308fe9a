"""What holds for all commands: each is in the list, and help answers without loading what the commands need."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import dataflow.commands
from dataflow.app import COMMANDS
from dataflow.cli import main
from dataflow.settings import SETTINGS

HEAVY = ("bytewax", "confluent_kafka", "msgspec", "pydantic", "rocksdict", "structlog", "yaml")


def test_every_command_is_in_the_list() -> None:
    names = [module.name for module in pkgutil.iter_modules(dataflow.commands.__path__, "dataflow.commands.")]
    with_app = {module for module in map(importlib.import_module, names) if hasattr(module, "app")}
    assert with_app == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_command_has_its_help_with_an_example(
    command: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    name = command.__name__.rpartition(".")[2]
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Usage: nudge {name}" in said
    assert f"Example: nudge {name}" in said


def test_help_of_run_can_be_read_on_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line], "no name is cut"
    words = " ".join(lines).split()
    assert {flag for one in SETTINGS for flag in one.flags.split("/")} <= set(words)
    assert len(lines) < 80, "what is said of an option is not a column of single words"


def test_help_loads_nothing_that_only_commands_need() -> None:
    program = "import sys; import dataflow.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not set(HEAVY) & set(loaded)


def test_a_process_of_the_job_loads_nothing_that_only_the_command_line_needs() -> None:
    program = "import sys; import dataflow.job.process, dataflow.job.engine; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "structlog" in loaded
    assert not {"rich", "typer", "confluent_kafka"} & set(loaded)


def test_the_version_says_what_decides_and_what_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    from dataflow.keep.statedir import STATE_FORMAT
    from operators.decisions import DECISIONS

    assert main(["--version"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("nudge ")
    assert said[1].startswith(f"decision version: decisions {DECISIONS}, tzdata package 20")
    assert all(f"{package} " in said[1] for package in ("python-liquid", "google-re2"))
    assert said[2:] == [f"state format {STATE_FORMAT}", "compiled part present"]
