"""The engine, as far as the job relies on it: partitions, shards and epochs over processes, and what it remembers.

It follows bytewax 0.21: partitions end their epochs one by one; a process closes an epoch when all of it has arrived,
and snapshots what was awake in it; rows of snapshots are written as they come, and stay behind when the execution dies;
an epoch counts once every process has said so, which may be noted one epoch late. A restart takes, per key, the newest
row before the epoch it resumes in, whichever execution wrote it. What one process reads reaches the others in the order
of its partition, and otherwise in any order.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from dataflow.job.plan import Plan
from dataflow.job.ports import PartitionPort, ShardPort
from dataflow.job.worker import Worker
from dataflow.keep.recovery import FLOW_ID, SHARD_STEP, SOURCE_STEP
from dataflow.read.partition import Parcel
from state.shards import ShardKeys
from tests.simulation.fate import Fate, Killed

SOURCE = f"{FLOW_ID}.{SOURCE_STEP}"
SHARD = f"{FLOW_ID}.{SHARD_STEP}"

STEPS_MAX = 20_000

SCHEMA = """
CREATE TABLE exs (ex_num INTEGER PRIMARY KEY, worker_count INTEGER, resume_epoch INTEGER);
CREATE TABLE fronts (ex_num INTEGER, worker_index INTEGER, worker_frontier INTEGER, PRIMARY KEY (ex_num, worker_index));
CREATE TABLE snaps (step_id TEXT, state_key TEXT, snap_epoch INTEGER, ser_change BLOB,
    PRIMARY KEY (step_id, state_key, snap_epoch));
"""
COLLECT = """
WITH newest AS (
    SELECT step_id, state_key, MAX(snap_epoch) AS snap_epoch FROM snaps WHERE snap_epoch <= ?1 GROUP BY 1, 2
)
DELETE FROM snaps WHERE EXISTS (
    SELECT 1 FROM newest WHERE newest.step_id = snaps.step_id AND newest.state_key = snaps.state_key
    AND snaps.snap_epoch < newest.snap_epoch
)
"""


class Recovery:
    """The engine's database: synced with every row, so it outlives the machine."""

    def __init__(self, fate: Fate) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.executescript(SCHEMA)
        self._fate = fate

    def begin(self, workers: int) -> tuple[int, int, dict[tuple[str, str], Any]]:
        """Return the number of a new execution, the epoch it begins with, and the snapshots to begin from."""
        execute = self.database.execute
        last = execute("SELECT ex_num, worker_count, resume_epoch FROM exs ORDER BY ex_num DESC LIMIT 1").fetchone()
        number, epoch = 0, 1
        if last is not None:
            number, epoch = last[0] + 1, last[2]
            fronts = dict(execute("SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = ?", last[:1]))
            epoch = min(max(epoch, fronts.get(worker, epoch)) for worker in range(last[1]))
        rows = execute(
            "SELECT step_id, state_key, MAX(snap_epoch), ser_change FROM snaps WHERE snap_epoch < ? GROUP BY 1, 2",
            (epoch,),
        )
        loaded = {(step, key): pickle.loads(change) for step, key, _, change in rows}
        self._fate.touch("begin execution")
        execute("INSERT INTO exs VALUES (?, ?, ?)", (number, workers, epoch))
        return number, epoch, loaded

    def keep(self, step: str, key: str, epoch: int, snapshot: Any) -> None:
        self._fate.touch("keep snapshot")
        row = (step, key, epoch, pickle.dumps(snapshot))
        self.database.execute("INSERT OR REPLACE INTO snaps VALUES (?, ?, ?, ?)", row)

    def complete(self, execution: int, worker: int, epoch: int) -> None:
        """Note that *worker* is ready for *epoch*."""
        self._fate.touch("complete epoch")
        self.database.execute("INSERT OR REPLACE INTO fronts VALUES (?, ?, ?)", (execution, worker, epoch))

    def collect(self, epoch: int) -> None:
        """Drop what no restart can ask for once *epoch* is complete."""
        self._fate.touch("collect")
        self.database.execute(COLLECT, (epoch,))


