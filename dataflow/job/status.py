"""What the processes of a job report to their parent, and what it adds up to.

A process writes down how things stand about twice a second, in the thread that does the work and between two batches,
so that nothing changes meanwhile; another thread sends what was written down last. A process that is busy for long, or
waits for Kafka, so goes on reporting, and its numbers grow old. Moments are of `time.monotonic`, which all processes of
a machine share: how old something is can be told by whoever reads of it, also when nothing comes any more.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from dataflow.delays import Delayed
from operators.machine.totals import Totals, add_totals

STATUS_EVERY_S: Final = 0.5
STARTING: Final = b"starting\n"  # What a process says, now and then, until it has something to report.
PREPARED: Final = b"prepared\n"  # What a process says, once and before its reports, when it waits for its own plan.


class Work(msgspec.Struct, frozen=True):
    """How much was done since the start: records by what became of them, and what was written.

    `tombstones` are no records; `unknown_receipts` are those of `receipts` that are about nothing that is known to have
    been sent; `updates` say that an update of an audience is complete; `ignored` are of other formats, and nothing
    follows from them; `too_large` are profile updates that would have made a profile so; `memberships_cut` are
    memberships of which something was left out; `ids_forgotten` says how often ids of the day had to go; `skipped` is
    what a killed run had written already.
    """

    records: int = 0
    tombstones: int = 0
    relevant: int = 0
    receipts: int = 0
    unknown_receipts: int = 0
    memberships: int = 0
    updates: int = 0
    ignored: int = 0
    duplicates: int = 0
    too_large: int = 0
    memberships_cut: int = 0
    ids_forgotten: int = 0
    actions: int = 0
    journal: int = 0
    dead_letters: int = 0
    skipped: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class PartitionStatus(msgspec.Struct, frozen=True):
    """How far a source partition has come.

    `position` is the offset of the next record, `lag` how many records lie ahead, None when nobody knows; `moved_s` is
    since when stream time stands at `stream_ms`. `ahead_ms` and `late_ms` are how far stamps and clock disagree, see
    `dataflow/read/partition.py`.
    """

    position: int
    lag: int | None
    stream_ms: int
    moved_s: float
    ahead_ms: int = 0
    late_ms: int = 0


class ShardStatus(msgspec.Struct, frozen=True):
    """The stream time of a shard, -1 for none yet, and before when nobody in it is to be woken, None if unknown."""

    time_ms: int
    due_ms: int | None = None


class Status(msgspec.Struct, frozen=True):
    """How things stood in one process at the moment `taken_s`.

    `refusal` says why the state is not one to go on from. `why` says why the process ends, where it knows, and `first`
    what is to be done before another start. `delayed` is how long it took to the actions. `dead` are dead
    letters by reason, `mistakes` ours by place.
    `totals` are those of the state, which go back with it after a crash; `counted` is what was added to them since the
    process started. `due_left` tells whether wake-ups that are due are left undone. `difference` is how many journeys
    are not accounted for.
    """

    process: int
    taken_s: float
    refusal: str = ""
    why: str = ""
    first: str = ""
    work: Work = Work()
    delayed: Delayed = Delayed()
    dead: dict[str, int] = {}
    mistakes: dict[str, int] = {}
    partitions: dict[str, PartitionStatus] = {}
    shards: dict[int, ShardStatus] = {}
    clock_held_back_ms: int = 0
    totals: Totals = {}
    counted: Totals = {}
    runs: dict[str, int] = {}
    due_left: bool = False
    difference: int = 0
    checkpoints: int = 0
    checkpoint_s: float = 0.0
    checkpointed_s: float | None = None


def _joined(past: Status, more: Status) -> Status:
    """Return what two executions of a process have counted together; of the rest, how it stood in the later one."""
    counted: Totals = {}
    add_totals(counted, past.counted)
    add_totals(counted, more.counted)
    return msgspec.structs.replace(
        more,
        work=past.work + more.work,
        delayed=past.delayed + more.delayed,
        dead=_added(past.dead, more.dead),
        mistakes=_added(past.mistakes, more.mistakes),
        counted=counted,
        checkpoints=past.checkpoints + more.checkpoints,
    )


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


class Report(msgspec.Struct, frozen=True):
    """A status on its way to the parent, at the moment `sent_s`."""

    sent_s: float
    status: Status

    def dump(self) -> bytes:
        """Return the report as a line."""
        return msgspec.json.encode(self) + b"\n"


load_report = msgspec.json.Decoder(Report).decode


class Running:
    """The last report of every process, in this execution of the job and in those before it in the same run."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self._reports: dict[int, Report] = {}  # By process.
        self._past: dict[int, Status] = {}  # What was counted in executions that are over, by process.
        self._before: dict[int, Report] = {}
        self._heard_s: dict[int, float] = {}

    def hear(self, process: int, at_s: float) -> None:
        """Note that a process lives, of which there is nothing to report yet."""
        self._heard_s[process] = at_s

    def heard_s(self, process: int) -> float:
        """When a process was last heard of in this run; 0 for never."""
        return self._heard_s.get(process, 0.0)

    def take(self, report: Report) -> None:
        """Take in what a process has reported."""
        self._reports[report.status.process] = report
        self.hear(report.status.process, report.sent_s)
        if len(self._reports) >= len(self._before):
            self._before = {}

    def end_execution(self, *, goes_on: bool = False) -> None:
        """Keep what an execution has done that is over.

        Args:
            goes_on: whether the next one takes over at once. How things stood at the end is then how they stand, until
                as many processes of the next one have reported.
        """
        for process, report in self._reports.items():
            before = self._past.get(process)
            self._past[process] = report.status if before is None else _joined(before, report.status)
        self._before, self._reports = (self._reports or self._before) if goes_on else {}, {}

    @property
    def reports(self) -> dict[int, Report]:
        """The last report of each process of this execution, in their order; see `end_execution`."""
        return dict(sorted((self._before or self._reports).copy().items()))

    @property
    def statuses(self) -> list[Status]:
        """The statuses of this execution, in order of the processes; see `end_execution`."""
        return [report.status for report in self.reports.values()]

    @property
    def open_shards(self) -> int:
        """How many shards the processes of this execution have opened."""
        return sum(len(status.shards) for status in self.statuses)

    @property
    def all_statuses(self) -> list[Status]:
        """The statuses of this execution, and what was counted in those that are over."""
        past, now = self._past.copy(), self._reports.copy()
        return [*past.values(), *(report.status for report in now.values())]

    @property
    def work(self) -> Work:
        """How much this run has done."""
        return sum((status.work for status in self.all_statuses), Work())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began_s

    def summary(self) -> dict[str, Any]:
        """Return what the last line of a run says."""
        work, seconds = self.work, self.seconds
        return {
            "events": work.records,
            "relevant": work.relevant,
            "actions": work.actions,
            "dead_letters": work.dead_letters,
            "duplicates": work.duplicates,
            "receipts": work.receipts,
            "unknown_receipts": work.unknown_receipts,
            "memberships": work.memberships,
            "audience_updates": work.updates,
            "ignored": work.ignored,
            "tombstones": work.tombstones,
            "seconds": round(seconds, 3),
            "events_per_second": round(work.records / seconds) if seconds > 0 else 0,
        }
