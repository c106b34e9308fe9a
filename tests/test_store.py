"""The shard store: what was committed is there, what was not is gone, and both backends agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.backend import Backend, Changes, MemoryBackend, MemoryChanges, OrderedBackend
from state.errors import StoreError
from state.rocks import RocksBackend
from state.store import ShardStore
from state.undo import UNDO_KEPT, AsOf, rows_before
from state.user import NEVER, PARKED, Branch, Journey, User


@pytest.fixture(params=["memory", "ordered", "rocks"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend
    if request.param == "rocks":
        made = RocksBackend(tmp_path / "db")
    else:
        made = OrderedBackend() if request.param == "ordered" else MemoryBackend()
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


def in_audiences(store: ShardStore, user_id: str, audiences: Iterable[str]) -> None:
    """Let *user_id* be in these audiences and no others."""
    slot = store.slot(user_id)
    slot.user.audiences = {audience: {"of": user_id} for audience in audiences}
    store.touch(user_id, slot, slot.due)


def test_members_come_in_code_point_order_from_any_user_on_and_of_one_audience_only(backend: Backend) -> None:
    store = ShardStore(backend)
    users = ["b", "a", "é", "a\x1f", "ab", "\U0001f600", "\uffff", "aa"]
    for user_id in users:
        in_audiences(store, user_id, ["vip", "vi", "vipp", "vip\x1f"])
    in_audiences(store, "other", ["vipp", "v", "ip"])
    assert list(store.members("vip")) == [], "nothing is written yet"
    store.spill()
    assert list(store.members("vip")) == sorted(users)
    store.commit()
    assert list(store.members("vip", "ab")) == [one for one in sorted(users) if one >= "ab"]
    assert list(store.members("v")) == ["other"]
    assert list(store.members("nobody")) == []


def test_the_rows_of_audiences_go_with_the_membership_and_come_back_with_the_undo(backend: Backend) -> None:
    store = ShardStore(backend)
    in_audiences(store, "a", ["vip", "new"])
    in_audiences(store, "b", ["vip"])
    store.commit()
    in_audiences(store, "a", ["new"])
    store.spill()
    in_audiences(store, "a", [])  # Nothing is left of the user, not even a row.
    in_audiences(store, "c", ["vip"])
    store.commit()
    assert (list(store.members("vip")), list(store.members("new"))) == (["b", "c"], [])
    store = ShardStore(backend)
    store.roll_back(1)
    assert (list(store.members("vip")), list(store.members("new"))) == (["a", "b"], ["a"])
    in_audiences(store, "a", ["vip"])
    store.commit()
    assert (list(store.members("vip")), list(store.members("new"))) == (["a", "b"], [])


def test_a_user_whose_audiences_stay_costs_no_row_of_them() -> None:
    written: list[dict[bytes, bytes | None]] = []

    class Backend(MemoryBackend):
        def write(self, changes: Changes, *, sync: bool) -> None:
            assert isinstance(changes, MemoryChanges)
            written.append(changes.rows)
            super().write(changes, sync=sync)

    store = ShardStore(Backend())
    in_audiences(store, "a", [f"audience-{number}" for number in range(100)])
    store.commit()
    waiting(store, "a", 7)
    store.commit()
    assert [key for key in written[-1] if key[:1] == b"a"] == []


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from("abcdé"), st.integers(0, 30)),
        st.tuples(st.just("fire"), st.integers(0, 30), st.none()),
        st.tuples(st.just("member"), st.sampled_from("abcdé"), st.frozensets(st.sampled_from(["x", "xa", "y"]))),
        st.tuples(st.just("commit"), st.none(), st.none()),
        st.tuples(st.just("spill"), st.none(), st.none()),
        st.tuples(st.just("crash"), st.integers(0, 2), st.none()),
        st.tuples(st.just("row"), st.sampled_from("xyz"), st.one_of(st.none(), st.binary(max_size=2))),
        st.tuples(st.just("count"), st.sampled_from("fg"), st.integers(1, 3)),
    ),
    max_size=40,
)


def other_rows(store: ShardStore, operation: str, first: object, second: object) -> None:
    """Let a row of any other kind change, or the counts of a flow, or the audiences of a user."""
    if operation == "member":
        assert isinstance(first, str)
        assert isinstance(second, frozenset)
        in_audiences(store, first, second)
    if operation == "row":
        assert isinstance(first, str)
        assert second is None or isinstance(second, bytes)
        store.put_row(b"o" + first.encode(), second)
    elif operation == "count":
        assert isinstance(first, str)
        assert isinstance(second, int)
        counts = store.totals.setdefault(first, {})
        counts["entered"] = counts.get("entered", 0) + second
        store.counted.add(first)


@given(OPERATIONS, st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_a_store_behaves_like_a_dict_with_snapshots_whatever_is_spilled_undone_or_evicted(
    operations: list[tuple[str, object, object]], cached: int
) -> None:
    backend = MemoryBackend()
    store = ShardStore(backend, cached_users=cached)
    model: dict[str, int] = {}
    others: dict[str, object] = {}
    counts: dict[str, int] = {}
    audiences: dict[str, object] = {}
    Kept = tuple[dict[str, int], dict[str, object], dict[str, int], dict[str, object]]
    committed: dict[int, Kept] = {0: ({}, {}, {}, {})}
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
            committed[store.commit()] = (dict(model), dict(others), dict(counts), dict(audiences))
        elif operation == "spill":
            store.spill()
        elif operation == "crash":
            assert isinstance(first, int)
            target = max(0, max(committed) - first)
            store = ShardStore(backend, cached_users=cached)
            store.roll_back(target)
            model, others, counts, audiences = (dict(one) for one in committed[target])  # type: ignore[assignment]
            committed = {number: kept for number, kept in committed.items() if number <= target}
        else:
            other_rows(store, operation, first, second)
            if operation == "row":
                others[str(first)] = second
            elif operation == "member":
                audiences[str(first)] = second
            else:
                counts[str(first)] = counts.get(str(first), 0) + int(str(second))
    assert drain(store, 10_000) == sorted((due, user) for user, due in model.items() if due < NEVER)
    store.commit()
    rows = {key[1:].decode(): row for key, row in backend.scan(b"o", b"p")}
    assert rows == {key: row for key, row in others.items() if row is not None}
    for audience in ("x", "xa", "y"):
        members = [user for user, found in sorted(audiences.items()) if audience in found]  # type: ignore[operator]
        assert list(store.members(audience)) == members
    assert ShardStore(backend).totals == {label: {"entered": number} for label, number in counts.items()}


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
        else:
            other_rows(store, operation, first, second)
    commit = max(0, store.commit_number - back)
    rows = dict(backend.rows)
    looked = AsOf(backend, commit)
    ranges = [
        (b"", b"\xff"),
        (b"a", b"b"),
        (b"c", b"d"),
        (b"m", b"n"),
        (b"o", b"p"),
        (b"t", b"u"),
        (b"u", b"v"),
        (b"ub", b"ud"),
        (b"z", b"{"),
    ]
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
    looked.spill()  # There is nothing to write.
    waiting(looked, "b", 7)
    with pytest.raises(AssertionError, match="changes nothing"):
        looked.spill()
    looked.close()
    writer.close()


def test_a_store_of_which_nothing_was_written_is_not_there_and_its_first_commit_makes_it(tmp_path: Path) -> None:
    store = ShardStore(RocksBackend(tmp_path / "db"), owner="o")
    store.roll_back(0)
    assert store.slot("a").user.is_blank
    assert store.next_due(100) is None
    assert store.commit() == 0
    store.close()
    assert not (tmp_path / "db").exists()
    store = ShardStore(RocksBackend(tmp_path / "db"), owner="o")
    waiting(store, "a", 7)
    assert store.commit() == 1
    store.close()
    again = ShardStore(RocksBackend(tmp_path / "db"), owner="o")
    assert (again.commit_number, again.next_due(100)) == (1, (7, "a", again.slot("a")))
    again.close()


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
        elif operation == "member":
            other_rows(store, operation, first, second)
        elif operation == "commit":
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


def test_what_a_commit_writes_for_counts_does_not_grow_with_the_number_of_flows() -> None:
    written: list[dict[bytes, bytes | None]] = []

    class Backend(MemoryBackend):
        def write(self, changes: Changes, *, sync: bool) -> None:
            assert isinstance(changes, MemoryChanges)
            written.append(changes.rows)
            super().write(changes, sync=sync)

    store = ShardStore(Backend())
    for number in range(1000):
        other_rows(store, "count", f"flow-{number}\x1f1", 1)
    store.commit()
    other_rows(store, "count", "flow-7\x1f1", 1)
    store.commit()
    rows = written[-1]
    assert sorted(key for key, row in rows.items() if row is not None and key[:1] != b"z") == [b"cflow-7\x1f1", b"m"]
    assert sum(len(row or b"") for row in rows.values()) < 300


@pytest.mark.parametrize("known", [[], ["u7", "u9"]])
def test_what_is_parked_is_found_at_the_resume_of_its_flow_and_nobody_else_is_looked_at(known: list[str]) -> None:
    """Nor does it matter who is in memory by then, as those are of whom something was read back."""
    backend = MemoryBackend()
    store = ShardStore(backend)
    for number in range(3000):
        waiting(store, f"u{number}", 10**6 + number)
    for user_id in ("u7", "u2999"):
        store.slot(user_id).user.journeys[0].branches[0].wake_ms = PARKED
        store.touch(user_id, store.slot(user_id), NEVER)
        store.park("f\x1f1", user_id)
    store.park("f\x1f1", "gone")  # Has left the flow meanwhile.
    store.park("other\x1f1", "u8")
    store.commit()

    def resume(user: User) -> None:
        looked_at.append(user)
        for journey in user.journeys:
            for branch in journey.branches:
                branch.wake_ms = min(branch.wake_ms, 500) if branch.wake_ms == PARKED else branch.wake_ms

    looked_at: list[User] = []
    store = ShardStore(backend)
    store.prefetch(known)
    store.meta.resumed = {"f\x1f1": 500}
    store.resume(store.meta.resumed, resume)
    assert drain(store, 499) == []
    assert len(looked_at) == len(known), "it is not due before the resume"
    assert sorted(drain(store, 500)) == [(500, "u2999"), (500, "u7")]
    assert len(looked_at) == len({*known, "u7", "u2999"})
    assert store.meta.resumed == {}
    store.commit()
    assert [key for key, _ in backend.scan(b"p", b"q")] == [b"pother\x1f1\x1fu8"]
    assert drain(ShardStore(backend), 10**6) == [(10**6, "u0")]
