"""Write a made-up shop's events as JSONL to standard output, to feed the shop's flows with.

python examples/shop_events.py --events 100000 --seed 1 > events.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from dataflow.demo.shop import SECOND, START_MS, Shop, Tracker


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shop's records as JSONL to stdout."""
    parser = argparse.ArgumentParser(description="Write a made-up shop's events as JSONL to stdout.")
    add = parser.add_argument
    add("--events", type=int, default=10_000, metavar="N", help="how many records (default 10000)")
    add("--seed", type=int, default=1, metavar="N", help="the same seed gives the same records (default 1)")
    add("--users", type=int, default=20_000, metavar="N", help="how many people (default 20000)")
    add("--start", default=None, metavar="TIME", help="when shop time begins (default 2026-11-23T12:00:00Z)")
    add("--rate", type=float, default=10.0, metavar="R", help="events per second of shop time (default 10)")
    add("--perfect", action="store_true", help="no duplicates, nothing late, nothing broken")
    given = parser.parse_args(arguments)
    start_ms = START_MS
    if given.start is not None:
        try:
            start = datetime.fromisoformat(given.start)
        except ValueError:
            parser.error(f"--start {given.start!r} is not a time; write it as 2026-11-23T12:00:00Z")
        start_ms = round((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp()) * SECOND
    try:
        shop = Shop(
            seed=given.seed,
            users=given.users,
            start_ms=start_ms,
            events_per_s=given.rate,
            tracker=None if given.perfect else Tracker(),
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        for record in shop.events(limit=max(0, given.events)):
            sys.stdout.buffer.write(record.value + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:  # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
