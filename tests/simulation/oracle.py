"""What should have come out: the same records at the same stream times, decided once, in one shard that never fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from dataflow.job.ports import Parcel
from dataflow.shard import Shard
from operators.machine.totals import Totals
from state.backend import Backend, MemoryBackend
from state.records import Input, unpacked
from state.register import Decide
from state.registerfile import ShardRegister
from state.rows import membership_rows, user_rows
from state.shards import shard_of
from state.store import ShardStore
from state.user import load_user
from tests.outgoing import actions_of, journal_of
from tests.simulation.scenario import OTHER_BUILD, loaded

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Input).decode


class Violation(AssertionError):
    """A promise was broken."""


def check_members(backend: Backend) -> None:
    """Check that the list of each audience's members says the same as the users."""
    members = set(membership_rows(backend))
    wanted = {(name.encode(), user_id) for user_id, row in user_rows(backend) for name in load_user(row).audiences}
    if members != wanted:
        raise Violation(f"the members {sorted(members)} instead of {sorted(wanted)}")


@dataclass
class _Turn:
    """A moment in every partition: from there on other flows are in force, or time is known to have come far.

    `reached` tells of each shard up to which (due time, user) the flows before have woken; without it, of all
    users up to the time.
    """

    positions: list[int]
    time_ms: int
    flows: int | None = None
    reached: list[tuple[int, str]] | None = None


@dataclass
class Expected:
    """What the sink's topics and the state should hold at the end."""

    records: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    totals: Totals = field(default_factory=dict)
    store: ShardStore | None = None
    asked: Told | None = None


