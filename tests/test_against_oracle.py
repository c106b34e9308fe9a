"""The product against a second, naive implementation of the language: random flows, random events, the same records."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dataflow.cli import main
from tests.oracle.compare import difference
from tests.oracle.generate import IN_PRODUCT, Case, random_full_case
from tests.oracle.values import to_iso

CASES = int(os.environ.get("NUDGE_ORACLE_CASES", "300"))
FIRST = int(os.environ.get("NUDGE_ORACLE_FIRST", "0"))
FEATURES = os.environ["NUDGE_ORACLE_FEATURES"].split() if "NUDGE_ORACLE_FEATURES" in os.environ else IN_PRODUCT
GROUPS = 10
OUTPUTS = ("actions", "journal", "dead-letters")


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_flows_and_events_give_the_same_records_in_both(group: int, tmp_path: Path) -> None:
    for seed in range(FIRST + group, FIRST + CASES, GROUPS):
        found = against_product(random_full_case(seed, FEATURES), tmp_path)
        assert found is None, f"seed {seed}: {found}"


def against_product(case: Case, folder: Path) -> str | None:
    """Return the first difference between the oracle and `nudge simulate`, None without one."""
    flows = folder / "flows"
    shutil.rmtree(flows, ignore_errors=True)
    flows.mkdir()
    for number, flow in enumerate(case.flows):
        (flows / f"{number}.json").write_text(json.dumps(flow))
    (flows / "nudge.yaml").write_text(json.dumps(case.config))
    events = folder / "events.jsonl"
    events.write_bytes(b"\n".join(case.lines) + b"\n")
    args = ["simulate", str(flows), "--events", str(events)]
    for name in OUTPUTS:
        args += [f"--{name}", str(folder / name)]
    if case.until_ms is not None:
        args += ["--until", to_iso(case.until_ms)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(args)
    if status:
        return f"exit status {status}:\n{said.getvalue()}"
    return difference(case.run(), *(rows_of(folder / name) for name in OUTPUTS))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
