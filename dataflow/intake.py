"""Read: raw records of one source partition become inputs for shards, or dead letters.

Each record gets its stream time here. Stream time never goes back within a partition: an earlier record is raised. It
comes from the transport (a Kafka record's timestamp), else from `received_at`, else from `timestamp`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Final, Protocol
from zlib import crc32

import msgspec
import orjson

from connectors.file_source import FilePartition
from connectors.sources import Batch
from operators.match import NO_HITS, MatchIndex
from state.iso import TIME_MS_MAX
from state.records import EVENT, IDENTIFY, Input, Record, Reject

RAW_KEPT_BYTES: Final = 16 * 1024
# Stamps in ns and the like. Taken for a time, a single one would let all waits end at once.
_NO_TIME: Final = Reject("bad_time", "the transport's stamp of the record lies beyond the year 9999")
_position: Final = itemgetter(0)


class Decoder(Protocol):
    """Reads one format."""

    def decode(self, raw: bytes) -> Record | Reject:
        """Return the record that *raw* is, or why it is none."""
        ...

    def relevant(self, values: Sequence[bytes]) -> list[tuple[int, Record | Reject]]:
        """Return (position, record) of all but the sound events that nobody is interested in."""
        ...


class DeadLetter(msgspec.Struct, gc=False):
    """A record that could not be read: where it was, why, and its first bytes."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    raw: bytes

    def dump(self) -> bytes:
        """Return the record of `docs/records.md`, dead letters."""
        return orjson.dumps(
            {
                "topic": self.topic,
                "partition": self.partition,
                "offset": self.offset,
                "reason": self.reason,
                "detail": self.detail,
                "raw": b64encode(self.raw[:RAW_KEPT_BYTES]).decode(),
            }
        )


class Counts(msgspec.Struct):
    """What one source partition has read since the process started."""

    records: int = 0
    relevant: int = 0
    dead: dict[str, int] = {}
    unsupported: int = 0


