"""The files to deploy with: they are valid, and they keep to what the documentation says of stopping and of health."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import dataflow.deliver.start
import dataflow.gateway.start
from connectors.kafka import KEPT_TWO_DAYS, STAMPED_BY_BROKER
from dataflow.cli import main
from dataflow.demo import FLOWS, providers
from dataflow.demo.beside import workspace as workspace_of_demo
from dataflow.settings import SETTINGS, resolve
from operators.language.workspace import Workspace, read_workspace
from tests.jobs import REPO

DEPLOY = REPO / "deploy"
COMPOSE = REPO / "compose.yaml"
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


# ---- compose.yaml --------------------------------------------------------------------------------------------------


Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return compose.yaml as Docker reads it: with the defaults of its variables, and `$$` for a dollar."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    assert not re.search(r"(?<!\$)\$(?!\$)", re.sub(r"^\s*#.*$", "", text, flags=re.M)), "a variable without default"
    found: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return found


def here(service: Service, inside: str) -> str:
    """Return where that lies on this machine which the container has at *inside*."""
    for volume in service.get("volumes", ()):
        outside, there, *_ = volume.split(":")
        if outside.startswith("./") and (inside == there or inside.startswith(f"{there}/")):
            return str(REPO / outside / Path(inside).relative_to(there))
    return inside


def test_every_command_in_compose_is_one_that_the_command_line_takes(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Any] = []
    for module in (dataflow.deliver.start, dataflow.gateway.start):
        monkeypatch.setattr(module.Start, "run", lambda self, *_: begun.append(self))
    for name, service in compose["services"].items():
        if service.get("image") != "nudge" or "entrypoint" in service:
            continue
        for variable, value in service.get("environment", {}).items():
            monkeypatch.setenv(variable, value)
        command = [here(service, word) for word in service["command"]]
        assert main([*command, *(["--show-config"] if name == "job" else [])]) == 0, capsys.readouterr().err
    deliver, gateway = begun
    assert {one.name for one in deliver.channels} == {"sms", "email", "push", "webhook"}
    assert set(gateway.delivered) == {"sms", "email"}
    assert deliver.ledger == gateway.ledger
    assert deliver.ledger.kind == "redis", "the gateway is another container, and deliver may be scaled"
    assert (deliver.where.group, deliver.where.receipts) == (gateway.group, gateway.events)
    assert str(gateway.port) == compose["services"]["gateway"]["environment"]["NUDGE_METRICS_PORT"]


def test_the_flows_of_compose_send_where_something_is_delivered(compose: dict[str, Any]) -> None:
    job = compose["services"]["job"]
    assert here(job, "/flows") == str(FLOWS)
    written = yaml.safe_load(Path(here(job, "/etc/nudge/nudge.yaml")).read_text())
    of_demo = yaml.safe_load((FLOWS / "nudge.yaml").read_text())["channels"]
    plain = {name: {key: value for key, value in one.items() if key != "deliver"} for name, one in of_demo.items()}
    assert {
        name: {key: value for key, value in one.items() if key != "deliver"}
        for name, one in written["channels"].items()
    } == plain
    topics = {name: one["topic"] for name, one in plain.items()}
    made = workspace_of_demo(topics, "http://providers:8081")
    assert {name: one["deliver"] for name, one in written["channels"].items()} == {
        name: one["deliver"] for name, one in made["channels"].items()
    }, "as the demo does it"
    assert written["gateway"]["receipts"] == made["gateway"]["receipts"]


def test_the_providers_of_compose_are_where_its_channels_and_reports_go(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose["services"]["providers"]
    assert service["entrypoint"] == ["python", "-m", "dataflow.demo.providers"]
    served: list[tuple[str, int]] = []

    async def serve(_: providers.Providers, host: str, port: int) -> None:
        served.append((host, port))

    monkeypatch.setattr(providers.Providers, "serve", serve)
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    providers.main(service["command"])
    assert served == [("0.0.0.0", 8081)]
    assert service["command"][2] == "http://gateway:8080/receipts"


def made_topics(compose: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the topics that compose makes, each with its settings."""
    (script,) = compose["services"]["topics"]["command"]
    together = re.search(r"for topic in (.*); do", script)
    assert together is not None
    yield from ((topic, []) for topic in together[1].split())
    for line in re.findall(r"^make (.*)$", script, re.M):
        topic, *options = shlex.split(line)
        yield topic, [value for flag, value in pairwise(options) if flag == "--config"]


def test_compose_makes_the_topics_that_have_to_be_there_with_their_settings(compose: dict[str, Any]) -> None:
    made = dict(made_topics(compose))
    assert made["events"] == [STAMPED_BY_BROKER]
    assert made["receipts.unmatched"] == [KEPT_TWO_DAYS]
    channels = yaml.safe_load((FLOWS / "nudge.yaml").read_text())["channels"]
    assert made.keys() == {"events", "receipts.unmatched", "dead-letters", *(one["topic"] for one in channels.values())}
    (script,) = compose["services"]["topics"]["command"]
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0


def test_what_compose_names_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"kafka", "redis", "topics", "job", "deliver", "gateway"} <= services.keys()
    for name, service in services.items():
        assert "build" in service or re.search(r":[v\d][\d.]+$", service["image"]), f"{name}: a fixed version"
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"]
            else:
                assert (other, how["condition"]) == ("topics", "service_completed_successfully")
        for volume in service.get("volumes", ()):
            outside = volume.partition(":")[0]
            assert outside in compose["volumes"] or (REPO / outside).exists(), f"{name}: {volume}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "for this machine alone"
        for used in service.get("configs", ()):
            assert used["source"] in compose["configs"]
    assert "noeviction" in services["redis"]["command"]
    assert services["redis"]["command"][1:3] == ["--appendonly", "yes"]


def test_prometheus_scrapes_what_is_served_under_the_names_that_the_alerts_have(compose: dict[str, Any]) -> None:
    written = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    jobs = {one["job_name"]: one for one in written["scrape_configs"]}
    (discovered,) = jobs["nudge-deliver"]["dns_sd_configs"]
    port = discovered["port"]
    command = compose["services"]["deliver"]["command"]
    assert (discovered["names"], command[command.index("--port") + 1]) == (["deliver"], str(port))
    assert compose["services"]["deliver"]["environment"]["NUDGE_METRICS_PORT"] == str(port)
    assert jobs["nudge"]["static_configs"] == [{"targets": ["job:9100"]}]
    assert jobs["nudge-gateway"]["static_configs"] == [{"targets": ["gateway:8080"]}]
    named = set(re.findall(r'job="([\w-]+)"', (REPO / "docs" / "prometheus-alerts.yaml").read_text()))
    assert named <= jobs.keys()


def test_the_image_has_all_packages_and_ports() -> None:
    image = (REPO / "Dockerfile").read_text()
    ignored = (REPO / ".dockerignore").read_text().split()
    for package in ("connectors", "dataflow", "nudge", "operators", "state"):
        assert f"COPY {package} {package}\n" in image
        assert f"!{package}/" in ignored
        for folder in (REPO / package).rglob("*.py"):
            assert (folder.parent / "__init__.py").exists(), f"{folder.parent} would be left out of a wheel"
    assert "EXPOSE 8080 9100 9101\n" in image


def test_make_help_lists_what_make_can_do() -> None:
    makefile = (REPO / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony is not None
    for asked in ([], ["help"]):
        make = ["make", "--no-print-directory", *asked]
        said = subprocess.run(make, cwd=REPO, capture_output=True, text=True, check=True).stdout
        assert sorted(line.split()[1] for line in said.splitlines()) == sorted(phony[1].split())
