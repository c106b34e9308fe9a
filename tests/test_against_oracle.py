"""The product against a second, naive implementation of the language: random flows, random events, the same records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dataflow.read.scanner import NativeFormat
from dataflow.simulate import Simulation
from operators.language.problems import render
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from tests.oracle.compare import difference
from tests.oracle.engine import simulate
from tests.oracle.generate import random_case
from tests.outgoing import plain

CASES = int(os.environ.get("NUDGE_ORACLE_CASES", "300"))
GROUPS = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_flows_and_events_give_the_same_records_in_both(group: int, tmp_path: Path) -> None:
    for seed in range(group, CASES, GROUPS):
        against_oracle(seed, tmp_path)


def against_oracle(seed: int, folder: Path) -> None:
    """Fail with the seed and the first difference."""
    flows, lines = random_case(seed)
    texts = [FlowText(f"{number}.json", json.dumps(flow)) for number, flow in enumerate(flows)]
    compiled = compile_texts(texts, Workspace())
    assert not compiled.has_errors, f"seed {seed}:\n{render(compiled.problems)}"
    events = folder / "events.jsonl"
    events.write_bytes(b"\n".join(lines) + b"\n")
    actions: list[dict[str, object]] = []
    journal: list[dict[str, object]] = []
    dead: list[dict[str, object]] = []
    deployment = Deployment(compiled.programs)
    simulation = Simulation(
        deployment,
        action=lambda one: actions.append(plain(one)),
        journal=lambda one: journal.append(plain(one)),
        dead_letter=lambda one: dead.append(plain(one)),
    )
    simulation.run(events, NativeFormat(deployment.index.table()))
    found = difference(simulate(flows, lines), actions, journal, dead)
    assert found is None, f"seed {seed}: {found}"
