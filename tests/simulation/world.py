"""The world in which a job is started, killed and started again, and the comparison at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from random import Random

import msgspec

from connectors.sinks import Sink
from connectors.sources import Mark
from connectors.sources import SourcePartition as Reader
from dataflow.allowance import Turns
from dataflow.errors import UsageError
from dataflow.job.lifecycle import Change, Course, Job
from dataflow.job.plan import Plan
from dataflow.job.worker import Worker
from dataflow.keep.decidedby import DecidedBy
from dataflow.keep.recovery import Cut, forget_from, read_cut
from dataflow.keep.statedir import read_state_file
from dataflow.read.clock import SteadyClock
from dataflow.read.discovery import PartitionPlan
from dataflow.readback import DecidedOtherwise
from dataflow.urls import SinkUrl, SourceUrl
from operators.language.values import HOUR, MINUTE
from operators.machine.deployment import Deployment
from state.backend import Backend
from state.errors import Refused
from state.registerfile import RegisterFile
from state.store import ShardStore
from state.undo import AsOf
from tests.simulation.broker import (
    Clock,
    SimulatedReader,
    SimulatedSink,
    SinkRecord,
    SinkTopics,
    SourcePartition,
)
from tests.simulation.disk import RegisterDisk, Rows, SimulatedBackend, SimulatedFolder
from tests.simulation.engine import Execution, Recovery
from tests.simulation.fate import Fate, Killed
from tests.simulation.oracle import History, check_members
from tests.simulation.scenario import (
    DEPLOYMENTS,
    OTHER_BUILD,
    START,
    WITH_AUDIENCES,
    Life,
    Scenario,
    loaded,
    workspace_of,
)

OTHER_JOB = "another-job"


class _Silent:
    """A log that nobody reads."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _CompiledPlan(Plan):
    """A plan whose flows are not compiled once more for every process, and which another build may carry out."""

    is_other_build: bool = False

    @property
    def number(self) -> int:
        """The number of its deployment in `scenario.py`."""
        wanted = (sorted(text for _, text in self.flows), self.workspace)
        number = [(sorted(texts), workspace_of(one)) for one, texts in enumerate(DEPLOYMENTS)].index(wanted)
        return number + OTHER_BUILD * self.is_other_build

    def deployment(self) -> Deployment:
        return loaded(self.number).deployment


class OneByOne(Turns):
    """An allowance that is used up at any moment."""

    def __init__(self, chance: Random) -> None:
        super().__init__(lambda: 0.0)
        self._chance = chance
        self._is_over = False

    def begin(self, *, hurries: bool = False) -> None:
        self._is_over = False

    def enter(self) -> None:
        self._is_over = self._is_over and self._chance.random() < 0.7

    def grant(self) -> int:
        self._is_over = self._is_over or self._chance.random() < 0.5
        return 0 if self._is_over else 1


