"""Killed jobs that read batches: each event once, and each record with bad items one dead letter."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.crash.points import killed_at
from tests.jobs import RunningJob, in_folder, simulated

FLOW = """
flow: f
trigger: {event: a}
entry: {concurrent: 1000}
steps:
  - {send: webhook, template: t, vars: {n: "{{ entry.n }}"}}
  - wait: 1h
  - {send: webhook, template: later}
"""
START = 1_795_420_800_000


def batches(chance: random.Random, records: int) -> list[dict[str, Any]]:
    """Return batches with bad items of several kinds, some with an id, some without, some sent twice."""
    made: list[dict[str, Any]] = []
    for record in range(records):
        calls: list[Any] = []
        for item in range(chance.randint(0, 6)):
            call = {"type": "track", "userId": f"u{chance.randint(0, 40)}", "event": "a", "properties": {"n": item}}
            call["timestamp"] = START + 1000 * record
            if chance.random() < 0.5:
                call["messageId"] = f"m{record}-{item}"
            call |= chance.choice([{}, {}, {}, {"userId": None}, {"event": 5}, {"timestamp": "?"}, {"type": "alias"}])
            calls.append(call if chance.random() < 0.95 else 5)
        made.append({"batch": calls, "writeKey": "secret"})
        if chance.random() < 0.1:
            made.append(made[chance.randrange(len(made))])
    return made


def test_batches_survive_kills_with_each_event_once_and_a_dead_letter_per_record(tmp_path: Path) -> None:
    events, flow = tmp_path / "events.jsonl", tmp_path / "f.yaml"
    events.write_text("".join(json.dumps(batch) + "\n" for batch in batches(random.Random(7), 400)))
    flow.write_text(FLOW)
    expected = simulated(
        flow, events, tmp_path / "simulated", until="2026-11-24T00:00:00Z", more=["--format", "segment"]
    )
    assert len(expected.dead_letters) > 100
    assert len(expected.actions) > 500
    source, sink = f"file:{events}?format=segment", f"file:{tmp_path / 'out'}"
    arguments: list[str | Path] = [flow, "--source", source, "--sink", sink, "--state", tmp_path / "state"]
    arguments += ["--stop-at-end", "--until", "2026-11-24T00:00:00Z", "--shards", "4"]
    for point in ("shard.snapshot:after:1", "store.write:before:2", "store.sync:after:3"):
        killed_at(arguments, tmp_path / "log", point, pace="", who="job")
    RunningJob(arguments, tmp_path / "log").wait()
    found = in_folder(tmp_path / "out")
    assert found.differences(expected) == []
    places = [letter["offset"] for letter in found.dead_letters]
    assert len(places) == len(set(places))
