"""The files to deploy with: they are valid, and they keep to what the documentation says of stopping and of health."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dataflow.cli import main
from dataflow.settings import SETTINGS, resolve
from operators.language.workspace import Workspace, read_workspace
from tests.jobs import REPO

DEPLOY = REPO / "deploy"
STOP_S = 90  # As docs/operations.md says.
FLOW = "flow: f\ntrigger: {event: a}\nsteps:\n  - {send: crm, template: t}\n"


def workspace(folder: Path, text: str) -> Workspace:
    """Return the workspace file *text*, in which `nudge check` finds nothing."""
    (folder / "nudge.yaml").write_text(text)
    (folder / "f.yaml").write_text(FLOW)
    assert main(["check", str(folder)]) == 0
    found, problems = read_workspace("nudge.yaml", text.encode())
    assert not problems
    return found


def test_the_workspace_file_is_valid_and_so_is_each_of_its_examples(tmp_path: Path) -> None:
    text = (DEPLOY / "nudge.yaml").read_text()
    resolve({}, workspace(tmp_path, text).run, "nudge.yaml", {})
    whole = re.sub(r"^  # ([a-z_]+: \S+)$", r"  \1", text, flags=re.M)
    run = workspace(tmp_path, whole).run
    resolve({}, run, "nudge.yaml", {})
    assert run.keys() == {one.name for one in SETTINGS}, "it has every setting"


def test_the_defaults_that_the_workspace_file_shows_are_those(tmp_path: Path) -> None:
    text = (DEPLOY / "nudge.yaml").read_text()
    for one in SETTINGS:
        example = re.search(rf"^  # {one.name}: (\S+)$", text, re.M)
        if example is not None and one.default_text not in ("none", "by topic"):
            assert example[1].lower() == one.default_text.lower(), one.name


def test_the_unit_for_systemd_stops_and_starts_as_the_documentation_says(tmp_path: Path) -> None:
    unit = (DEPLOY / "nudge.service").read_text()
    said = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert said["KillMode"] == "mixed", "SIGTERM is for the parent; a second one would end the job at once"
    assert int(said["TimeoutStopSec"]) >= STOP_S
    assert (said["Restart"], said["RestartPreventExitStatus"]) == ("on-failure", "2")
    if shutil.which("systemd-analyze"):
        there = tmp_path / "nudge.service"
        there.write_text(unit.replace("/opt/nudge/bin/nudge", "/bin/true"))
        checked = subprocess.run(["systemd-analyze", "verify", there], capture_output=True, text=True, check=False)
        assert "nudge.service" not in checked.stderr


def test_the_manifests_fit_the_image_and_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (job,) = pod["containers"]
    assert found["StatefulSet"]["spec"]["replicas"] == 1, "a state belongs to one job"
    assert pod["terminationGracePeriodSeconds"] >= STOP_S
    image = (REPO / "Dockerfile").read_text()
    owner = re.search(r"^USER (\d+):(\d+)$", image, re.M)
    assert owner is not None
    security = pod["securityContext"]
    assert (security["runAsUser"], security["fsGroup"]) == (int(owner[1]), int(owner[2]))
    env = {one["name"]: one.get("value") for one in job["env"]}
    (port,) = job["ports"]
    assert env["NUDGE_METRICS_PORT"] == str(port["containerPort"])
    assert job["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert job["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    mounts = {one["name"]: one["mountPath"] for one in job["volumeMounts"]}
    assert Path(mounts["state"]) in Path(env["NUDGE_STATE"]).parents

    for name, text in found["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    assert main(["check", str(tmp_path)]) == 0
    for name, value in env.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    command, flows = job["args"]
    assert flows == mounts["flows"]
    assert main([command, str(tmp_path), "--show-config"]) == 0


def test_make_help_lists_what_make_can_do() -> None:
    makefile = (REPO / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony is not None
    for asked in ([], ["help"]):
        make = ["make", "--no-print-directory", *asked]
        said = subprocess.run(make, cwd=REPO, capture_output=True, text=True, check=True).stdout
        assert sorted(line.split()[1] for line in said.splitlines()) == sorted(phony[1].split())
