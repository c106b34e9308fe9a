"""What a seed stands for: flows, users, records, and what goes wrong when."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from zlib import crc32

from dataflow.flows import Loaded
from operators.ids import action_id, journey_id
from operators.language.values import HOUR, MINUTE, SECOND
from operators.language.workspace import read_workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from tests.simulation.broker import SourcePartition, SourceRecord

START = 1_795_435_200_000
END = START + 200 * HOUR  # Up to here time runs on at the very end: nothing waits any more.

CHANNELS = {name: {"topic": f"actions.{name}"} for name in ("one", "two", "three")}
WORKSPACE = json.dumps({"channels": CHANNELS})
RULES = json.dumps(
    {
        "channels": {
            "one": {**CHANNELS["one"], "caps": [{"at_most": 1, "per": "3h"}]},
            "two": {**CHANNELS["two"], "quiet": {"from": "13:00", "until": "15:00"}},
            "three": {**CHANNELS["three"], "quiet": {"from": "12:01", "until": "12:20"}},
        },
        "caps": [{"at_most": 4, "per": "1d"}],
        "quiet": {"from": "12:40", "until": "13:20", "holidays": [{"from": "2026-11-24", "until": "2026-11-24"}]},
    }
)
"""Message rules: a world begins at noon."""

CART = """
flow: cart
version: {version}
{state}
priority: 1
trigger: {{event: cart, count: {{at_least: 2, within: 1h}}}}
entry: {{concurrent: 2}}
exit: [{{event: buy, goal: true}}]
steps:
  - wait: {wait}
  - branch:
      - when: {{did: {{event: view, within: 2h}}}}
        steps: [{{send: {channel}, template: viewed}}]
      - else: [{{send: {channel}, template: blind}}]
  - wait_for: {{back: {{event: view}}}}
    timeout: 3h
  - {{send: one, template: last}}
"""
CART_1 = CART.format(version=1, state="", wait="30m", channel="one")
CART_1_ENDED = CART.format(version=1, state="state: ended", wait="30m", channel="one")
CART_2 = CART.format(version=2, state="", wait="10m", channel="two")
VIEW = """
flow: view
trigger: {event: view}
entry: {reentry: {after: 2h}}
steps:
  - {set: {last: "{{ now }}"}}
  - wait: 45m
  - {send: two, template: seen, vars: {last: "{{ profile.last }}", tier: "{{ profile.tier | default: 'none' }}"}}
"""
HELLO = """
flow: hello
trigger: {event: hello}
steps: [{send: three, template: hello}]
"""
BYE = """
flow: bye
trigger: {event: bye, where: {n: {gte: 3}}}
exit: [{event: buy}]
steps:
  - wait: 20m
  - {send: three, template: bye}
  - wait: 20m
  - {send: one, template: bye}
"""
CLUB = """
flow: club
trigger: {event: join}
entry: {concurrent: 2, when: {not: {audience: banned}}}
steps:
  - audience: {add: [club, new], remove: vip}
  - wait: 30m
  - branch:
      - when: {audience: [vip, staff]}
        steps: [{send: two, template: member}]
      - else: [{send: one, template: guest}]
  - audience: {remove: new}
"""
FORK = """
flow: fork
trigger: {event: view, where: {n: {lte: 2}}}
exit: [{event: buy}]
steps:
  - id: top
    parallel:
      - - wait: 5m
        - parallel:
            - [{wait_for: {cart: {event: cart}}, timeout: 1h}, {send: two, template: asked}]
            - [{times: [{at: "13:00", steps: [{send: one, template: daily}]}, {at: 2026-11-23T12:30, steps: []}]}]
            - [{wait: {for: 20m, without: {event: hello}}}]
        - {send: three, template: inner}
      - - wait_for: {bye: {event: bye}}
          timeout: 40m
          then: {bye: [{branch: [{when: {profile.tier: gold}, steps: [{end: gold}]}]}]}
      - []
  - {send: one, template: joined}
  - branch: [{when: {did: {event: bye}}, steps: [{goto: top}]}]
