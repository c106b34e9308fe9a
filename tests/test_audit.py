"""`nudge audit` finds nothing in a sound state, and whatever has been damaged in one."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from dataflow.commands.longwork import LongWork
from dataflow.errors import UsageError
from dataflow.keep.audit import NEXT, Audit, Finding
from dataflow.keep.statedir import StateDir, read_state_file, write_state_file
from dataflow.keep.stateview import TRIES, StateView
from state.errors import StoreError
from state.meta import Meta, read_meta
from state.records import Input
from state.rocks import RocksBackend
from state.rows import member_key
from state.shards import ShardKeys
from state.store import ShardStore
from state.user import NEVER, PARKED, User, dump_user, load_user
from tests.jobs import NUDGE, REPO, RunningJob
from tests.kafka.broker import KafkaTopics
from tests.scenarios.scenario_files import instant
from tests.test_run import wait_until

SHARDS = 2
FLOWS = {
    "wait.yaml": "flow: wait\ntrigger: {event: start}\nexit: [{event: stop, goal: true}]\nsteps:\n"
    "  - wait: 30d\n  - {send: webhook, template: t}\n",
    "ask.yaml": "flow: ask\ntrigger: {event: start}\nsteps:\n  - wait_for: {yes: {event: other}}\n    timeout: 20d\n",
    "forks.yaml": "flow: forks\ntrigger: {event: start}\nsteps:\n  - parallel:\n"
    "    - [{wait: 20d}, {parallel: [[{id: deep, wait: 20d}], []]}]\n    - [{id: beside, wait: 20d}]\n    - []\n"
    "  - {times: [{at: 2099-11-11, steps: [{id: late, wait: 1d}]}]}\n",
    "brief.yaml": "flow: brief\ntrigger: {event: start}\nentry: {limit: 100}\nsteps:\n"
    "  - {send: webhook, template: t}\n",
    "yearly.yaml": "flow: yearly\ntrigger: {audience: vip, schedule: {cron: '0 0 1 1 *'}}\nsteps: [{end: x}]\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of a job that has come to its end: ten users wait, one has left, one comes and goes."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "flows").mkdir()
    for name, text in FLOWS.items():
        (folder / "flows" / name).write_text(text)
    events = [(f"u{n}", "start") for n in range(11)] + [("u10", "stop")]
    lines = [
        json.dumps({"user_id": user, "event": name, "message_id": f"m{n}", "timestamp": instant("08:00")})
        for n, (user, name) in enumerate(events)
    ]
    lines.append(json.dumps({"audience": "vip", "member": True, "user_id": "u1", "timestamp": instant("08:01")}))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    RunningJob(
        [folder / "flows", "--source", f"file:{folder / 'events.jsonl'}", "--sink", f"file:{folder / 'out'}",
         "--state", folder / "state", "--stop-at-end", "--shards", str(SHARDS)],
        folder / "log",
    ).wait()  # fmt: skip
    return folder


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "state", tmp_path / "state"))


def found(state: Path) -> list[Finding]:
    return list(Audit(state).findings())


def codes(state: Path) -> set[str]:
    findings = found(state)
    assert all(finding.code in NEXT for finding in findings)
    return {finding.code for finding in findings}


def test_a_sound_state_is_clean_and_everybody_is_accounted_for(state: Path) -> None:
    audit = Audit(state)
    assert list(audit.findings()) == []
    wait, ask, forks, brief = (audit.balances[f"{name}\x1f1"] for name in ("wait", "ask", "forks", "brief"))
    nothing = {"ended": 0, "exited": 0, "failed": 0}
    assert wait.totals.balance() == {**nothing, "entered": 11, "exited": 1, "inside": 10}
    assert ask.totals.balance() == {**nothing, "entered": 11, "inside": 11}
    assert forks.totals.balance() == {**nothing, "entered": 11, "inside": 11}
    assert brief.totals.balance() == {**nothing, "entered": 11, "ended": 11, "inside": 0}
    assert [one.inside_by_users for one in (wait, ask, forks, brief)] == [10, 11, 11, 0]
    seen = audit.seen
    assert (seen.users, seen.timers, seen.memberships, seen.sent, seen.shards) == (11, 11, 1, 11, SHARDS)


def test_who_looks_leaves_every_file_alone(state: Path) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in state.rglob("*")}

    before = files()
    assert found(state) == []
    assert files() == before


# ---- damages -------------------------------------------------------------------------------------------------------

Damage = Callable[[Path], None]


def shard_of(user_id: str) -> int:
    return crc32(user_id.encode()) % SHARDS


def rewrite(state: Path, shard: int, *rows: tuple[bytes, bytes | None]) -> None:
    """Put rows into a shard, or delete them."""
    backend = RocksBackend(StateDir(state).shard(shard))
    changes = backend.changes()
    for key, row in rows:
        if row is None:
            changes.delete(key)
        else:
            changes.put(key, row)
    backend.write(changes, sync=True)
    backend.close()


def user(state: Path, user_id: str) -> User:
    backend = RocksBackend(StateDir(state).shard(shard_of(user_id)), read_only=True)
    row = backend.get_many([b"u" + user_id.encode()])[0]
    backend.close()
    assert row is not None
    return load_user(row)


def timer(due: int, user_id: str) -> bytes:
    return b"t" + due.to_bytes(8, "big") + user_id.encode()


def member(user_id: str) -> bytes:
    return member_key("vip", user_id.encode())


def changed(change: Callable[[User], Any], *, moves_timer: bool = False) -> Damage:
    """Return what changes the row of u1, and the timer with it or not."""

    def damage(state: Path) -> None:
        one = user(state, "u1")
        before = min(branch.wake_ms for journey in one.journeys for branch in journey.branches)
        change(one)
        rows: list[tuple[bytes, bytes | None]] = [(b"uu1", dump_user(one))]
        if moves_timer:
            due = min(branch.wake_ms for journey in one.journeys for branch in journey.branches)
            rows += [(timer(before, "u1"), None), (timer(due, "u1"), b"")]
        rewrite(state, shard_of("u1"), *rows)

    return damage


def changed_meta(change: Callable[[Meta], Any], shard: int = 1) -> Damage:
    def damage(state: Path) -> None:
        backend = RocksBackend(StateDir(state).shard(shard), read_only=True)
        meta = read_meta(backend)
        backend.close()
        change(meta)
        rewrite(state, shard, (b"m", msgspec.msgpack.encode(meta)))

    return damage


def due_of(one: User) -> int:
    return min(branch.wake_ms for journey in one.journeys for branch in journey.branches)


def set_branch(flow: str, **fields: Any) -> Callable[[User], None]:
    def change(one: User) -> None:
        (journey,) = (journey for journey in one.journeys if journey.flow == flow)
        for name, value in fields.items():
            setattr(journey.branches[0], name, value)

    return change


def set_journey(flow: str, **fields: Any) -> Callable[[User], None]:
    def change(one: User) -> None:
        (journey,) = (journey for journey in one.journeys if journey.flow == flow)
        for name, value in fields.items():
            setattr(journey, name, value)

    return change


def fork(number: int, step: str, scope: str, *others: int) -> Callable[[User], None]:
    """Put the first branch of the journey that has forked elsewhere, and keep only those of the *others* beside it."""

    def change(one: User) -> None:
        (journey,) = (journey for journey in one.journeys if journey.flow == "forks")
        first = msgspec.structs.replace(journey.branches[0], number=number, step=step, scope=scope)
        journey.branches = [first, *(branch for branch in journey.branches[1:] if branch.number in others)]

    return change


def held(now: int, user_id: str) -> list[Any]:
    return list(msgspec.to_builtins(Input(user_id, now, "x", "m", False, now, {}, None, (), 0, 1)))


def rows_of(state: Path, user_id: str, kind: bytes) -> dict[bytes, bytes]:
    """Return the rows of a user, and of nobody else, whose keys begin with *kind*."""
    backend = RocksBackend(StateDir(state).shard(shard_of(user_id)), read_only=True)
    found = {key: row for key, row in backend.scan(kind, bytes([kind[0] + 1])) if user_id.encode() + b"\x1f" in key}
    backend.close()
    assert found
    return found


def without_rows(kind: bytes) -> Damage:
    """Return what removes the rows of u1 whose keys begin with *kind*."""
    return lambda state: rewrite(state, shard_of("u1"), *((key, None) for key in rows_of(state, "u1", kind)))


ELSEWHERE = next(f"x{n}" for n in range(99) if shard_of(f"x{n}") == 0)
HERE = next(f"x{n}" for n in range(99) if shard_of(f"x{n}") == 1)


def fewer_places(state: Path) -> None:
    database = sqlite3.connect(StateDir(state).register)
    with database:
        database.execute("UPDATE questions SET taken = taken - 1")
    database.close()


def corrupt_register(state: Path) -> None:
    StateDir(state).register.write_bytes(b"something else" * 500)


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "the register is gone": (lambda state: StateDir(state).register.unlink(), {"register-outdated"}),
    "the register is something else": (
        corrupt_register,
        {"register-unreadable"},
    ),
    "a place was given twice": (fewer_places, {"places-exceeded"}),
    "a timer is gone": (
        lambda state: rewrite(state, shard_of("u1"), (timer(due_of(user(state, "u1")), "u1"), None)),
        {"wake-up-missing"},
    ),
    "a timer for nobody": (lambda state: rewrite(state, 1, (timer(NEVER - 1, "nobody"), b"")), {"timer-orphan"}),
    "somebody is not found as a member": (
        lambda state: rewrite(state, shard_of("u1"), (member("u1"), None)),
        {"member-missing"},
    ),
    "somebody is found as a member who is none": (
        lambda state: rewrite(state, shard_of("u2"), (member("u2"), b"")),
        {"member-orphan"},
    ),
    "one member stands for another": (
        lambda state: rewrite(state, shard_of("u1"), (member("u1"), None), (member("nobody"), b"")),
        {"member-missing", "member-orphan"},
    ),
    "a second timer": (
        lambda state: rewrite(state, shard_of("u1"), (timer(NEVER - 1, "u1"), b"")),
        {"timer-orphan"},
    ),
    "a user is gone": (
        lambda state: rewrite(state, shard_of("u1"), (b"uu1", None)),
        {"timer-orphan", "member-orphan", "conservation"},
    ),
    "a user is garbage": (
        lambda state: rewrite(state, shard_of("u1"), (b"uu1", b"\xc1")),
        {"user-unreadable", "conservation"},
    ),
    "a user of another shard": (
        lambda state: rewrite(state, 1, (b"u" + ELSEWHERE.encode(), dump_user(User(profile={"a": 1})))),
        {"user-misplaced"},
    ),
    "an unknown step": (changed(set_branch("wait", step="nowhere")), {"step-unknown"}),
    "a version that is not deployed": (
        changed(set_journey("wait", version=9)),
        {"flow-not-deployed", "conservation"},
    ),
    "a branch that nothing wakes": (changed(set_branch("wait", wake_ms=NEVER)), {"wake-up-missing"}),
    "a branch that waits for the resume of a flow that runs": (
        changed(set_branch("wait", wake_ms=PARKED)),
        {"wake-up-missing"},
    ),
    "a journey without a branch": (changed(set_journey("wait", branches=[])), {"wake-up-missing"}),
    "a wake-up that was passed over": (changed(set_branch("wait", wake_ms=5), moves_timer=True), {"wake-up-overdue"}),
    "a subscription that is lost": (changed(set_branch("ask", memo=None)), {"subscription-lost"}),
    "a branch in a step of another": (changed(fork(1, "beside", "steps.0")), {"branch-misplaced"}),
    "a branch that forgot where it forked": (changed(fork(1, "steps.0.parallel.0.0", "")), {"branch-misplaced"}),
    "a branch that nobody forks into": (changed(fork(99, "beside", "steps.0")), {"branch-misplaced"}),
    "a branch at the step that forks": (changed(fork(1, "steps.0", "steps.0")), {"branch-misplaced"}),
    "two branches of one number": (
        changed(fork(4, "beside", "steps.0", 4)),
        {"journey-repeated"},
    ),
    "a branch beside the one into which it forked": (
        changed(fork(0, "steps.1", "", 4)),
        {"branch-misplaced", "branch-orphan"},
    ),
    "a branch of a step that is over": (
        changed(fork(6, "late", "steps.1", 4)),
        {"branch-orphan"},
    ),
    "journeys of one number": (changed(set_journey("wait", number=1)), {"journey-repeated"}),
    "a journey that was never begun": (changed(set_journey("wait", number=99)), {"journey-repeated"}),
    "a seq that went back": (changed(lambda one: setattr(one, "seq", 1)), {"seq-too-low"}),
    "a journey too few": (
        changed(lambda one: one.journeys.remove(one.journeys[-1]), moves_timer=True),
        {"conservation"},
    ),
    "totals that are wrong": (
        lambda state: rewrite(state, 1, (b"cwait\x1f1", msgspec.msgpack.encode({"entered": 99}))),
        {"conservation"},
    ),
    "a count of journeys that is wrong": (
        changed_meta(lambda meta: setattr(meta, "inside", meta.inside + 1)),
        {"conservation"},
    ),
    "a shard begins a schedule at another time": (
        changed_meta(lambda meta: setattr(meta.planned["yearly\x1f1"], "begin_ms", 5)),
        {"runs-differ"},
    ),
    "a shard has done a run that another skipped": (
        changed_meta(lambda meta: setattr(meta.planned["yearly\x1f1"], "ran", 1)),
        {"runs-differ"},
    ),
    "undo of a commit that never was": (
        lambda state: rewrite(
            state, 1, (b"z" + (99).to_bytes(8, "big") + bytes(4), msgspec.msgpack.encode([None, []]))
        ),
        {"undo-out-of-range"},
    ),
    "a part of an undo is gone": (
        lambda state: rewrite(
            state, 1, (b"z" + (1).to_bytes(8, "big") + (2).to_bytes(4, "big"), msgspec.msgpack.encode([None, []]))
        ),
        {"undo-out-of-range"},
    ),
    "a record held for too long": (changed_meta(lambda meta: meta.held.append(held(5, HERE))), {"held-overdue"}),
    "a record held elsewhere": (
        changed_meta(lambda meta: meta.held.append(held(NEVER, ELSEWHERE))),
        {"held-misplaced"},
    ),
    "a held record is garbage": (changed_meta(lambda meta: meta.held.append([1, "x"])), {"held-unreadable"}),
    "what was sent by a journey that never was": (without_rows(b"j"), {"sent-orphan"}),
    "what was sent and is never forgotten": (without_rows(b"x"), {"sent-orphan"}),
    "what was sent is garbage": (
        lambda state: rewrite(state, shard_of("u1"), *((key, b"\xc1") for key in rows_of(state, "u1", b"s"))),
        {"sent-unreadable"},
    ),
    "a shard is gone": (lambda state: shutil.rmtree(StateDir(state).shard(1)), {"shard-missing"}),
    "a shard is cut short": (
        lambda state: [path.write_bytes(b"") for path in StateDir(state).shard(1).glob("MANIFEST-*")],
        {"shard-unreadable"},
    ),
    "a shard is older than the rest": (changed_meta(lambda meta: setattr(meta, "commit", 0)), {"shard-unreadable"}),
    "a shard of another job": (
        changed_meta(lambda meta: setattr(meta, "owner", "shard 1 of 2 of job another")),
        {"shard-unreadable"},
    ),
    "a shard's record is garbage": (lambda state: rewrite(state, 1, (b"m", b"\xc1")), {"shard-unreadable"}),
    "a shard too many": (lambda state: StateDir(state).shard(7).mkdir(), {"shard-unknown"}),
    "no checkpoints": (lambda state: shutil.rmtree(state / "recovery"), {"recovery-unreadable"}),
    "checkpoints are garbage": (
        lambda state: [path.write_bytes(b"x" * 9999) for path in (state / "recovery").glob("*.sqlite3")],
        {"recovery-unreadable"},
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_found_and_nothing_else_is(state: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    damage(state)
    assert codes(state) == expected


def test_there_is_a_damage_for_every_finding() -> None:
    assert {code for _, expected in DAMAGES.values() for code in expected} == set(NEXT)


def test_every_finding_is_in_the_docs() -> None:
    section = (REPO / "docs" / "operations.md").read_text().partition("\n## Audit\n")[2].partition("\n## ")[0]
    assert set(NEXT) <= set(re.findall(r"`([a-z-]+)`", section))


def test_every_finding_says_where_and_what(state: Path) -> None:
    DAMAGES["a timer is gone"][0](state)
    (finding,) = found(state)
    assert (finding.shard, finding.user) == (shard_of("u1"), "u1")
    assert finding.problem == "there is no timer for 2026-12-13T08:00:00.000Z"


def test_what_a_killed_run_committed_after_the_last_checkpoint_does_not_count(state: Path) -> None:
    backend = RocksBackend(StateDir(state).shard(shard_of("u1")))
    store = ShardStore(backend)
    slot = store.slot("u1")
    slot.user.journeys = []
    store.touch("u1", slot, NEVER)
    store.commit()
    slot.user.seq = 0
    store.touch("u1", slot, NEVER)
    store.spill()
    store.close()
    assert found(state) == []


# ---- paused flows --------------------------------------------------------------------------------------------------


def test_what_falls_due_in_a_paused_flow_has_no_timer_any_more_and_a_row_by_which_its_resume_finds_it(
    made: Path, state: Path, tmp_path: Path
) -> None:
    folder = StateDir(state).files
    file = read_state_file(folder)
    assert file is not None
    for flow in file.flows:
        flow.state, flow.text = "paused", f"state: paused\n{flow.text}"
    write_state_file(folder, file)
    assert found(state) == []

    flows = tmp_path / "flows"
    shutil.copytree(made / "flows", flows)
    for path in flows.iterdir():
        path.write_text(f"state: paused\n{path.read_text()}")
    events = f"file:{made / 'events.jsonl'}"
    command = [flows, "--source", events, "--sink", f"file:{tmp_path / 'out'}", "--state", state, "--stop-at-end"]
    RunningJob([*command, "--until", "2027-06-01T00:00:00Z"], tmp_path / "log").wait()
    audit = Audit(state)
    assert list(audit.findings()) == []
    assert (audit.balances["wait\x1f1"].inside_by_users, audit.seen.timers) == (10, 0)

    shard = RocksBackend(StateDir(state).shard(shard_of("u1")), read_only=True)
    (parked, *_) = [key for key, _ in shard.scan(b"pwait", b"pwaiu")]
    shard.close()
    rewrite(state, shard_of("u1"), (parked, None))
    assert codes(state) == {"wake-up-missing"}


# ---- beside a running job ------------------------------------------------------------------------------------------


def checkpoint(state: Path, epoch: int, commit: int, shard: int = 1) -> None:
    """Note a complete epoch, as the engine does."""
    (path,) = (state / "recovery").glob("*.sqlite3")
    with sqlite3.connect(path) as connection:
        row = ("nudge.advance", ShardKeys("even", SHARDS).names[shard], epoch - 1, pickle.dumps([commit, {}, 1]))
        connection.execute("INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)", row)
        connection.execute("UPDATE fronts SET worker_frontier = ?", (epoch,))
    connection.close()


def commit_on(state: Path, times: int, shard: int = 1) -> int:
    """Let the shard commit on, and return the number of the last commit."""
    store = ShardStore(RocksBackend(StateDir(state).shard(shard)))
    for _ in range(times):
        slot = store.slot(HERE)
        slot.user.seq += 1
        store.touch(HERE, slot, NEVER)
        store.commit()
    store.close()
    return store.commit_number


def test_a_job_that_commits_on_while_we_open_its_shards_is_looked_at_as_of_a_newer_checkpoint(state: Path) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        checkpoint(state, 50, commit)

    commit = commit_on(state, 9)  # The undo that leads back to the last checkpoint is gone.
    view = StateView(state, pause)
    try:
        assert (view.cut.epoch, view.broken, len(pauses)) == (50, {}, 1)
        assert (view.commit_of(1), read_meta(view.shard(1)).commit) == (commit, commit)
    finally:
        view.close()


def test_after_some_tries_a_shard_that_cannot_be_looked_at_is_told_and_the_others_are_there(state: Path) -> None:
    pauses: list[float] = []
    commit_on(state, 9)
    view = StateView(state, pauses.append)
    try:
        assert len(pauses) == TRIES - 1
        assert sum(pauses) < 5
        assert "the undo of commit" in view.broken[1]
        assert read_meta(view.shard(0)).commit == view.commit_of(0)
    finally:
        view.close()


@pytest.mark.kafka
def test_a_running_job_is_always_clean(broker: KafkaTopics, topic_prefix: str, made: Path, tmp_path: Path) -> None:
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, 2)
    job = RunningJob(
        [made / "flows", "--source", f"kafka://{broker.bootstrap}/{topic}", "--state", tmp_path / "state",
         "--sink", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--processes", "2", "--epoch", "1s"],
        tmp_path / "log",
    )  # fmt: skip
    try:
        wait_until(lambda: '"running"' in job.log.read_text())  # A topic's name has the word, too.
        users, checkpoints = 0, set()
        while len(checkpoints) < 4:
            name = b"stop" if users % 4000 else b"start"
            records = [(b"%d" % n, b'{"user_id": "u%d", "event": "%s"}' % (n, name)) for n in range(2000)]
            broker.produce(topic, [(key, value, None) for key, value in records])
            users += 2000
            audit = Audit(tmp_path / "state")
            assert list(audit.findings()) == []
            checkpoints.add(audit.epoch)
        assert audit.seen.users >= 2000
    finally:
        job.kill()
    assert found(tmp_path / "state") == []


# ---- the command ---------------------------------------------------------------------------------------------------


def nudge_audit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*NUDGE, "audit", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_table_per_flow_and_exits_with_0(state: Path) -> None:
    done = nudge_audit("--state", state)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["flow", "entered", "ended", "exited", "failed", "inside", "by", "users"]
    assert lines[1:5] == [
        ["ask", "v1", "11", "0", "0", "0", "11", "11"],
        ["brief", "v1", "11", "11", "0", "0", "0", "0"],
        ["forks", "v1", "11", "0", "0", "0", "11", "11"],
        ["wait", "v1", "11", "0", "1", "0", "10", "10"],
    ]
    assert done.stdout.splitlines()[6] == "brief: 11 places of the limit are taken"
    assert done.stdout.splitlines()[7].startswith(
        "clean: 11 users, 11 timers, 1 memberships, 11 actions kept for receipts in 2 shards, as of epoch "
    )


def test_the_command_says_what_it_found_and_what_next_and_exits_with_1(state: Path) -> None:
    DAMAGES["a user is gone"][0](state)
    done = nudge_audit("--state", state)
    assert (done.returncode, done.stderr) == (1, "")
    shard = f"shard {shard_of('u1'):02d}"
    assert (
        f"{shard} user u1 timer-orphan: there is a timer for 2026-12-13T08:00:00.000Z, but no such user" in done.stdout
    )
    assert f"{shard} conservation: wait v1: entered " in done.stdout
    assert f"  conservation: {NEXT['conservation']}" in done.stdout
    assert "\n6 findings: " in done.stdout


def test_machines_get_one_object_per_line(state: Path) -> None:
    DAMAGES["a seq that went back"][0](state)
    done = nudge_audit("--state", state, "--json")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["type"] for one in objects] == ["finding", *["flow"] * 5, "question", "summary"]
    assert objects[0] == {
        "type": "finding",
        "code": "seq-too-low",
        "shard": shard_of("u1"),
        "user": "u1",
        "problem": "the last journal record is number 1, but 4 journeys began",
        "next": NEXT["seq-too-low"],
    }
    assert objects[4]["inside_by_users"] == 10
    assert (objects[-1]["clean"], objects[-1]["findings"]) == (False, {"seq-too-low": 1})


def test_of_very_many_findings_a_person_sees_some_and_a_machine_all(state: Path) -> None:
    rewrite(state, 1, *((timer(NEVER - 1, f"n{n}"), b"") for n in range(30)))
    said = nudge_audit("--state", state).stdout
    assert said.count("but no such user") == 20
    assert "... and 10 more timer-orphan; --json has all of them" in said
    assert nudge_audit("--state", state, "--json").stdout.count('"type": "finding"') == 30


NEWER: dict[str, Damage] = {
    "the state": lambda state: (state / "nudge.json").write_text('{"format": 99}') and None,
    "a shard": changed_meta(lambda meta: setattr(meta, "format", 99)),
    "a user": changed(lambda one: setattr(one, "format", 99)),
}


@pytest.mark.parametrize("what", NEWER)
def test_a_newer_format_is_refused_as_wrong_use(state: Path, what: str) -> None:
    NEWER[what](state)
    with pytest.raises(UsageError, match="format 99"):
        found(state)


def test_where_there_is_no_state_is_wrong_use(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        done = nudge_audit("--state", folder)
        assert done.returncode == 2
        assert done.stderr.startswith(f"--state {folder}: no state here: ")
    assert list(tmp_path.iterdir()) == []


def test_a_state_whose_checkpoints_are_gone_is_no_state_to_look_at(state: Path) -> None:
    shutil.rmtree(state / "recovery")
    with pytest.raises(StoreError, match="has no checkpoints"):
        StateView(state)


# ---- progress ------------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def clock() -> Iterator[list[float]]:
    return [0.0]


def test_long_work_writes_a_line_per_ten_seconds_where_nobody_watches(clock: list[float]) -> None:
    screen = Screen(terminal=False)
    work = LongWork(screen, lambda: clock[0])
    for second in range(25):
        clock[0] = float(second)
        work.tell(lambda: f"{clock[0]:.0f} s")
    work.clear()
    assert screen.getvalue() == "10 s\n20 s\n"


def test_long_work_changes_one_line_on_a_terminal_and_takes_it_away(clock: list[float]) -> None:
    screen = Screen(terminal=True)
    work = LongWork(screen, lambda: clock[0])
    for text in ("first, long", "next"):
        clock[0] += 1
        work.tell(lambda text=text: text)  # type: ignore[misc]
        work.tell(lambda: "too soon")
    work.clear()
    assert screen.getvalue() == "\rfirst, long\rnext       \r    \r"
