"""Record what this version writes: `python -m tests.samples.record`, once for each new format, before its release.

`job.tar.gz` is a job's folder after two runs: flows, events, state, what it has sent, and what a third run adds.
`shard.json` is a store, row by row, with records held from two topics, what comes then, and what follows from it.
"""

from __future__ import annotations

import json
import random
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from dataflow.shard import OPEN, Delivery, Shard
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from state.backend import MemoryBackend
from state.iso import format_ms, parse_iso_ms
from state.meta import STORE_FORMAT
from state.records import Input
from state.store import ShardStore
from state.user import USER_FORMAT, load_user
from tests.jobs import RunningJob, in_folder
from tests.outgoing import actions_of, journal_of

SAMPLES = Path(__file__).parent
START = 1_795_435_200_000
MINUTE, HOUR = 60_000, 3_600_000
UNTIL = "2026-11-26T00:00:00Z"
USERS = [f"u{number}" for number in range(24)]
OF_A_JOB = ("asks.yaml", "rounds.yaml")  # Flows that a store alone cannot run: they ask what a whole job knows.
Json = dict[str, Any]


def main() -> None:
    """Write the samples of the present format."""
    folder = SAMPLES / f"format-{max(STORE_FORMAT, USER_FORMAT)}"
    folder.mkdir()  # Those of an older version are never made again: they show that its states can still be read.
    with tempfile.TemporaryDirectory() as work:
        _record_job(Path(work).resolve() / "job", folder / "job.tar.gz")
    (folder / "shard.json").write_text(json.dumps(_recorded_shard(), separators=(",", ":")) + "\n")


# ---- a job ----------------------------------------------------------------------------------------------------------


def _record_job(job: Path, archive: Path) -> None:
    shutil.copytree(SAMPLES / "flows", job / "flows")
    lines = [json.dumps(event) for event in _events(600)]
    for count, state in ((250, "live"), (400, "paused")):
        _write(job, lines[:count], state)
        RunningJob([*command(job), "--shards", "2"], job.parent / "log").wait()
    _write(job, lines, "live")
    (job / "made-in").write_text(str(job))
    shutil.copytree(job, job.parent / "then")
    with tarfile.open(archive, "w:gz") as tar:
        RunningJob([*command(job), "--until", UNTIL], job.parent / "log").wait()
        (job.parent / "then" / "expected.json").write_text(json.dumps(everything(job)))
        tar.add(job.parent / "then", "job", filter=_anonymous)


