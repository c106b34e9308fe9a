"""Two builds that decide differently on one state: what the first has written is compared, and nothing comes twice.

The state is put back as it was before the first build decided the second half of the events, as from a backup, or as a
crash leaves it right after a checkpoint. The second build journals one more record as a journey begins.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from operators.decisions import DECISIONS
from tests.jobs import NUDGE, REPO, Emitted, RunningJob, audited, in_folder

FLOW = """\
flow: f
trigger: {event: a}
entry: {reentry: always, concurrent: 9}
steps:
  - {send: webhook, template: now}
  - wait: 1h
  - {send: webhook, template: later}
"""
EVENTS = [
    {"user_id": f"u{n % 7}", "event": "a", "message_id": f"m{n}", "timestamp": f"2026-11-23T08:{n:02d}:00Z"}
    for n in range(40)
]
UNTIL = ["--until", "2026-11-24T00:00:00Z"]

OTHER_BUILD = """\
import os, signal
import operators.decisions
operators.decisions.DECISIONS += 1
from operators.machine.context import Moment
note = Moment.note
def one_more(self, kind, **options):
    if kind == "entered":
        note(self, "set", detail={"more": 1})
    note(self, kind, **options)
Moment.note = one_more
if "DIE_AFTER" in os.environ:
    from dataflow.emit import Emitter
    deliver, left = Emitter.deliver, [int(os.environ["DIE_AFTER"])]
    def die(self, **how):
        deliver(self, **how)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    Emitter.deliver = die
"""


class Folder:
    """The folder of a job, whose state can be put back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        (root / "f.yaml").write_text(FLOW)
        (root / "other").mkdir()
        (root / "other" / "sitecustomize.py").write_text(OTHER_BUILD)

    def arguments(self, *more: str) -> list[str | Path]:
        return [
            self.root / "f.yaml", "--source", f"file:{self.root / 'events.jsonl'}",
            "--sink", f"file:{self.root / 'out'}", "--state", self.state, "--shards", "2", "--stop-at-end", *more,
        ]  # fmt: skip

    def write_events(self, count: int) -> None:
        (self.root / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS[:count]))

    def run(self, *more: str) -> None:
        RunningJob(self.arguments(*more), self.root / "log").wait()

    def run_other(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the other build."""
        return subprocess.run(
            [*NUDGE, "run", *map(str, self.arguments(*UNTIL, *more))],
            cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": f"{self.root / 'other'}:{REPO}", **environment},
        )  # fmt: skip

    @property
    def out(self) -> Emitted:
        return in_folder(self.root / "out")

    def put_back(self, *, is_clean: bool) -> None:
        """Put the state of half of the events back."""
        shutil.rmtree(self.state)
        shutil.copytree(self.root / "backup", self.state)
        note = json.loads((self.state / "nudge.json").read_text())
        assert note["run"]["is_clean"]
        note["run"]["is_clean"] = is_clean
        (self.state / "nudge.json").write_text(json.dumps(note))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A job that has decided everything, with a backup of half of it."""
    made = Folder(tmp_path_factory.mktemp("job"))
    made.write_events(20)
    made.run()
    shutil.copytree(made.state, made.root / "backup")
    made.write_events(40)
    made.run(*UNTIL)
    assert len(made.out.actions) == 80
    shutil.copytree(made.root / "out", made.root / "sent")
    return made


@pytest.fixture
def job(made: Folder) -> Folder:
    """That job, with what it has sent as it was."""
    shutil.rmtree(made.root / "out")
    shutil.copytree(made.root / "sent", made.root / "out")
    (made.root / "other" / "sitecustomize.py").write_text(OTHER_BUILD)
    return made


@pytest.mark.parametrize("is_clean", [True, False])
def test_the_same_build_on_a_state_that_was_put_back_finds_everything_equal(job: Folder, is_clean: bool) -> None:
    before = job.out
    job.put_back(is_clean=is_clean)
    job.run(*UNTIL)
    assert job.out == before
    assert not (job.state / "differences.jsonl").exists()


def test_another_build_does_not_finish_an_interrupted_run_unless_it_is_told_to(job: Folder) -> None:
    before = job.out
    job.put_back(is_clean=False)
    done = job.run_other()
    assert done.returncode == 2
    assert f"with decisions {DECISIONS + 1} instead of {DECISIONS}: start that version once" in done.stderr
    assert "--accept-version" in done.stderr
    done = job.run_other("--accept-version")
    assert done.returncode == 2, "what it decides is compared"
    assert "--accept-difference" in done.stderr
    assert job.out == before
    job.run(*UNTIL)
    assert job.out == before, "the build that was interrupted finishes"


def test_another_build_that_decides_the_same_finishes_with_accept_version(job: Folder) -> None:
    before = job.out
    (job.root / "other" / "sitecustomize.py").write_text(
        "import operators.decisions\noperators.decisions.DECISIONS += 1\n"
    )
    job.put_back(is_clean=False)
    assert job.run_other("--accept-version").returncode == 0
    assert job.out == before
    note = json.loads((job.state / "nudge.json").read_text())
    assert note["decided_by"]["parts"]["decisions"] == str(DECISIONS + 1)


def test_a_state_that_does_not_say_who_decided_is_taken_and_compared(job: Folder) -> None:
    before = job.out
    job.put_back(is_clean=False)
    note = json.loads((job.state / "nudge.json").read_text())
    del note["decided_by"]
    (job.state / "nudge.json").write_text(json.dumps({**note, "format": 1}))
    done = job.run_other()
    assert done.returncode == 2
    assert "--accept-difference" in done.stderr
    job.run(*UNTIL)
    assert job.out == before


def test_another_build_on_a_backup_is_stopped_and_says_where_the_records_are(job: Folder) -> None:
    before = job.out
    job.put_back(is_clean=True)
    done = job.run_other()
    assert done.returncode == 2
    assert "was written" in done.stderr
    assert "Traceback" not in done.stderr
    file = job.state / "differences.jsonl"
    assert str(file) in done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    users = {json.loads(line)["read_back"]["user_id"] for line in file.open()}
    assert users
    assert not any(user in done.stderr.replace(str(job.root), "") for user in users)
    job.run(*UNTIL, "--accept-version")
    assert job.out == before, "the build that wrote them finishes"


@pytest.mark.parametrize("kills", [[], ["2", "1"]])
def test_accepted_differences_send_nothing_twice_however_often_the_job_is_killed(job: Folder, kills: list[str]) -> None:
    before = job.out
    job.put_back(is_clean=True)
    for kill in kills:
        assert job.run_other("--accept-difference", "--epoch", "1s", DIE_AFTER=kill).returncode == 1
        audited(job.state)
    done = job.run_other("--accept-difference")
    assert done.returncode == 0, done.stderr
    assert "differences were accepted" in done.stderr
    audited(job.state)
    after = job.out
    assert Counter(one["action_id"] for one in after.actions) == Counter(one["action_id"] for one in before.actions)
    numbers = Counter((one["user_id"], one["seq"]) for one in after.journal)
    assert max(numbers.values()) == 1
    assert [one for one in after.journal if one in before.journal] == before.journal, "what was there stays"
    assert len([one for one in after.journal if one["kind"] == "set"]) == 20, "one more for each of the second half"
    assert job.run_other().returncode == 0
    assert job.out == after, "the state and the topics agree"
