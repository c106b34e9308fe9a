"""What a process of the job touches outside its own memory, behind one protocol, and the real thing.

Whoever gives a `Worker` another `Outside` runs the same job in a world of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from connectors.sinks import Sink
from connectors.sources import Mark, SourcePartition
from dataflow.job.plan import Plan
from dataflow.keep.files import Folder
from dataflow.keep.statedir import StateDir
from dataflow.read.clock import SteadyClock
from dataflow.read.discovery import PartitionPlan
from dataflow.urls import SinkUrl
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from state.backend import Backend
from state.registerfile import RegisterFile, open_register
from state.rocks import RocksBackend

COMMIT_THREADS: Final = 8


class Outside(Protocol):
    """Topics, stores, files and a clock, for one process."""

    sink: Sink
    files: Folder
    progress: Folder
    clock: SteadyClock

    def backend(self, shard: int) -> Backend:
        """Open the store of a shard."""
        ...

    def register(self) -> RegisterFile:
        """Open the register of the job."""
        ...

    def reader(self, partition: PartitionPlan, position: int, mark: Mark) -> SourcePartition:
        """Open a source partition, to be read from *position* on, as its *mark* was then."""
        ...

    def all_at_once(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Do all *tasks*, side by side where that is possible, and return once all are done."""
        ...

    def monotonic_s(self) -> float:
        """Return a time in seconds that only says how long something took."""
        ...

    def close(self) -> None:
        """Close what was opened here, apart from backends and readers."""
        ...


class Machine:
    """The real outside of one process.

    Args:
        plan: may be a draft; then `plan` is to be set before a partition is read.
        output: the file descriptor of standard output.
    """

    def __init__(self, plan: Plan, log: Callable[[str], Any], output: int) -> None:
        self.plan = plan
        self._state = StateDir(Path(plan.state))
        self._say = Throttled(log)
        self._log = log
        self._outages: dict[str, Any] = {}
        self.clock = SteadyClock()
        self._probes: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(COMMIT_THREADS, thread_name_prefix="commit")
        self.files, self.progress = self._state.files, self._state.progress
        self.sink = open_sink(
            plan.sink_url, plan.kafka, create=plan.create_topics, log=self._say, output=output, outage=self._outage
        )

    def backend(self, shard: int) -> Backend:
        return RocksBackend(self._state.shard(shard))

    def register(self) -> RegisterFile:
        return open_register(self._state.register, self.plan.job)

    def reader(self, partition: PartitionPlan, position: int, mark: Mark) -> SourcePartition:
        if partition.kind == "file":
            from connectors.file_source import FilePartition

            return FilePartition(Path(partition.topic), position, mark)
        from connectors.kafka_source import EndProbe, KafkaPartition

        plan, bootstrap = self.plan, partition.bootstrap
        if bootstrap not in self._probes:
            there = [(one.topic, one.partition) for one in plan.partitions if one.bootstrap == bootstrap]
            outage = self._outage(bootstrap)
            self._probes[bootstrap] = EndProbe(bootstrap, plan.kafka, there, self.clock.tick_ms, self._say, outage)
        probe = self._probes[bootstrap]
        topic, number = partition.topic, partition.partition
        readers = -(-len(plan.partitions) // plan.processes)
        return KafkaPartition(
            bootstrap,
            plan.kafka,
            topic,
            number,
            position,
            probe,
            self._say,
            partition.topic_id,
            readers,
            outage=self._outage(bootstrap),
        )

    def _outage(self, bootstrap: str) -> Any:
        """Return what all clients of a cluster tell of their trouble: it is one event."""
        from connectors.kafka_outage import Outage

        return self._outages.setdefault(bootstrap, Outage(bootstrap, self._log))

    def all_at_once(self, tasks: Sequence[Callable[[], None]]) -> None:
        for done in [self._pool.submit(task) for task in tasks]:
            done.result()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        for probe in self._probes.values():
            probe.close()
        self.sink.close()
        self._pool.shutdown()


def open_sink(
    url: SinkUrl,
    kafka: dict[str, Any],
    *,
    create: bool,
    log: Callable[[str], None],
    output: int = 1,
    outage: Callable[[str], Any] = lambda _: None,
) -> Sink:
    """Return the sink that *url* names.

    Args:
        outage: gives what is told of trouble with a cluster of Kafka, for its address.
        output: the file descriptor of standard output.
    """
    if url.kind == "kafka":
        from connectors.kafka_sink import KafkaSink

        partitions = int(url.options.get("partitions", "4"))
        return KafkaSink(
            url.bootstrap,
            kafka,
            create=partitions if create else None,
            prefix=url.options.get("prefix", ""),
            patient=(JOURNAL, DEAD_LETTERS),
            log=log,
            outage=outage(url.bootstrap),
        )
    from connectors.file_sink import FileSink, StdoutSink

    return FileSink(Path(url.folder)) if url.kind == "file" else StdoutSink(output)


class Throttled:
    """Passes a message on unless the same one was passed on a moment ago: a broker that is away is one event."""

    EVERY_S: Final = 10.0

    def __init__(self, log: Callable[[str], Any]) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    def __call__(self, message: str) -> None:
        now = time.monotonic()
        kind = message[:60]
        if now - self._said.get(kind, -self.EVERY_S) >= self.EVERY_S:
            self._said[kind] = now
            self._log(message)
