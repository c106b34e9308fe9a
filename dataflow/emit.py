"""Emit: what a shard's step decided goes to the sink's topics, each record once, whatever crashed before.

The engine resumes from the last complete epoch, so whatever was emitted after it is decided again. What is in the
topics already is read back from the offsets of that epoch, compared with what is decided, and not written again
(`dataflow/readback.py`).

A shard for whose users something read back has not been decided again yet must be able to read it back once more, were
there another crash: so long its snapshot names the old offsets, not the ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET, UnsetType

from connectors.sinks import Ends, Sink
from dataflow.delays import Delays
from dataflow.keep.differences import DifferenceFiles
from dataflow.readback import Decided, ReadBack
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.outbox import Outbox
from state.outgoing import Action, DeadLetter, JournalRecord, dump

_CONTENT_TYPE: Final = ("content-type", b"application/json")


class Emitter:
    """Writes what shards emit to a sink.

    One for all shards of a process, so that an epoch costs one confirmation.

    Args:
        topics: the topic of each channel.
        files: where what differs from what was read back is written down.
        accepts: whether such a difference is accepted.
        shards: how many shards the users are spread over.
        dead_shards: the shard through which the dead letters of a source partition, (topic, number), go.
        positions: where each source partition that has been read before goes on.
        delays: told of the actions that are written.
    """

    def __init__(
        self,
        sink: Sink,
        topics: Mapping[str, str],
        job: str,
        files: DifferenceFiles,
        *,
        accepts: bool = False,
        shards: int = 1,
        dead_shards: Mapping[tuple[str, int], int] | None = None,
        positions: Mapping[tuple[str, int], int] | None = None,
        delays: Delays | None = None,
    ) -> None:
        self._sink = sink
        self._topics = dict(topics)
        self._job = job
        self._mark: str | UnsetType = job if sink.marks_job else UNSET
        self._job_header = ("job", job.encode())
        self.back = ReadBack(
            files, shards=shards, dead_shards=dead_shards or {}, positions=positions or {}, accepts=accepts
        )
        self._delays = delays
        self._starts: Ends = {}
        self._ends: Ends | None = None
        self._all_topics = sorted({*topics.values(), JOURNAL, DEAD_LETTERS})
        self.actions = 0
        self.journal = 0
        self.dead_letters = 0
        self.skipped = 0

    def read_back(self, starts: Ends) -> None:
        """Note what a process that has died wrote after the offsets *starts*."""
        self._starts = starts
        self.back.take(self._sink.read_back(starts), self._job, marks_job=self._sink.marks_job)

    def emit(self, out: Outbox) -> dict[str, int]:
        """Write the actions and journal records in *out*, and empty it.

        Returns, per user whose records got other numbers than they were decided with, the last of them.

        Raises:
            DecidedOtherwise: something else was read back; nothing in *out* was written.
        """
        seqs = self._leave_out(out) if self.back else {}
        if out.actions:
            self._emit_actions(out.actions)
            out.actions = []
        if out.journal:
            self._emit_journal(out.journal)
            out.journal = []
        self._ends = None
        return seqs

    def _leave_out(self, out: Outbox) -> dict[str, int]:
        """Take out what is on the topics."""
        decided = [Decided(self._topics[action.channel], action) for action in out.actions]
        decided += [Decided(JOURNAL, record) for record in out.journal]
        for _, record in decided:
            record.job = self._mark
        written, seqs = self.back.judge(decided)
        self.skipped += len(written)
        out.actions = [action for action in out.actions if id(action) not in written]
        out.journal = [entry for entry in out.journal if id(entry) not in written]
        return seqs

    def _emit_actions(self, actions: list[Action]) -> None:
        write, mark = self._sink.write, self._mark
        for action in actions:
            action.job = mark
            value = dump(action)
            headers = (("action_id", action.action_id.encode()), ("flow", action.flow.encode()), _CONTENT_TYPE)
            write(self._topics[action.channel], action.user_id, value, headers)
        self.actions += len(actions)
        if self._delays is not None:
            self._delays.note(actions)

    def _emit_journal(self, journal: list[JournalRecord]) -> None:
        write, mark = self._sink.write, self._mark
        for record in journal:
            record.job = mark
            write(JOURNAL, record.user_id, dump(record))
        self.journal += len(journal)

    def emit_dead(self, dead: list[DeadLetter]) -> None:
        """Write dead letters.

        Raises:
            DecidedOtherwise: something else was read back.
        """
        for letter in dead:
            if self.back.is_written(letter):
                self.skipped += 1
                continue
            headers = (self._job_header, ("reason", letter.reason.encode()), _CONTENT_TYPE)
            self._sink.write(DEAD_LETTERS, f"{letter.topic}-{letter.partition}", dump(letter), headers)
            self.dead_letters += 1
        self._ends = None

    def deliver(self, *, at_once: bool) -> None:
        """Send what is queued on its way; not *at_once*, some of it may wait for `go_on`."""
        self._sink.deliver(at_once=at_once)

    def go_on(self) -> None:
        """Send more of what is queued, if it is time to."""
        self._sink.go_on()

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
        return self._starts if self.back.is_left(shard) else self._ends
