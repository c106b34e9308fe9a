"""Emit: what a shard's step decided goes to the sink's topics, each record once, whatever crashed before.

The engine resumes from the last complete epoch, so whatever was emitted after it is decided again, the same records
with the same `seq`. What is in the topics already is read back from the offsets of that epoch and not written again. It
goes by each record's own `seq`, not by the highest: a broker may have refused one and taken the next. Dead letters go
by their place in the source.

A shard for whose users something read back has not been decided again yet must be able to read it back once more, were
there another crash: so long its snapshot names the old offsets, not the ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from msgspec import UNSET, UnsetType

from connectors.sinks import Ends, Sink
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.outbox import Outbox
from state.outgoing import Action, DeadLetter, JournalRecord, dump
from state.shards import shard_of

_CONTENT_TYPE: Final = ("content-type", b"application/json")


class Emitter:
    """Writes what shards emit to a sink.

    One for all shards of a process, so that an epoch costs one confirmation.

    Args:
        topics: the topic of each channel.
        shards: how many shards the users are spread over.
        dead_shards: the shard through which the dead letters of a source partition, (topic, number), go.
        positions: where each source partition that has been read before goes on.
    """

    def __init__(
        self,
        sink: Sink,
        topics: Mapping[str, str],
        job: str,
        *,
        shards: int = 1,
        dead_shards: Mapping[tuple[str, int], int] | None = None,
        positions: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self._sink = sink
        self._topics = dict(topics)
        self._job = job
        self._mark: str | UnsetType = job if sink.marks_job else UNSET
        self._job_header = ("job", job.encode())
        # What was read back and is to come again, the next one last.
        self._written: dict[tuple[str, str], list[int]] = {}
        self._written_dead: dict[tuple[str, int], list[int]] = {}
        self._shards = shards
        self._dead_shards = dead_shards or {}
        self._positions = positions or {}
        self._users: dict[int, set[str]] = {}  # Per shard, until it is opened: of whom something was read back.
        self._starts: Ends = {}
        self._left: dict[int, int] = {}  # Per shard: of how many users and partitions something is to come again.
        self._ends: Ends | None = None
        self._all_topics = sorted({*topics.values(), JOURNAL, DEAD_LETTERS})
        self.actions = 0
        self.journal = 0
        self.dead_letters = 0
        self.skipped = 0

    def read_back(self, starts: Ends) -> None:
        """Note what a process that has died wrote after the offsets *starts*."""
        self._starts = starts
        for topic, value, headers in self._sink.read_back(starts):
            try:
                record = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue  # Not ours.
            if not isinstance(record, dict):
                continue
            if topic == DEAD_LETTERS:
                if not self._sink.marks_job or headers.get("job") == self._job.encode():
                    place = (record.get("topic", ""), record.get("partition", 0))
                    self._written_dead.setdefault(place, []).append(record.get("offset", -1))
            elif not self._sink.marks_job or record.get("job") == self._job:
                self._written.setdefault((topic, record.get("user_id", "")), []).append(record.get("seq", 0))

        for seqs in self._written.values():
            seqs.sort(reverse=True)
        for _, user_id in self._written:
            shard = shard_of(user_id, self._shards)
            self._count_left(shard, 1)
            self._users.setdefault(shard, set()).add(user_id)
        for place, offsets in list(self._written_dead.items()):
            offsets.sort(reverse=True)
            _drop_up_to(offsets, self._positions.get(place, 0) - 1)  # It was read before the checkpoint.
            if offsets:
                self._count_left(self._dead_shards.get(place, -1), 1)
            else:
                del self._written_dead[place]

    def users_read_back(self, shard: int) -> set[str]:
        """Return the users of *shard* of whom something was read back, for a call of `in_the_books`."""
        return self._users.pop(shard, set())

    def in_the_books(self, seqs: Mapping[str, int]) -> None:
        """Forget what was read back of users and does not come again, as their state knows it.

        The topics are read back from where the shard ends that is furthest behind, so some of what is found was sent
        before the checkpoint. Waiting for it would hold the offsets of its shard back until the user is heard of again.

        Args:
            seqs: per user the last `seq` in the state.
        """
        topics = {topic for topic, _ in self._written}
        for user_id, seq in seqs.items():
            for topic in topics:
                if (topic, user_id) in self._written:
                    self._comes_again((topic, user_id), seq)

    def _count_left(self, shard: int, change: int) -> None:
        left = self._left[shard] = self._left.get(shard, 0) + change
        if not left:
            del self._left[shard]

    def emit(self, out: Outbox) -> None:
        """Write the actions and journal records in *out*, and empty it."""
        if out.actions:
            self._emit_actions(out.actions)
            out.actions = []
        if out.journal:
            self._emit_journal(out.journal)
            out.journal = []
        self._ends = None

    def _emit_actions(self, actions: list[Action]) -> None:
        write, mark = self._sink.write, self._mark
        for action in actions:
            topic, user_id = self._topics[action.channel], action.user_id
            if self._written and self._is_written(topic, user_id, action.seq):
                continue
            action.job = mark
            value = dump(action)
            headers = (("action_id", action.action_id.encode()), ("flow", action.flow.encode()), _CONTENT_TYPE)
            write(topic, user_id, value, headers)
            self.actions += 1

    def _emit_journal(self, journal: list[JournalRecord]) -> None:
        write, mark = self._sink.write, self._mark
        for record in journal:
            user_id = record.user_id
            if self._written and self._is_written(JOURNAL, user_id, record.seq):
                continue
            record.job = mark
            write(JOURNAL, user_id, dump(record))
            self.journal += 1

    def _is_written(self, topic: str, user_id: str, seq: int) -> bool:
        key = (topic, user_id)
        found = key in self._written and self._comes_again(key, seq)
        self.skipped += found
        return found

    def _comes_again(self, key: tuple[str, str], seq: int) -> bool:
        """Tell whether the record *seq* was read back; none before it will come any more, as they come in order."""
        seqs = self._written[key]
        found = _drop_up_to(seqs, seq)
        if not seqs:
            del self._written[key]
            self._count_left(shard_of(key[1], self._shards), -1)
        return found

    def emit_dead(self, dead: list[DeadLetter]) -> None:
        """Write dead letters."""
        for letter in dead:
            place = (letter.topic, letter.partition)
            offsets = self._written_dead.get(place)
            if offsets is not None:
                found = _drop_up_to(offsets, letter.offset)
                if not offsets:
                    del self._written_dead[place]
                    self._count_left(self._dead_shards.get(place, -1), -1)
                if found:
                    self.skipped += 1
                    continue
            headers = (self._job_header, ("reason", letter.reason.encode()), _CONTENT_TYPE)
            self._sink.write(DEAD_LETTERS, f"{letter.topic}-{letter.partition}", dump(letter), headers)
            self.dead_letters += 1
        self._ends = None

    def deliver(self) -> None:
        """Send what is queued on its way."""
        self._sink.deliver()

    def confirm(self) -> None:
        """Return once everything emitted so far is acknowledged, and note where the topics end.

        Costs nothing when nothing was emitted since the last call.
        """
        if self._ends is None:
            self._sink.confirm()
            self._ends = self._sink.ends(self._all_topics)

    def ends(self, shard: int) -> Ends:
        """Return the offsets before which is, of what *shard* is still to decide, nothing in the topics.

        They are the ends as of the last `confirm`, unless something that was read back is still to be decided again.
        """
        assert self._ends is not None, "a shard's ends are those of what was confirmed"
        return self._starts if shard in self._left else self._ends


def _drop_up_to(descending: list[int], number: int) -> bool:
    """Drop from the end what is not beyond *number*, and tell whether that itself was there."""
    found = False
    while descending and descending[-1] <= number:
        found = descending.pop() == number
    return found
