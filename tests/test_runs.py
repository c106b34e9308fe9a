"""Runs over audiences: however records are spread, delayed, cut up, committed, crashed and replayed, each member enters
once, and every shard decides the same."""

from __future__ import annotations

import random
from typing import Any, Final
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.allowance import Unlimited
from dataflow.shard import CLOSED, OPEN, Delivery, Shard
from operators.language.values import HOUR, MINUTE
from state.backend import MemoryBackend
from state.records import EVENT, MEMBERSHIP, Input
from state.store import ShardStore
from tests.test_shard import AnyAllowance, copied, deployment, emitted

START = 1_795_435_200_000  # 2026-11-23T12:00:00Z
END = START + 8 * HOUR
FLOWS = """
flow: plain
priority: 1
trigger: {audience: [a, b], schedule: {every: 1h, from: 2026-11-23T00:00:00}}
entry: {concurrent: 3}
steps:
  - wait: 50m
  - {send: webhook, template: plain}
  - wait: 2h
---
flow: picky
trigger: {audience: [a, b], schedule: {cron: "*/30 * * * *", runs: 4}, skip_unchanged: true}
entry: {concurrent: 2}
steps:
  - wait: 45m
  - {send: webhook, template: picky, vars: {n: "{{ entry.n }}"}}
---
flow: once
priority: 2
trigger: {audience: b, schedule: {now: true}}
steps: [{send: webhook, template: once}]
---
flow: event
trigger: {event: view}
steps:
  - wait: 20m
  - {send: webhook, template: event}
  - audience: {add: [a], remove: [b]}
---
flow: clock
trigger: {event: view}
entry: {concurrent: 9}
steps: [{wait: {until: "16:00"}}, {audience: {add: [b]}}, {wait: 30m}, {audience: {remove: [a]}}]
"""
DEPLOYED: Final = deployment(FLOWS)

KINDS = ["join a", "join b", "leave a", "leave b", "view", "update a", "update b"]
PAUSES = [0, 1, MINUTE, 10 * MINUTE, 25 * MINUTE]
EVENTS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(KINDS), st.sampled_from(PAUSES)),
    min_size=1,
    max_size=30,
)


