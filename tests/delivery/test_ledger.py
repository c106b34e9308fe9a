"""The ledger on disk does what the rules say, and what it has said is there after a crash."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.ledgers.base import LedgerAway, Note, ToBegin, ToFree, ToLook, ToSettle
from connectors.ledgers.sqlite import FORMAT, SqliteLedger
from state import ledger
from state.delivery import Entry, Outcome
from state.errors import StateRefused

NOW = 1_800_000_000_000
OUTCOMES = [Outcome(status, NOW, "C", "d", "p-1", "delivered") for status in ("accepted", "rejected", "unknown")]
ONE_NOTE = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["look", "begin", "free", *OUTCOMES]),
    st.integers(0, 3),
    st.sampled_from([0, 1000, 100_000]),
)


def by_the_rules(found: Entry | None, owner: str, what: object, attempt: int, now: int) -> Entry | None:
    if what == "begin":
        return ledger.begin(found, attempt, "u", owner, now + 5_000, now)
    if what == "free":
        return ledger.free(found, attempt, owner)
    assert isinstance(what, Outcome)
    return ledger.settle(found, attempt, "u", owner, what, now)


def note_of(action_id: str, what: object, attempt: int, now: int) -> Note:
    if what == "look":
        return ToLook(action_id)
    if what == "begin":
        return ToBegin(action_id, attempt, "u", now + 5_000)
    if what == "free":
        return ToFree(action_id, attempt)
    assert isinstance(what, Outcome)
    return ToSettle(action_id, attempt, "u", what)


@given(st.lists(ONE_NOTE, max_size=30))
@settings(max_examples=100, deadline=None)
def test_notes_are_made_as_the_rules_say(tmp_path_factory: pytest.TempPathFactory, some: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    known: dict[str, Entry] = {}

    async def check() -> None:
        ledgers = {owner: SqliteLedger(path, "sms", owner) for owner in "xy"}
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
        for one in ledgers.values():
            await one.close()

    asyncio.run(check())


def test_what_was_noted_is_there_after_the_process_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    async def check() -> None:
        first = SqliteLedger(path, "sms", "one")
        await first.note([ToBegin("a", 1, "u", NOW + 1), ToSettle("b", 0, "u", OUTCOMES[1])], NOW)
        # Nothing is closed: as after a kill.
        other = SqliteLedger(path, "sms", "two")
        found = await other.note([ToLook("a"), ToLook("b"), ToLook("c")], NOW)
        assert [one.entry for one in found] == [
            Entry(1, NOW, "u", "one", NOW + 1), Entry(0, NOW, "u", "one", 0, OUTCOMES[1]), None
        ]  # fmt: skip
        await first.close()
        await other.close()

    asyncio.run(check())


def test_an_action_is_found_by_what_its_provider_calls_it(tmp_path: Path) -> None:
    async def check() -> None:
        one = SqliteLedger(tmp_path / "ledger.db", "sms", "one")
        other = SqliteLedger(tmp_path / "ledger.db", "email", "one")
        await one.note([ToSettle("b", 0, "u", OUTCOMES[0])], NOW)
        assert await one.find("p-1") == ("b", Entry(0, NOW, "u", "one", 0, OUTCOMES[0]))
        assert (await one.find("p-2"), await other.find("p-1")) == (None, None)
        await one.close()
        await other.close()

    asyncio.run(check())


def test_outcomes_are_forgotten_after_a_while_and_what_is_open_is_not(tmp_path: Path) -> None:
    async def check() -> None:
        one = SqliteLedger(tmp_path / "ledger.db", "sms", "one")
        await one.note([ToBegin("a", 1, "u", NOW), ToSettle("b", 0, "u", OUTCOMES[0])], NOW)
        assert await one.forget(NOW) == 0
        assert await one.forget(NOW + 1) == 1
        assert [found.entry is None for found in await one.note([ToLook("a"), ToLook("b")], NOW)] == [False, True]
        await one.close()

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
