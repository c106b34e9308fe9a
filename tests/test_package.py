"""What is installed from a wheel works wherever somebody stands, and says what it is."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs import REPO

PACKAGES = ("nudge", "dataflow", "operators", "connectors", "state")
OF_A_WHEEL = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", *PACKAGES)

Nudge = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel, without the compiled part, and install it; returns the folder with its packages."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in OF_A_WHEEL:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "target"))
        else:
            shutil.copy(REPO / name, source)
    pip = [sys.executable, "-P", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Compiling takes minutes, and tests of the compiled part are elsewhere.
    without_rust = {**os.environ, "PATH": "/usr/bin:/bin", "CARGO": "/nowhere/cargo", "PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)],
        env=without_rust, check=True, timeout=250,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.fixture
def nudge(installed: Path, tmp_path: Path) -> Nudge:
    """Return what runs `python -m nudge`, as installed, in a folder that has packages with the names of ours."""
    for name in PACKAGES[1:]:  # What runs by name is the current folder's business, also with Python's own modules.
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} of the current folder')\n")

    def run(*arguments: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "nudge", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed), **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    return run


def test_the_demo_runs_from_the_package_wherever_somebody_stands(nudge: Nudge) -> None:
    said = nudge("demo", "--seconds", "4").stdout.splitlines()
    line, headings, *channels = said[-6:]
    assert " events (" in line
    assert headings.startswith("channel  actions  accepted")
    assert [one.split()[0] for one in channels] == ["email", "push", "sms", "webhook"]


def test_the_version_says_what_is_installed(nudge: Nudge) -> None:
    first, decision, state, compiled = nudge("--version").stdout.splitlines()
    assert first == f"nudge {importlib.metadata.version('nudge')}"
    assert decision.startswith("decision version: decisions ")
    assert state.startswith("state format ")
    assert compiled.startswith("compiled part missing ("), "this wheel was built without Rust"


def test_the_package_says_whose_it_is_and_what_may_be_done_with_it(installed: Path) -> None:
    (found,) = importlib.metadata.distributions(name="nudge", path=[str(installed)])
    assert found.metadata["License-Expression"] == "Apache-2.0"
    assert found.metadata["Author"]
    addresses = dict(one.split(", ") for one in found.metadata.get_all("Project-URL"))
    assert {"Homepage", "Source", "Documentation", "Changelog", "Issues"} <= addresses.keys()
    (license,) = (file for file in found.files or () if file.name == "LICENSE")
    assert license.read_text() == (REPO / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "nudge ru", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "nudge ru"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "nudge ru", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_shells_can_complete_commands_and_options(nudge: Nudge, shell: str, typed: dict[str, str]) -> None:
    assert "_NUDGE_COMPLETE=complete_" + shell in nudge(_NUDGE_COMPLETE=f"source_{shell}").stdout
    commands = nudge(_NUDGE_COMPLETE=f"complete_{shell}", **typed, status=0).stdout
    assert "run" in commands
    assert "demo" not in commands
    typed = {name: text.replace("ru", "run --stat").replace("1", "2") for name, text in typed.items()}
    assert "--state" in nudge(_NUDGE_COMPLETE=f"complete_{shell}", **typed).stdout
