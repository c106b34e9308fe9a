"""A state that is damaged, newer, or put together from parts is refused: status 2, what is wrong, what to do."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflow.errors import UsageError
from dataflow.job.launch import launched
from dataflow.keep.recovery import last_cut
from dataflow.keep.statedir import StateDir
from state.errors import NewerFormatError, StateRefused
from state.meta import STORE_FORMAT, Meta
from state.rocks import RocksBackend
from state.shards import ShardKeys
from state.user import USER_FORMAT, User, dump_user, load_user
from tests.jobs import REPO, RunningJob, in_folder
from tests.test_run import refused

FLOW = "flow: f\ntrigger: {event: a}\nsteps: [{wait: 1h}, {send: webhook, template: t}]\n"
EVENTS = [
    {"user_id": f"u{number}", "event": "a", "timestamp": f"2026-11-23T08:{number:02d}:00Z"} for number in range(40)
]
SHARDS = 2
BACKUP = "restore the whole state directory from one backup"


def command(folder: Path, *more: str) -> list[str | Path]:
    return [
        folder / "f.yaml", "--source", f"file:{folder / 'events.jsonl'}", "--sink", f"file:{folder / 'out'}",
        "--state", folder / "state", "--stop-at-end", *more,
    ]  # fmt: skip


def write_events(folder: Path, count: int) -> None:
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS[:count]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job's folder after a run over half of the events: 20 users wait."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "f.yaml").write_text(FLOW)
    write_events(folder, 20)
    RunningJob(command(folder, "--shards", str(SHARDS)), folder / "log").wait()
    return folder


@pytest.fixture
def job(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder, with all events there."""
    folder = tmp_path / "job"
    shutil.copytree(made, folder)
    # The sources of a state are known by their names, so the copy is told its own.
    note = folder / "state" / "nudge.json"
    note.write_text(note.read_text().replace(str(made), str(folder)))
    with sqlite3.connect(next((folder / "state" / "recovery").glob("*.sqlite3"))) as rows:
        rows.execute("UPDATE snaps SET state_key = replace(state_key, ?, ?)", (str(made), str(folder)))
    rows.close()
    write_events(folder, 40)
    return folder


def test_the_copy_itself_goes_on_without_a_word(job: Path) -> None:
    RunningJob(command(job, "--until", "2026-11-24T00:00:00Z"), job / "log").wait()
    assert sorted(action["user_id"] for action in in_folder(job / "out").actions) == sorted(
        str(event["user_id"]) for event in EVENTS
    )


def shard(job: Path, number: int = 1) -> Path:
    return StateDir(job / "state").shard(number)


def rewrite(job: Path, change: Callable[[bytes], bytes], start: bytes, stop: bytes) -> None:
    """Rewrite the rows of shard 1 between *start* and *stop*."""
    backend = RocksBackend(shard(job))
    changes = backend.changes()
    rows = list(backend.scan(start, stop))
    assert rows
    for key, row in rows:
        changes.put(key, change(row))
    backend.write(changes, sync=True)
    backend.close()


def with_format(row: bytes) -> bytes:
    assert row[1] in (USER_FORMAT, STORE_FORMAT), "an array whose first element is the format"
    return row[:1] + b"\x63" + row[2:]


