"""From the command to its first action, and to its end, for a new state and for a small one.

`python -m benchmarks.startup` runs `nudge run --stop-at-end` on files, over and over, each time in fresh processes, and
prints the medians in seconds. An action counts from the moment at which its topic's file has it. `--code DIR` runs the
code of another checkout, in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parents[1]
FLOW: Final = "flow: f\ntrigger: {event: a}\nentry: {reentry: always}\nsteps: [{send: webhook, template: t}]\n"
LOOK_EVERY_S: Final = 0.002
NEW, SMALL = "new state", "small state"


class Took(NamedTuple):
    """One run, in seconds: until its first action was there, until its end, and of CPU in all its processes."""

    first_s: float
    end_s: float
    cpu_s: float


def event(number: int) -> str:
    return json.dumps({"user_id": f"u{number}", "event": "a", "timestamp": f"2026-11-23T08:{number:02d}:00Z"}) + "\n"


def run(folder: Path, code: Path, processes: int) -> Took:
    """Run the job in *folder* to the end of its source."""
    command = [
        sys.executable, "-m", "dataflow.cli", "run", "f.yaml", "--source", "file:events.jsonl", "--sink", "file:out",
        "--state", "state", "--processes", str(processes), "--stop-at-end",
    ]  # fmt: skip
    actions = folder / "out" / "actions.webhook.jsonl"
    before = actions.stat().st_size if actions.exists() else 0
    cpu_before, began_s, first_s = _children_cpu_s(), time.perf_counter(), 0.0
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(code)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as job:  # fmt: skip
        while job.poll() is None:
            if not first_s and actions.exists() and actions.stat().st_size > before:
                first_s = time.perf_counter() - began_s
            time.sleep(LOOK_EVERY_S)
    end_s = time.perf_counter() - began_s
    if job.returncode or not actions.exists() or actions.stat().st_size == before:
        raise SystemExit(f"the job in {code} failed with status {job.returncode}, or made no action")
    return Took(first_s or end_s, end_s, _children_cpu_s() - cpu_before)


def both_cases(code: Path, processes: int, users: int) -> dict[str, Took]:
    """Run a job on a new state with four users, and one on a state that *users* are in."""
    found = {}
    for case, known in ((NEW, 0), (SMALL, users)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "f.yaml").write_text(FLOW)
            if known:
                (folder / "events.jsonl").write_text("".join(map(event, range(known))))
                run(folder, code, processes)
            with (folder / "events.jsonl").open("a") as events:
                events.writelines(map(event, range(known, known + 4)))
            found[case] = run(folder, code, processes)
    return found


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=20, help="who are in the small state; at most 50")
    parser.add_argument("--code", type=Path, action="append", default=[], help="another checkout to compare with")
    options = parser.parse_args()
    all_took: dict[tuple[str, int, str], list[Took]] = defaultdict(list)
    for _ in range(options.runs):
        for processes in options.processes:
            for code in (HERE, *options.code):
                for case, took in both_cases(code, processes, options.users).items():
                    all_took[(case, processes, str(code))].append(took)
    print(f"{'case':<12} {'processes':>9} {'first action':>12} {'end':>6} {'CPU':>6}  code")
    for (case, processes, where), runs in sorted(all_took.items()):
        first_s, end_s, cpu_s = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{case:<12} {processes:>9} {first_s:>12.2f} {end_s:>6.2f} {cpu_s:>6.2f}  {where}")


if __name__ == "__main__":
    main()
