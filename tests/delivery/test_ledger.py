"""The ledgers do what the rules say, and what one has said is there after a crash."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from connectors.ledgers.base import Ledger, LedgerAway, Note, ToBegin, ToFree, ToLook, ToReopen, ToSettle, ToTold
from connectors.ledgers.redis import RedisLedger
from connectors.ledgers.sqlite import FORMAT, SqliteLedger
from state import ledger
from state.delivery import Entry, Outcome
from state.errors import StateRefused
from tests.redis.server import RedisServer

NOW = 1_800_000_000_000
OUTCOMES = [Outcome(status, NOW, "C", "d", "p-1", "delivered") for status in ("accepted", "rejected", "unknown")]
ONE_NOTE = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["look", "begin", "free", "reopen", *OUTCOMES, *(("told", one) for one in OUTCOMES)]),
    st.integers(0, 3),
    st.sampled_from([0, 1000, 100_000]),
)


def by_the_rules(found: Entry | None, owner: str, what: object, attempt: int, now: int) -> Entry | None:
    if what == "begin":
        return ledger.begin(found, attempt, "u", owner, now + 5_000, now)
    if what == "free":
        return ledger.free(found, attempt, owner)
    if what == "reopen":
        return ledger.reopen(found, now)
    if isinstance(what, tuple):
        return ledger.told(found, what[1])
    assert isinstance(what, Outcome)
    return ledger.settle(found, attempt, "u", owner, what, now)


def note_of(action_id: str, what: object, attempt: int, now: int) -> Note:
    if what == "look":
        return ToLook(action_id)
    if what == "begin":
        return ToBegin(action_id, attempt, "u", now + 5_000)
    if what == "free":
        return ToFree(action_id, attempt)
    if what == "reopen":
        return ToReopen(action_id)
    if isinstance(what, tuple):
        return ToTold(action_id, what[1])
    assert isinstance(what, Outcome)
    return ToSettle(action_id, attempt, "u", what)


Opened = Callable[..., Ledger]
"""Opens the same ledger again for a channel and an owner; in a running event loop."""


def in_file(path: Path) -> Opened:
    return lambda channel="sms", owner="one": SqliteLedger(path, channel, owner)


def in_redis(server: RedisServer) -> Opened:
    name = f"t-{uuid.uuid4().hex[:8]}"
    return lambda channel="sms", owner="one", **more: RedisLedger(
        Redis.from_url(server.url), name, channel, owner, **more
    )


def new_ledger(kind: str, request: pytest.FixtureRequest) -> Opened:
    if kind == "redis":
        return in_redis(request.getfixturevalue("redis_server"))
    return in_file(request.getfixturevalue("tmp_path_factory").mktemp("ledger") / "ledger.db")


BOTH = pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest) -> Opened:
    return new_ledger(kind, request)


@BOTH
@given(some=st.lists(ONE_NOTE, max_size=30))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_notes_are_made_as_the_rules_say(kind: str, request: pytest.FixtureRequest, some: list[tuple]) -> None:
    opened = new_ledger(kind, request)
    known: dict[str, Entry] = {}

    async def check() -> None:
        ledgers = {owner: opened(owner=owner) for owner in "xy"}
        now = NOW
        for action_id, owner, what, attempt, passes in some:
            now += passes
            found = known.get(action_id)
            (noted,) = await ledgers[owner].note([note_of(action_id, what, attempt, now)], now)
            made = found if what == "look" else by_the_rules(found, owner, what, attempt, now)
            assert noted.is_taken == (made is not None or what == "look")
            assert noted.entry == (made if noted.is_taken else found)
            if made is not None:
                known[action_id] = made
        unsettled = await ledgers["x"].unsettled(10)
        left = {one: entry for one, entry in known.items() if entry.outcome is None}
        parked = {
            one: entry
            for one, entry in known.items()
            if entry.outcome is not None and entry.outcome.status == "unknown"
        }
        assert (unsettled.open, unsettled.unknown, dict(unsettled.oldest)) == (len(left), len(parked), left | parked)
        assert dict(await ledgers["x"].untold(10)) == {
            one: entry for one, entry in known.items() if entry.is_untold and entry.outcome is not None
        }
        for one in ledgers.values():
            await one.close()

    asyncio.run(check())


@BOTH
def test_an_outcome_that_comes_after_unknown_was_told_is_untold_until_its_receipt_is_noted(opened: Opened) -> None:
    async def check() -> None:
        slow, other, email = opened(owner="slow"), opened(owner="other"), opened("email")
        await slow.note([ToBegin("a", 1, "u", NOW), ToBegin("b", 1, "u", NOW)], NOW)
        await other.note([ToSettle(one, 1, "u", OUTCOMES[2]) for one in "ab"], NOW + 1)
        assert await other.untold(10) == [], "whoever notes it has its record, and tells it"
        late = [ToSettle("a", 1, "u", OUTCOMES[0]), ToSettle("b", 1, "u", OUTCOMES[1])]
        for _ in range(2):  # Nobody may know whether the first time counted.
            assert all(noted.is_taken for noted in await slow.note(late, NOW + 2))
        assert {one: entry.outcome for one, entry in await other.untold(10)} == {"a": OUTCOMES[0], "b": OUTCOMES[1]}
        assert (len(await other.untold(1)), await email.untold(10), (await other.unsettled(10))[:2]) == (1, [], (0, 0))
        wrong, told = await other.note([ToTold("a", OUTCOMES[1]), ToTold("b", OUTCOMES[1])], NOW + 3)
        assert (wrong.is_taken, told.is_taken) == (False, True)
        assert [one for one, _ in await slow.untold(10)] == ["a"]
        assert (await slow.note([ToLook("b")], NOW + 4))[0].entry == Entry(1, NOW, "u", "slow", NOW, OUTCOMES[1])
        for one in (slow, other, email):
            await one.close()

    asyncio.run(check())


@BOTH
def test_what_becomes_of_an_action_that_is_sent_again_by_hand_is_untold_too_as_no_record_is_read_for_it(
    opened: Opened,
) -> None:
    async def check() -> None:
        one = opened()
        await one.note([ToBegin("a", 1, "u", NOW)], NOW)
        for note in (ToSettle("a", 1, "u", OUTCOMES[2]), ToReopen("a"), ToBegin("a", 2, "u", NOW), ToFree("a", 2)):
            assert (await one.note([note], NOW))[0].is_taken
            assert await one.untold(10) == []
        for outcome in (OUTCOMES[2], OUTCOMES[0]):
            for note in (ToReopen("a"), ToBegin("a", 3, "u", NOW), ToSettle("a", 3, "u", outcome)):
                await one.note([note], NOW)
            ((action_id, entry),) = await one.untold(10)
            assert (action_id, entry.outcome) == ("a", outcome)
        await one.note([ToTold("a", OUTCOMES[0])], NOW)
        assert await one.untold(10) == []
        await one.close()

    asyncio.run(check())


@BOTH
def test_what_was_noted_is_there_after_the_process_has_gone(opened: Opened) -> None:
    async def check() -> None:
        first = opened(owner="one")
        await first.note([ToBegin("a", 1, "u", NOW + 1), ToSettle("b", 0, "u", OUTCOMES[1])], NOW)
        # Nothing is closed: as after a kill.
        other = opened(owner="two")
        found = await other.note([ToLook("a"), ToLook("b"), ToLook("c")], NOW)
        assert [one.entry for one in found] == [
            Entry(1, NOW, "u", "one", NOW + 1), Entry(0, NOW, "u", "one", 0, OUTCOMES[1]), None
        ]  # fmt: skip
        await first.close()
        await other.close()

    asyncio.run(check())


@BOTH
def test_of_two_processes_that_begin_the_same_attempt_at_once_one_is_refused(opened: Opened) -> None:
    async def check() -> None:
        ledgers = [opened(owner=str(number)) for number in range(4)]
        for number in range(20):
            begun = await asyncio.gather(
                *(one.note([ToBegin(f"a{number}", 1, "u", NOW + 1000)], NOW) for one in ledgers)
            )
            assert sum(noted.is_taken for (noted,) in begun) == 1
        for one in ledgers:
            await one.close()

    asyncio.run(check())


@BOTH
def test_an_action_is_found_by_what_its_provider_calls_it(opened: Opened) -> None:
    async def check() -> None:
        one, other = opened("sms"), opened("email")
        await one.note([ToSettle("b", 0, "u", OUTCOMES[0])], NOW)
        assert await one.find("p-1") == ("b", Entry(0, NOW, "u", "one", 0, OUTCOMES[0]))
        assert (await one.find("p-2"), await other.find("p-1")) == (None, None)
        await one.close()
        await other.close()

    asyncio.run(check())


@BOTH
def test_actions_that_their_provider_calls_the_same_have_an_outcome_each_and_one_of_them_is_found(
    opened: Opened,
) -> None:
    """A batch has one id at its provider."""

    async def check() -> None:
        one = opened("push")
        some = ["a", "b", "c"]
        noted = await one.note([ToSettle(name, 0, "u", OUTCOMES[0]) for name in some], NOW)
        assert [one.is_taken for one in noted] == [True] * 3
        found = await one.note([ToLook(name) for name in some], NOW)
        assert [one.entry.outcome for one in found if one.entry is not None] == [OUTCOMES[0]] * 3
        of_provider = await one.find("p-1")
        assert of_provider is not None
        assert of_provider[0] in some
        await one.close()

    asyncio.run(check())


@BOTH
def test_what_is_open_and_what_is_unknown_is_told_the_oldest_first_and_each_channel_by_itself(opened: Opened) -> None:
    async def check() -> None:
        one, other = opened("sms"), opened("email")
        for number in range(5):
            await one.note([ToBegin(f"a{number}", 1, "u", NOW)], NOW - number)
        await one.note([ToSettle("a3", 1, "u", OUTCOMES[2]), ToSettle("a4", 1, "u", OUTCOMES[0])], NOW)
        found = await one.unsettled(2)
        assert (found.open, found.unknown, [id for id, _ in found.oldest]) == (3, 1, ["a3", "a2"])
        assert await other.unsettled(2) == (0, 0, [])
        await one.note([ToReopen("a3"), ToReopen("a4")], NOW)
        assert (await one.unsettled(0))[:2] == (4, 0)
        await one.close()
        await other.close()

    asyncio.run(check())


def test_outcomes_are_forgotten_after_a_while_and_what_is_open_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.ledgers.sqlite.FORGOTTEN_TOGETHER", 2)

    async def check() -> None:
        one = SqliteLedger(tmp_path / "ledger.db", "sms", "one")
        await one.note([ToBegin("a", 1, "u", NOW), *(ToSettle(f"b{n}", 0, "u", OUTCOMES[0]) for n in range(5))], NOW)
        assert await one.forget(NOW) == 0
        assert await one.forget(NOW + 1) == 5
        assert [found.entry is None for found in await one.note([ToLook("a"), ToLook("b0")], NOW)] == [False, True]
        await one.close()

    asyncio.run(check())


@pytest.mark.redis
def test_redis_forgets_outcomes_after_30_days_by_itself_and_what_is_open_never(redis_server: RedisServer) -> None:
    async def check() -> None:
        client, name = Redis.from_url(redis_server.url), f"t-{uuid.uuid4().hex[:8]}"
        one = RedisLedger(client, name, "sms", "one")
        await one.note([ToBegin("a", 1, "u", NOW), ToSettle("b", 0, "u", OUTCOMES[2])], NOW)
        left_ms = [await client.pttl(f"{name}:{key}") for key in ("a:a", "a:b", "p:sms:p-1")]
        assert left_ms[0] == -1
        assert all(29.9 < ms / 86_400_000 <= 30 for ms in left_ms[1:])
        await client.delete(f"{name}:a:b")  # As Redis does then.
        assert (await one.unsettled(10))[:2] == (1, 1)
        assert await one.forget(NOW + 1) == 1
        assert (await one.unsettled(10))[:2] == (1, 0)
        await one.close()

    asyncio.run(check())


def test_a_version_that_knows_nothing_of_untold_outcomes_and_this_one_write_the_same_file_in_turn(
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / "old.db", isolation_level=None) as database:
        database.execute(
            "CREATE TABLE actions (action_id TEXT PRIMARY KEY, channel TEXT, attempt INTEGER, since_ms INTEGER,"
            " user_id TEXT, owner TEXT, lease_ms INTEGER, status TEXT, at_ms INTEGER, code TEXT, detail TEXT,"
            " provider_id TEXT, further TEXT) WITHOUT ROWID"
        )
        row = ("a", "sms", 1, NOW, "u", "one", NOW, "unknown", NOW, "C", "d", "p-1", "delivered")
        insert = f"INSERT OR REPLACE INTO actions VALUES ({', '.join('?' * len(row))})"
        database.execute(insert, row)
        database.execute("PRAGMA user_version=1")

    async def check() -> None:
        one, again = (SqliteLedger(tmp_path / "old.db", "sms", "one") for _ in range(2))
        assert (await one.note([ToLook("a")], NOW))[0].entry == Entry(1, NOW, "u", "one", NOW, OUTCOMES[2])
        await one.note([ToSettle("a", 1, "u", OUTCOMES[0]), ToBegin("b", 1, "u", NOW)], NOW)
        assert [id for id, _ in await again.untold(10)] == ["a"]
        database.execute(insert, ("c", *row[1:]))
        assert (await one.note([ToLook("c")], NOW))[0].entry == Entry(1, NOW, "u", "one", NOW, OUTCOMES[2])
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        await one.forget(NOW + 1)
        assert await again.untold(10) == []
        await one.close()
        await again.close()
        database.close()

    asyncio.run(check())


def test_what_is_no_ledger_and_a_newer_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be seen as none of its kind" * 100)
    with pytest.raises(StateRefused, match="cannot be opened as a ledger"):
        SqliteLedger(tmp_path / "text", "sms", "one")
    with sqlite3.connect(tmp_path / "newer.db") as database:
        database.execute(f"PRAGMA user_version={FORMAT + 1}")
    with pytest.raises(StateRefused, match="use a newer one"):
        SqliteLedger(tmp_path / "newer.db", "sms", "one")


def test_a_ledger_that_somebody_else_has_locked_is_away_and_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.ledgers.sqlite.PATIENCE_S", 0.01)

    async def check() -> None:
        one = SqliteLedger(tmp_path / "ledger.db", "sms", "one")
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerAway, match="locked"):
            await one.note([ToBegin("a", 1, "u", NOW)], NOW)
        other.execute("ROLLBACK")
        assert (await one.note([ToBegin("a", 1, "u", NOW)], NOW))[0].is_taken
        other.close()
        await one.close()

    asyncio.run(check())