"""
DEPLOYMENTS = (
    (CART_1, VIEW, HELLO, BYE, CLUB, FORK),
    (CART_1_ENDED, CART_2, VIEW, BYE, CLUB, FORK),
    (CART_1_ENDED, CART_2, VIEW, HELLO, CLUB, FORK),
    (CART_1, VIEW, CLUB),
)
PAUSED = len(DEPLOYMENTS)  # Nobody knows but the shards when what is parked there goes on, so no seed draws it.
DEPLOYMENTS += ((CART_1, f"state: paused{VIEW}", HELLO, BYE, CLUB, f"state: paused{FORK}"),)
RUNS = len(DEPLOYMENTS)  # Triggers on audiences: test_audience_runs.py.
PLAIN = """
flow: plain
priority: 1
trigger: {audience: [vip, gold], schedule: {every: 20m, from: 2026-11-23T00:00:00}}
entry: {concurrent: 3}
steps: [{wait: 15m}, {send: one, template: plain, vars: {n: "{{ entry.n }}"}}, {wait: 30m}]
"""
PICKY = """
flow: picky
trigger: {audience: [vip, gold], schedule: {cron: "*/7 * * * *", runs: 9}, skip_unchanged: true}
entry: {concurrent: 2}
steps: [{send: two, template: picky}, {wait: 5m}]
"""
ONCE = """
flow: once
trigger: {audience: gold, schedule: {now: true}}
steps: [{send: three, template: once}]
"""
GOLD = """
flow: gold
trigger: {event: view}
steps: [{wait: 10m}, {audience: {add: [gold], remove: [vip]}}]
"""
DEPLOYMENTS += ((PLAIN, PICKY, ONCE, GOLD),)
ASK = """
flow: ask
trigger: {event: view}
entry: {concurrent: 3}
exit: [{event: $two_clicked}]
steps:
  - {id: first, send: two, template: ask}
  - wait: 5m
  - result_of: first
    within: 2h
    then:
      delivered: [{id: got, send: one, template: got, vars: {code: "{{ event.code | default: 'none' }}"}}]
      failed: [{send: three, template: instead}, {wait: 10m}, {goto: first}]
"""
OPENED = """
flow: opened
trigger: {event: $one_opened, count: {at_least: 2, within: 9h}}
steps: [{wait: 10m}, {send: three, template: "opened"}]
"""
RECEIPTS = len(DEPLOYMENTS)
DEPLOYMENTS += ((ASK, OPENED, BYE),)


GIFT = """
flow: gift
version: {version}
trigger: {{event: gift}}
entry: {{limit: 3, holdout: 25%}}
steps: [{{send: three, template: gift}}]
"""
TRIAL = """
flow: trial
version: {version}
{state}
trigger: {{event: view}}
entry: {{concurrent: 2}}
steps:
  - wait: 5m
  - id: x
    experiment: {{arms: {{a: 15%, b: 85%}}, goal: {{event: buy, within: {within}}}, stop_after: 2, winner: best}}
    then: {{a: [{{send: one, template: a}}], b: [{{send: two, template: b}}]}}
  - wait: 5m
