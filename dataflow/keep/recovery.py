"""Read what the engine remembers: the last complete epoch, and what each source and shard gave it then.

The engine keeps this in SQLite files under `STATE/recovery`, with its own pickles of what our `snapshot` methods
return: numbers, texts, lists and dicts. They are read here without letting a pickle name anything else.
"""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from state.errors import StateRefused

FLOW_ID = "nudge"
SOURCE_STEP = "read"
SHARD_STEP = "advance"


_REGISTER = 3  # Its place in a shard's snapshot.
_RESTORE = "restore the whole state directory from one backup"


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a snapshot names {module}.{name}")


@dataclass(slots=True)
class Cut:
    """The consistent cut from which the engine will go on.

    `epoch` is the epoch to resume in. `sources` maps partitions to `[next offset, stream time]`, `shards` the
    shards' keys to `[commit, {topic: end offsets}, number of the sink]`, with a fourth number where flows ask the
    register: how often that was confirmed.
    """

    epoch: int = 1
    sources: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, Any] = field(default_factory=dict)

    @property
    def register(self) -> int:
        """How often the register had been confirmed, 0 if nobody has asked it."""
        return max((one[_REGISTER] for one in self.shards.values() if len(one) > _REGISTER), default=0)


def last_cut(folder: Path) -> Cut:
    """Return the cut of the last complete epoch under *folder*, an empty one when nothing has run yet.

    Works beside a running job, and leaves the files of a stopped one alone.

    Raises:
        StateRefused: the files are damaged, or hold what neither the engine nor we have written.
    """
    try:
        return _last_cut(folder)
    except sqlite3.Error as error:
        raise StateRefused(f"{folder} cannot be read ({error}): {_RESTORE}") from None


def _last_cut(folder: Path) -> Cut:
    files = sorted(folder.glob("*.sqlite3")) if folder.is_dir() else []
    while True:
        # Even a reader of a write-ahead log makes files of its own. Where there is no such log, nobody writes.
        is_idle = not _logs(folder)
        mode = "immutable=1" if is_idle else "mode=ro"
        connections = [sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True) for path in files]
        try:
            for connection in connections:
                # One transaction: between two the engine may complete an epoch and drop the snapshots before it.
                connection.execute("BEGIN")
            cut = read_cut(connections)
        finally:
            for connection in connections:
                connection.close()
        if not (is_idle and _logs(folder)):  # Else a job has started meanwhile.
            return cut


def _logs(folder: Path) -> list[Path]:
    return list(folder.glob("*.sqlite3-wal"))


def read_cut(connections: Sequence[sqlite3.Connection]) -> Cut:
    """Return the cut of the last complete epoch in the engine's databases."""
    cut = Cut(_resume_epoch(connections))
    newest: dict[tuple[str, str], int] = {}
    for connection in connections:
        rows = connection.execute("SELECT step_id, state_key, snap_epoch, ser_change FROM snaps")
        for step, key, epoch, change in rows:
            # All of them are looked at, whatever we need: the engine will load them without asking.
            value = None if change is None else _plain(change)
            if epoch >= cut.epoch or newest.get((step, key), -1) >= epoch:
                continue
            newest[(step, key)] = epoch
            kept = {f"{FLOW_ID}.{SOURCE_STEP}": cut.sources, f"{FLOW_ID}.{SHARD_STEP}": cut.shards}.get(step)
            if kept is not None and value is not None:
                kept[key] = value
    return cut


def _plain(change: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(change)).load()
    except Exception as error:  # A damaged pickle can raise anything.
        raise StateRefused(f"a snapshot of the engine cannot be read ({error}): {_RESTORE}") from None


def prepare_recovery(folder: Path) -> None:
    """Make the engine's recovery files, once per state, and each of them whole: a kill may come in between."""
    if any(folder.glob("*.sqlite3")):
        return
    from bytewax.recovery import init_db_dir  # It takes a moment to load, and a state has these files but once.

    with TemporaryDirectory(dir=folder, prefix="new-") as draft:
        init_db_dir(Path(draft), 1)  # type: ignore[no-untyped-call]
        for file in Path(draft).glob("*.sqlite3"):
            file.replace(folder / file.name)


def forget_unfinished(folder: Path) -> None:
    """Drop what an execution that died had begun to remember under *folder*. Only while no job runs.

    The engine takes, for each key, the newest snapshot before the epoch in which it resumes, whichever execution wrote
    it. What the dead one had written of an epoch that it did not complete would come back as soon as another execution
    completes an epoch of that number in which the key was not awake.
    """
    epoch = last_cut(folder).epoch
    for path in sorted(folder.glob("*.sqlite3")):
        connection = sqlite3.connect(path)
        try:
            with connection:
                forget_from(connection, epoch)
        finally:
            connection.close()


def forget_from(connection: sqlite3.Connection, epoch: int) -> None:
    """Drop all snapshots of *epoch* and later ones."""
    connection.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (epoch,))


def _resume_epoch(connections: Sequence[sqlite3.Connection]) -> int:
    """Return the epoch in which the engine will resume: the least frontier of the last execution's workers.

    A worker that has not noted any yet is where the execution began.
    """
    executions: list[tuple[int, int, int]] = []
    for connection in connections:
        executions.extend(connection.execute("SELECT ex_num, resume_epoch, worker_count FROM exs"))
    if not executions:
        return 1
    last, resumed, workers = max(executions)
    frontiers = dict.fromkeys(range(workers), resumed)
    for connection in connections:
        rows = connection.execute("SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = ?", (last,))
        for worker, frontier in rows:
            frontiers[worker] = max(frontier, frontiers[worker])
    return min(frontiers.values())