class Told:
    """What the partitions say of one record: when it came, what it is to its user, and which audience it updates."""

    def __init__(self, user: str, kind: str, at: int, offset: int, partitions: int) -> None:
        self.at = at
        word, _, audience = kind.partition(" ")
        self.update = (audience, at) if audience else None
        self.source = crc32(user.encode()) % partitions
        self.shard = (ord(user) // 2) % 2
        self.record: Input | None = None
        if word != "update":
            fields = None if word == "view" else {"audience": audience, "member": word == "join", "row": {"n": offset}}
            hits = DEPLOYED.index.match("view", {}) if word == "view" else ()
            name, what = ("view", EVENT) if word == "view" else ("", MEMBERSHIP)
            self.record = Input(
                user, at, name, f"m-{offset}", False, at, {}, None, hits, self.source, offset, what, fields
            )


def told(events: list[tuple[str, str, int]], partitions: int) -> list[Told]:
    found, at = [], START
    for offset, (user, kind, pause) in enumerate(events):
        at += pause
        found.append(Told(user, kind, at, offset, partitions))
    return found


def in_virtual_time(all_told: list[Told]) -> list[Any]:
    """Return what comes of the records, instant by instant, as in a simulation."""
    shard = Shard(ShardStore(MemoryBackend(), keeps_undo=False), DEPLOYED, sources=1, in_order=True)
    shard.hear(0, all_told[0].at, [one.update for one in all_told if one.update], is_over=False)
    for one in all_told:
        shard.advance_to(one.at)
        if one.record is not None:
            shard.handle(copied([one.record])[0])
    shard.advance_to(END)
    return emitted(shard)


class Job:
    """Two shards and some partitions, in one process that can be killed."""

    def __init__(self, all_told: list[Told], partitions: int, chance: random.Random, *, ordered: bool = True) -> None:
        self.chance = chance
        self.ordered = ordered
        self.parts = [[one for one in all_told if one.source == number] for number in range(partitions)]
        self.backends = [MemoryBackend(), MemoryBackend()]
        self.cut: tuple[list[int], list[int], list[int]] = ([0] * partitions, [-1] * partitions, [0, 0])
        self.found: dict[tuple[str, str, int], Any] = {}
        self.start()

    def start(self) -> None:
        positions, marks, commits = self.cut
        self.positions, self.marks = list(positions), list(marks)
        self.has_begun = [False] * len(self.parts)
        self.shards = []
        for backend, commit in zip(self.backends, commits, strict=True):
            changed = self.chance.choice([1, 100])
            store = ShardStore(backend, cached_users=self.chance.choice([0, 100]), changed_users=changed)
            store.roll_back(commit)
            sources = len(self.parts)
            self.shards.append(Shard(store, DEPLOYED, sources=sources, ordered=self.ordered, until_ms=END))

    def deliver(self, number: int, size: int) -> None:
        """Let partition *number* say something: the next records, and how late it is."""
        part, position = self.parts[number], self.positions[number]
        some = part[position : position + size]
        self.positions[number] = position = position + len(some)
        self.marks[number] = max([self.marks[number], *(one.at for one in some)])
        updates = [one.update for one in some if one.update]
        first = -1
        if some and not self.has_begun[number]:
            first, self.has_begun[number] = some[0].at, True
        is_over = position == len(part)
        for index, shard in enumerate(self.shards):
            records = copied([one.record for one in some if one.record is not None and one.shard == index])
            if records or updates or first >= 0 or is_over or self.chance.random() < 0.5:
                phase = CLOSED if is_over else OPEN
                delivery = Delivery(number, self.marks[number], phase, records, first, updates)
                shard.take([delivery], AnyAllowance(self.chance))

    def commit(self) -> None:
        commits = []
        for shard in self.shards:
            shard.settle()
            commits.append(shard.store.commit())
        self.cut = (list(self.positions), list(self.marks), commits)

    def collect(self) -> None:
        for shard in self.shards:
            for one in emitted(shard):
                key = (one.get("channel", "journal"), one["user_id"], one["seq"])
                assert self.found.setdefault(key, one) == one, "a replay decided otherwise"

    def run(self, lives: int) -> list[Any]:
        """Run to the end of the records; all lives but the last end with a kill."""
        for life in range(lives):
            if life:
                self.start()
            open_ones = [number for number, part in enumerate(self.parts) if self.positions[number] < len(part)]
            empty = [number for number in range(len(self.parts)) if number not in open_ones]
            for number in empty:
                self.deliver(number, 0)
            steps = 10_000 if life == lives - 1 else self.chance.randint(0, 20)
            while steps and open_ones:
                steps -= 1
                number = self.chance.choice(open_ones)
                self.deliver(number, self.chance.randint(0, 4))
                if self.positions[number] == len(self.parts[number]):
                    open_ones.remove(number)
                if self.chance.random() < 0.3:
                    self.commit()
            if life == lives - 1:
                for shard in self.shards:
                    shard.drain(Unlimited())
                    assert shard.held == 0
                self.commit()
            self.collect()
        return sorted(self.found.values(), key=lambda one: (one["user_id"], one["seq"], one.get("channel", "")))


class Counted(Unlimited):
    """Grants so many things at once, and then nothing."""

    def __init__(self, granted: int) -> None:
        self._granted = granted

    def grant(self) -> int:
        granted, self._granted = self._granted, 0
        return granted


def test_a_run_is_under_way_from_its_time_until_its_last_member() -> None:
    shard = Shard(ShardStore(MemoryBackend()), DEPLOYED, sources=1)
    joined = told([("u", "join b", MINUTE), ("v", "join b", 0)], 1)
    members = copied([one.record for one in joined if one.record is not None])
    shard.take([Delivery(0, START + MINUTE, OPEN, members, START, [])])
    assert shard.runs_under_way == set()
    shard.take([Delivery(0, START + HOUR, OPEN, [])], Counted(0))
    assert "plain" in shard.runs_under_way
    shard.drain(Counted(1))
    assert "plain" in shard.runs_under_way
    shard.drain(Unlimited())
    assert shard.runs_under_way == set()
    assert [one["user_id"] for one in emitted(shard) if one["flow"] == "plain" and one["kind"] == "entered"] == [
        "u",
        "v",
    ]


@given(EVENTS, st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_job_of_many_lives_does_what_virtual_time_does(
    events: list[tuple[str, str, int]], partitions: int, lives: int, ordered: bool, seed: int
) -> None:
    all_told = told(events, partitions)
    job = Job(all_told, partitions, random.Random(seed), ordered=ordered)
    assert job.run(lives) == in_virtual_time(all_told)
    left = [(shard.store.meta.runs, user.runs) for shard in job.shards for _, user in shard.store.scan_users()]
    assert [runs for runs, _ in left if runs] == []
