"""Which jobs keep what they send, and receipts in sources of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataflow.errors import UsageError
from dataflow.flows import load
from dataflow.job.lifecycle import Job
from dataflow.settings import resolve
from dataflow.urls import parse_sink, parse_source
from operators.ids import action_id, journey_id
from tests.jobs import RunningJob, in_folder, simulated
from tests.scenarios.scenario_files import instant

PLAIN = "flow: f\ntrigger: {event: $pageview}\nsteps: [{id: hi, send: webhook, template: t}]\n"
ASKS = PLAIN + "  - {result_of: hi, within: 1h, then: {failed: [{send: webhook, template: again}], opened: []}}\n"
ASKS = ASKS.replace(
    "steps: [{id: hi, send: webhook, template: t}]\n", "steps:\n  - {id: hi, send: webhook, template: t}\n"
)
HEARS = PLAIN.replace("$pageview", "$webhook_opened")
KAFKA, FILE, RECEIPTS = "kafka://h/events", "file:events.jsonl", "kafka://h/receipts"


def job(tmp_path: Path, flow: str, sources: list[str], receipts: bool | None) -> Job:
    (tmp_path / "f.yaml").write_text(flow)
    urls = [parse_source(one) for one in sources]
    return Job(loaded=load([tmp_path], None), sources=urls, sink=parse_sink("stdout:"), receipts=receipts)


@pytest.mark.parametrize(
    ("flow", "sources", "receipts", "keeps"),
    [
        (PLAIN, [KAFKA], None, False),
        (ASKS, [KAFKA], None, True),
        (HEARS, [KAFKA], None, True),
        (PLAIN, [KAFKA, RECEIPTS], None, True),
        (PLAIN, [FILE], None, True),
        (PLAIN, [KAFKA], True, True),
        (ASKS, [KAFKA, RECEIPTS], False, False),
    ],
)
def test_what_is_sent_is_kept_where_receipts_may_be_asked_for(
    flow: str, sources: list[str], receipts: bool | None, keeps: bool, tmp_path: Path
) -> None:
    assert job(tmp_path, flow, sources, receipts).keeps_sent == keeps


@pytest.mark.parametrize(("given", "value"), [("auto", None), ("AUTO", None), ("yes", True), ("false", False)])
def test_the_setting_is_true_false_or_auto(given: str, value: bool | None) -> None:
    assert resolve({"receipts": given}, {}, "", {})["receipts"].value is value
    assert resolve({}, {}, "", {})["receipts"].value is None
    with pytest.raises(UsageError, match="'sometimes' is neither auto nor true nor false"):
        resolve({"receipts": "sometimes"}, {}, "", {})


def receipt(user: str, status: str, at: str, **fields: Any) -> dict[str, Any]:
    made = action_id(journey_id("f", user, None, f"m-{user}"), "hi", 1)
    return {"action_id": made, "user_id": user, "status": status, "timestamp": instant(at), **fields}


def test_receipts_in_a_source_of_their_own_meet_what_was_sent_also_in_a_later_run(tmp_path: Path) -> None:
    flows = tmp_path / "flows"
    flows.mkdir()
    (flows / "f.yaml").write_text(ASKS)
    users = [f"u{number}" for number in range(40)]
    events = [
        {"user_id": user, "event": "$pageview", "message_id": f"m-{user}", "timestamp": instant("08:00")}
        for user in users
    ] + [{"user_id": "late", "event": "$pageview", "message_id": "m-late", "timestamp": instant("12:00")}]
    early = [receipt(user, "failed", "08:10", message_id=f"r-{user}") for user in users[::3]]
    late = [receipt(user, "opened", "11:30", message_id=f"o-{user}") for user in users[::2]]

    def write(name: str, records: list[dict[str, Any]]) -> Path:
        with (tmp_path / name).open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        return tmp_path / name

    everything = sorted([*events, *early, *late], key=lambda one: str(one["timestamp"]))
    until = instant("14:00")
    expected = simulated(flows, write("all.jsonl", everything), tmp_path / "simulated", until=until)
    kinds = [record["kind"] for record in expected.journal]
    assert (kinds.count("receipt"), kinds.count("moved")) == (len(early) + len(late), len(events))

    def run(end: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            RunningJob(
                [flows, "--source", f"file:{tmp_path / 'events'}", "--source", f"file:{tmp_path / 'receipts'}",
                 "--sink", f"file:{tmp_path / 'out'}", "--state", tmp_path / "state", "--stop-at-end", "--until", end,
                 "--shards", "4", "--json"],
                tmp_path / "log",
            ).wait()
        )  # fmt: skip
        return found

    write("events", events[:-1])
    write("receipts", early)
    first = run(instant("08:20"))
    assert (first["receipts"], first["unknown_receipts"]) == (len(early), 0)
    write("events", events[-1:])
    write("receipts", late)
    run(until)
    assert in_folder(tmp_path / "out").differences(expected) == []
