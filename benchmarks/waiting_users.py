"""Memory and restart with many users who wait: `python -m benchmarks.waiting_users --users 1000000`.

Everybody enters a flow and waits for 30 days. Measured are the memory of the job's process while they enter, what the
state takes on disk, how long a second start takes until it has sent the action of one more user, and then, beside that
running job, how long `nudge audit` takes and how much memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.kafka.broker import ROOT, Broker, running_broker

START_MS = 1_795_435_200_000
FLOWS = {
    "wait.yaml": "flow: wait\ntrigger: {event: sign_up}\nsteps:\n  - wait: 30d\n  - {send: webhook, template: t}\n",
    "now.yaml": "flow: now\ntrigger: {event: hello}\nsteps:\n  - {send: webhook, template: t}\n",
}
NUDGE = [sys.executable, "-m", "dataflow.cli"]


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder, running_broker(Path(folder) / "kafka") as broker:
        print(json.dumps(measure(broker, Path(folder), options.users), indent=1))
    return 0


def measure(broker: Broker, folder: Path, users: int) -> dict[str, Any]:
    flows = folder / "flows"
    flows.mkdir()
    for name, text in FLOWS.items():
        (flows / name).write_text(text)
    broker.create_topic("events", 4)
    for first in range(0, users, 100_000):
        numbers = range(first, min(users, first + 100_000))
        broker.produce("events", [event(f"u-{number}", "sign_up") for number in numbers])
    command = [
        *NUDGE, "run", str(flows), "--source", f"kafka://{broker.bootstrap}/events",
        "--sink", f"kafka://{broker.bootstrap}", "--state", str(folder / "state"), "--json",
    ]  # fmt: skip
    entering = subprocess.Popen([*command, "--stop-at-end"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    memory = Memory(entering.pid)
    output, _ = entering.communicate()
    summary = json.loads(output.strip().splitlines()[-1])
    state_bytes = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())

    began = time.monotonic()
    again = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    restarted = Memory(again.pid)
    broker.produce("events", [event("u-new", "hello")])
    while not sum(broker.end_offsets("actions.webhook").values()):
        time.sleep(0.01)
    restart_s = time.monotonic() - began
    began = time.monotonic()
    audit = subprocess.Popen(
        [*NUDGE, "audit", "--state", str(folder / "state"), "--json"], stdout=subprocess.PIPE, cwd=ROOT
    )
    audited = Memory(audit.pid)
    found = json.loads(audit.communicate()[0].splitlines()[-1])
    assert found["clean"], found
    assert found["users"] >= users
    audit_s = time.monotonic() - began
    again.terminate()
    again.communicate()
    return {
        "users": users,
        "entered_per_second": summary["events_per_second"],
        "entering_peak_mb": memory.peak_mb(),
        "state_mb": round(state_bytes / 2**20),
        "restart_to_first_action_s": round(restart_s, 2),
        "restarted_peak_mb": restarted.peak_mb(),
        "audit_s": round(audit_s, 1),
        "audit_peak_mb": audited.peak_mb(),
        "cpus": os.cpu_count(),
    }


def event(user: str, name: str) -> tuple[bytes, bytes, int]:
    return user.encode(), json.dumps({"user_id": user, "event": name}).encode(), START_MS


class Memory:
    """The peak of a job's memory, over its process tree, sampled until it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            listed = subprocess.run(
                ["ps", "-o", "rss=", "--pid", str(self._pid), "--ppid", str(self._pid)],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.split()
            if not listed:
                return
            self._peak = max(self._peak, sum(map(int, listed)))
            time.sleep(0.2)

    def peak_mb(self) -> int:
        """Return the peak so far, in MiB."""
        return self._peak // 1024


if __name__ == "__main__":
    sys.exit(main())
