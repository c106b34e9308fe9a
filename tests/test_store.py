"""The shard store: what was committed is there, what was not is gone, and both backends agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.backend import Backend, MemoryBackend
from state.errors import StoreError
from state.rocks import RocksBackend
from state.store import ShardStore
from state.undo import UNDO_KEPT, AsOf, rows_before
from state.user import NEVER, Branch, Journey


@pytest.fixture(params=["memory", "rocks"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else RocksBackend(tmp_path / "db")
    yield made
    made.close()


def waiting(store: ShardStore, user_id: str, due: int) -> None:
    """Let *user_id* wait until *due*, or for nothing with NEVER."""
    slot = store.slot(user_id)
    slot.user.seq += 1
    slot.user.journeys = []
    if due < NEVER:
        branch = Branch(0, "steps.0", due, 0)
        slot.user.journeys = [Journey("f", 1, "j", None, 1, 0, {}, None, ("m", "e"), [branch], {}, {})]
    store.touch(user_id, slot, due)


def drain(store: ShardStore, limit: int) -> list[tuple[int, str]]:
    fired = []
    while (found := store.next_due(limit)) is not None:
        due, user_id, slot = found
        fired.append((due, user_id))
        slot.user.journeys = []
        store.touch(user_id, slot, NEVER)
    return fired


def test_timers_come_in_order_of_due_time_then_user_from_rows_and_memory_alike(backend: Backend) -> None:
    store = ShardStore(backend)
    waiting(store, "b", 50)
    waiting(store, "a", 50)
    waiting(store, "z", 10)
    store.commit()
    waiting(store, "c", 20)
    waiting(store, "b", 70)
    assert drain(store, 60) == [(10, "z"), (20, "c"), (50, "a")]
    assert drain(store, 60) == []
    store.commit()
    assert drain(ShardStore(backend), 100) == [(70, "b")]


def test_a_commit_without_changes_writes_nothing_and_keeps_its_number(backend: Backend) -> None:
    store = ShardStore(backend)
    waiting(store, "a", 1)
    assert store.commit() == 1
    assert store.commit() == 1


def test_what_was_not_committed_is_gone_also_what_was_spilled(backend: Backend) -> None:
    store = ShardStore(backend, cached_users=2, changed_users=2)
    waiting(store, "a", 5)
    store.commit()
    waiting(store, "a", 9)
    waiting(store, "b", 6)
    assert store.needs_spill
    store.spill()
    waiting(store, "a", 11)
    store.spill()
    again = ShardStore(backend)
    again.roll_back(1)
    assert again.slot("a").user.seq == 1
    assert again.slot("b").user.is_blank
    assert drain(again, 100) == [(5, "a")]


def test_the_undo_of_the_last_commits_is_kept_and_no_more(backend: Backend) -> None:
    store = ShardStore(backend)
    for due in range(1, 8):
        waiting(store, "a", due)
        store.commit()
    again = ShardStore(backend)
    again.roll_back(7 - UNDO_KEPT)
    assert drain(again, 100) == [(7 - UNDO_KEPT, "a")]
    with pytest.raises(StoreError, match="restore the whole state directory"):
        ShardStore(backend).roll_back(1)
    with pytest.raises(StoreError, match="is at commit"):
        ShardStore(backend).roll_back(8)


def test_a_user_of_whom_nothing_is_remembered_has_no_row(backend: Backend) -> None:
    store = ShardStore(backend)
    slot = store.slot("a")
    slot.user.profile["tier"] = "gold"
    store.touch("a", slot, NEVER)
    store.commit()
    assert [user_id for user_id, _ in store.scan_users()] == ["a"]
    del slot.user.profile["tier"]
    store.touch("a", slot, NEVER)
    store.commit()
    assert list(store.scan_users()) == []


def test_a_newer_format_is_refused(backend: Backend) -> None:
    store = ShardStore(backend)
    store.meta.format = 99
    waiting(store, "a", 1)
    store.commit()
    with pytest.raises(StoreError, match="format 99"):
        ShardStore(backend)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from("abcdé"), st.integers(0, 30)),
        st.tuples(st.just("fire"), st.integers(0, 30), st.none()),
        st.tuples(st.just("commit"), st.none(), st.none()),
        st.tuples(st.just("spill"), st.none(), st.none()),
        st.tuples(st.just("crash"), st.integers(0, 2), st.none()),
    ),
    max_size=40,
)


@given(OPERATIONS, st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_a_store_behaves_like_a_dict_with_snapshots_whatever_is_spilled_undone_or_evicted(
    operations: list[tuple[str, object, object]], cached: int
) -> None:
    backend = MemoryBackend()
    store = ShardStore(backend, cached_users=cached)
    model: dict[str, int] = {}
    committed: dict[int, dict[str, int]] = {0: {}}
    for operation, first, second in operations:
        if operation == "wait":
            assert isinstance(first, str)
            assert isinstance(second, int)
            waiting(store, first, second)
            model[first] = second
        elif operation == "fire":
            assert isinstance(first, int)
            expected = sorted((due, user) for user, due in model.items() if due <= first)
            assert drain(store, first) == expected
            model.update({user: NEVER for _, user in expected})
        elif operation == "commit":
            committed[store.commit()] = dict(model)
        elif operation == "spill":
            store.spill()
        else:
            assert isinstance(first, int)
            target = max(0, max(committed) - first)
            store = ShardStore(backend, cached_users=cached)
            store.roll_back(target)
            model = dict(committed[target])
            committed = {number: users for number, users in committed.items() if number <= target}
    assert drain(store, 10_000) == sorted((due, user) for user, due in model.items() if due < NEVER)


@given(OPERATIONS, st.integers(0, 6), st.integers(0, UNDO_KEPT))
@settings(max_examples=300, deadline=None)
def test_a_look_at_an_earlier_commit_shows_what_rolling_back_to_it_leaves(
    operations: list[tuple[str, object, object]], cached: int, back: int
) -> None:
    backend = MemoryBackend()
    store = ShardStore(backend, cached_users=cached)
    for operation, first, second in operations:
        if operation == "wait":
            assert isinstance(first, str)
            assert isinstance(second, int)
            waiting(store, first, second)
        elif operation == "fire":
            assert isinstance(first, int)
            drain(store, first)
        elif operation == "commit":
            store.commit()
        elif operation == "spill":
            store.spill()
    commit = max(0, store.commit_number - back)
    rows = dict(backend.rows)
    looked = AsOf(backend, commit)
    ranges = [(b"", b"\xff"), (b"m", b"n"), (b"t", b"u"), (b"u", b"v"), (b"ub", b"ud"), (b"z", b"{")]
    seen = [list(looked.scan(*one)) for one in ranges]
    assert backend.rows == rows, "who looks changes nothing"
    ShardStore(backend).roll_back(commit)
    assert seen == [list(backend.scan(*one)) for one in ranges]
    keys = sorted(set(rows) | set(backend.rows) | {b"unobody"})
    assert looked.get_many(keys) == backend.get_many(keys)
    assert rows_before(backend, commit) == {}


def test_an_earlier_commit_can_be_looked_at_while_a_writer_goes_on_and_no_file_is_touched(tmp_path: Path) -> None:
    writer = RocksBackend(tmp_path / "db")
    store = ShardStore(writer)
    for due in (1, 2, 3):
        waiting(store, "a", due)
        store.commit()
    waiting(store, "b", 7)
    store.spill()
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "db").iterdir()}
    reader = RocksBackend(tmp_path / "db", read_only=True)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "db").iterdir()} == files
    store.commit()
    for due in range(10, 20):
        waiting(store, "a", due)
        store.commit()
    looked = ShardStore(AsOf(reader, 2))
    assert [user_id for user_id, _ in looked.scan_users()] == ["a"]
    assert looked.next_due(100) == (2, "a", looked.slot("a"))
    assert (looked.commit_number, store.commit_number) == (2, 14)
    with pytest.raises(AssertionError, match="changes nothing"):
        looked.spill()
    looked.close()
    writer.close()


def test_what_rocksdb_cannot_open_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path / "none")):
        RocksBackend(tmp_path / "none", read_only=True)


@given(OPERATIONS, st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_the_open_journeys_are_counted_as_they_are_written(
    operations: list[tuple[str, object, object]], cached: int
) -> None:
    backend = MemoryBackend()
    store = ShardStore(backend, cached_users=cached)
    for operation, first, second in operations:
        if operation == "wait":
            assert isinstance(first, str)
            assert isinstance(second, int)
            waiting(store, first, second)
        elif operation == "fire":
            assert isinstance(first, int)
            drain(store, first)
        elif operation == "spill":
            store.spill()
        elif operation == "crash":
            assert isinstance(first, int)
            target = max(0, store.commit_number - first)
            store = ShardStore(backend, cached_users=cached)
            store.roll_back(target)
        else:
            store.commit()
            assert store.meta.inside == sum(len(user.journeys) for _, user in store.scan_users())
    store.commit()
    assert ShardStore(backend).meta.inside == sum(len(user.journeys) for _, user in store.scan_users())


def test_the_earliest_due_time_is_known_once_timers_were_looked_for(backend: Backend) -> None:
    store = ShardStore(backend)
    assert store.earliest_due is None
    waiting(store, "a", 50)
    waiting(store, "b", 70)
    assert store.next_due(10) is None
    assert store.earliest_due == 50
    store.commit()
    assert store.earliest_due == 50
    assert drain(store, 60) == [(50, "a")]
    assert store.earliest_due == 70
    assert drain(store, 80) == [(70, "b")]
    assert store.earliest_due == NEVER
