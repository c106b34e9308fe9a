"""What should have come out: the same records at the same stream times, decided once, in one shard that never fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from dataflow.job.ports import Parcel
from dataflow.shard import Shard
from operators.machine.totals import Totals
from state.backend import Backend, MemoryBackend
from state.records import Input, unpacked
from state.rows import membership_rows, user_rows
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
    """A moment in every partition: from there on other flows are in force, or time is known to have come far."""

    positions: list[int]
    time_ms: int
    flows: int | None = None


@dataclass
class Expected:
    """What the sink's topics and the state should hold at the end."""

    records: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    totals: Totals = field(default_factory=dict)
    store: ShardStore | None = None


class History:
    """Everything that shards were told, in whichever life, and what follows from it."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], tuple[int, int, bytes]] = {}
        self._turns: list[_Turn] = []
        self._numbers: list[int] = []
        self.flows = -1

    def begin(self, flows: int, numbers: list[int], positions: list[int], time_ms: int) -> None:
        """Note that an execution with these flows goes on from *positions*, at *time_ms*.

        Args:
            numbers: among all partitions that there will ever be, the number of each that this execution reads.
            positions: of all partitions that there will ever be.
        """
        self._numbers = numbers
        if flows != self.flows:
            # An end of everything whose epoch was not noted as complete in time has not been: another build goes on.
            while self._turns and self._turns[-1].flows is None and self._turns[-1].positions > positions:
                self._turns.pop()
            self._turns.append(_Turn(positions, time_ms, flows))
            self.flows = flows

    def close(self, time_ms: int, positions: list[int]) -> None:
        """Note that everything before *positions* was all there was, and that time ran on to *time_ms*."""
        self._turns.append(_Turn(positions, time_ms))

    def watch(self, parcel: Parcel) -> None:
        """Take note of what is about to be brought to a shard.

        Raises:
            Violation: a record comes at another time, or under other flows, than in an earlier life.
        """
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
        made = Expected()
        shard: Shard | None = None
        backend = MemoryBackend()
        past = -1
        for number, turn in enumerate(self._turns):
            if shard is not None:
                shard.advance_to(turn.time_ms)
                past = max(past, turn.time_ms)
                _collect(shard, made)
            if turn.flows is not None:
                deployment = loaded(turn.flows).deployment
                if shard is not None:
                    shard.settle()
                    shard.store.meta_changed = True  # Its time goes on, also where nothing else has changed.
                    shard.store.commit()
                store = ShardStore(backend, due_of=deployment.due_of)
                shard = Shard(store, deployment, sources=1)
            assert shard is not None
            until = self._turns[number + 1].positions if number + 1 < len(self._turns) else None
            for record in self._between(turn.positions, until, past):
                shard.handle(record)
            _collect(shard, made)
        assert shard is not None
        shard.settle()
        shard.store.commit()
        made.store, made.totals = shard.store, shard.out.totals
        return made

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