"""
PLACES, TRIED = 3, 2
GIFT_1, GIFT_2 = (GIFT.format(version=version) for version in (1, 2))
TRIAL_1 = TRIAL.format(version=1, state="", within="2h")
TRIAL_1_ENDED = TRIAL.format(version=1, state="state: ended", within="2h")
TRIAL_2 = TRIAL.format(version=2, state="", within="1d")
ASKING = len(DEPLOYMENTS)
"""Added to the number of one of the first deployments: another one, in which flows ask what no single user decides."""
DEPLOYMENTS += (
    (CART_1, GIFT_1, TRIAL_1),
    (CART_1_ENDED, CART_2, GIFT_2, TRIAL_1),
    (CART_1_ENDED, VIEW, TRIAL_1),
    (CART_1, GIFT_1, TRIAL_1_ENDED, TRIAL_2),
)

RULED = len(DEPLOYMENTS)
"""Added to the number of a deployment that a seed draws: it, under message rules."""
DEPLOYMENTS += DEPLOYMENTS[:PAUSED]

WITH_AUDIENCES = (0, 2)
"""Of five seeds these: seeds that are known by their names are others, and so stay what they were."""

AS_OTHER_BUILD = {
    HELLO: HELLO.replace("steps: [", "steps: [{set: {greeted: 'yes'}}, "),
    VIEW: VIEW.replace('last: "{{ now }}"', "last: \"{{ now | date: '%Y' }}\""),
}
"""What another build of the software takes these flows for: one record more, the same records with other values."""
OTHER_BUILD = len(DEPLOYMENTS)
"""Added to the number of a deployment: it, as the other build decides it."""


def workspace_of(number: int) -> str:
    """Return the workspace of deployment *number*."""
    return RULES if number % OTHER_BUILD >= RULED else WORKSPACE


@lru_cache
def loaded(number: int) -> Loaded:
    """Return deployment *number*, compiled."""
    text = workspace_of(number)
    workspace, problems = read_workspace("nudge.yaml", text.encode())
    deployed = DEPLOYMENTS[number % OTHER_BUILD]
    if number >= OTHER_BUILD:
        deployed = tuple(AS_OTHER_BUILD.get(text, text) for text in deployed)
    texts = [FlowText(f"{index}.yaml", text) for index, text in enumerate(deployed)]
    checked = compile_texts(texts, workspace)
    assert not checked.has_errors, checked.problems
    assert not problems
    return Loaded(Deployment(checked.programs), checked, workspace, text, "")


@dataclass
class Life:
    """One start of the job, and how it ends: killed at a touch of the outside, asked to stop, or by itself.

    `topics` are its sources, None for all. After *exchange_after* steps the processes are exchanged, once: for those of
    other flows, and to take in what partitions have come.
    """

    flows: int
    processes: int
    stop_at_end: bool = False
    until_ms: int | None = None
    kill_at: int | None = None
    loses_power: bool = False
    stop_after: int | None = None
    pause_ms: int = 0
    topics: list[str] | None = None
    exchange_after: int | None = None
    exchange_flows: int = 0
    is_other_build: bool = False
    accepts_difference: bool = False


@dataclass
class Scenario:
    """Everything that happens to a job, apart from the order of what goes on side by side."""

    seed: int
    partitions: list[SourcePartition] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    shards: int = 2
    sink_partitions: int = 2
    users_in_memory: int = 100
    held_max: int = 1_000
    slack_ms: int = 1000
    step_ms: int = 60
    host_clock_jumps: bool = False
    wakes_slowly: bool = False
    keyed: bool = False
    """Whether a user's records of one topic are in one partition, as they have to be where a job reads only that."""
    from_start: bool = False
    """Whether a topic that is added is read from its start."""
    keeps_trace: bool = False
    bad: set[tuple[str, int, int]] = field(default_factory=set)
    """The places of records that nobody can read."""

    @property
    def lasts_ms(self) -> int:
        ends = [partition.records[-1].appended_ms for partition in self.partitions if partition.records]
        return max(ends, default=START) - START


def scenario(seed: int) -> Scenario:
    """Return what *seed* stands for."""
    chance = Random(seed)
    made = Scenario(seed)
    made.shards = chance.randint(1, 4)
    made.sink_partitions = chance.randint(1, 3)
    made.users_in_memory = chance.choice([1, 2, 5, 100])
    made.wakes_slowly = seed % 4 == 0
    made.held_max = (1, 1_000, 1_000, 3, 1_000, 1_000)[seed % 6]
    made.step_ms = chance.choice([2, 10, 60, 500])
    may_lose_power = chance.random() < 0.3
    topics = ["events"] if chance.random() < 0.75 else ["events", "more"]
    stamps_itself = not may_lose_power and chance.random() < 0.5
    made.host_clock_jumps = not may_lose_power and chance.random() < 0.3
    made.slack_ms = chance.choice([0, 50, SECOND])
    changes_flows = not may_lose_power and len(topics) == 1 and chance.random() < 0.5
    made.partitions = [
        SourcePartition(topic, number) for topic in topics for number in range(chance.choice([1, 1, 2, 3]))
    ]
    pace_ms = chance.choice([SECOND, MINUTE, 10 * MINUTE])
    later = Random(f"what comes later in {seed}")  # A world in which nothing does is the one that it was before.
    add_partitions_later(made, later, pace_ms)
    # Not with the power: what the dead run had decided is lost with its progress log, as where flows change.
    made.keyed = not may_lose_power and len(topics) > 1 and later.random() < 0.4
    fill(made, chance, records=chance.randint(5, 45), pace_ms=pace_ms, stamps_itself=stamps_itself)
    flows, most = 0, min(made.shards, 3)
    for _ in range(chance.choice([1, 1, 2, 2, 3, 5])):
        if changes_flows and chance.random() < 0.4:
            flows = chance.randrange(PAUSED)
        life = Life(flows, chance.randint(1, most), stop_at_end=chance.random() < 0.25)
        if chance.random() < (0.5 if life.stop_at_end else 0.8):
            life.kill_at = int(2 ** chance.uniform(0, 9.5))
            life.loses_power = may_lose_power and chance.random() < 0.6
        if not life.stop_at_end:
            life.stop_after = int(2 ** chance.uniform(0, 8))
        life.pause_ms = chance.choice([0, SECOND, chance.randint(0, 2 * HOUR)])
        made.lives.append(life)
    if seed % 5 in WITH_AUDIENCES:
        add_audiences(made, Random(f"audiences in {seed}"))
    last = chance.randrange(PAUSED) if changes_flows else flows
    made.lives.append(Life(last, chance.randint(1, most), stop_at_end=True, until_ms=END))
    exchange_processes(made, later, changes_flows)
    if seed % 5 in (0, 2):
        for life in made.lives:
            life.flows += RULED
            life.exchange_flows += RULED
    if made.keyed:
        made.from_start = later.random() < 0.3
        for life in made.lives[: later.randint(1, len(made.lives) - 1)]:
            life.topics = topics[:1]
    return made