class Process:
    """One process of an execution."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.shards: dict[str, ShardPort] = {}
        self.arrived: dict[int, deque[tuple[str, Parcel]]] = {}
        self.awake: set[str] = set()
        self.is_alive = True
        self.is_closed = False
        self.is_cut_off = False  # Something for it was lost with another process: the epoch cannot end here.

    @property
    def has_arrivals(self) -> bool:
        return any(self.arrived.values())


class Execution:
    """One execution of a plan.

    Args:
        pass_time: called between two steps.
        watch: called with everything that is brought to a shard, before it is.
        stop_after: after so many steps the processes are asked to stop; None: never.
    """

    def __init__(
        self,
        plan: Plan,
        workers: list[Worker],
        recovery: Recovery,
        chance: Random,
        *,
        pass_time: Callable[[], None],
        watch: Callable[[Parcel], None],
        stop_after: int | None,
    ) -> None:
        self._plan, self._recovery, self._chance = plan, recovery, chance
        self._pass_time, self._watch = pass_time, watch
        self._stop_after = stop_after
        self.is_stopping = False
        self._processes = [Process(worker) for worker in workers]
        self._number, self._epoch, loaded = recovery.begin(len(workers))
        self._homes = {key: chance.choice(self._processes) for key in ShardKeys(plan.shard_keys, plan.shards).names}
        self._partitions: dict[int, tuple[Process, PartitionPort]] = {}
        self._loaded = loaded
        self._rows: list[tuple[str, str, int, Any]] = []
        self._late_fronts: set[int] = set()
        self._steps = 0
        self._ended: set[int] = set()
        self._reads_left: dict[int, int] = {}
        self._actor: Process | None = None
        self._writer = chance.choice(self._processes)

    def run(self) -> None:
        """Run until all sources have ended.

        Raises:
            Killed: a process died, and so did the others, a moment later.
        """
        try:
            self._open()
            while self._partitions:
                self._run_epoch()
        except Killed:
            self._go_on_without_the_dead()
            raise
        for process in self._processes:
            process.worker.close()

    def _open(self) -> None:
        for (step, key), snapshot in self._loaded.items():
            if step == SHARD:
                home = self._homes[key]
                home.shards[key] = ShardPort(home.worker, snapshot)
        for number, partition in enumerate(self._plan.partitions):
            process = self._actor = self._chance.choice(self._processes)
            resumed = self._loaded.get((SOURCE, partition.key))
            self._partitions[number] = (process, PartitionPort(process.worker, number, resumed))

    def _run_epoch(self) -> None:
        self._ended = set()
        self._reads_left = {number: self._chance.randint(0, 4) for number in self._partitions}
        for process in self._processes:
            process.awake, process.is_closed = set(), False
        while not self._is_complete():
            self._step()
        self._complete()
        self._epoch += 1

    def _is_complete(self) -> bool:
        return not self._rows and all(process.is_closed for process in self._processes)

    def _step(self) -> None:
        """Do one of the things that may happen next."""
        choices: list[tuple[Callable[..., None], Any]] = []
        waiting = [number for number in self._partitions if number not in self._ended]
        for number in waiting:
            if self._partitions[number][0].is_alive:
                choices.append((self._read if self._reads_left[number] else self._end_epoch, number))
        for process in self._processes:
            if not process.is_alive:
                continue
            if process.has_arrivals:
                choices += [(self._carry, process)] * 2
            elif not waiting and not process.is_closed and not process.is_cut_off:
                choices.append((self._close, process))
        if self._rows and self._writer.is_alive:
            choices.append((self._keep, None))
        if not choices:
            raise Killed("nothing can go on without the dead")
        self._steps += 1
        assert self._steps < STEPS_MAX, "the execution does not end"
        if self._stop_after is not None and self._steps >= self._stop_after:
            self.is_stopping = True
            for process in self._processes:
                if self._chance.random() < 0.3:
                    process.worker.stopping.set()
        self._pass_time()
        action, argument = self._chance.choice(choices)
        action(argument)

    def _read(self, number: int) -> None:
        process, step = self._partitions[number]
        self._actor = process
        self._reads_left[number] -= 1
        try:
            parcels = step.next_batch()
        except StopIteration:
            self._end_epoch(number)
            step.close()
            del self._partitions[number]
            return
        for key, parcel in parcels:
            self._homes[key].arrived.setdefault(number, deque()).append((key, parcel))

    def _end_epoch(self, number: int) -> None:
        process, step = self._partitions[number]
        self._actor = process
        self._ended.add(number)
        self._rows.append((SOURCE, self._plan.partitions[number].key, self._epoch, step.snapshot()))

    def _carry(self, process: Process) -> None:
        """Bring some of what has arrived at *process* to its shards: in order per partition, together per shard."""
        self._actor = process
        by_key: dict[str, list[Parcel]] = {}
        numbers = [number for number, parcels in process.arrived.items() if parcels]
        self._chance.shuffle(numbers)
        for number in numbers[: self._chance.randint(1, len(numbers))]:
            parcels = process.arrived[number]
            for _ in range(self._chance.randint(1, len(parcels))):
                key, parcel = parcels.popleft()
                by_key.setdefault(key, []).append(parcel)
        for key in sorted(by_key):
            if key not in process.shards:
                process.shards[key] = ShardPort(process.worker, None)
            process.awake.add(key)
            for parcel in by_key[key]:
                self._watch(parcel)
            process.shards[key].on_batch(by_key[key])

    def _close(self, process: Process) -> None:
        """End the epoch in *process*: snapshots of all that was awake in it; at the very end everything is."""
        self._actor = process
        if not self._partitions:
            process.awake.update(process.shards)
        for key in sorted(process.awake):
            self._rows.append((SHARD, key, self._epoch, process.shards[key].snapshot()))
        process.is_closed = True

    def _keep(self, _: None) -> None:
        self._actor = self._writer
        self._recovery.keep(*self._rows.pop(self._chance.randrange(len(self._rows))))

    def _complete(self) -> None:
        """Everything of the epoch is kept: every process notes it, now or with the next one."""
        self._actor = self._writer
        order = list(range(len(self._processes)))
        self._chance.shuffle(order)
        for index in order:
            if self._partitions and index not in self._late_fronts and self._chance.random() < 0.2:
                self._late_fronts.add(index)
                continue
            self._late_fronts.discard(index)
            self._recovery.complete(self._number, index, self._epoch + 1)
        if self._chance.random() < 0.7:
            self._recovery.collect(self._epoch - 1 if self._late_fronts else self._epoch)

    def _go_on_without_the_dead(self) -> None:
        """The other processes find out a moment later that one has died, and what it had for them may be lost."""
        if self._actor is None or len(self._processes) == 1 or not self._reads_left:
            return
        self._actor.is_alive = False
        dead = {number for number, (process, _) in self._partitions.items() if process is self._actor}
        for process in self._processes:
            for number in dead & set(process.arrived):
                parcels = process.arrived[number]
                for _ in range(self._chance.randint(0, len(parcels))):
                    parcels.pop()
                    process.is_cut_off = True
        try:
            for _ in range(self._chance.randint(0, 12)):
                if self._is_complete():
                    break
                self._step()
        except Killed:
            pass
