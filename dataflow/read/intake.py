"""Read: raw records of one source partition become inputs for shards, or dead letters.

Each record gets its stream time here. Stream time never goes back within a partition: an earlier record is raised. It
comes from the transport (a Kafka record's timestamp), else from `received_at`, else from `timestamp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from connectors.file_source import FilePartition
from connectors.formats.decoding import Decoded
from connectors.sources import Batch, Headers
from dataflow.read.streamtime import StreamTime
from operators.conditions.index import NO_HITS, MatchIndex
from operators.language.schedule import Schedule
from state.iso import TIME_MS_MAX
from state.outgoing import RAW_KEPT_BYTES, DeadLetter
from state.records import EVENT, IGNORED, MEMBERSHIP, RECEIPT, UPDATED, Input, Inputs, Record, Reject, pack
from state.shards import shard_of
from state.user import NEVER

# Stamps in ns and the like. Taken for a time, a single one would let all waits end at once.
_NO_TIME: Final = Reject("bad_time", "the transport's stamp of the record lies beyond the year 9999")
_ITEMS_DESCRIBED: Final = 10  # Of a batch's bad items so many are described,
_ITEMS_NAMED: Final = 100  # and so many more have their number told.


class Scanner(Protocol):
    """Reads the batches of one source partition, as `Intake` would record by record."""

    def take(
        self,
        values: list[bytes],
        arrived_ms: list[int] | None,
        offsets: Sequence[int],
        stream_ms: int,
        slowly: Callable[[int, int], tuple[int, bytes, int]],
    ) -> tuple[dict[int, bytes], int, int]:
        """Return what is relevant of a batch.

        Args:
            stream_ms: the stream time before it.
            slowly: handles the record at a position at a stream time, whatever it is; returns the stream time after
                it, and the packed input with its shard, b"" for none.

        Returns:
            The packed inputs of each shard that has some; the stream time after the batch; how many inputs were not
            made by *slowly*.
        """
        ...


class Format(Protocol):
    """What records look like in a source. `has_headers` tells whether it looks at their headers."""

    has_headers: bool

    def decode(self, raw: bytes, headers: Headers = ()) -> Decoded:
        """Return the record that *raw* is, or why it is none, or all that are in it."""
        ...

    def kept(self, raw: bytes) -> bytes:
        """Return what of *raw* a dead letter may show."""
        ...

    def times(self, raw: bytes) -> Iterable[tuple[str, int]]:
        """Return, of the records in *raw* that say when they came, the user and when that was."""
        ...

    def scanner(self, *, prefix: str, source: int, shards: int, head_ms: int) -> Scanner | None:
        """Return a quick reader of one source partition, None if there is none for this format."""
        ...


class Counts(msgspec.Struct):
    """What one source partition has read since the process started. Tombstones are no records.

    `updates` are the records which say that an update of an audience is complete. `ignored` are those of other formats
    from which nothing follows. A batch is one of `records`.
    """

    records: int = 0
    tombstones: int = 0
    relevant: int = 0
    dead: dict[str, int] = {}
    receipts: int = 0
    memberships: int = 0
    updates: int = 0
    ignored: int = 0


class Intake:
    """Turns the raw records of one source partition into what the shards need.

    Args:
        topic: the topic's name, or the file's.
        source: the number of the partition in the job.
        time: the partition's stream time, which the records move on.
        is_file: default message ids are `<name>-<line>` instead of `<topic>-<partition>-<offset>`.
        head_ms: the stream time of records without any, before the first that has one.
        watched: the audiences of which somebody wants to know when they were updated, and the schedules of those runs.
    """

    def __init__(
        self,
        index: MatchIndex,
        records: Format,
        *,
        topic: str,
        partition: int,
        source: int,
        shards: int,
        time: StreamTime | None = None,
        is_file: bool = False,
        head_ms: int = 0,
        watched: Mapping[str, Sequence[Schedule]] | None = None,
    ) -> None:
        self._matchers = index.matchers
        self._decode = records.decode
        self._kept = records.kept
        self._has_headers = records.has_headers
        self._topic = topic
        self._partition = partition
        self._source = source
        self._shards = shards
        self._prefix = f"{topic}-" if is_file else f"{topic}-{partition}-"
        self._head_ms = head_ms
        self._scanner = records.scanner(prefix=self._prefix, source=source, shards=shards, head_ms=head_ms)
        self.time = time or StreamTime()
        self.counts = Counts()
        self.first_ms = -1
        """When the first record since the start came, -1 as long as there was none."""
        self._watched = watched or {}
        self._updates: list[tuple[str, int]] = []
        self._next_update: dict[str, int] = {}  # From when on another update of an audience would be news.

    def take(self, batch: Batch) -> tuple[dict[int, Inputs], list[DeadLetter]]:
        """Return what each shard gets of *batch*, and what could not be read."""
        dead: list[DeadLetter] = []
        by_shard: dict[int, Inputs] = {}
        self.counts.records += len(batch.values)
        if self.first_ms < 0:
            self.first_ms = self._first_of(batch)
        time = self.time
        if self._scanner is not None and not time.is_replayed:

            def slowly(position: int, stream_ms: int) -> tuple[int, bytes, int]:
                time.reach(stream_ms)
                taken = self._take_one(batch, position, dead)
                if not taken:
                    return time.now_ms, b"", 0
                (one,) = taken  # What is scanned has no batches.
                return time.now_ms, pack(one), shard_of(one.user_id, self._shards)

            values, arrived_ms, offsets = batch.values, batch.arrived_ms, batch.offsets
            packed, stream_ms, relevant = self._scanner.take(values, arrived_ms, offsets, time.now_ms, slowly)
            time.reach(stream_ms)
            self.counts.relevant += relevant
            by_shard.update(packed)
            return by_shard, dead
        found: dict[int, list[Input]] = {}
        for position in range(len(batch.values)):
            for one in self._take_one(batch, position, dead):
                found.setdefault(shard_of(one.user_id, self._shards), []).append(one)
        by_shard.update(found)
        return by_shard, dead

    def _take_one(self, batch: Batch, position: int, dead: list[DeadLetter]) -> Sequence[Input]:
        """Return what comes of the record at *position*: this says what the scanner has to do with a batch."""
        raw, offset = batch.values[position], batch.offsets[position]
        arrived_ms = None if batch.arrived_ms is None else batch.arrived_ms[position]
        self.time.reach_at(offset)
        found = self._decoded(raw, batch, position, arrived_ms)
        if isinstance(found, Record):
            one = self._input_of(found, arrived_ms, offset)
            return () if one is None else (one,)
        if isinstance(found, Reject):
            dead.append(self._dead_letter(offset, raw, found))  # It does not move time.
            return ()
        inputs: list[Input] = []
        bad: list[tuple[int, Reject]] = []
        for index, item in enumerate(found):
            if isinstance(item, Reject):
                bad.append((index, item))
            elif (one := self._input_of(item, arrived_ms, offset, f"#{index}")) is not None:
                inputs.append(one)
        if bad:
            dead.append(self._dead_letter(offset, *_in_one(bad)))  # One, since its place is what it is known by.
        return inputs

    def _decoded(self, raw: bytes, batch: Batch, position: int, arrived_ms: int | None) -> Decoded:
        if arrived_ms is not None and arrived_ms > TIME_MS_MAX:
            return _NO_TIME
        return self._decode(raw, batch.headers[position] if self._has_headers and batch.headers else ())

    def _input_of(self, record: Record, arrived_ms: int | None, offset: int, item: str = "") -> Input | None:
        """Return what the shard gets of *record*, the *item* of a batch, None where that is nothing."""
        now = self.time.reach(self._own_time(record) if arrived_ms is None else arrived_ms)
        kind, hits = record.kind, NO_HITS
        if kind == EVENT:
            matcher = self._matchers.get(record.name)
            hits = NO_HITS if matcher is None else matcher(record.properties)
            if not hits and not record.traits:
                return None
        elif kind == MEMBERSHIP:
            self.counts.memberships += 1
            self._note_update(record, now)
        elif kind == UPDATED:
            self.counts.updates += 1
            self._note_update(record, now)
            return None  # All that it says is said to whoever watches the audience, and it is about no user.
        elif kind == IGNORED:
            self.counts.ignored += 1
            return None
        elif kind == RECEIPT:
            self.counts.receipts += 1  # What it satisfies is known once it is known what it is about.
        self.counts.relevant += 1
        message_id = record.message_id
        return Input(
            record.user_id,
            now,
            record.name,
            message_id or f"{self._prefix}{offset}{item}",
            message_id is not None,
            now if record.at_ms is None else record.at_ms,
            record.properties,
            record.traits,
            hits,
            self._source,
            offset,
            kind,
            record.fields,
        )

    def _first_of(self, batch: Batch) -> int:
        """Return the stream time of the first record in *batch* that can be read, -1 if none can."""
        for position, raw in enumerate(batch.values):
            self.time.reach_at(batch.offsets[position])
            arrived_ms = None if batch.arrived_ms is None else batch.arrived_ms[position]
            for record in _records_in(self._decoded(raw, batch, position, arrived_ms)):
                return max(self.time.now_ms, self._own_time(record) if arrived_ms is None else arrived_ms)
        return -1

    def _note_update(self, record: Record, now: int) -> None:
        """Take note that an audience was updated; once between two planned times, since nobody asks for more."""
        if not self._watched:
            return
        assert record.fields is not None, "it names an audience"
        audience = record.fields["audience"]
        if audience in self._watched and now >= self._next_update.get(audience, 0):
            self._updates.append((audience, now))
            planned = [schedule.first_from(now + 1, 0) for schedule in self._watched[audience]]
            self._next_update[audience] = min((at for at in planned if at is not None), default=NEVER)

    def take_updates(self) -> Sequence[tuple[str, int]]:
        """Return which watched audiences were updated since the last call, and when."""
        if not self._updates:
            return ()
        found, self._updates = self._updates, []
        return found

    def _own_time(self, record: Record) -> int:
        """Return when *record* says that it came; without a word, with the one before it."""
        at_ms = record.at_ms if record.received_ms is None else record.received_ms
        if at_ms is None:
            # It is 0 as long as no record had any, in earlier runs too.
            return self._head_ms if self.time.now_ms <= 0 else self.time.now_ms
        return at_ms

    def _dead_letter(self, offset: int, value: bytes, reject: Reject) -> DeadLetter:
        dead = self.counts.dead
        dead[reject.reason] = dead.get(reject.reason, 0) + 1
        return DeadLetter(self._topic, self._partition, offset, reject.reason, reject.detail, self._kept(value))


def _in_one(bad: Sequence[tuple[int, Reject]]) -> tuple[bytes, Reject]:
    """Return what the bad items of a batch are, and one reason that names all of them, by number."""
    raw = bytearray()
    for _, reject in bad:
        raw += reject.raw + b"\n"
        if len(raw) > RAW_KEPT_BYTES:
            break
    detail = "; ".join(f"item {index}: {reject.detail}" for index, reject in bad[:_ITEMS_DESCRIBED])
    if more := [str(index) for index, _ in bad[_ITEMS_DESCRIBED:]]:
        others = f", and {len(more) - _ITEMS_NAMED} more" if len(more) > _ITEMS_NAMED else ""
        detail += f"; and items {', '.join(more[:_ITEMS_NAMED])}{others}"
    return bytes(raw[:-1]), Reject(bad[0][1].reason, detail)


def _records_in(found: Decoded) -> Iterator[Record]:
    """Yield the records in what was decoded, without those that cannot be read."""
    for one in found if isinstance(found, list) else (found,):
        if isinstance(one, Record):
            yield one


def head_time(path: Path, records: Format) -> int:
    """Return the stream time of the first record in a file that has one of its own, 0 when none has."""
    file = FilePartition(path)
    try:
        while values := file.poll(100).values:
            for value in values:
                for record in _records_in(records.decode(value)):
                    at = record.received_ms if record.received_ms is not None else record.at_ms
                    if at is not None:
                        return at
    finally:
        file.close()
    return 0