def scenario_of_receipts(seed: int) -> Scenario:
    """Return what *seed* stands for, with flows that ask what became of messages, and receipts of these."""
    made, chance = scenario(seed), Random(f"receipts {seed}")
    for life in made.lives:
        life.flows = life.exchange_flows = RECEIPTS
    sent: dict[str, list[str]] = {}
    in_order = sorted(
        (record.appended_ms, number, place)
        for number, partition in enumerate(made.partitions)
        for place, record in enumerate(partition.records)
    )
    for _, number, place in in_order:
        records = made.partitions[number].records
        try:
            value = json.loads(records[place].value)
        except ValueError:
            continue
        if "user_id" not in value:
            continue
        user, name = value["user_id"], value.get("event")
        if name in ("cart", "hello"):
            name = value["event"] = "view"
        if name == "view":
            sent.setdefault(user, []).append(value.setdefault("message_id", f"v-{number}-{place}"))
        elif name != "bye" and user in sent:
            began_by = chance.choice(sent[user][-3:])
            step, visit = chance.choice([("first", 1), ("first", 1), ("first", 2), ("got", 1), ("got", 1)])
            status = chance.choice(["delivered", "failed", "opened", "opened", "clicked"])
            action = action_id(journey_id("ask", user, None, began_by), step, visit)
            value = {"user_id": user, "action_id": action, "status": status, "code": f"C{place}"}
            if chance.random() < 0.5:
                value["message_id"] = f"{action}/{status}"
        records[place] = records[place]._replace(value=json.dumps(value).encode())
    return made


def scenario_of_changing_rules(seed: int) -> Scenario:
    """Return what *seed* stands for, with lives under message rules and lives without.

    Not where the power may fail or records are held: what was decided and is decided anew then follows the new rules.
    """
    made, chance = scenario(seed), Random(f"message rules of {seed}")
    is_one_topic = len({partition.topic for partition in made.partitions}) == 1
    if not is_one_topic or any(life.loses_power for life in made.lives):
        return made
    made.wakes_slowly = True  # So that something is left.
    for life in made.lives:
        if life.stop_at_end:
            life.exchange_after = None  # Time would run on to the end under the flows of before, and the wakes not.
        life.flows = life.flows % RULED + RULED * (chance.random() < 0.6)
        life.exchange_flows = life.exchange_flows % RULED + RULED * (chance.random() < 0.6)
    return made


def add_partitions_later(made: Scenario, chance: Random, pace_ms: int) -> None:
    """Let some partitions of *made* appear only after a while, but the first of each topic.

    Only such that come last in order: what a shard holds names partitions by their place in it.
    """
    if chance.random() < 0.3:
        for partition in made.partitions[-chance.randint(1, 2) :]:
            if partition.number and partition.topic == made.partitions[-1].topic:
                partition.appears_ms = START + chance.randint(0, 40 * pace_ms)


def exchange_processes(made: Scenario, chance: Random, changes_flows: bool) -> None:
    """Let the processes be exchanged in some lives of *made*."""
    for life in made.lives:
        if chance.random() < 0.3:
            life.exchange_after = int(2 ** chance.uniform(0, 8))
            life.exchange_flows = chance.randrange(PAUSED) if changes_flows else life.flows


def scenario_of_two_builds(seed: int) -> Scenario:
    """Return what *seed* stands for, with the same flows all the time, and lives under one build and another.

    Of several topics records are held: read under one build, they may be decided by the next.
    """
    made, chance = scenario(seed), Random(f"two builds {seed}")
    is_one_topic = len({partition.topic for partition in made.partitions}) == 1
    for partition in made.partitions:
        partition.records[:] = [
            one._replace(value=one.value.replace(b'"noise"', b'"hello"').replace(b'"bye"', b'"hello"'))
            for one in partition.records
        ]
    other_build = chance.random() < 0.5  # Mostly each life is under another build than the one before.
    for life in made.lives:
        life.flows, life.is_other_build = 0, is_one_topic and other_build
        life.exchange_flows %= RULED
        other_build = not other_build or chance.random() < 0.1
    return made