class Answers:
    """What the register has said, as far as anything may follow from it."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str, int], int | str | None] = {}
        self._lost: dict[tuple[str, str, int], int | str | None] = {}
        self.changed: list[str] = []

    def watch(self, shard: ShardRegister) -> ShardRegister:
        """Take note of what *shard* is told from now on."""
        for name in ("enter", "look", "join"):
            setattr(shard, name, partial(self._note, getattr(shard, name)))
        return shard

    def _note(self, ask: Any, question: str, user_id: str, seq: int, *arguments: Any) -> int | str | None:
        place = (question, user_id, seq)
        answer: int | str | None = ask(question, user_id, seq, *arguments)
        if self._given.setdefault(place, answer) != answer:
            self.changed.append(f"{place} was told {self._given[place]}, and then {answer}")
        return answer

    def lose_power(self) -> None:
        """From here on what was said may be said otherwise, where nothing has followed from it."""
        self._lost = {**self._lost, **self._given}
        self._given = {}

    def given(self, question: str, user_id: str, seq: int) -> int | str | None:
        place = (question, user_id, seq)
        known = self._given if place in self._given else self._lost
        if place not in known:
            self.changed.append(f"{place} has not asked")
        return known.get(place)


class Told:
    """A register that says what was said, and counts to whom."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.asked: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()
        self.tried: dict[str, set[str]] = {}
        self.in_time: dict[str, set[str]] = {}
        self.winners: dict[str, set[str]] = {}

    def enter(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        answer = self._answers.given(flow, user_id, seq)
        self.asked[flow] += 1
        self.entered[flow] += answer is None
        return answer  # type: ignore[return-value]

    def look(self, flow: str, user_id: str, seq: int, most: int) -> int | None:
        return self._answers.given(flow, user_id, seq)  # type: ignore[return-value]

    def join(self, experiment: str, user_id: str, seq: int, arm: str, most: int, decide: Decide) -> str | None:
        answer = self._answers.given(experiment, user_id, seq)
        self.tried.setdefault(experiment, set()).add(user_id)
        if answer is None:
            self.in_time.setdefault(experiment, set()).add(user_id)
        else:
            self.winners.setdefault(experiment, set()).add(str(answer))
        return answer  # type: ignore[return-value]

    def convert(self, experiment: str, user_id: str) -> None:
        pass


class History:
    """Everything that shards were told, in whichever life, and what follows from it."""

    def __init__(self) -> None:
        self.flow_begins: dict[str, int] = {}
        """When versions of flows begin, as far as that was settled at their deployment."""
        self._firsts: dict[int, int] = {}
        self._updates: set[tuple[str, int]] = set()
        self._told: dict[tuple[int, int], tuple[int, int, bytes]] = {}
        self._turns: list[_Turn] = []
        self._numbers: list[int] = []
        self.flows = -1
        self.answers = Answers()
        self.left_at_changes = 0
        """How many wake-ups were due by the time at which the flows changed, and left for those that came."""

    def begin(
        self,
        flows: int,
        numbers: list[int],
        positions: list[int],
        time_ms: int,
        reached: Callable[[], list[tuple[int, str]] | None],
    ) -> None:
        """Note that an execution with these flows goes on from *positions*, at *time_ms*.

        Args:
            numbers: among all partitions that there will ever be, the number of each that this execution reads.
            positions: of all partitions that there will ever be.
            reached: of each shard up to which (due time, user) others have been woken; asked where the flows change.
        """
        self._numbers = numbers
        if flows != self.flows:
            # An end of everything whose epoch was not noted as complete in time has not been: another build goes on.
            while self._turns and self._turns[-1].flows is None and self._turns[-1].positions > positions:
                self._turns.pop()
            self._turns.append(_Turn(positions, time_ms, flows, reached() if self.flows >= 0 else None))
            self.flows = flows

    def close(self, time_ms: int, positions: list[int]) -> None:
        """Note that everything before *positions* was all there was, and that time ran on to *time_ms*."""
        self._turns.append(_Turn(positions, time_ms))

    def watch(self, parcel: Parcel) -> None:
        """Take note of what is about to be brought to a shard.

        Raises:
            Violation: a record comes at another time, or under other flows, than in an earlier life.
        """
        if parcel.first_ms >= 0:
            self._firsts.setdefault(self._numbers[parcel.source], parcel.first_ms)
        self._updates.update(parcel.updates)
        records = parcel[4]
        for record in unpacked(records):
            place = (self._numbers[record.source], record.offset)
            before = self._told.get(place)
            if before is None:
                self._told[place] = (record.now, self.flows, _pack(record))
            elif before[0] != record.now:
                raise Violation(f"record {place} came at {before[0]}, then again at {record.now}")
            elif before[1] % OTHER_BUILD != self.flows % OTHER_BUILD:
                raise Violation(f"record {place} was decided under flows {before[1]}, then again under {self.flows}")

    def expected(self) -> Expected:
        """Return what should have come out by the last turn."""
        made = Expected(asked=Told(self.answers))
        shard: Shard | None = None
        backend = MemoryBackend()
        past = -1
        for number, turn in enumerate(self._turns):
            if shard is not None:
                if turn.reached is None:
                    shard.advance_to(turn.time_ms)
                else:
                    self._wake_until(shard, turn.reached, turn.time_ms)
                past = max(past, turn.time_ms)
                _collect(shard, made)
            if turn.flows is not None:
                deployment = loaded(turn.flows).deployment
                if shard is not None:
                    shard.settle()
                    shard.store.meta_changed = True  # Its time goes on, also where nothing else has changed.
                    shard.store.commit()
                store = ShardStore(backend, due_of=deployment.due_of)
                shard = Shard(store, deployment, sources=1, begins=self.flow_begins, register=made.asked)
                if self._firsts:
                    shard.hear(0, min(self._firsts.values()), sorted(self._updates), is_over=False)
            assert shard is not None
            until = self._turns[number + 1].positions if number + 1 < len(self._turns) else None
            for record in self._between(turn.positions, until, past):
                if deployment.scheduled:
                    shard.advance_to(record.now)
                shard.handle(record)
            _collect(shard, made)
        assert shard is not None
        shard.settle()
        shard.store.commit()
        made.store, made.totals = shard.store, shard.out.totals
        return made

    def _wake_until(self, shard: Shard, reached: list[tuple[int, str]], time_ms: int) -> None:
        """Wake whom the shards have woken: what is left at a change of the flows is for those that come."""
        users = {_unpack(packed).user_id for _, _, packed in self._told.values()}

        def next_due() -> tuple[int, str] | None:
            due = ((shard.store.slot(user_id).due, user_id) for user_id in users)
            return min((one for one in due if one < reached[shard_of(one[1], len(reached))]), default=None)

        while (found := next_due()) is not None:
            shard._wake(*found, shard.store.slot(found[1]))
        self.left_at_changes += sum(shard.store.slot(user_id).due <= time_ms for user_id in users)

    def _between(self, start: list[int], until: list[int] | None, past: int) -> list[Input]:
        found = []
        for (source, offset), (_, _, packed) in self._told.items():
            if start[source] <= offset and (until is None or offset < until[source]):
                record = _unpack(packed)
                found.append((max(record.now, past), source, offset, record))
        return [record for _, _, _, record in sorted(found, key=lambda one: one[:3])]


def _collect(shard: Shard, made: Expected) -> None:
    for action in actions_of(shard):
        made.records.append((f"actions.{action['channel']}", action))
    made.records.extend(("journal", record) for record in journal_of(shard))
    shard.out.actions, shard.out.journal = [], []