def flip(job: Path) -> None:
    """Change a byte in the middle of every row that a table of shard 1 holds."""
    backend = RocksBackend(shard(job))
    backend._db.flush()  # type: ignore[attr-defined]
    backend.close()
    tables = list(shard(job).glob("*.sst"))
    assert tables
    for table in tables:
        data = bytearray(table.read_bytes())
        for place in range(8, len(data) // 2, 16):
            data[place] ^= 0xFF
        table.write_bytes(data)


def cut_short(job: Path) -> None:
    for manifest in shard(job).glob("MANIFEST-*"):
        manifest.write_bytes(manifest.read_bytes()[:20])


def older_shard(job: Path) -> None:
    """Let a shard be that of a moment before the last checkpoint: as of no commit at all."""
    shutil.rmtree(shard(job))
    backend = RocksBackend(shard(job))
    backend.write(backend.changes(), sync=True)
    backend.close()


def other_jobs_shard(job: Path) -> None:
    shutil.rmtree(shard(job, 0))
    shutil.copytree(shard(job, 1), shard(job, 0))


def other_sources_engine(job: Path) -> None:
    with sqlite3.connect(next((job / "state" / "recovery").glob("*.sqlite3"))) as rows:
        rows.execute("UPDATE snaps SET state_key = '40' WHERE state_key = ?", (ShardKeys("even", SHARDS).names[1],))
    rows.close()
    shard(job, 40).mkdir()


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hostile",)


def hostile_pickle(job: Path) -> None:
    with sqlite3.connect(next((job / "state" / "recovery").glob("*.sqlite3"))) as rows:
        rows.execute("UPDATE snaps SET ser_change = ?", (pickle.dumps(Hostile()),))
    rows.close()


def undo_gone(job: Path) -> None:
    """Let the last three commits be of after a checkpoint that the engine does not know."""
    backend = RocksBackend(shard(job))
    changes = backend.changes()
    for key, _ in backend.scan(b"z", b"{"):
        changes.delete(key)
    backend.write(changes, sync=True)
    backend.close()
    bump = {"commit": 9}
    rewrite(job, lambda row: _meta(row, **bump), b"m", b"n")


def _meta(row: bytes, **fields: object) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(msgspec.structs.replace(msgspec.msgpack.decode(row, type=Meta), **fields))


def edit_note(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(job: Path) -> None:
        path = job / "state" / "nudge.json"
        note = json.loads(path.read_text())
        change(note)
        path.write_text(json.dumps(note))

    return edit


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nudge.json of a newer format": (edit_note(lambda note: note.update(format=99)), "this state has format 99"),
    "nudge.json cut short": (
        lambda job: (job / "state" / "nudge.json").write_text('{"format": 1, "jo'),
        "nudge.json: cannot be read",
    ),
    "nudge.json without what it needs": (edit_note(lambda note: note.pop("job")), "nudge.json: cannot be read"),
    "nudge.json empty": (lambda job: (job / "state" / "nudge.json").write_bytes(b""), "nudge.json: cannot be read"),
    "nudge.json missing": (lambda job: (job / "state" / "nudge.json").unlink(), "nudge.json is missing"),
    "a store of a newer format": (lambda job: rewrite(job, with_format, b"m", b"n"), "has format 99"),
    "a user of a newer format": (lambda job: rewrite(job, with_format, b"u", b"v"), "a user's row has format 99"),
    "a user's row damaged": (
        lambda job: rewrite(job, lambda row: row[:-3], b"u", b"v"),
        "what is remembered of one user cannot be read",
    ),
    "a store's record damaged": (lambda job: rewrite(job, lambda _: b"\xc1", b"m", b"n"), "own record is damaged"),
    "another number of shards in nudge.json": (edit_note(lambda note: note.update(shards=1)), "there are 1"),
    "a commit that is gone": (undo_gone, "the undo of commit 2 is gone"),
    "a shard older than the rest": (older_shard, "part of it is older than the rest"),
    "a shard in the place of another": (other_jobs_shard, "put together from parts"),
    "nudge.json of another job": (edit_note(lambda note: note.update(job="other")), "put together from parts"),
    "a shard's folder emptied": (
        lambda job: (shutil.rmtree(shard(job)), shard(job).mkdir()),
        "part of it is older than the rest",
    ),
    "a shard missing": (lambda job: shutil.rmtree(shard(job)), "01 is missing"),
    "a shard's file cut short": (cut_short, "is damaged"),
    "a shard's rows damaged": (flip, "is damaged"),
    "recovery/ missing": (lambda job: shutil.rmtree(job / "state" / "recovery"), "recovery is empty"),
    "recovery/ damaged": (
        lambda job: [file.write_bytes(b"x" * 5000) for file in (job / "state" / "recovery").glob("*.sqlite3")],
        "recovery cannot be read",
    ),
    "recovery/ of another state": (other_sources_engine, "recovery/ knows shard 40"),
    "keys of shards made in another way": (
        edit_note(lambda note: note.pop("shard_keys")),
        f"recovery/ knows shard {ShardKeys('even', SHARDS).names[0]}",
    ),
    "a hostile pickle in recovery/": (hostile_pickle, "a snapshot names"),
    "progress/ missing after a crash": (
        lambda job: (
            shutil.rmtree(job / "state" / "progress"),
            edit_note(lambda note: note["run"].update(is_clean=False))(job),  # type: ignore[attr-defined]
        ),
        "progress/ lacks the log of",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_one_whole_readable_state_is_refused(job: Path, name: str) -> None:
    damage, said = REFUSALS[name]
    damage(job)
    message = refused(command(job, "--until", "2026-11-24T00:00:00Z"))
    last = message.strip().splitlines()[-1]
    assert said in last
    assert BACKUP in last or "use the version that wrote it" in last or "restore the directory from a backup" in last
    assert not (REPO / "hostile").exists()


def test_a_refusal_in_one_of_two_processes_is_a_refusal(job: Path) -> None:
    rewrite(job, with_format, b"u", b"v")
    assert "a user's row has format 99" in refused(command(job, "--until", "2026-11-24T00:00:00Z", "--processes", "2"))


def test_after_a_refusal_a_whole_copy_goes_on_and_repeats_nothing(job: Path) -> None:
    """The healthy shards may have sent something before the damaged one was looked at."""
    shutil.copytree(job / "state", job / "backup")
    rewrite(job, with_format, b"u", b"v")
    refused(command(job, "--until", "2026-11-24T00:00:00Z"))
    shutil.rmtree(job / "state")
    shutil.move(job / "backup", job / "state")
    RunningJob(command(job, "--until", "2026-11-24T00:00:00Z"), job / "log").wait()
    assert sorted(action["user_id"] for action in in_folder(job / "out").actions) == sorted(
        str(event["user_id"]) for event in EVENTS
    )


def test_what_a_newer_software_has_added_behind_what_we_know_does_no_harm(job: Path) -> None:
    edit_note(lambda note: note.update(added_later={"a": 1}))(job)
    known = {len(User.__struct_fields__), len(Meta.__struct_fields__)}

    def lengthen(row: bytes) -> bytes:
        count = row[0] - 0x90
        assert count in known
        assert count < 15, "more is written in another way"
        return bytes([0x90 + count + 1]) + row[1:] + b"\xa5added"

    rewrite(job, lengthen, b"u", b"v")
    rewrite(job, lengthen, b"m", b"n")
    RunningJob(command(job, "--until", "2026-11-24T00:00:00Z"), job / "log").wait()
    assert len(in_folder(job / "out").actions) == len(EVENTS)


def test_a_row_of_a_newer_format_is_told_from_a_damaged_one() -> None:
    row = dump_user(User(seq=1))
    with pytest.raises(NewerFormatError, match="format 99"):
        load_user(with_format(row))
    with pytest.raises(NewerFormatError, match="format 99"):
        load_user(b"\x92\x63\xa5other")
    for damaged in (row[:-1], b"", b"\xc1", b"\x01", b"\x91\xa1x"):
        with pytest.raises(StateRefused, match="cannot be read"):
            load_user(damaged)


# ---- nothing of ours is code ------------------------------------------------------------------------------------


CODE = {"eval", "exec", "compile", "__import__"}


def test_nothing_that_we_store_or_read_is_a_pickle_or_is_executed() -> None:
    """Generated conditions are compiled from a tree without any text of an author: operators/conditions/codegen.py."""
    found = set()
    for package in ("dataflow", "operators", "connectors", "state"):
        for path in sorted((REPO / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    found |= {
                        (path.name, name.partition(".")[0])
                        for name in names
                        if name.partition(".")[0] in {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
                    }
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    found |= {(path.name, node.func.id)} & {(path.name, name) for name in CODE}
    assert found == {("recovery.py", "pickle"), ("codegen.py", "exec"), ("codegen.py", "compile")}


def test_a_hostile_pickle_is_found_wherever_it_lies_before_the_engine_loads_it(made: Path, tmp_path: Path) -> None:
    for number, where in enumerate(
        ("step_id LIKE '%read'", "1 = 1", "snap_epoch = (SELECT max(snap_epoch) FROM snaps)")
    ):
        folder = tmp_path / str(number)
        shutil.copytree(made / "state" / "recovery", folder)
        assert last_cut(folder).shards
        with sqlite3.connect(next(folder.glob("*.sqlite3"))) as rows:
            rows.execute(f"UPDATE snaps SET ser_change = ? WHERE {where}", (pickle.dumps(Hostile()),))
        rows.close()
        with pytest.raises(StateRefused, match="a snapshot names"):
            last_cut(folder)


# ---- who may look, and who may have it ----------------------------------------------------------------------------


def test_everything_in_a_state_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FLOW)
    write_events(tmp_path, 20)
    before = os.umask(0)
    try:
        RunningJob(command(tmp_path, "--shards", "2", "--processes", "2"), tmp_path / "log").wait()
    finally:
        os.umask(before)
    paths = [path for root in ("state", "out") for path in (tmp_path / root, *(tmp_path / root).rglob("*"))]
    assert any(path.suffix == ".log" for path in paths)
    assert any(path.parent.name == "progress" for path in paths)
    assert [str(path) for path in paths if path.stat().st_mode & 0o077] == []


def test_folders_that_a_copy_has_opened_to_others_are_closed_again(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    for name in ("recovery", "progress", "shards"):
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name).chmod(0o755)
    state.create_folders()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o700}


HOLDER = """
import os, sys, time
from pathlib import Path
from dataflow.keep.statedir import StateDir
state = StateDir(Path(sys.argv[1]))
state.create_folders()
state.acquire()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_lock_outlives_the_parent_as_long_as_one_of_its_processes_lives(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "state")], cwd=REPO, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            parent.wait()
            with pytest.raises(UsageError, match=rf"in use by another job \(process {parent.pid}\)"):
                StateDir(tmp_path / "state").acquire()
        finally:
            os.kill(child, signal.SIGKILL)
    taken = StateDir(tmp_path / "state")
    taken.acquire()  # A lock file that is left over locks nobody out.
    taken.release()


def test_a_process_that_was_started_before_the_state_was_known_holds_its_lock_too(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.create_folders()
    state.acquire()
    with launched(0) as one:
        channel = one.lend_lock(state.lock_file)
        state.release()
        with pytest.raises(UsageError, match="in use by another job"):
            StateDir(tmp_path / "state").acquire()
    assert one.process.returncode == -signal.SIGKILL, "it is ended, since it got no plan"
    os.close(channel)
    StateDir(tmp_path / "state").acquire()


def test_of_two_jobs_that_start_at_once_one_runs_and_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(FLOW)
    write_events(tmp_path, 40)
    taken = StateDir(tmp_path / "state")
    taken.create_folders()
    taken.acquire()
    jobs = [RunningJob(command(tmp_path), tmp_path / f"log{number}") for number in range(2)]
    taken.release()
    assert sorted(job.status() for job in jobs) in ([0, 0], [0, 2])  # The first may be done before the second asks.
    assert len(in_folder(tmp_path / "out").journal) == 2 * len(EVENTS)
    assert sorted(record["user_id"] for record in in_folder(tmp_path / "out").journal) == sorted(
        2 * [str(event["user_id"]) for event in EVENTS]
    )