def scenario_that_asks(seed: int) -> Scenario:
    """Return what *seed* stands for, with flows that ask the register."""
    made = scenario(seed)
    for partition in made.partitions:
        partition.records[:] = [
            one._replace(
                value=one.value.replace(b'"noise"', b'"gift"')
                .replace(b'"hello"', b'"gift"')
                .replace(b'"bye"', b'"buy"')
            )
            for one in partition.records
        ]
    for life in made.lives:
        life.flows = life.flows % RULED + ASKING
        life.exchange_flows = life.exchange_flows % RULED + ASKING
    return made


def fill(made: Scenario, chance: Random, *, records: int, pace_ms: int, stamps_itself: bool = False) -> None:
    """Fill the partitions of *made*, with duplicates, records that nobody can read, gaps and, if asked, late ones."""
    users = [f"user-{number}" for number in range(chance.randint(1, 6))]
    is_one_topic = len({partition.topic for partition in made.partitions}) == 1
    now = START
    sent: list[bytes] = []
    with_gaps = chance.random() < 0.2
    next_offsets = [0] * len(made.partitions)
    for number in range(records):
        now += chance.choice([0, chance.randint(0, 2 * pace_ms), chance.randint(0, 4 * pace_ms)])
        user = chance.choice(users)
        value = _value(chance, user, number)
        if sent and chance.random() < 0.1:
            value = chance.choice(sent)
            user = json.loads(value)["user_id"]
        target = crc32(user.encode()) % len(made.partitions) if is_one_topic else chance.randrange(len(made.partitions))
        if made.keyed:
            of_topic = [i for i, one in enumerate(made.partitions) if one.topic == made.partitions[target].topic]
            target = of_topic[crc32(user.encode()) % len(of_topic)]
        partition = made.partitions[target]
        offset = next_offsets[target]
        if chance.random() < 0.05:
            value = b'{"user_id": '
            made.bad.add((partition.topic, partition.number, offset))
        else:
            sent.append(value)
        late_ms = chance.choice([0, 0, 500, chance.randint(0, 2 * HOUR), 2 * HOUR]) if stamps_itself else 0
        appended_ms = max(now, partition.appears_ms)
        partition.records.append(SourceRecord(offset, appended_ms, appended_ms - late_ms, value))
        next_offsets[target] = offset + (chance.randint(1, 3) if with_gaps else 1)


def add_audiences(made: Scenario, chance: Random) -> None:
    """Let some records of *made* be memberships, completed updates and events of those who join; repeats stay so."""
    others: dict[bytes, bytes] = {}
    for partition in made.partitions:
        for index, one in enumerate(partition.records):
            if (partition.topic, partition.number, one.offset) not in made.bad:
                if one.value not in others:
                    others[one.value] = _about_audiences(chance, one.value)
                partition.records[index] = one._replace(value=others[one.value])


def _about_audiences(chance: Random, value: bytes) -> bytes:
    record = json.loads(value)
    if record.get("event") in ("cart", "view") and chance.random() < 0.7:
        return value
    what = chance.choices(["as it was", "join", "vip", "banned", "updated"], [4, 4, 6, 2, 1])[0]
    kept = {key: record[key] for key in ("user_id", "message_id") if key in record}
    if what == "as it was":
        return value
    if what == "join":
        made: dict[str, object] = {**kept, "event": "join"}
    elif what == "updated":
        made = {"audience": "vip", "updated": True}
    else:
        made = {**kept, "audience": what, "member": chance.random() < 0.6, "row": {"n": chance.randint(0, 2)}}
    return json.dumps(made).encode()


def _value(chance: Random, user: str, number: int) -> bytes:
    kind = chance.choices(
        ["cart", "view", "buy", "hello", "bye", "noise", "identify", "receipt"], [8, 6, 1, 2, 3, 3, 2, 1]
    )[0]
    record: dict[str, object] = {"user_id": user}
    if kind == "identify":
        record |= {"type": "identify", "traits": {"tier": chance.choice(["gold", "blue", None])}}
    elif kind == "receipt":
        record |= {"action_id": "a", "status": "delivered"}
    else:
        record |= {"event": kind, "properties": {"n": chance.randint(0, 5)}}
    if chance.random() < 0.6:
        record["message_id"] = f"m-{number}"
    return json.dumps(record).encode()
