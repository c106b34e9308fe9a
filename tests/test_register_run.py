"""A real job that asks the register: exactly as many enter as may, one arm wins, and who asks nothing has no file."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from dataflow.keep.recovery import last_cut
from dataflow.keep.statedir import StateDir
from state.registerfile import look_at_register
from tests.crash.points import OF_THE_REGISTER, drawn, killed_at
from tests.jobs import Json, RunningJob, in_folder, run_with_kills

USERS = 20_000
LIMIT = 12_345
TRIED = 15_000
BEFORE_THERE_IS_A_STATE = "state.write:before:1"  # There is a register then.
GIFT = f"""
flow: gift
trigger: {{event: start}}
entry: {{limit: {LIMIT}, holdout: 10%}}
steps: [{{send: webhook, template: t}}]
"""
TRIAL = f"""
flow: trial
trigger: {{event: start}}
steps:
  - id: x
    experiment: {{arms: {{a: 30%, b: 70%}}, goal: {{event: buy, within: 1d}}, stop_after: {TRIED}, winner: best}}
"""


@pytest.fixture
def job(tmp_path: Path) -> list[str | Path]:
    """The arguments of a job whose users all come, and some of whom buy."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "gift.yaml").write_text(GIFT)
    (tmp_path / "flows" / "trial.yaml").write_text(TRIAL)
    with (tmp_path / "events.jsonl").open("w") as file:
        for number in range(2 * USERS):
            name = "start" if number % 2 == 0 else "buy" if number % 3 == 0 else "noise"
            record = {
                "user_id": f"u{number // 2}",
                "event": name,
                "message_id": f"m{number}",
                "timestamp": 1_795_435_200_000 + number,
            }
            file.write(json.dumps(record) + "\n")
    return arguments(tmp_path)


def arguments(folder: Path, *more: str) -> list[str | Path]:
    return [
        folder / "flows", "--source", f"file:{folder / 'events.jsonl'}", "--sink", f"file:{folder / 'out'}",
        "--state", folder / "state", "--stop-at-end", "--shards", "8", *more,
    ]  # fmt: skip


def of_flow(journal: list[Json], flow: str) -> Counter[str]:
    return Counter(f"{one['kind']} {one.get('reason', '')}".strip() for one in journal if one["flow"] == flow)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_exactly_as_many_enter_as_the_limit_says_through_kills(
    tmp_path: Path, job: list[str | Path], processes: str
) -> None:
    chance = random.Random(int(processes))
    command = [*job, "--processes", processes, "--epoch", "1s"]
    killed = run_with_kills(command, tmp_path / "log", chance, kills=4, within_s=(1.5, 5.0))
    assert killed > 0, "else this shows nothing"
    check_that_all_adds_up(tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_exactly_as_many_enter_through_kills_before_and_after_all_that_the_register_does(
    tmp_path: Path, job: list[str | Path], processes: str
) -> None:
    chance = random.Random(int(processes))
    row = [drawn(name, when, chance) for name in OF_THE_REGISTER for when in ("before", "after")]
    chance.shuffle(row)
    command = [*job, "--processes", processes, "--epoch", "1s"]
    for point in [BEFORE_THERE_IS_A_STATE, *row]:
        killed_at(command, tmp_path / "log", point, pace="", who=chance.choice(["process", "job"]))
    RunningJob(command, tmp_path / "log").wait()
    check_that_all_adds_up(tmp_path)


def check_that_all_adds_up(folder: Path) -> None:
    journal = in_folder(folder / "out").journal
    gift, trial = of_flow(journal, "gift"), of_flow(journal, "trial")
    assert gift["entered"] == gift["sent"] == LIMIT
    assert sum(gift[kind] for kind in ("entered", "refused limit", "refused holdout")) == USERS
    view = look_at_register(StateDir(folder / "state").register)
    assert view is not None
    assert view.questions["gift"].taken == LIMIT
    assert sum(one.entered for one in view.members["trial\x1fx"].values()) == TRIED
    arms = Counter(one["reason"] for one in journal if one["flow"] == "trial" and one["kind"] == "moved")
    assert view.questions["trial\x1fx"].winner in arms
    assert trial["moved a"] + trial["moved b"] == USERS
    assert arms[str(view.questions["trial\x1fx"].winner)] > USERS - TRIED


def test_an_older_register_and_one_that_is_gone_are_refused(tmp_path: Path, job: list[str | Path]) -> None:
    RunningJob(job, tmp_path / "log").wait()
    state = StateDir(tmp_path / "state")
    assert last_cut(state.recovery).register > 0
    kept = state.register.read_bytes()
    state.register.unlink()
    gone = RunningJob(job, tmp_path / "log.gone")
    assert gone.status() == 2
    assert "the register is missing; what it gave would be given again: restore the whole" in gone.log.read_text()
    state.register.write_bytes(kept)
    with sqlite3.connect(state.register) as database:
        database.execute("UPDATE about SET confirmed = 1")
    database.close()
    older = RunningJob(job, tmp_path / "log.older")
    assert older.status() == 2
    assert "the register is older than the rest (1 of " in older.log.read_text()
    state.register.write_bytes(kept)
    RunningJob(job, tmp_path / "log").wait()


def test_flows_that_ask_nothing_have_no_file(tmp_path: Path, job: list[str | Path]) -> None:
    for name in ("gift", "trial"):
        (tmp_path / "flows" / f"{name}.yaml").unlink()
    (tmp_path / "flows" / "plain.yaml").write_text(
        "flow: plain\ntrigger: {event: start}\nsteps: [{send: webhook, template: t}]\n"
    )
    RunningJob(job, tmp_path / "log").wait()
    state = StateDir(tmp_path / "state")
    assert not state.register.exists()
    assert last_cut(state.recovery).register == 0
    assert all(len(one) == 3 for one in last_cut(state.recovery).shards.values())
