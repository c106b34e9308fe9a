"""What the rest of the language costs: `python -m benchmarks.whole_language`; needs no Kafka.

`nudge simulate` reads the same events with two sets of flows: the plain ones of the other benchmarks, and the same with
caps, quiet hours, consent, two audiences and `result_of`, for which memberships and receipts are among the records.
With `--code` the plain ones also run with the code of another checkout, in turn: what is not used must cost nothing.
Measured is the CPU time of a process less that of one without any events.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.workload import START_MS, Content, Workload, events, flow_files
from state.iso import format_ms
from tests.kafka.broker import ROOT

RULES: Final = """\
channels:
  push: {address: null, caps: [{at_most: 1, per: 1d}, {at_most: 4, per: 30d}], quiet: {from: "22:00", until: "08:00"}}
caps: [{at_most: 3, per: 1d}]
consent: {marketing: profile.marketing_consent}
exempt: {audience: staff}
suppress: {audience: do-not-contact}
"""
ENTRY: Final = "entry: {when: {audience: [members, buyers]}}\nsteps:\n"
RESULT: Final = (
    "  - result_of: remind\n    within: 1h\n    then: {delivered: [{set: {reached: true}}], failed: [], other: []}\n"
)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--flows", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.5, help="of the events that matter to a flow (%(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--code", type=Path, help="another checkout, which runs the plain flows, too")
    options = parser.parse_args()
    work = Workload(options.events, options.users, 1, options.flows, options.share)
    with tempfile.TemporaryDirectory(prefix="language-") as folder:
        cases = _prepare(Path(folder), work, options.code)
        nothing = _written(Path(folder) / "nothing.jsonl", [])
        spent: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(options.runs):
            for name in list(cases) if number % 2 == 0 else list(cases)[::-1]:
                code, flows, records, count = cases[name]
                idle = _cpu_s(code, flows, nothing)
                spent[name].append((_cpu_s(code, flows, records) - idle) / count * 1e6)
    plain = statistics.median(spent["plain"])
    for name, values in spent.items():
        value = statistics.median(values)
        print(f"{name:<24}{value:8.2f} us per record{value / plain:8.2f} times plain   {_listed(values)}")
    return 0


Case = tuple[Path, Path, Path, int]
"""Code, flows, records, how many of them."""


def _prepare(folder: Path, work: Workload, other: Path | None) -> dict[str, Case]:
    lines = [text for _, text, _ in events(work, Content())]
    plain = _written(folder / "plain.jsonl", lines)
    flows, rich = folder / "flows", folder / "rich"
    for place in (flows, rich):
        place.mkdir()
    for name, text in flow_files(work.flows).items():
        (flows / name).write_text(text)
        (rich / name).write_text(text.replace("steps:\n", ENTRY).replace("send: webhook", "send: push") + RESULT)
    (rich / "nudge.yaml").write_text(RULES)
    members = list(_members(work.users))
    sent = folder / "sent.jsonl"
    _cpu_s(ROOT, rich, _written(folder / "unanswered.jsonl", [*members, *lines]), "--actions", str(sent))
    answered = _woven(lines, _receipts(sent))
    records = _written(folder / "rich.jsonl", [*members, *answered])
    cases: dict[str, Case] = {
        "plain": (ROOT, flows, plain, len(lines)),
        "with everything": (ROOT, rich, records, len(members) + len(answered)),
    }
    if other is not None:
        cases["plain, other code"] = (other.resolve(), flows, plain, len(lines))
    return cases


def _members(users: int) -> Iterator[str]:
    at = format_ms(START_MS)
    for number in range(users):
        user = f"u-{number:07d}"
        yield json.dumps({"type": "identify", "user_id": user, "timestamp": at, "traits": {"marketing_consent": True}})
        for audience in ("members", "buyers") if number % 2 else ("members",):
            yield json.dumps({"audience": audience, "member": True, "user_id": user, "timestamp": at})


def _receipts(sent: Path) -> list[tuple[str, str]]:
    found = []
    for line in sent.read_bytes().splitlines():
        action = json.loads(line)
        at, status = action["at"], "delivered" if len(found) % 4 else "failed"
        receipt = {"action_id": action["action_id"], "user_id": action["user_id"], "status": status, "timestamp": at}
        found.append((at, json.dumps(receipt)))
    return found


def _woven(lines: Sequence[str], more: list[tuple[str, str]]) -> list[str]:
    """Return the lines with *more* among them, each behind what came before it."""
    woven: list[str] = []
    waiting = iter([*more, ("~", "")])
    at, text = next(waiting)
    for line in lines:
        now = json.loads(line)["timestamp"]
        while at < now:
            woven.append(text)
            at, text = next(waiting)
        woven.append(line)
    return woven


def _written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def _cpu_s(code: Path, flows: Path, records: Path, *more: str) -> float:
    """Return the CPU seconds of one simulation."""
    command = [sys.executable, "-P", "-m", "dataflow.cli", "simulate", str(flows), "--events", str(records), *more]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    process = subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in sorted(values)) + "]"


if __name__ == "__main__":
    sys.exit(main())