class SimulatedOutside:
    """The `Outside` of one process."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self.sink: Sink = world.open_sink()
        self.files, self.progress = world.files, world.progress
        self.clock = SteadyClock(lambda: world.clock.host_ms, lambda: world.clock.now_ms)

    def backend(self, shard: int) -> Backend:
        world = self._world
        return SimulatedBackend(world.rows.setdefault(shard, Rows()), world.fate)

    def register(self) -> RegisterFile:
        register = self._world.register_disk.open(self._world.job_id)
        register.watch = self._world.history.answers.watch
        return register

    def reader(self, partition: PartitionPlan, position: int, mark: Mark) -> Reader:
        world = self._world
        return SimulatedReader(world._partition(partition.key), position, world.clock, self.clock, world.chance)

    def all_at_once(self, tasks: Sequence[Callable[[], None]]) -> None:
        order = list(tasks)
        self._world.chance.shuffle(order)
        for task in order:
            task()

    def monotonic_s(self) -> float:
        return self._world.clock.now_ms / 1000

    def close(self) -> None:
        pass


class SimulatedWorld:
    """A `World` of dataflow/job/lifecycle.py: everything outside the job, with its faults."""

    place = "simulated"

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = chance = Random(scenario.seed + 1)
        self.fate = Fate(chance)
        self.fate.keeps_trace = scenario.keeps_trace
        self.clock = Clock(START)
        self.files = SimulatedFolder(self.fate)
        self.progress = SimulatedFolder(self.fate)
        self.rows: dict[int, Rows] = {}
        self.recovery = Recovery(self.fate)
        self.register_disk = RegisterDisk(self.fate)
        self.topics = SinkTopics(chance, scenario.sink_partitions)
        self.history = History()
        self.job_id = ""
        self.differed = False
        """Whether what one build had written was found to differ from what another one decided."""
        self._jobs = 0
        self._sinks: list[SimulatedSink] = []
        self._life = scenario.lives[0]
        self._job: Job | None = None
        self._is_exchange_due = False
        self._change: Change | None = None
        self._long_step_ms = max(MINUTE, scenario.lasts_ms // 30)

    # ---- what the course of a run asks for -----------------------------------------------------------------------

    def open_sink(self) -> Sink:
        sink = SimulatedSink(self.topics, self.fate)
        self._sinks.append(sink)
        return sink

    def partitions(self) -> list[PartitionPlan]:
        self.fate.touch("look up partitions")
        return [
            PartitionPlan(
                one.key, "kafka", "b:9", one.topic, one.number, 0,
                one.end(self.clock.now_ms) if self._life.stop_at_end else None, slack_ms=self.scenario.slack_ms,
            )
            for one in self.scenario.partitions
            if one.topic in self._topics and one.appears_ms <= self.clock.now_ms
        ]  # fmt: skip

    def offsets_at(self, partitions: Sequence[PartitionPlan], at_ms: int) -> list[int]:
        self.fate.touch("look up offsets")
        return [self._partition(one.key).offset_at(at_ms, self.clock.now_ms) for one in partitions]

    def change(self) -> Change | None:
        change, self._change = self._change, None
        return change

    def accept(self, job: Job) -> None:
        self._job = job

    def refuse(self, error: Refused) -> None:
        assert "users are still in versions" in str(error)

    @property
    def _topics(self) -> list[str]:
        return self._life.topics or sorted({one.topic for one in self.scenario.partitions})

    def _partition(self, key: str) -> SourcePartition:
        return next(one for one in self.scenario.partitions if one.key == key)

    def last_cut(self) -> Cut:
        database = self.recovery.database
        forget_from(database, read_cut([database]).epoch)
        self.fate.touch("forgotten")
        return read_cut([database])

    def backend(self, shard: int) -> Backend | None:
        return SimulatedBackend(self.rows[shard], self.fate) if shard in self.rows else None

    def register(self, job: str, *, make: bool) -> RegisterFile | None:
        return self.register_disk.open(job) if make or self.register_disk.database is not None else None

    def drop_register(self) -> None:
        self.register_disk.remove()

    def now_ms(self) -> int:
        return self.clock.host_ms

    def new_job_id(self) -> str:
        self._jobs += 1
        return f"{Random(f'job {self._jobs} of {self.scenario.seed}').getrandbits(128):032x}"

    def is_stopping(self) -> bool:
        return self._is_stopping

    def execute(self, plan: Plan) -> bool:
        chance = self.chance
        self.job_id = plan.job
        plan = _CompiledPlan(**{name: getattr(plan, name) for name in plan.__struct_fields__})
        plan.is_other_build = self._life.is_other_build
        plan.users_in_memory = self.scenario.users_in_memory
        cut = self.last_cut()
        sources = cut.sources
        resumed = {one.key: sources.get(one.key, [one.start, one.begin_ms]) for one in plan.partitions}
        # A partition that has been read to its end holds nobody's time back.
        still_read = [
            resumed[one.key][1]
            for one in plan.partitions
            if one.end is None or not one.closes or resumed[one.key][0] < one.end
        ]
        all_keys = [one.key for one in self.scenario.partitions]
        self.history.begin(
            plan.number,
            [all_keys.index(one.key) for one in plan.partitions],
            [resumed.get(key, [0, -1])[0] for key in all_keys],
            min(still_read) if still_read else max(one[1] for one in resumed.values()),
            partial(self._reached, cut),
        )
        self.history.flow_begins = plan.begins
        is_exchange = self._is_exchange_due and not plan.finishes_a_run
        workers = [Worker(plan, index, _Silent(), SimulatedOutside(self)) for index in range(plan.processes)]  # type: ignore[arg-type]
        for worker in workers:
            worker.held_max = self.scenario.held_max
            worker.turns = OneByOne(chance) if self.scenario.wakes_slowly else worker.turns
        execution = Execution(
            plan,
            workers,
            self.recovery,
            chance,
            pass_time=self._pass_time,
            watch=self.history.watch,
            stop_after=self._life.exchange_after if is_exchange else self._life.stop_after,
        )
        execution.run()
        if is_exchange and execution.is_stopping:
            self._exchange(plan)
        else:
            self._is_stopping = execution.is_stopping
        left = any(worker.has_due for worker in workers)
        if not all(one.is_finished for worker in workers for one in worker.partitions.values()):
            return left
        ends = {one.key: one.end for one in plan.partitions}
        if all(one.closes for one in plan.partitions) and None not in ends.values():
            sources = self.last_cut().sources
            # Under a mutation one may be missing.
            newest = max(sources[one.key][1] for one in plan.partitions if one.key in sources)
            self.history.close(max(newest, plan.until_ms or newest), [ends.get(key) or 0 for key in all_keys])
        return left

    def _exchange(self, plan: Plan) -> None:
        """The processes have stopped for others: say which flows and partitions these have."""
        assert self._job is not None
        self._is_exchange_due = False
        known = {one.key for one in plan.partitions}
        added = [] if self._life.stop_at_end else [one for one in self.partitions() if one.key not in known]
        both = sorted([*plan.partitions, *added], key=lambda one: (one.topic, one.partition))
        self._change = Change(replace(self._job, loaded=loaded(self._life.exchange_flows)), both)

    def _pass_time(self) -> None:
        chance, clock = self.chance, self.clock
        which = chance.random()
        usual_ms = self.scenario.step_ms
        clock.now_ms += chance.randint(0, usual_ms if which < 0.8 else 2000 if which < 0.9 else self._long_step_ms)
        if self.scenario.host_clock_jumps and chance.random() < 0.02:
            clock.host_is_ahead_ms = chance.choice([0, HOUR, -HOUR, chance.randint(-MINUTE, 5 * MINUTE)])

    # ---- lives ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the job have all its lives."""
        for life in self.scenario.lives:
            if life is self.scenario.lives[-1]:
                self.clock.now_ms += self.scenario.lasts_ms  # By the last one all records are there.
            self.live(life)
            self._look_at_members()
            self.clock.now_ms += life.pause_ms

    def live(self, life: Life) -> None:
        """Start the job once, and let it end as *life* says."""
        self._life = life
        self._is_stopping = False
        self.fate.next_life(life.kill_at)
        self._is_exchange_due, self._change = life.exchange_after is not None, None
        self._sinks = []
        from_start = self.scenario.from_start
        self._job = job = Job(
            loaded=loaded(life.flows % OTHER_BUILD),
            sources=[SourceUrl("kafka", "b:9", topic, from_start=from_start) for topic in self._topics],
            sink=SinkUrl("kafka", "b:9"),
            state=None,
            processes=life.processes,
            stop_at_end=life.stop_at_end,
            until_ms=life.until_ms,
            shards=self.scenario.shards,
            accept_version=True,
            accept_difference=life.accepts_difference,
            decided_by=DecidedBy("simulated", {"build": "other" if life.is_other_build else "one"}),
        )
        try:
            Course(job, _Silent(), self).run()  # type: ignore[arg-type]
        except Killed:
            self._bury(life)
        except DecidedOtherwise:
            assert not life.accepts_difference, "it was accepted"
            self.differed = True
            self._bury(replace(life, loses_power=False))
            # Somebody reads the message, accepts, and the processes may die of something again.
            kill_at = None if life.until_ms is not None else self.chance.randint(1, 400)
            self.live(replace(life, accepts_difference=True, kill_at=kill_at))
        except UsageError as error:
            # Users are in a version that these flows lack: nothing was changed, and the old flows go on.
            if "users are still in versions" not in str(error):
                raise
            if life.until_ms is not None:
                self.live(replace(life, flows=self.history.flows, exchange_flows=self.history.flows))
            return
        self._meet_another_job()

    def _look_at_members(self) -> None:
        """A run over an audience sees its members as of the cut that the next life goes on from."""
        if self.scenario.seed % 5 not in WITH_AUDIENCES:
            return
        self.fate.next_life(None)
        file, cut = read_state_file(self.files), read_cut([self.recovery.database])
        for number, rows in self.rows.items() if file is not None else ():
            commit = cut.shards.get(file.keys.names[number], [0])[0]
            check_members(AsOf(SimulatedBackend(rows, self.fate), commit))

    def _reached(self, cut: Cut) -> list[tuple[int, str]] | None:
        """Of each shard, up to which (due time, user) it has woken users by *cut*; None where there is none."""
        file, found = read_state_file(self.files), []
        assert file is not None
        deployment = loaded(self.history.flows).deployment
        for number in range(self.scenario.shards):
            commit = cut.shards.get(file.keys.names[number])
            if commit is None or number not in self.rows:
                return None
            store = ShardStore(SimulatedBackend(deepcopy(self.rows[number]), Fate(Random())), due_of=deployment.due_of)
            store.roll_back(commit[0])
            left = store.next_due(store.meta.time_ms)
            found.append((store.meta.time_ms + 1, "") if left is None else left[:2])
        return found

    def _bury(self, life: Life) -> None:
        for sink in self._sinks:
            self.topics.bury(sink.sent)
        if life.loses_power:
            self.files.lose_power(self.chance)
            self.progress.lose_power(self.chance)
            for rows in self.rows.values():
                rows.lose_power(self.chance)
            self.register_disk.lose_power(self.chance)
            self.history.answers.lose_power()

    def _meet_another_job(self) -> None:
        """Another job writes to the same topics, about the same users, and is much further."""
        for topic in self.topics.topics:
            if self.chance.random() < 0.3:
                user = f"user-{self.chance.randint(0, 6)}"
                value = msgspec.json.encode({"user_id": user, "seq": 10**6, "job": OTHER_JOB})
                headers = {"job": OTHER_JOB.encode()}
                if topic == "dead-letters":
                    place = {"topic": "events", "partition": 0, "offset": 10**6}
                    value = msgspec.json.encode(place)
                self.topics.take(self.topics.place(topic, user), [SinkRecord(user, value, headers)])
