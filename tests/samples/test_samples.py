"""What an earlier version has written is read by today's, and goes on to the same actions."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dataflow.shard import Shard
from state.backend import MemoryBackend
from state.meta import STORE_FORMAT
from state.store import ShardStore
from state.user import USER_FORMAT, load_user
from tests.jobs import RunningJob
from tests.samples.record import SAMPLES, UNTIL, as_dict, command, deliveries, deployment, emitted, everything

FORMATS = sorted(SAMPLES.glob("format-*"), key=lambda path: int(path.name.partition("-")[2]))
of_every_format = pytest.mark.parametrize("sample", FORMATS, ids=lambda path: path.name)


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a job and tell it its new place: a source is known by its path."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    job = folder / "job"
    old, new = (job / "made-in").read_text(), str(job)
    note = job / "state" / "nudge.json"
    note.write_text(note.read_text().replace(old, new))
    for database in (job / "state" / "recovery").glob("*.sqlite3"):
        rows = sqlite3.connect(database)
        with rows:
            rows.execute("UPDATE snaps SET state_key = replace(state_key, ?, ?)", (old, new))
        rows.close()
    for log in (job / "state" / "progress").iterdir():
        log.rename(log.with_name(log.name.replace(quote(old, safe=""), quote(new, safe=""))))
    return job


def test_there_is_a_sample_of_every_format() -> None:
    assert [path.name for path in FORMATS] == [f"format-{n + 1}" for n in range(max(STORE_FORMAT, USER_FORMAT))]


@of_every_format
def test_a_job_goes_on_from_a_recorded_state_to_the_recorded_actions(sample: Path, tmp_path: Path) -> None:
    job = unpacked(sample / "job.tar.gz", tmp_path)
    before = len(everything(job))
    RunningJob([*command(job), "--until", UNTIL], tmp_path / "log").wait()
    expected = json.loads((job / "expected.json").read_text())
    assert 0 < before < len(expected)
    assert_holds(everything(job), expected)
    assert {one["template"] for one in expected if "template" in one} >= {"viewed", "silent", "often", "had-a-cart"}
    assert {one.get("reason") for one in expected} >= {"paused", "already_inside", "reentry"}


def loaded(sample: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sample / "shard.json").read_text())
    return found


@of_every_format
def test_a_shard_goes_on_from_recorded_rows_to_the_recorded_actions(sample: Path) -> None:
    recorded = loaded(sample)
    deployed = deployment(recorded["flows"])
    backend = MemoryBackend()
    backend.rows = {bytes.fromhex(key): bytes.fromhex(row) for key, row in recorded["rows"].items()}
    store = ShardStore(backend, due_of=deployed.due_of, owner="shard 0 of 1 of job sample")
    assert store.meta.held
    assert store.meta.paused
    shard = Shard(store, deployed, sources=2, ordered=False)
    for delivery in deliveries(deployed, recorded["then"]):
        shard.take([delivery])
        shard.settle()
        store.commit()
    assert_holds(json.loads(json.dumps(emitted(shard))), recorded["expected"])


@of_every_format
def test_a_store_goes_back_over_recorded_undo(sample: Path) -> None:
    recorded = loaded(sample)
    backend = MemoryBackend()
    backend.rows = {bytes.fromhex(key): bytes.fromhex(row) for key, row in recorded["rows"].items()}
    store = ShardStore(backend)
    last = store.commit_number
    store.roll_back(last - 2)
    assert store.commit_number == last - 2
    assert list(store.scan_users())


@of_every_format
def test_a_recorded_row_of_a_user_says_what_it_said(sample: Path) -> None:
    recorded = loaded(sample)
    for user_id, said in recorded["users"].items():
        user = as_dict(load_user(bytes.fromhex(recorded["rows"][(b"u" + user_id.encode()).hex()])))
        assert_holds(user, {**said, "format": USER_FORMAT})


def assert_holds(found: Any, said: Any) -> None:
    """Assert that *found* has all of *said*; fields of later formats may stand beside it."""
    if isinstance(said, dict):
        assert found.keys() >= said.keys()
        for key, value in said.items():
            assert_holds(found[key], value)
    elif isinstance(said, list):
        assert len(found) == len(said)
        for one, value in zip(found, said, strict=True):
            assert_holds(one, value)
    else:
        assert found == said


def test_the_samples_have_users_in_every_kind_of_place() -> None:
    users = loaded(FORMATS[-1])["users"].values()
    branches = [branch for user in users for journey in user["journeys"] for branch in journey["branches"]]
    assert any(branch["memo"] for branch in branches)
    assert any(not branch["memo"] for branch in branches)
    assert any(branch["scope"] for branch in branches)
    assert any(user["audiences"] for user in users)
    assert any(journey["results"] for user in users for journey in user["journeys"])
    assert any(any(journey["tallies"].values()) for user in users for journey in user["journeys"])
    for field in ("profile", "seen", "windows", "entries"):
        assert any(user[field] for user in users), field
    assert any(isinstance(window, int) for user in users for window in user["windows"].values())
    assert any("\x1f" in entry for user in users for entry in user["entries"])
