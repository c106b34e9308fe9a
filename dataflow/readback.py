"""Read-back: what a run that died has left on the sink's topics, and whether what is decided now is the same.

What is found is told apart by topic, user and `seq`, a dead letter by its place in the source. A record that is decided
again and was found is not written again, provided that it is the same: other software, other time zones or another
order of records would decide something else under the same `seq`, and then neither of the two may be swallowed.

It goes by each record's own `seq`, not by the highest: a broker may have refused one and taken the next. So what was
not found is written, and is no difference. What was found and has not come again yet is none either, since nobody
knows how far the dead run had come; but it is one as soon as its user has got past its `seq` without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from connectors.sinks import Written
from dataflow.keep.differences import DifferenceFiles
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from state.errors import StateRefused
from state.outgoing import Action, DeadLetter, JournalRecord, dump
from state.shards import shard_of

_number_of: Final = itemgetter(0)


class DecidedOtherwise(StateRefused):
    """What is on the sink's topics is not what this run decides under the same numbers."""


class Decided(NamedTuple):
    """A record that was decided just now, and the topic that it is for."""

    topic: str
    record: Action | JournalRecord


class Difference(NamedTuple):
    """Something that was read back, and what is decided in its place: None where nothing is."""

    topic: str
    number: int
    read_back: bytes
    decided: bytes | None

    @property
    def text(self) -> str:
        """What differs, without anything of the user."""
        number = f"offset {self.number}" if self.topic == DEAD_LETTERS else f"seq {self.number}"
        now = "nothing" if self.decided is None else _described(self.decided)
        return f"topic {self.topic}, {number}: {_described(self.read_back)} was written, {now} is decided now"


class Verdict(NamedTuple):
    """What is to be done with the records of a turn.

    `written` has the `id()` of those that are on their topics; `seqs`, per user whose records got other numbers, the
    last of them.
    """

    written: set[int]
    seqs: dict[str, int]


class _Accepted:
    """A user whose differences were accepted, and what was read back of this user.

    `journal` has the journal records by their time, `taken` their numbers, `actions` the numbers of the actions by id.
    New numbers begin above `highest`.
    """

    def __init__(self, highest: int) -> None:
        self.highest = highest
        self.journal: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.taken: set[int] = set()
        self.actions: dict[str, int] = {}


# Per topic: number and record, the one that is to come next last.
_Left = dict[str, list[tuple[int, bytes]]]


