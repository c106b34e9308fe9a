"""One source partition: what time it is there, and what goes out to the shards. Knows no engine.

Time comes from the records. At the partition's end it goes on with the clock, less the slack. Before anything goes out,
the progress log has where it ends and what time it is, so that a replay gives every record the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from connectors.sources import SourcePartition
from dataflow.read.clock import SteadyClock
from dataflow.read.intake import Intake
from dataflow.read.progress import ProgressLog
from dataflow.shard import CLOSED, HALTED, OPEN
from state.outgoing import DeadLetter
from state.records import Inputs
from state.shards import dead_shard

RECORDS_AT_ONCE: Final = 10_000
RECORDS_AT_LEAST: Final = 500
TURN_MAX_S: Final = 0.1
BIG_BATCH: Final = 1_000
MARK_EVERY_S: Final = 0.02  # How often shards hear of time that moves on without records for them.
MARK_ALL_EVERY_S: Final = 0.5  # Also those that wait for nothing.
PARCEL_S: Final = 3e-6  # What a parcel without records costs, from here to what the shard makes of it.
MARKS_SHARE: Final = 0.1  # Of the time of a process.
WARN_EVERY_MS: Final = 600_000
RECORDS_TO_JUDGE: Final = 20  # So many say what a source that goes on looks like.


class Parcel(NamedTuple):
    """What one source partition says to one shard: its watermark (ms) and phase, and the shard's records.

    Dead letters of the partition go through one shard, too. `first_ms` and `updates` are for runs over audiences, see
    `Delivery`: whatever is in them goes to all shards at once.
    """

    shard: int
    source: int
    mark_ms: int
    phase: int
    records: Inputs
    dead: list[DeadLetter]
    first_ms: int = -1
    updates: Sequence[tuple[str, int]] = ()


def mark_every_s(parcels: int) -> float:
    """Return how often marks go out when each time *parcels* go out in each process: not so that they take it over."""
    return max(MARK_EVERY_S, parcels * PARCEL_S / MARKS_SHARE)


class Partition:
    """Reads one source partition, moves its time, and says what each shard gets.

    Args:
        number: the partition's number in the job.
        end: the offset at which to stop, None to go on for ever.
        closes: whether that end is all there is.
        clock: what time it is at the end of the partition.
        slack_ms: how long a record may be on its way to the source.
        monotonic_s: paces what is said of time, and how much is read at once.
        mark_every_s: how often shards hear of the time at the most.
        wait_for: the shards that may have something to do when time has come to a mark (ms); without it, all.
        noted_ms: the time that an earlier attempt had come to, -1 without one.
        tells_first: shards are to hear when the first record came, or how late it was without one.
        warn: told when stamps and clock disagree by more than the slack.
    """

    def __init__(
        self,
        number: int,
        reader: SourcePartition,
        intake: Intake,
        progress: ProgressLog,
        *,
        shards: int,
        end: int | None,
        closes: bool,
        clock: SteadyClock,
        slack_ms: int,
        monotonic_s: Callable[[], float],
        mark_every_s: float = MARK_EVERY_S,
        wait_for: Callable[[int], list[int]] | None = None,
        noted_ms: int = -1,
        tells_first: bool = False,
        name: str = "",
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.intake = intake
        self.time = intake.time
        self.is_idle = False
        self.is_finished = False
        self.position = reader.position
        self.ahead_ms = 0
        """How far the newest stamp is ahead of the wall clock."""
        self.late_ms = 0
        """How far the records that came last were behind the time that the clock had given."""
        self._number = number
        self._reader = reader
        self._progress = progress
        self._shards = shards
        self._end = end
        self._closes = closes
        self._clock = clock
        self._slack_ms = slack_ms
        self._name = name
        self._warn = warn
        self._monotonic_s = monotonic_s
        self._noted_ms = noted_ms
        self._noted = (-1, -1)
        self._is_to_tell_first = tells_first
        self._mark_every_s = mark_every_s
        self._wait_for = wait_for or (lambda _: list(range(shards)))
        self._told_at = -mark_every_s
        self._told_all_at = -MARK_ALL_EVERY_S
        self._records_at_once = RECORDS_AT_ONCE
        self._turn_began_s: float | None = None  # When a batch was read that was as large as it may be.
        self._told_ms = self._told_all_ms = -1
        self._by_clock_ms = -1  # What the clock said, as long as no record came since.
        self._warned_at = -WARN_EVERY_MS
        self._has_told_of_dead = False

    def step(self) -> list[Parcel]:
        """Read what is there and return what goes out."""
        reader, intake, end = self._reader, self.intake, self._end
        batch = reader.poll(self._pace())
        position = reader.position
        if end is not None and position >= end:
            batch = batch.before(end)
            position, self.is_finished = end, True
        by_shard: dict[int, Inputs] = {}
        dead: list[DeadLetter] = []
        read = len(batch.values)
        intake.counts.tombstones += len(batch.tombstones)
        if read >= self._records_at_once:
            self._turn_began_s = self._monotonic_s()
        if read:
            if self.time.now_ms > self._noted[1]:
                # The clock has moved time since the last note, and these records are raised to it.
                self._note(self.position, self.time.now_ms)
            by_shard, dead = intake.take(batch)
            if dead and not self._has_told_of_dead:
                self._tell_of_dead(dead)
            if end is None and batch.arrived_ms is not None:
                self._compare_with_the_clock(batch.arrived_ms)
        elif end is None:
            self._follow_the_clock()
        self.time.reach_at(position)
        self.is_idle = not (read or batch.tombstones)
        self.position = position
        return self._outgoing(by_shard, dead, all_every_s=0.0 if read >= BIG_BATCH else MARK_ALL_EVERY_S)

    def _pace(self) -> int:
        """Return how many records to read: as many as the job, with all its partitions, handles in a tenth of a second.

        Who lags then still hears of time, of a checkpoint or of a stop within that.
        """
        if self._turn_began_s is not None:
            took_s = max(self._monotonic_s() - self._turn_began_s, TURN_MAX_S / 8)
            wanted = int(self._records_at_once * min(2.0, TURN_MAX_S / took_s))
            self._records_at_once = min(max(wanted, RECORDS_AT_LEAST), RECORDS_AT_ONCE)
            self._turn_began_s = None
        return self._records_at_once

    def wait(self) -> list[Parcel]:
        """Read nothing for now; only say what time it is."""
        self.is_idle = True
        return self._outgoing({}, [], all_every_s=self._mark_every_s)

    @property
    def has_caught_up(self) -> bool:
        """Whether all shards have heard of the time that an earlier attempt had come to."""
        return self._told_all_ms >= self._noted_ms

    @property
    def lag(self) -> int | None:
        """How many records lie ahead, None when nobody knows."""
        return self._reader.lag()

    def _follow_the_clock(self) -> None:
        """At the end of the partition time goes with the clock, less the slack for records on their way."""
        if self._clock.tick_ms() - self._slack_ms <= self.time.now_ms:
            return  # Its records are ahead of that anyway: nobody needs to be asked.
        reached = self._reader.reached_end()
        if reached is not None and reached.at_ms - self._slack_ms > self.time.now_ms:
            self._by_clock_ms = self.time.reach(reached.at_ms - self._slack_ms)
            if self.intake.first_ms < 0:
                self.intake.first_ms = self._by_clock_ms  # Noted with what goes out now, and so the same in a replay.

    def _compare_with_the_clock(self, stamps_ms: list[int]) -> None:
        """Measure how far stamps and clock disagree: both decide when waits end."""
        stream_ms, now = self.time.now_ms, self._clock.wall_ms()
        self._clock.confirm(stream_ms)
        self.ahead_ms = max(0, stream_ms - now)
        self.late_ms = max(0, self._by_clock_ms - min(stamps_ms))
        self._by_clock_ms = -1
        worst = max(self.ahead_ms - self._slack_ms, self.late_ms)
        if worst > 0 and now - self._warned_at >= WARN_EVERY_MS:
            self._warned_at = now
            self._warn(
                f"records of {self._name} are stamped {self.ahead_ms / 1000:.1f} s ahead of this machine's clock: "
                "waits end that much early; compare the clocks of producers, brokers and this machine"
                if self.ahead_ms > self._slack_ms
                else f"records of {self._name} came {self.late_ms / 1000:.1f} s later than the slack allows: waits may "
                "have ended before them; compare the clocks, or let --slack be longer"
            )

    def _tell_of_dead(self, dead: list[DeadLetter]) -> None:
        """Say once that most records cannot be read for one reason, and what they look like."""
        records = self.intake.counts.records
        reason, number = max(self.intake.counts.dead.items(), key=lambda one: one[1])
        first = next((one for one in dead if one.reason == reason), None)
        if first is None or 2 * number <= records or (records < RECORDS_TO_JUDGE and not self.is_finished):
            return
        self._has_told_of_dead = True
        self._warn(
            f"{number} of the first {records} records of {self._name} cannot be read: {first.detail} (such as offset "
            f"{first.offset}); they are dead letters"
        )

    def _note(self, position: int, stream_ms: int) -> None:
        self._progress.note(position, stream_ms)
        self._noted = (position, stream_ms)

    def _outgoing(self, by_shard: dict[int, Inputs], dead: list[DeadLetter], all_every_s: float) -> list[Parcel]:
        """Return what goes to the shards: what has come for them, and the time to all, or to those that wait for it."""
        mark = self.time.now_ms
        phase = OPEN if not self.is_finished else CLOSED if self._closes else HALTED
        first_ms, updates = -1, self.intake.take_updates()
        if self._is_to_tell_first and self.intake.first_ms >= 0:
            first_ms, self._is_to_tell_first = self.intake.first_ms, False
        told = self._whom_to_tell(mark, all_every_s, all_now=first_ms >= 0 or bool(updates))
        if not (told or by_shard or dead):
            return []
        if (self.position, mark) != self._noted:
            self._note(self.position, mark)
        dead_to = -1
        if dead:
            dead_to = dead_shard(self._number, self._shards)
            by_shard.setdefault(dead_to, [])
        return [
            Parcel(
                shard,
                self._number,
                mark,
                phase,
                by_shard.get(shard, []),
                dead if shard == dead_to else [],
                first_ms,
                updates,
            )
            for shard in ({**by_shard, **dict.fromkeys(told)} if told else by_shard)
        ]

    def _whom_to_tell(self, mark_ms: int, all_every_s: float, *, all_now: bool) -> Sequence[int]:
        """Return the shards that are to hear of the time: now and then, or *all_now*, all, else those that wait for it.

        A shard that waits for nothing makes the same of a time whether it hears of it now or with its next record. But
        what it commits should not lie far behind.
        """
        now_s = self._monotonic_s()
        if self.is_finished or all_now or (mark_ms > self._told_all_ms and now_s - self._told_all_at >= all_every_s):
            self._told_at = self._told_all_at = now_s
            self._told_ms = self._told_all_ms = mark_ms
            return range(self._shards)
        if mark_ms > self._told_ms and now_s - self._told_at >= self._mark_every_s:
            self._told_at, self._told_ms = now_s, mark_ms
            return self._wait_for(mark_ms)
        return ()

    def snapshot(self) -> list[Any]:
        """Return where to go on after this epoch, and at which time."""
        self._progress.roll(self.position)
        return [self.position, self.time.now_ms, *self._reader.mark(self.position)]

    def close(self) -> None:
        self._reader.close()
        self._progress.close()