class Intake:
    """Turns the raw records of one source partition into what the shards need.

    Args:
        topic: the topic's name, or the file's.
        source: the number of the partition in the job.
        stream_ms: the stream time at which to go on.
        raises: (offset, stream time) pairs by offset: from this offset on time had come at least so far in an earlier
            attempt, and what was decided then must come out the same.
        is_file: default message ids are `<name>-<line>` instead of `<topic>-<partition>-<offset>`.
        head_ms: the stream time of records without any, before the first that has one.
    """

    def __init__(
        self,
        index: MatchIndex,
        decode: Decoder,
        *,
        topic: str,
        partition: int,
        source: int,
        shards: int,
        stream_ms: int = -1,
        raises: list[tuple[int, int]] | None = None,
        is_file: bool = False,
        head_ms: int = 0,
    ) -> None:
        self._matchers = index.matchers
        self._decode = decode
        self._topic = topic
        self._partition = partition
        self._source = source
        self._shards = shards
        self._prefix = f"{topic}-" if is_file else f"{topic}-{partition}-"
        self._head_ms = head_ms
        self._raises = sorted(raises or [], reverse=True)  # The next one is last.
        self.stream_ms = stream_ms
        self.counts = Counts()

    def raise_at(self, position: int) -> None:
        """Raise stream time to where it had come at *position* in an earlier attempt."""
        raises = self._raises
        while raises and raises[-1][0] <= position:
            self.stream_ms = max(self.stream_ms, raises.pop()[1])

    def take(self, batch: Batch, by_shard: dict[int, list[Input]]) -> list[DeadLetter]:
        """Add the inputs in *batch* to the lists of their shards, and return what could not be read."""
        values, offsets = batch.values, batch.offsets
        found, times = self._in_time(batch)
        matchers, shards, prefix, source = self._matchers, self._shards, self._prefix, self._source
        dead: list[DeadLetter] = []
        relevant = 0
        for position, record in found:
            if record.__class__ is Reject:
                dead.append(self._dead_letter(offsets[position], values[position], record))
                continue
            assert isinstance(record, Record)
            if record.kind == EVENT:
                matcher = matchers.get(record.name)
                hits = NO_HITS if matcher is None else matcher(record.properties)
                if not hits and not record.traits:
                    continue
            elif record.kind == IDENTIFY:
                hits = NO_HITS
            else:
                self.counts.unsupported += 1
                continue
            relevant += 1
            now, user_id, message_id, at_ms = times[position], record.user_id, record.message_id, record.at_ms
            offset = offsets[position]
            one = Input(
                user_id,
                now,
                record.name,
                message_id or f"{prefix}{offset}",
                message_id is not None,
                now if at_ms is None else at_ms,
                record.properties,
                record.traits,
                hits,
                source,
                offset,
            )
            shard = crc32(user_id.encode()) % shards  # As `shard_of`.
            others = by_shard.get(shard)
            if others is None:
                by_shard[shard] = [one]
            else:
                others.append(one)
        self.counts.records += len(values)
        self.counts.relevant += relevant
        return dead

    def _in_time(self, batch: Batch) -> tuple[Sequence[tuple[int, Record | Reject]], list[int]]:
        """Return what of *batch* has to be looked at, by position, and the stream time at each position.

        Where the transport says when a record came, what is of interest to nobody need not be looked at closely.
        Where the records themselves say it, or where an earlier attempt is repeated, each of them counts.
        """
        arrived = batch.arrived_ms
        if arrived is None or self._raises:
            return self._one_by_one(batch)
        found = self._decode.relevant(batch.values)
        if arrived and max(arrived) > TIME_MS_MAX:
            odd = {position for position, at in enumerate(arrived) if at > TIME_MS_MAX}
            sound = [one for one in found if one[0] not in odd]
            found = sorted([*sound, *((position, _NO_TIME) for position in odd)], key=_position)
        unread = [position for position, record in found if record.__class__ is Reject]
        if unread:
            arrived = list(arrived)
            for position in unread:
                arrived[position] = -1  # What cannot be read does not move time.
        if arrived and arrived[0] >= self.stream_ms and arrived == sorted(arrived):
            times = arrived  # In order as they came, as most topics are: seen at once, where a loop takes a while.
        else:
            times = list(accumulate(arrived, max, initial=self.stream_ms))[1:]
        if times:
            self.stream_ms = times[-1]
        return found, times

    def _one_by_one(self, batch: Batch) -> tuple[list[tuple[int, Record | Reject]], list[int]]:
        arrived, offsets, stream_ms = batch.arrived_ms, batch.offsets, self.stream_ms
        found: list[tuple[int, Record | Reject]] = []
        times: list[int] = []
        for position, value in enumerate(batch.values):
            record = self._decode.decode(value)
            if self._raises and self._raises[-1][0] <= offsets[position]:
                self.stream_ms = stream_ms
                self.raise_at(offsets[position])
                stream_ms = self.stream_ms
            if arrived is not None and arrived[position] > TIME_MS_MAX:
                record = _NO_TIME
            if isinstance(record, Record):
                arrived_ms = arrived[position] if arrived is not None else self._own_time(record, stream_ms)
                stream_ms = max(stream_ms, arrived_ms)
            found.append((position, record))
            times.append(stream_ms)
        self.stream_ms = stream_ms
        return found, times

    def _own_time(self, record: Record, stream_ms: int) -> int:
        """Return when *record* says that it came; without a word, with the one before it."""
        at_ms = record.at_ms if record.received_ms is None else record.received_ms
        if at_ms is None:
            # It is 0 as long as no record had any, in earlier runs too.
            return self._head_ms if stream_ms <= 0 else stream_ms
        return at_ms

    def _dead_letter(self, offset: int, value: bytes, reject: Reject) -> DeadLetter:
        dead = self.counts.dead
        dead[reject.reason] = dead.get(reject.reason, 0) + 1
        return DeadLetter(self._topic, self._partition, offset, reject.reason, reject.detail, value[:RAW_KEPT_BYTES])


def shard_of(user_id: str, shards: int) -> int:
    """Return the number of the shard that a user belongs to."""
    return crc32(user_id.encode()) % shards


def dead_shard(source: int, shards: int) -> int:
    """Return the one shard through which the dead letters of a source partition go, so that they stay in order."""
    return source % shards


def head_time(path: Path, decode: Decoder) -> int:
    """Return the stream time of the first record in a file that has one of its own, 0 when none has."""
    file = FilePartition(path)
    try:
        while values := file.poll(100).values:
            for value in values:
                record = decode.decode(value)
                if isinstance(record, Record):
                    at = record.received_ms if record.received_ms is not None else record.at_ms
                    if at is not None:
                        return at
    finally:
        file.close()
    return 0
