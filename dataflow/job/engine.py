"""The engine: everything that knows bytewax, and nothing else.

bytewax spreads source partitions and shards over the processes, brings what a partition reads to the shard it is for,
and marks epochs: at the end of each it asks every partition and every shard for a snapshot, before anything of the next
epoch reaches a shard. The snapshots of the last complete epoch are where a restart goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import bytewax.operators as op
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig

from dataflow.job.ports import PartitionPort, ShardPort
from dataflow.job.worker import Worker
from dataflow.keep.recovery import FLOW_ID, SHARD_STEP, SOURCE_STEP
from dataflow.keep.statedir import StateDir
from dataflow.read.partition import Parcel
from state.errors import StateRefused, in_one_line, is_expected

IDLE_MS: Final = 5  # How long to leave a partition alone that had nothing: a part of the latency of every action.
IDLE_MS_EACH: Final = 1.25  # To ask is work, so of many partitions each is asked less often.

F = TypeVar("F", bound=Callable[..., Any])


def _logged(method: F) -> F:
    """Log what *method* raises: the engine only knows that something did."""

    @wraps(method)
    def run(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except StopIteration:
            raise
        except Exception as error:
            worker: Worker = self.worker
            worker.has_said_why = True
            if isinstance(error, StateRefused):
                worker.refusal = str(error)
                raise
            worker.why = in_one_line(error)
            worker.log.error("the job stops", error=worker.why, exc_info=not is_expected(error))
            raise

    return run  # type: ignore[return-value]


class _Partition(StatefulSourcePartition[tuple[str, Parcel], list[int]]):
    def __init__(self, worker: Worker, number: int, resumed: list[Any] | None) -> None:
        self.worker = worker
        self._port = PartitionPort(worker, number, resumed)
        partitions = len(worker.plan.partitions) / worker.plan.processes
        self._idle = timedelta(milliseconds=max(IDLE_MS, IDLE_MS_EACH * partitions))

    @_logged
    def next_batch(self) -> list[tuple[str, Parcel]]:
        return self._port.next_batch()

    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + self._idle if self._port.is_idle else None

    @_logged
    def snapshot(self) -> list[Any]:
        return self._port.snapshot()

    def close(self) -> None:
        self._port.close()


class _Source(FixedPartitionedSource[tuple[str, Parcel], list[int]]):
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def list_parts(self) -> list[str]:
        return [one.key for one in self.worker.plan.partitions]

    @_logged
    def build_part(self, step_id: str, for_part: str, resume_state: list[int] | None) -> _Partition:
        number = next(i for i, one in enumerate(self.worker.plan.partitions) if one.key == for_part)
        return _Partition(self.worker, number, resume_state)


class _ShardLogic(StatefulBatchLogic[Parcel, None, list[Any]]):
    def __init__(self, worker: Worker, resumed: list[Any] | None) -> None:
        self.worker = worker
        self._port = ShardPort(worker, resumed)

    @_logged
    def on_batch(self, values: list[Parcel]) -> tuple[list[None], bool]:
        self._port.on_batch(values)
        return [], self.RETAIN

    @_logged
    def snapshot(self) -> list[Any]:
        return self._port.snapshot()


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class _NoSink(DynamicSink[Any]):
    """The engine wants an output; ours is inside the shard's step, where its snapshot covers it."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        return _Nothing()


def execute(worker: Worker) -> None:
    """Run this process's part of the job until its sources end or it is asked to stop."""
    recovery = StateDir(Path(worker.plan.state)).recovery
    flow = Dataflow(FLOW_ID)
    parcels = op.input(SOURCE_STEP, flow, _Source(worker))
    done = op.stateful_batch(SHARD_STEP, parcels, lambda resumed: _ShardLogic(worker, resumed))
    op.output("nothing", done, _NoSink())
    cluster_main(
        flow,
        worker.plan.addresses,
        worker.index,
        epoch_interval=timedelta(seconds=worker.plan.epoch_s),
        recovery_config=RecoveryConfig(str(recovery)) if worker.plan.durable else None,
        worker_count_per_proc=1,
    )
