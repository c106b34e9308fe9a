"""`nudge deliver` as a process, and what it leaves on the topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state.outgoing import Action, dump
from tests.jobs import REPO
from tests.kafka.broker import KafkaTopics


class Delivery:
    """A `nudge deliver` that runs."""

    def __init__(self, broker: KafkaTopics, prefix: str, folder: Path, *more: str, **environment: str) -> None:
        self.log = folder / "deliver.log"
        command = [
            sys.executable, "-m", "dataflow.cli", "deliver", "--source", f"kafka://{broker.bootstrap}?prefix={prefix}",
            "--config", str(folder / "nudge.yaml"), "--group", f"{prefix}deliver", "--receipts", f"{prefix}events",
            *more,
        ]  # fmt: skip
        if "--ledger" not in more:
            command += ["--ledger", f"sqlite:{folder / 'ledger.db'}"]
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, cwd=REPO, stdout=stream, stderr=stream, env={**os.environ, **environment}
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self, *, within_s: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=within_s)

    def wait(self, timeout_s: float = 120) -> None:
        status = self.process.wait(timeout=timeout_s)
        assert status == 0, self.tail()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text(errors="replace"):
            assert time.monotonic() < deadline, self.tail()
            assert self.process.poll() is None, self.tail()
            time.sleep(0.05)


def send(broker: KafkaTopics, topic: str, actions: Sequence[Action]) -> None:
    """Put *actions* on *topic*."""
    broker.produce(topic, [(one.user_id.encode(), dump(one), None) for one in actions])


def receipts(broker: KafkaTopics, topic: str) -> dict[str, list[dict[str, Any]]]:
    """Return what is on *topic*, by action."""
    found = defaultdict(list)
    for record in broker.read_all(topic):
        one = json.loads(record.value)
        found[one["action_id"]].append(one)
    return dict(found)
