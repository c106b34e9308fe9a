"""Kill a running job at random for as long as you like: `make soak SECONDS_OF_SOAK=3600`.

Each round is a shop of its own seed, a job of one or two processes on a real Kafka, and a handful of SIGKILLs; after it
the topics are compared with what `simulate` says. Prints a report, and the seed of every round that differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dataflow.shop import Shop
from tests.jobs import REPO, Emitted, on_kafka, run_with_kills, simulated
from tests.kafka.broker import ROOT, Broker, running_broker
from tests.test_run import UNTIL, fill


def main() -> int:
    """Go on until the time is over; 1 if any round differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--records", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=8)
    options = parser.parse_args()
    report = {"rounds": 0, "kills": 0, "records": 0, "actions": 0, "journal": 0, "differences": 0}
    failed: list[int] = []
    began = time.monotonic()
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder, running_broker(Path(folder) / "kafka") as broker:
        seed = options.seed
        while time.monotonic() - began < options.seconds:
            killed, expected, differences = one_round(
                broker, Path(folder) / str(seed), seed, options.records, options.kills
            )
            report["rounds"] += 1
            report["kills"] += killed
            report["records"] += options.records
            report["actions"] += len(expected.actions)
            report["journal"] += len(expected.journal)
            if differences:
                report["differences"] += 1
                failed.append(seed)
                print(f"seed {seed}: {differences}", flush=True)
            print(f"{time.monotonic() - began:.0f} s {json.dumps(report)}", flush=True)
            seed += 1
    print(json.dumps({**report, "failed_seeds": failed}))
    return 1 if failed else 0


def one_round(broker: Broker, folder: Path, seed: int, records: int, kills: int) -> tuple[int, Emitted, list[str]]:
    """Return how often the job was killed, what was expected, and what differs."""
    chance = random.Random(seed)
    shop = folder / "shop"
    shutil.copytree(REPO / "examples" / "shop", shop)
    Shop(seed=seed, users=1500).write_jsonl(shop / "events.jsonl", records)
    expected = simulated(shop / "flows", shop / "events.jsonl", folder, until=UNTIL, config=shop / "nudge.yaml")
    prefix = f"soak-{seed}."
    fill(broker, f"{prefix}events", shop / "events.jsonl", 4)
    command: list[str | Path] = [
        shop / "flows", "--config", shop / "nudge.yaml",
        "--source", f"kafka://{broker.bootstrap}/{prefix}events", "--sink", f"kafka://{broker.bootstrap}?prefix={prefix}",
        "--state", folder / "state", "--stop-at-end", "--until", UNTIL,
        "--processes", str(chance.choice([1, 2])), "--epoch", chance.choice(["1s", "2s"]),
    ]  # fmt: skip
    killed = run_with_kills(command, folder / "log", chance, kills=kills, within_s=(1.0, 6.0))
    found = on_kafka(broker, prefix)
    differences = Emitted(found.actions, found.journal, []).differences(Emitted(expected.actions, expected.journal, []))
    broker.delete_topics(broker.topics(prefix))
    shutil.rmtree(folder)
    return killed, expected, differences


if __name__ == "__main__":
    sys.exit(main())