def _anonymous(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out who made it and where, and RocksDB's own log."""
    if Path(file.name).name.startswith("LOG"):
        return None
    file.uid = file.gid = 0
    file.uname = file.gname = ""
    return file


def _write(job: Path, lines: list[str], state: str) -> None:
    (job / "events.jsonl").write_text("\n".join(lines) + "\n")
    flow = job / "flows" / "stands_still.yaml"
    flow.write_text((SAMPLES / "flows" / flow.name).read_text().replace("state: live", f"state: {state}"))


def command(job: Path) -> list[str | Path]:
    """Return how the job in this folder is run."""
    return [
        job / "flows", "--source", f"file:{job / 'events.jsonl'}", "--sink", f"file:{job / 'out'}",
        "--state", job / "state", "--stop-at-end",
    ]  # fmt: skip


def everything(job: Path) -> list[Json]:
    """Return all that a job has sent, in order of user and number."""
    found = in_folder(job / "out")
    return sorted([*found.actions, *found.journal], key=lambda one: (one["user_id"], one["seq"], "channel" in one))


def _events(count: int) -> list[Json]:
    chance = random.Random(1)
    at, events = START, []
    for number in range(count):
        at += chance.randrange(90) * 1000
        name = chance.choice(["cart", "cart", "view", "view", "view", "buy", "signup"])
        properties = {"sku": chance.choice("ab"), "order": chance.randrange(3), "amount": chance.choice([20, 60])}
        event = {"user_id": chance.choice(USERS), "event": name, "timestamp": format_ms(at), "properties": properties}
        if chance.random() < 0.7:
            event["message_id"] = f"m{number if chance.random() < 0.9 else number // 2}"
        if chance.random() < 0.1:
            event["traits"] = {"name": "Ann", "phone": "+8613800000000", "list": [1, {"a": None}]}
        events.append(event)
    return events


# ---- a store --------------------------------------------------------------------------------------------------------


def deployment(flows: dict[str, str]) -> Deployment:
    """Return these flows in force."""
    checked = compile_texts([FlowText(name, text) for name, text in sorted(flows.items())], Workspace())
    assert not checked.has_errors, checked.problems
    return Deployment(checked.programs)


def inputs(deployed: Deployment, records: list[Json]) -> list[Input]:
    """Return recorded records as inputs."""
    return [
        Input(
            **{key: value for key, value in one.items() if key != "properties"},
            body=one["properties"],
            hits=deployed.index.match(one["name"], one["properties"]),
        )
        for one in records
    ]


def deliveries(deployed: Deployment, recorded: list[Json]) -> list[Delivery]:
    """Return recorded deliveries."""
    return [Delivery(one["source"], one["mark"], one["phase"], inputs(deployed, one["records"])) for one in recorded]


def emitted(shard: Shard) -> list[Json]:
    """Return what a shard has emitted, in order of user and number."""
    return sorted([*actions_of(shard), *journal_of(shard)], key=lambda one: (one["user_id"], one["seq"], "to" in one))


def _recorded_shard() -> Json:
    files = [path for path in sorted((SAMPLES / "flows").glob("*.yaml")) if path.name not in OF_A_JOB]
    flows = {path.name: path.read_text() for path in files}
    paused = {name: text.replace("state: live", "state: paused") for name, text in flows.items()}
    records = [_record(number, event) for number, event in enumerate(_events(200))]
    said: list[Json] = []
    for first in range(0, len(records), 20):
        part = records[first : first + 20]
        for source in (0, 1):
            mine = [one for one in part if one["source"] == source]
            # The second topic lags, so what the first has sent is held.
            mark = part[-1]["now"] if source == 0 else part[0]["now"]
            said.append({"source": source, "mark": mark, "phase": OPEN, "records": mine})
    end = records[-1]["now"] + 30 * HOUR
    said += [{"source": source, "mark": end, "phase": OPEN, "records": []} for source in (0, 1)]
    half = len(said) // 2
    backend = MemoryBackend()
    for texts, part in ((flows, said[: half - 8]), (paused, said[half - 8 : half])):
        deployed = deployment(texts)
        store = ShardStore(backend, due_of=deployed.due_of, owner="shard 0 of 1 of job sample")
        shard = Shard(store, deployed, sources=2, ordered=False)
        for delivery in deliveries(deployed, part):
            shard.take([delivery])
            shard.settle()
            store.commit()
    rows = dict(backend.rows)
    deployed = deployment(flows)
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=2, ordered=False)
    assert store.meta.held
    assert store.meta.paused
    for delivery in deliveries(deployed, said[half:]):
        shard.take([delivery])
    users = {key[1:].decode(): load_user(row) for key, row in rows.items() if key[:1] == b"u"}
    return {
        "flows": flows,
        "rows": {key.hex(): row.hex() for key, row in sorted(rows.items())},
        "users": {user_id: as_dict(user) for user_id, user in sorted(users.items())},
        "then": said[half:],
        "expected": emitted(shard),
    }


def _record(number: int, event: Json) -> Json:
    at = parse_iso_ms(event["timestamp"])
    assert at is not None
    return {
        "user_id": event["user_id"], "now": at, "name": event["event"],
        "message_id": event.get("message_id", f"events-0-{number}"), "id_sent": "message_id" in event,
        "at_ms": at, "properties": event["properties"], "traits": event.get("traits"),
        "source": number % 2, "offset": number,
    }  # fmt: skip


def as_dict(value: Any) -> Any:
    """Return structs as mappings, whatever is in them: a field that is added later does not move the others."""
    if isinstance(value, msgspec.Struct):
        return {name: as_dict(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: as_dict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_dict(one) for one in value]
    return value


if __name__ == "__main__":
    main()
