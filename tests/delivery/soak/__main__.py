"""Break delivery and the door at random: `make soak-delivery KILLS=1000 ARGS='--report soak-delivery.md'`.

Each round has a seed. A real Kafka, a real Redis (append-only, every note on the disk) or a ledger in a file, one to
three `nudge deliver`, one or two `nudge gateway`, three providers with moods, and clients that note which events were
acknowledged. Processes are killed at random moments and at named points, stand still for longer than their leases, are
asked to stop; Redis and Kafka are killed and paused; providers have storms. Then all comes to rest, and what providers,
the ledger and the topics have is compared. A round that breaks a promise is told with its seed, its files are kept, and
the soak goes on. `--seed N --rounds 1` does one round again: what is done is the same, the moments differ a little.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.delivery.soak.lives import warm_up
from tests.delivery.soak.round import Done, Round
from tests.kafka.broker import ROOT, running_broker
from tests.redis.server import RedisServer

NUMBERS = ("rounds", "seconds", "kills", "kills_per_minute", "faults", "actions", "called_again", "events", "broken")


def summary(rounds: Sequence[Done], seconds: float) -> dict[str, Any]:
    """Return everything that a reader wants to know, as plain data."""
    faults: Counter[str] = sum((one.faults for one in rounds), Counter())
    outcomes: Counter[str] = sum((one.outcomes for one in rounds), Counter())
    kills = sum(one.kills for one in rounds)
    return {
        "rounds": len(rounds),
        "seconds": round(seconds),
        "kills": kills,
        "kills_per_minute": round(60 * kills / seconds, 1),
        "faults": sum(faults.values()),
        **{name: sum(getattr(one, name) for one in rounds) for name in ("actions", "called_again", "events")},
        "broken": sum(len(one.problems) for one in rounds),
        "outcomes": dict(sorted(outcomes.items())),
        "by_kind": dict(sorted(faults.items())),
        "each": [vars(one) for one in rounds],
    }


def markdown(found: dict[str, Any]) -> str:
    """Return *found* for people."""
    lines = ["| what | number |", "|---|---|", *(f"| {name.replace('_', ' ')} | {found[name]} |" for name in NUMBERS)]
    lines += [
        "",
        "| outcome | actions |",
        "|---|---|",
        *(f"| {one} | {many} |" for one, many in found["outcomes"].items()),
    ]
    lines += ["", "| fault | times |", "|---|---|", *(f"| {one} | {many} |" for one, many in found["by_kind"].items())]
    lines += [
        "",
        "| seed | ledger | leases | kills | actions | events | seconds | broken |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found["each"]:
        leases = "short" if one["has_short_leases"] else "as set"
        cells = [one["seed"], one["ledger"], leases, one["kills"], one["actions"], one["events"], one["seconds"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {len(one['problems'])} |")
    return "\n".join(lines) + "\n"


def write_report(path: Path, found: dict[str, Any]) -> None:
    """Write *found*, all of it or nothing."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(markdown(found) if path.suffix == ".md" else json.dumps(found, indent=1) + "\n")
    draft.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Go on until there were enough kills, or the time is over; 1 if any promise was broken."""
    parser = argparse.ArgumentParser(
        prog="tests.delivery.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1_000, help="begin no new round after so many")
    parser.add_argument("--seconds", type=float, default=3_600, help="nor after so long")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=10**9, help="at most so many")
    parser.add_argument("--faults", type=int, default=150, help="of each round")
    parser.add_argument(
        "--report", type=Path, action="append", default=[], help="a .md or .json file, after each round"
    )
    parser.add_argument("--keep", type=Path, default=ROOT / ".cache" / "soak", help="where files of failed rounds stay")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Leaving nothing behind.
    options.keep.mkdir(parents=True, exist_ok=True)
    rounds: list[Done] = []
    warm_up()
    with tempfile.TemporaryDirectory(dir=options.keep) as folder, running_broker(Path(folder) / "kafka") as broker:
        redis = RedisServer(Path(folder) / "redis", fsync="always")
        redis.start()
        began_s = time.monotonic()

        def is_over() -> bool:
            is_late = time.monotonic() - began_s >= options.seconds
            kills = sum(one.kills for one in rounds)
            return is_late or len(rounds) >= int(options.rounds) or kills >= int(options.kills)

        try:
            while not is_over():
                seed = options.seed + len(rounds)
                files = options.keep / f"delivery-{seed}"
                shutil.rmtree(files, ignore_errors=True)
                rounds.append(Round(broker, redis, files, seed, faults=options.faults).run())
                print(json.dumps(vars(rounds[-1])), flush=True)
                if rounds[-1].problems:
                    (files / "problems.txt").write_text("\n".join(rounds[-1].problems))
                    command = f"python -m tests.delivery.soak --seed {seed} --rounds 1 --faults {options.faults}"
                    print(f"seed {seed} broke a promise, see {files}; again with: {command}", flush=True)
                else:
                    shutil.rmtree(files, ignore_errors=True)
                for path in options.report:
                    write_report(path, summary(rounds, time.monotonic() - began_s))
        finally:
            redis.stop()
    print(markdown(summary(rounds, time.monotonic() - began_s)))
    return 1 if any(one.problems for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
