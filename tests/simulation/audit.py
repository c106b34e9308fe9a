"""The comparison at the end of a world: topics and state against what should be there."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import orjson

from dataflow.keep.recovery import read_cut
from dataflow.keep.statedir import read_state_file
from operators.machine.deployment import Deployment
from operators.machine.invariants import UserInvariants
from operators.machine.totals import Totals, read_totals
from state.meta import Meta
from state.registerfile import Question
from state.store import ShardStore
from state.user import NEVER, User
from tests.simulation.disk import SimulatedBackend
from tests.simulation.oracle import Expected, Violation, check_members
from tests.simulation.scenario import (
    PLACES,
    TRIED,
    Scenario,
    loaded,
    scenario,
    scenario_of_changing_rules,
    scenario_of_receipts,
    scenario_of_two_builds,
    scenario_that_asks,
)
from tests.simulation.world import OTHER_JOB, SimulatedWorld


def run_seed(seed: int) -> SimulatedWorld:
    """Let the world of *seed* happen and look at what came of it.

    Raises:
        Violation: a promise was broken.
    """
    return run_scenario(scenario(seed))


def run_scenario(made: Scenario) -> SimulatedWorld:
    """Let *made* happen and look at what came of it."""
    world = SimulatedWorld(made)
    world.run()
    audit(world)
    return world


def run_asking(seed: int) -> SimulatedWorld:
    """Let *seed* happen with flows that ask the register.

    Raises:
        Violation: a promise was broken.
    """
    return run_scenario(scenario_that_asks(seed))


def run_changing_rules(seed: int) -> SimulatedWorld:
    """Let *seed* happen under message rules that change."""
    return run_scenario(scenario_of_changing_rules(seed))


def run_two_builds(seed: int) -> SimulatedWorld:
    """Let *seed* happen under two builds that decide differently.

    Where the difference was noticed and accepted, nobody can say what should be there; but nothing comes twice.

    Raises:
        Violation: a promise was broken.
    """
    world = SimulatedWorld(scenario_of_two_builds(seed))
    world.run()
    if world.differed:
        _check_nothing_comes_twice(world)
        _check_dead_letters(world)
    else:
        audit(world)
    return world


def run_receipts(seed: int) -> SimulatedWorld:
    """Let *seed* happen with receipts of what is sent.

    Raises:
        Violation: a promise was broken.
    """
    return run_scenario(scenario_of_receipts(seed))


def _check_nothing_comes_twice(world: SimulatedWorld) -> None:
    actions: Counter[str] = Counter()
    journal: Counter[tuple[str, int]] = Counter()
    for topic, partitions in world.topics.topics.items():
        for value in (orjson.loads(record.value) for partition in partitions for record in partition):
            if topic == "dead-letters" or value["job"] == OTHER_JOB:
                continue
            if topic == "journal":
                journal[value["user_id"], value["seq"]] += 1
            else:
                actions[value["action_id"]] += 1
    repeated = [one for counts in (actions, journal) for one, count in counts.items() if count > 1]
    if repeated:
        raise Violation(f"twice: {repeated[:3]}")
    seqs = _seqs(world)
    for user_id, seq in journal:
        known = seqs.get(user_id, 0)
        if seq > known:
            raise Violation(f"{user_id} has the journal record {seq}, and the state knows {known}")


def _seqs(world: SimulatedWorld) -> dict[str, int]:
    world.fate.next_life(None)
    cut = read_cut([world.recovery.database])
    file = read_state_file(world.files)
    assert file is not None
    found = {}
    for number, rows in world.rows.items():
        store = ShardStore(SimulatedBackend(rows, world.fate))
        store.roll_back(cut.shards.get(file.keys.names[number], [0])[0])
        found.update({user_id: user.seq for user_id, user in store.scan_users()})
    return found


def audit(world: SimulatedWorld) -> None:
    """Compare what is on the topics and in the state with what should be there."""
    expected = world.history.expected()
    _check_topics(world, expected)
    _check_dead_letters(world)
    _check_state(world, expected)
    _check_register(world, expected)


def _check_register(world: SimulatedWorld, expected: Expected) -> None:
    """As many were let in as there are places, and one has won, once all were in."""
    asked, answers = expected.asked, world.history.answers
    assert asked is not None
    if answers.changed:
        raise Violation(f"the register: {answers.changed[:3]}")
    register = world.register(world.job_id, make=False)
    known = defaultdict(lambda: Question(0, None), {} if register is None else register.questions())
    for flow, number in asked.asked.items():
        entered, taken = asked.entered[flow], known[flow].taken
        if not entered == taken == min(PLACES, number):
            raise Violation(f"{flow}: {entered} of {number} were let in, and {taken} places are taken of {PLACES}")
    for experiment, users in asked.tried.items():
        there, winners = len(asked.in_time.get(experiment, ())), asked.winners.get(experiment, set())
        if not there == known[experiment].taken == min(TRIED, len(users)):
            raise Violation(f"{experiment}: {there} of {len(users)} were in, by the register {known[experiment]}")
        if winners - {known[experiment].winner} or (winners and there < TRIED):
            raise Violation(f"{experiment}: {winners} won with {there} in, by the register {known[experiment]}")


def _check_topics(world: SimulatedWorld, expected: Expected) -> None:
    suffix = b',"job":' + orjson.dumps(world.job_id) + b"}"
    should = Counter((topic, orjson.dumps(record)[:-1] + suffix) for topic, record in expected.records)
    found: Counter[tuple[str, bytes]] = Counter()
    for topic, partitions in world.topics.topics.items():
        if topic == "dead-letters":
            continue
        for number, partition in enumerate(partitions):
            last: dict[str, int] = {}
            for record in partition:
                value = orjson.loads(record.value)
                if value["job"] == OTHER_JOB:
                    continue
                found[(topic, record.value)] += 1
                # What was refused comes later than what was taken behind it; of the rest nothing changes places.
                if value["seq"] <= last.get(record.key, 0) and (topic, number) not in world.topics.refused:
                    raise Violation(f"{topic}: {record.key} has seq {value['seq']} after {last[record.key]}")
                last[record.key] = value["seq"]
    if found != should:
        lost = list((should - found).elements())
        extra = list((found - should).elements())
        raise Violation(f"lost {len(lost)} {lost[:2]}, too many {len(extra)} {extra[:2]} of {sum(should.values())}")
    seqs: dict[str, list[int]] = {}
    for topic, raw in found:
        if topic == "journal":
            value = orjson.loads(raw)
            seqs.setdefault(value["user_id"], []).append(value["seq"])
    for user, numbers in seqs.items():
        if sorted(numbers) != list(range(1, len(numbers) + 1)):
            raise Violation(f"the journal of {user} has gaps: {sorted(numbers)}")


def remembered(user: User) -> tuple[Any, ...]:
    """Return what is known of *user* whatever has happened to the job."""
    return user.seq, user.profile, user.journeys, user.sends, user.audiences


def _check_dead_letters(world: SimulatedWorld) -> None:
    found: Counter[tuple[str, int, int]] = Counter()
    for partition in world.topics.topics.get("dead-letters", []):
        for record in partition:
            if record.headers["job"] != OTHER_JOB.encode():
                value = orjson.loads(record.value)
                found[(value["topic"], value["partition"], value["offset"])] += 1
    file = read_state_file(world.files)
    begins = {} if file is None else file.begins
    should = [(topic, number, offset) for topic, number, offset in world.scenario.bad
              if offset >= begins.get(f"{topic}-{number}", (0, 0))[0]]  # fmt: skip
    if found != Counter(should):
        raise Violation(f"dead letters {sorted(found.elements())} instead of {sorted(should)}")


def _check_invariants(users: dict[str, User], meta: Meta, deployment: Deployment) -> None:
    """What `nudge audit` asks of every user: a wake-up or subscription per branch, all of the same forks."""
    invariants = UserInvariants(deployment, meta.fired_ms, parking={*meta.paused, *meta.resumed})
    for user_id, user in users.items():
        for found in invariants.look_at(user, invariants.due(user)):
            raise Violation(f"{user_id}: {found.code}: {found.text}")


def _check_state(world: SimulatedWorld, expected: Expected) -> None:
    """Conservation, one wake-up per user who waits, and users as they should be."""
    cut = read_cut([world.recovery.database])
    totals: Totals = {}
    users: dict[str, User] = {}
    world.fate.next_life(None)
    deployment = loaded(world.history.flows).deployment
    due_of = deployment.due_of
    file = read_state_file(world.files)
    assert file is not None
    sent: dict[bytes, bytes] = {}
    for number, rows in world.rows.items():
        backend = SimulatedBackend(rows, world.fate)
        store = ShardStore(backend, due_of=due_of)
        store.roll_back(cut.shards.get(file.keys.names[number], [0])[0])
        for flow, counts in store.totals.items():
            kept = totals.setdefault(flow, {})
            for what, count in counts.items():
                kept[what] = kept.get(what, 0) + count
        sent.update(_sent_in(store))
        here = dict(store.scan_users())
        _check_invariants(here, store.meta, loaded(world.history.flows).deployment)
        users.update(here)
        timers = Counter((key[9:].decode(), int.from_bytes(key[1:9], "big")) for key in rows.now if key[:1] == b"t")
        should = Counter((user_id, due_of(user)) for user_id, user in here.items() if due_of(user) < NEVER)
        if timers != should:
            raise Violation(f"timers {timers} instead of {should}")
        check_members(backend)
    if totals != expected.totals:
        raise Violation(f"totals {totals} instead of {expected.totals}")
    open_journeys = Counter(f"{one.flow}\x1f{one.version}" for user in users.values() for one in user.journeys)
    for flow, counts in read_totals(totals).items():
        if counts.inside != open_journeys[flow]:
            raise Violation(f"{flow}: {counts.inside} inside by the counts, {open_journeys[flow]} by the users")
    assert expected.store is not None
    for user_id, user in expected.store.scan_users():
        mine = users.pop(user_id, User())
        if remembered(mine) != remembered(user):
            raise Violation(f"{user_id} is {mine} instead of {user}")
    if users:
        raise Violation(f"nobody knows {sorted(users)}")
    if deployment.asks_for_receipts and sent != (should_be_sent := _sent_in(expected.store)):
        differing = [key for key in sent | should_be_sent if sent.get(key) != should_be_sent.get(key)]
        raise Violation(f"kept of what was sent differ {differing[:3]} of {len(should_be_sent)}")


def _sent_in(store: ShardStore) -> dict[bytes, bytes]:
    """Return all rows that are kept of what was sent."""
    return {key: row for first in (b"j", b"s", b"x") for key, row in store.written.scan(first, bytes([first[0] + 1]))}
