"""A world in which deliveries happen: processes that are killed and share partitions, a ledger, a provider with moods.

Everything takes place in virtual time, in an order that a seed decides. The ledger is a table to which the rules of
`state/ledger.py` are applied; what it has taken stays. A process carries out its machine's commands one by
one, each a while after it was given, and may die before or after each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from operators.delivery.machine import (
    Ask,
    Begin,
    Call,
    Command,
    Deliveries,
    Done,
    Free,
    Look,
    Place,
    Renew,
    Settle,
    Tell,
)
from operators.delivery.policy import AGAIN, PARK, Policy
from state import ledger
from state.delivery import (
    CONFIG,
    OK,
    PERMANENT,
    RETRY,
    THROTTLED,
    TOKEN,
    UNKNOWN,
    Answer,
    Entry,
    Outcome,
)

HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Action:
    action_id: str
    user_id: str
    expires_ms: int | None
    place: Place


@dataclass
class Provider:
    """Answers calls as it is in the mood to, and knows what it has sent."""

    chance: Random
    drops_repeats: bool
    moods: dict[str, float]
    sent: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    token: int = 0
    broken_from: int = 0
    broken_until: int = 0

    def call(self, action_id: str, token: int, now: int) -> Answer:
        if self.broken_from <= now < self.broken_until:
            return Answer(CONFIG, "key")
        if token != self.token:
            return Answer(TOKEN, "expired")
        if action_id in self.refused:
            return Answer(PERMANENT, "number")
        mood = self.chance.choices([*self.moods], [*self.moods.values()])[0]
        if mood == PERMANENT and action_id not in self.sent:
            self.refused.add(action_id)
            return Answer(PERMANENT, "number")
        if mood == "token":
            self.token += 1
        if mood in (OK, "sent, and nobody hears of it"):
            if not (self.drops_repeats and action_id in self.sent):
                self.sent.append(action_id)
            return Answer(OK, provider_id=f"p-{action_id}") if mood == OK else Answer(UNKNOWN, "timeout")
        if mood == THROTTLED:
            waits = self.chance.choice([None, 1000, 2 * HOUR])
            return Answer(THROTTLED, "429", wait_ms=waits, is_of_recipient=self.chance.random() < 0.5)
        return Answer(UNKNOWN, "reset") if mood == UNKNOWN else Answer(RETRY, "connect")

    def ask(self, action_id: str) -> Answer:
        if self.chance.random() < 0.3:
            return Answer(UNKNOWN, "not yet")
        return Answer(OK) if action_id in self.sent else Answer(RETRY, "never seen")


class Process:
    """One process with one machine."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"process-{number}"
        self.machine = Deliveries(world.policy, world.now, world.chance)
        self.is_alive = True
        self.positions: dict[str, int] = {}
        self.done: dict[str, set[int]] = {}
        self.token = world.provider.token
        self.calls = 0
        self._woken_ms: int | None = None

    def assign(self, partition: str) -> None:
        self.positions[partition] = self.world.committed[partition]
        self.done[partition] = set()

    def revoke(self, partition: str) -> None:
        """Give the partition back: `world` waits until nothing of it is open."""
        del self.positions[partition]
        self.machine.give_back([partition], self.world.now)
        self.carry_out()

    def lose(self, partition: str) -> None:
        """Another process has the partition already when this one hears of it."""
        del self.positions[partition]
        self.world.at(self.world.now + self.world.chance.choice([0, 5_000]), lambda: self._hear_of_the_loss(partition))

    def _hear_of_the_loss(self, partition: str) -> None:
        if self.is_alive and partition not in self.positions:
            self.machine.give_back([partition], self.world.now)
            self.carry_out()

    def read(self) -> None:
        """Take some of what is there."""
        for partition in list(self.positions):
            records = self.world.partitions[partition]
            for _ in range(self.world.chance.randint(0, 4)):
                position = self.positions[partition]
                if position < len(records) and not self.machine.is_full:
                    action = records[position]
                    self.positions[partition] += 1
                    self.machine.take(action.action_id, action.user_id, action.expires_ms, action.place, self.world.now)
        self.carry_out()

    def carry_out(self) -> None:
        """Carry out what the machine wants, each a while from now; wake it when it wants to be."""
        world = self.world
        for command in self.machine.commands():
            after = world.chance.choice([0, 1, 20, 300]) + self._stands_still() + self._ledger_is_away(command)
            world.at(world.now + after, lambda command=command: self._do(command))  # type: ignore[misc]
        due = self.machine.next_ms
        if due is not None and due != self._woken_ms:
            self._woken_ms = due
            world.at(max(due, world.now + 1), self._wake)

    def _wake(self) -> None:
        if self.is_alive:
            self._woken_ms = None
            self.machine.tick(self.world.now)
            self.carry_out()

    def _do(self, command: Command) -> None:
        world = self.world
        if not self.is_alive or world.dies(self):
            return
        answer = self._effect(command)
        is_late = isinstance(command, Settle) and world.entries[command.action_id].is_untold
        if world.dies(self, 0.5 if is_late else 0.01):
            return
        after = world.chance.choice([0, 1, 50, world.policy.call_ms if isinstance(command, (Call, Ask)) else 200])
        after += self._stands_still()
        if answer is not None:
            world.at(world.now + after, lambda: self._hear(answer))

    def _stands_still(self) -> int:
        return 60_000 if not self.world.is_calm and self.world.chance.random() < 0.005 else 0

    def _ledger_is_away(self, command: Command) -> int:
        is_away = isinstance(command, Settle) and not self.world.is_calm and self.world.chance.random() < 0.1
        return 60_000 if is_away else 0

    def _hear(self, answer: Callable[[], None]) -> None:
        if self.is_alive:
            answer()
            self.carry_out()

    def _effect(self, command: Command) -> Callable[[], None] | None:
        world, machine = self.world, self.machine
        entries = world.entries
        if isinstance(command, Done):
            self._commit(command.place)
            return None
        if isinstance(command, Renew):
            self.token = world.provider.token
            is_new = world.chance.random() < 0.9
            return lambda: machine.renewed(is_new, world.now)
        one = command.action_id
        found = entries.get(one)
        if isinstance(command, Look):
            return lambda: machine.looked(one, found, world.now)
        if isinstance(command, Begin):
            noted = ledger.begin(found, command.attempt, "u", self.name, command.lease_ms, world.now)
            if noted is not None:
                entries[one] = noted
            wait = None if noted is None else 0
            return lambda: machine.begun(one, command.attempt, wait, world.now)
        if isinstance(command, Call):
            if world.now > command.until_ms:
                late = Answer(RETRY, "too_late")
                return lambda: machine.answered(one, command.attempt, late, world.now)
            world.note_call(self, one)
            answer = world.provider.call(one, self.token, world.now)
            return lambda: machine.answered(one, command.attempt, answer, world.now)
        if isinstance(command, Ask):
            asked = world.provider.ask(one)
            return lambda: machine.asked(one, command.attempt, asked, world.now)
        if isinstance(command, Free):
            entries[one] = ledger.free(found, command.attempt, self.name) or entries[one]
            return lambda: machine.freed(one, world.now)
        if isinstance(command, Settle):
            settled = ledger.settle(found, command.attempt, "u", self.name, command.outcome, world.now)
            if settled is not None:
                entries[one] = settled
            outcome = None if settled is None else command.outcome
            return lambda: machine.settled(one, outcome, world.now)
        assert isinstance(command, Tell)
        world.told[one].append(command.outcome)
        return lambda: machine.told(one, world.now)

    def _commit(self, place: Place) -> None:
        done = self.done.get(place.partition)
        if done is None or self.world.owner.get(place.partition) is not self:
            return
        done.add(place.offset)
        while self.world.committed[place.partition] in done:
            self.world.committed[place.partition] += 1


