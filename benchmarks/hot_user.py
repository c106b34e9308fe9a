"""What a user with a tenth of all events costs per event, against the others, in one run.

`python -m benchmarks.hot_user` handles the same events twice in one shard, with a commit of the store every so often:
once spread evenly over many users, once with every tenth from a single user. The ratio of the two times says how much
dearer the hot user is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dataflow.shard import OPEN, Delivery, Shard
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from state.records import Input
from state.rocks import RocksBackend
from state.store import ShardStore

START_MS = 1_795_435_200_000
FLOW = """
flow: hot
trigger: {event: e, where: {amount: {gte: 50}}, count: {at_least: 5, within: 30m}}
exit: [{event: bye}]
steps: [{wait: 30m}, {send: webhook, template: t}]
"""
BATCH = 2_000


def events(deployed: Deployment, number: int, users: int, hot_share: int, first: int) -> Iterator[list[Input]]:
    """Yield batches of events, a millisecond apart; of each *hot_share* one is the hot user's, 0 for none."""
    properties = {"amount": 60}
    hits = deployed.index.match("e", properties)
    for begin in range(first, first + number, BATCH):
        batch = []
        for offset in range(begin, begin + BATCH):
            user = "hot" if hot_share and offset % hot_share == 0 else f"u{offset * 7919 % users}"
            at = START_MS + offset
            identity = f"01J9ZK4T-{offset:012x}-aaaa"
            batch.append(Input(user, at, "e", identity, True, at, properties, None, hits, 0, offset))
        yield batch


def seconds(deployed: Deployment, folder: Path, number: int, users: int, hot_share: int, commit_every: int) -> float:
    """Return the CPU time of the second half of the events; in the first half the hot user becomes hot."""
    store = ShardStore(RocksBackend(folder), cached_users=users * 2, changed_users=users * 2, due_of=deployed.due_of)
    shard = Shard(store, deployed, sources=1)
    began = took = 0.0
    for half in range(2):
        since = 0
        began = time.process_time()
        for batch in events(deployed, number // 2, users, hot_share, half * number // 2):
            shard.take([Delivery(0, batch[-1].now, OPEN, batch)])
            shard.out.actions, shard.out.journal = [], []
            since += len(batch)
            if since >= commit_every:
                shard.settle()
                store.commit()
                since = 0
        took = time.process_time() - began
    store.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_200_000, help="in each of the two cases")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--commit-every", type=int, default=100_000, help="events between two commits")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    deployed = Deployment(compile_texts([FlowText("hot.yaml", FLOW)], Workspace()).programs)
    ratios, found = [], []
    for _ in range(options.rounds):
        took = []
        for hot_share in (0, 10):
            with tempfile.TemporaryDirectory() as folder:
                sizes = (options.events, options.users, hot_share, options.commit_every)
                took.append(seconds(deployed, Path(folder) / "shard", *sizes))
        each = [round(2 * one / options.events * 1e6, 2) for one in took]
        found.append(each)
        ratios.append(took[1] / took[0])
    print(json.dumps({"us_per_event_even_and_hot": found, "median_ratio": round(statistics.median(ratios), 2)}))


if __name__ == "__main__":
    main()