class ReadBack:
    """What was read back and is to come again.

    Args:
        shards: how many shards the users are spread over.
        dead_shards: the shard through which the dead letters of a source partition, (topic, number), go.
        positions: where each source partition that has been read before goes on.
        files: where differences are written down.
        accepts: whether a difference is accepted: the users concerned go on above what was read back of them.
    """

    def __init__(
        self,
        files: DifferenceFiles,
        *,
        shards: int,
        dead_shards: Mapping[tuple[str, int], int],
        positions: Mapping[tuple[str, int], int],
        accepts: bool,
    ) -> None:
        self._files = files
        self._shards = shards
        self._dead_shards = dead_shards
        self._positions = positions
        self._accepts = accepts
        self._left: dict[str, _Left] = {}
        self._left_dead: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self._left_in: dict[int, int] = {}  # Per shard: of how many users and partitions something is to come again.
        self._users: dict[int, set[str]] = {}  # Per shard, until it is opened: of whom something was read back.
        self._accepted: dict[str, _Accepted] = {}
        self._accepted_actions = files.accepted_actions()
        self.accepted = 0
        """How many users and dead letters go on in spite of a difference."""

    def __bool__(self) -> bool:
        """Whether records have to be judged before they are written."""
        return bool(self._left or self._accepted or self._accepted_actions)

    # ---- what was there ----------------------------------------------------------------------------------------

    def take(self, records: Iterable[Written], job: str, *, marks_job: bool) -> None:
        """Note what *job* has written.

        Args:
            marks_job: whether records say which job wrote them; else all of them are its own.
        """
        for topic, value, headers in records:
            try:
                record = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue  # Not ours.
            if not isinstance(record, dict):
                continue
            if topic == DEAD_LETTERS:
                if not marks_job or headers.get("job") == job.encode():
                    place = (record.get("topic", ""), record.get("partition", 0))
                    self._left_dead.setdefault(place, []).append((record.get("offset", -1), value))
            elif not marks_job or record.get("job") == job:
                left = self._left.setdefault(record.get("user_id", ""), {})
                left.setdefault(topic, []).append((record.get("seq", 0), value))

        for user_id, left in self._left.items():
            for found in left.values():
                found.sort(key=_number_of, reverse=True)
            shard = shard_of(user_id, self._shards)
            self._count_left(shard, 1)
            self._users.setdefault(shard, set()).add(user_id)
        for place, found in list(self._left_dead.items()):
            found.sort(key=_number_of, reverse=True)
            _up_to(found, self._positions.get(place, 0) - 1)  # It was read before the checkpoint.
            if found:
                self._count_left(self._dead_shards.get(place, -1), 1)
            else:
                del self._left_dead[place]

    def users_of(self, shard: int) -> set[str]:
        """Return the users of *shard* of whom something was read back, for a call of `in_the_books`."""
        return self._users.pop(shard, set())

    def in_the_books(self, seqs: Mapping[str, int]) -> None:
        """Forget what was read back of users and does not come again, as their state knows it.

        The topics are read back from where the shard ends that is furthest behind, so some of what is found was sent
        before the checkpoint. Waiting for it would hold the offsets of its shard back until the user is heard of again.

        Args:
            seqs: per user the last `seq` in the state.
        """
        for user_id, seq in seqs.items():
            self._take_left(user_id, seq)

    def is_left(self, shard: int) -> bool:
        """Tell whether something of *shard* was read back and has not come again yet."""
        return shard in self._left_in

    def _count_left(self, shard: int, change: int) -> None:
        left = self._left_in[shard] = self._left_in.get(shard, 0) + change
        if not left:
            del self._left_in[shard]

    def _take_left(self, user_id: str, seq: int) -> list[tuple[str, int, bytes]]:
        """Take out what was read back of a user up to *seq*: none of it will come any more, as records come in order.

        Returns (topic, seq, record) of each.
        """
        left = self._left.get(user_id)
        if left is None:
            return []
        taken = []
        for topic, found in list(left.items()):
            taken += [(topic, number, value) for number, value in _up_to(found, seq)]
            if not found:
                del left[topic]
        if not left:
            del self._left[user_id]
            self._count_left(shard_of(user_id, self._shards), -1)
        return taken

    # ---- what comes now ----------------------------------------------------------------------------------------

    def judge(self, decided: Iterable[Decided]) -> Verdict:
        """Judge the actions and journal records of a turn, all of them at once, before any of them is written.

        Where differences are accepted, records get other numbers.

        Raises:
            DecidedOtherwise: there is a difference, and differences are not accepted.
        """
        verdict = Verdict(set(), {})
        by_user: dict[str, list[Decided]] = {}
        for one in decided:
            user_id = one.record.user_id
            if user_id in self._left or user_id in self._accepted:
                by_user.setdefault(user_id, []).append(one)
            elif self._is_accepted(one.record):
                verdict.written.add(id(one.record))
        differences: list[Difference] = []
        for user_id, mine in by_user.items():
            if user_id in self._left:
                differences += self._compare(user_id, mine, verdict)
            else:
                self._renumber(user_id, mine, verdict)
        self._settle(differences)
        return verdict

    def _compare(self, user_id: str, mine: Sequence[Decided], verdict: Verdict) -> list[Difference]:
        now = {(one.topic, one.record.seq): one.record for one in mine}
        taken = self._take_left(user_id, max(one.record.seq for one in mine))
        differences = []
        for topic, seq, value in taken:
            record = now.get((topic, seq))
            data = None if record is None else dump(record)
            if data is not None and _is_same(value, data):
                verdict.written.add(id(record))
            else:
                differences.append(Difference(topic, seq, value, data))
        if differences and self._accepts:
            first = min(one.number for one in differences)
            self._accept(user_id, first, [*taken, *self._take_left(user_id, _ALL)])
            self._renumber(user_id, [one for one in mine if one.record.seq >= first], verdict)
        verdict.written.update(id(one.record) for one in mine if self._is_accepted(one.record))
        return differences

    def _settle(self, differences: Sequence[Difference]) -> None:
        """Write *differences* down, and stop here unless they are accepted."""
        if not differences:
            return
        self._files.note(_as_noted(one, accepted=self._accepts) for one in differences)
        if self._accepts:
            return
        others = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise DecidedOtherwise(
            f"what an interrupted run has written differs from what this one decides: {differences[0].text}{others}; "
            f"nothing more was written for this user, and both records are in {self._files.place}: start the software, "
            "flows and settings that wrote them, with --accept-version where that is asked for, to finish it; or, "
            "once you have looked at the records, use --accept-difference: the users concerned go on behind what was "
            "written"
        )

    # ---- differences that are accepted -------------------------------------------------------------------------

    def _accept(self, user_id: str, first: int, found: Sequence[tuple[str, int, bytes]]) -> None:
        """Let a user go on above everything in *found*, from the record *first* on."""
        accepted = self._accepted[user_id] = _Accepted(max(seq for _, seq, _ in found))
        for topic, seq, value in found:
            record = orjson.loads(value)
            if topic != JOURNAL:
                accepted.actions[str(record.get("action_id"))] = seq
                continue
            accepted.taken.add(seq)
            if seq >= first:
                accepted.journal.setdefault(str(record.get("at")), []).append((seq, _content(record, numbered=False)))
        self._accepted_actions.update(accepted.actions)
        self._files.accept_actions(accepted.actions)
        self.accepted += 1

    def _renumber(self, user_id: str, mine: Sequence[Decided], verdict: Verdict) -> None:
        """Number the records of a user anew; one that was read back under another number has that, and is there."""
        accepted = self._accepted[user_id]
        journal = [one.record for one in mine if isinstance(one.record, JournalRecord)]
        actions = [one.record for one in mine if isinstance(one.record, Action)]
        sent = {action.seq: accepted.actions.get(action.action_id) for action in actions}
        seq = max(accepted.highest, min(record.seq for record in journal) - 1)
        numbers: dict[int, int] = {}
        for record in journal:
            number = _found_among(accepted.journal.get(record.at, []), record)
            if number is not None:
                verdict.written.add(id(record))
            else:
                # Where an action has arrived and its journal record has not, that is the number which is missing.
                number = sent.get(record.seq)
                if number is None or number in accepted.taken:
                    seq += 1
                    number = seq
                accepted.taken.add(number)
            numbers[record.seq] = number
            record.seq = number
        for action in actions:
            action.seq = numbers[action.seq]
            if self._is_accepted(action):
                verdict.written.add(id(action))
        verdict.seqs[user_id] = seq

    def _is_accepted(self, record: Action | JournalRecord) -> bool:
        """Tell whether *record* is an action that is on a topic already, as a part of what was accepted."""
        return isinstance(record, Action) and record.action_id in self._accepted_actions

    # ---- dead letters ------------------------------------------------------------------------------------------

    def is_written(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is on its topic.

        Raises:
            DecidedOtherwise: another one is, or one before it is that has not come, and differences are not accepted.
        """
        place = (letter.topic, letter.partition)
        found = self._left_dead.get(place)
        if found is None:
            return False
        taken = _up_to(found, letter.offset)
        if not found:
            del self._left_dead[place]
            self._count_left(self._dead_shards.get(place, -1), -1)
        differences = []
        for offset, value in taken:
            data = dump(letter) if offset == letter.offset else None
            if data is None or not _is_same(value, data):
                differences.append(Difference(DEAD_LETTERS, offset, value, data))
        self._settle(differences)
        self.accepted += len(differences)
        return any(offset == letter.offset for offset, _ in taken)


_ALL: Final = 1 << 63


def _up_to(descending: list[tuple[int, bytes]], number: int) -> list[tuple[int, bytes]]:
    """Take from the end what is not beyond *number*, and return it."""
    taken = []
    while descending and descending[-1][0] <= number:
        taken.append(descending.pop())
    return taken


def _is_same(read_back: bytes, decided: bytes) -> bool:
    """Tell whether two records say the same, whoever wrote them; another version may write the same value otherwise."""
    return read_back == decided or _content(orjson.loads(read_back)) == _content(orjson.loads(decided))


def _content(record: dict[str, Any], *, numbered: bool = True) -> dict[str, Any]:
    """Return what counts of *record*, which is changed: the detail of a mistake of ours says how it was made."""
    record.pop("job", None)
    if not numbered:
        record.pop("seq", None)
    if record.get("reason") == "error":
        record.pop("detail", None)
    return record


def _found_among(found: list[tuple[int, dict[str, Any]]], record: JournalRecord) -> int | None:
    """Take out the record that is equal to *record* but for its number, and return that number; None if none is."""
    if not found:
        return None
    content = _content(orjson.loads(dump(record)), numbered=False)
    for index, (seq, other) in enumerate(found):
        if other == content:
            del found[index]
            return seq
    return None


def _described(data: bytes) -> str:
    """Say what *data* is a record of, without anything of the user."""
    record = orjson.loads(data)
    if "flow" not in record:
        return f"{record.get('reason')} of {record.get('topic')}-{record.get('partition')}"
    step = f" at {record['step']}" if "step" in record else ""
    return f"{record['flow']} v{record.get('version')} {record.get('kind', 'action')}{step}"


def _as_noted(one: Difference, *, accepted: bool) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "number": one.number,
        "read_back": orjson.loads(one.read_back),
        "decided": None if one.decided is None else orjson.loads(one.decided),
        "accepted": accepted,
    }