class World:
    """Everything, and what happens when."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = Random(seed)
        self.now = 1_800_000_000_000
        self.policy = Policy(
            call_ms=2_000,
            concurrency=chance.choice([1, 3, 50]),
            rate=chance.choice([None, None, 5.0]),
            open_max=chance.choice([3, 100]),
            drops_repeats=chance.random() < 0.3,
            can_be_asked=chance.random() < 0.3,
            ask_after_ms=5_000,
            on_unknown=chance.choice([PARK, PARK, AGAIN]),
        )
        moods = {OK: 6.0, "sent, and nobody hears of it": 1.0, UNKNOWN: 1.0, RETRY: 2.0, THROTTLED: 0.3, PERMANENT: 0.5}
        moods["token"] = 0.2
        self.provider = Provider(chance, self.policy.drops_repeats, moods)
        if chance.random() < 0.3:
            self.provider.broken_from = self.now + chance.randint(0, 20_000)
            self.provider.broken_until = self.provider.broken_from + chance.choice([1000, 100_000, 3 * HOUR])
        self.partitions: dict[str, list[Action]] = {}
        self.committed: Counter[str] = Counter()
        self.owner: dict[str, Process] = {}
        self.entries: dict[str, Entry] = {}
        self.told: defaultdict[str, list[Outcome]] = defaultdict(list)
        self.calls: list[tuple[str, str]] = []
        self.is_calm = False
        self._make_actions()
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._processes = 0
        self.alive: list[Process] = []

    def _make_actions(self) -> None:
        chance = self.chance
        for number in range(chance.randint(1, 3)):
            partition = f"actions-{number}"
            users = [f"u{number}{letter}" for letter in "abc"]
            records: list[Action] = []
            for offset in range(chance.randint(0, 12)):
                user = chance.choice(users)
                expires = self.now + chance.randint(0, 2 * HOUR) if chance.random() < 0.2 else None
                place = Place(partition, offset)
                earlier = [one for one in records if one.user_id == user]
                if earlier and chance.random() < 0.1:
                    before = chance.choice(earlier)
                    records.append(Action(before.action_id, user, before.expires_ms, place))
                else:
                    records.append(Action(f"{partition}-{offset}", user, expires, place))
            self.partitions[partition] = records

    def at(self, when: int, what: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._due, (when, self._count, what))

    def dies(self, process: Process, likely: float = 0.01) -> bool:
        if not self.is_calm and self.chance.random() < likely:
            self.kill(process)
            return True
        return False

    def kill(self, process: Process) -> None:
        process.is_alive = False
        self.alive.remove(process)
        for partition in [one for one, owner in self.owner.items() if owner is process]:
            del self.owner[partition]

    def note_call(self, process: Process, action_id: str) -> None:
        self.calls.append((process.name, action_id))

    def run(self) -> None:
        """Let it happen until every record is done."""
        end = self.now + 24 * HOUR
        self.at(self.now, self._tend)
        while self._due:
            when, _, what = heappop(self._due)
            self.now = max(self.now, when)
            assert self.now < end, f"never ends: {self._left()} of {self.partitions}"
            what()
        self._tell_untold()

    def _tell_untold(self) -> None:
        """Tell what somebody has noted late and may not have told, as every process does now and then."""
        for action_id, entry in self.entries.items():
            if entry.is_untold and entry.outcome is not None:
                self.told[action_id].append(entry.outcome)
                self.entries[action_id] = ledger.told(entry, entry.outcome) or entry

    def _left(self) -> dict[str, int]:
        return {name: len(records) - self.committed[name] for name, records in self.partitions.items()}

    def _tend(self) -> None:
        """Now and then: start processes, move partitions, let them read."""
        chance = self.chance
        if not any(self._left().values()) and not any(one.machine.open for one in self.alive):
            return
        self.is_calm = self.is_calm or self._count > 3000
        while len(self.alive) < 2 and (not self.alive or chance.random() < 0.3):
            self._processes += 1
            self.alive.append(Process(self, self._processes))
        if not self.is_calm and self.owner and chance.random() < 0.1:
            partition = chance.choice([*self.owner])
            owner = self.owner[partition]
            if partition in owner.positions:
                if chance.random() < 0.7:
                    owner.revoke(partition)
                else:
                    owner.lose(partition)
                    del self.owner[partition]
        for partition in self.partitions:
            owner_now = self.owner.get(partition)
            if owner_now is not None and partition not in owner_now.positions:
                if owner_now.machine.has_open(partition):
                    continue
                del self.owner[partition]
            if partition not in self.owner:
                new = chance.choice(self.alive)
                self.owner[partition] = new
                new.assign(partition)
        for process in list(self.alive):
            process.read()
        if chance.random() < 0.05:
            self._tell_untold()
        self.at(self.now + chance.choice([10, 500, 5_000]), self._tend)
