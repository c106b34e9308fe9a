"""What the engine remembers is read as the engine reads it, and what a dead execution left does not come back."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from dataflow.keep.recovery import forget_unfinished, last_cut

SHARD = "nudge.advance"


class Remembered:
    """The engine's own database, filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        init_db_dir(folder, 1)
        self._path = next(folder.glob("*.sqlite3"))

    def write(self, statement: str, *values: object) -> None:
        connection = sqlite3.connect(self._path)
        with connection:
            connection.execute(statement, values)
        connection.close()

    def execution(self, number: int, workers: int, epoch: int) -> None:
        self.write("INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, ?, ?)", number, workers, epoch)

    def front(self, execution: int, worker: int, epoch: int) -> None:
        self.write("INSERT OR REPLACE INTO fronts (ex_num, worker_index, worker_frontier) VALUES (?, ?, ?)",
                   execution, worker, epoch)  # fmt: skip

    def snapshot(self, key: str, epoch: int, value: object) -> None:
        self.write("INSERT OR REPLACE INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
                   SHARD, key, epoch, pickle.dumps(value))  # fmt: skip


@pytest.fixture
def remembered(tmp_path: Path) -> Remembered:
    return Remembered(tmp_path)


def test_an_epoch_counts_once_every_process_has_noted_it(remembered: Remembered) -> None:
    remembered.execution(0, 2, 1)
    remembered.snapshot("0", 1, [1, {}, 1])
    remembered.front(0, 0, 2)
    assert last_cut(remembered.folder).epoch == 1, "the second process has not said so yet"
    assert last_cut(remembered.folder).shards == {}
    remembered.front(0, 1, 2)
    assert last_cut(remembered.folder).epoch == 2
    assert last_cut(remembered.folder).shards == {"0": [1, {}, 1]}


def test_what_a_dead_execution_wrote_of_an_epoch_that_it_did_not_complete_never_comes_back(
    remembered: Remembered,
) -> None:
    remembered.execution(0, 1, 1)
    remembered.snapshot("0", 1, [1, {}, 1])
    remembered.front(0, 0, 2)
    remembered.snapshot("0", 2, [2, {}, 1])
    forget_unfinished(remembered.folder)
    remembered.execution(1, 1, 2)  # Its second epoch passes without anything for the shard.
    remembered.front(1, 0, 3)
    assert last_cut(remembered.folder).epoch == 3
    assert last_cut(remembered.folder).shards == {"0": [1, {}, 1]}


def test_a_state_in_which_nothing_ran_yet_has_an_empty_cut(remembered: Remembered) -> None:
    forget_unfinished(remembered.folder)
    assert (last_cut(remembered.folder).epoch, last_cut(remembered.folder).shards) == (1, {})
