"""Kill a job at named points of its protocols, from outside.

`sitecustomize.py` in this folder is put on the PYTHONPATH of the job and wraps what a point names. It is told by

    NUDGE_CRASH_AT    POINT:before|after:N[@PROCESS][+MSms], several by commas: SIGKILL at the N-th call in one process
                      (in the process with that index only; so many ms after it)
    NUDGE_CRASH_WHO   job: the parent is killed as well, and all processes with it; hang: so, but only after the process
                      has stood still for a second while the others went on
    NUDGE_CRASH_NOTE  a file in which the point is noted just before
    NUDGE_CRASH_PACE  RECORDS/MS/EPOCH_MS: read so little at a time, after such a pause, in epochs so short

A point that is never reached is a failed test, and so is a job that ends in any other way.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.crash.points.sitecustomize import PLACES, STATE_FILE
from tests.jobs import RunningJob

HERE = Path(__file__).parent

# How often a run passes each point before its end, at the least: the N of a kill is drawn from 1 to this.
PASSES = {
    "source.poll": 40,
    "progress.note": 40,
    "progress.roll": 6,
    "source.snapshot": 6,
    "epoch.recorded": 4,
    "shard.take": 60,
    "shard.snapshot": 10,
    "sink.write": 100,
    "sink.hand_over": 10,
    "sink.confirm": 3,
    "sink.ends": 3,
    "store.write": 10,
    "store.sync": 10,
    "store.spill": 10,
    "store.roll_back": 2,
    "sink.read_back": 1,
    "run.forget": 1,
    "run.read_back_from": 1,
    "run.finish_the_last": 1,
    "run.execute": 1,
    "state.write": 1,
    STATE_FILE: 1,
    "register.place": 300,
    "register.arm": 300,
    "register.sync": 5,
}
OF_THE_REGISTER = ("register.place", "register.arm", "register.sync")  # Only flows that ask it pass them.
ONLY_AT_THE_END = ("run.execute:after:1", f"{STATE_FILE}:before:2", f"{STATE_FILE}:after:2", "state.write:after:2")
# What the parent passes before it starts its processes, however many.
PARENTS = (
    "run.forget", "run.read_back_from", "run.finish_the_last", "run.execute", "state.write", STATE_FILE
)  # fmt: skip
assert set(PASSES) == {*PLACES, STATE_FILE}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a job that is watched from here."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, **more}


def all_points() -> list[tuple[str, str]]:
    """Return every point that a run of the shop's flows passes before its end, before and after."""
    points = [(name, when) for name in PASSES if name not in OF_THE_REGISTER for when in ("before", "after")]
    points.remove(("run.execute", "after"))
    return points


def drawn(name: str, when: str, chance: random.Random) -> str:
    """Return the point as a text, with a number of calls that a run surely reaches."""
    return f"{name}:{when}:{chance.randint(1, PASSES[name])}"


def killed_at(
    arguments: Sequence[str | Path], log: Path, point: str, *, pace: str, who: str = "process", timeout_s: float = 60
) -> None:
    """Run a job until it is killed at *point*.

    Raises:
        AssertionError: it ended in another way.
    """
    note = log.with_name(f"{log.name}.note")
    note.unlink(missing_ok=True)
    settings = environment(NUDGE_CRASH_AT=point, NUDGE_CRASH_WHO=who, NUDGE_CRASH_NOTE=str(note), NUDGE_CRASH_PACE=pace)
    job = RunningJob(arguments, log, **settings)
    try:
        status = job.status(timeout_s)
    finally:
        job.kill()
    noted = note.read_text() if note.exists() else ""
    assert noted.startswith(f"{point} "), f"{point} was never reached, status {status}\n{job.tail(12)}"
    if status != -signal.SIGKILL:  # The parent outlived it, and says so.
        assert status == 1, f"{point}: status {status}\n{job.tail(12)}"
        assert "signal SIGKILL" in job.tail(8), f"{point}: nothing is said of the kill\n{job.tail(12)}"
