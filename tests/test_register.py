"""The register gives as many places as there are, has one winner, and answers the same again, whatever crashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from operators.steps.experiment import best_of
from state.errors import NewerFormatError, StateRefused, StoreError
from state.register import ArmCounts
from state.registerfile import RegisterFile, ShardRegister, in_memory, look_at_register, open_register
from state.undo import UNDO_KEPT

MOST = 5
SHARDS = 3
ARMS = ("a", "b")

PROCESSES = st.integers(0, 1)
USERS = st.integers(0, 7)


def shard_of(user: int) -> int:
    return user % SHARDS


class _Process:
    """A process with its shards, as far as they ask: each shard may be asked in one process at a time."""

    def __init__(self, file: RegisterFile, commits: dict[int, int]) -> None:
        self.file = file
        self.commits = commits

    def of(self, user: int) -> ShardRegister:
        shard = shard_of(user)
        return self.file.of_shard(shard, lambda: self.commits[shard] + 1)


class Job(RuleBasedStateMachine):
    """Two processes ask, confirm, commit and die; a replay asks again what was asked since one of the last commits.

    A user's numbers go up with each ask, and back with a replay. What an answer was must be so again; except for what
    was never confirmed, when the machine loses its power.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = b""
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.commits = dict.fromkeys(range(SHARDS), 0)
        self.earliest = dict.fromkeys(range(SHARDS), 0)  # What a shard can still go back to.
        self.seqs = dict.fromkeys(range(8), 0)
        self.told: dict[tuple[str, int, int], object] = {}
        self.asked: list[tuple[int, str, int, int]] = []  # Commit of its shard, question, user, seq.
        self.again: dict[tuple[int, int], str] = {}  # What a replay asks next, by user and seq.
        self.decisions: list[Mapping[str, ArmCounts]] = []
        self.converted: set[int] = set()
        self.open()

    def open(self) -> None:
        RegisterFile(self.database, "job").keep(self.commits)
        self.processes = [_Process(RegisterFile(self.database, "job"), self.commits) for _ in range(2)]

    def process_of(self, user: int) -> _Process:
        return self.processes[shard_of(user) % 2]

    @initialize()
    def begin(self) -> None:
        self.confirm(0)

    def decide(self, counts: Mapping[str, ArmCounts]) -> str:
        self.decisions.append(counts)
        return best_of(ARMS, counts)

    @rule(user=USERS, question=st.sampled_from(["enter", "look", "join"]))
    def ask(self, user: int, question: str) -> None:
        seq = self.seqs[user]
        # In a replay a user's records are the same.
        question = self.again.pop((user, seq), question)
        register = self.process_of(user).of(user)
        answer: object
        if question == "enter":
            answer = register.enter("flow", f"u{user}", seq, MOST)
        elif question == "look":
            answer = register.look("flow", f"u{user}", seq, MOST)
        else:
            answer = register.join("flow\x1fx", f"u{user}", seq, ARMS[user % 2], MOST, self.decide)
        key = (question, user, seq)
        assert self.told.setdefault(key, answer) == answer
        self.asked.append((self.commits[shard_of(user)] + 1, question, user, seq))
        self.seqs[user] += 1

    @rule(user=USERS)
    def convert(self, user: int) -> None:
        if ("join", user) in {key[:2] for key in self.told}:
            self.process_of(user).of(user).convert("flow\x1fx", f"u{user}")
            self.converted.add(user)

    @rule(process=PROCESSES)
    def confirm(self, process: int) -> None:
        self.processes[process].file.confirm()
        self.disk = self.database.serialize()
        self.confirmed = dict(self.told)

    @rule(shard=st.integers(0, SHARDS - 1), times=st.sampled_from([1, 1, UNDO_KEPT + 2]))
    def commit(self, shard: int, times: int) -> None:
        for _ in range(times):
            self.confirm(shard % 2)
            self.commits[shard] += 1
            self.earliest[shard] = max(self.earliest[shard], self.commits[shard] - UNDO_KEPT)
            self.processes[shard % 2].file.forget({shard: self.commits[shard]})

    @rule(back=st.lists(st.integers(0, UNDO_KEPT), min_size=SHARDS, max_size=SHARDS))
    def die(self, back: list[int]) -> None:
        """All processes are killed, and shards go back to one of their last commits."""
        self.roll_back(back)

    @rule(back=st.lists(st.integers(0, UNDO_KEPT), min_size=SHARDS, max_size=SHARDS))
    @precondition(lambda self: self.disk)
    def lose_power(self, back: list[int]) -> None:
        self.database.close()
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.deserialize(self.disk)
        self.told = dict(self.confirmed)
        self.roll_back(back)

    def roll_back(self, back: list[int]) -> None:
        for shard in range(SHARDS):
            self.commits[shard] = max(self.earliest[shard], self.commits[shard] - back[shard])
        kept = []
        for number, question, user, seq in self.asked:
            if number > self.commits[shard_of(user)]:
                self.again[user, seq] = question
                self.seqs[user] = min(self.seqs[user], seq)
            else:
                kept.append((number, question, user, seq))
        self.asked = kept
        self.open()

    @invariant()
    def as_many_are_in_as_there_are_places(self) -> None:
        for question in ("enter", "join"):
            askers = {key[1:] for key in self.told if key[0] == question}
            given = {key[1:] for key in askers_told(self.told, question)}
            if question == "join":
                askers, given = {one[:1] for one in askers}, {one[:1] for one in given}
            assert len(given) == min(MOST, len(askers)) or (question == "join" and len(given) < MOST)

    @invariant()
    def no_place_is_taken_that_nobody_has(self) -> None:
        known = self.processes[0].file.questions().get("flow")
        given = askers_told(self.told, "enter")
        assert len(given) == (0 if known is None else known.taken)

    @invariant()
    def one_has_won_and_only_once_all_are_in(self) -> None:
        winners = {answer for (question, *_), answer in self.told.items() if question == "join" and answer}
        assert len(winners) <= 1
        if winners:
            assert len({key[1] for key in askers_told(self.told, "join")}) == MOST
            assert sum(one.entered for one in self.decisions[-1].values()) == MOST


def askers_told(told: Mapping[tuple[str, int, int], object], question: str) -> list[tuple[str, int, int]]:
    """Return those to whom yes was said."""
    return [key for key, answer in told.items() if key[0] == question and answer is None]


TestJob = Job.TestCase
TestJob.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


# ---- how long answers are kept -------------------------------------------------------------------------------------


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def reopened(database: sqlite3.Connection, next_commit: int) -> tuple[RegisterFile, ShardRegister]:
    file = RegisterFile(database, "job")
    return file, file.of_shard(0, lambda: next_commit)


def test_a_yes_is_kept_as_long_as_its_commit_can_be_undone() -> None:
    database = memory()
    file, shard = reopened(database, 1)
    assert shard.enter("f", "u", 0, 1) is None
    for commit in range(1, UNDO_KEPT + 1):
        file.forget({0: commit})
        file, shard = reopened(database, commit + 1)
        assert shard.enter("other", f"v{commit}", 0, 9) is None
        assert file.was_told("f", "u", 0)
    file.forget({0: UNDO_KEPT + 1})
    assert not reopened(database, UNDO_KEPT + 2)[0].was_told("f", "u", 0)


def test_a_yes_of_a_commit_that_was_undone_is_kept_however_many_commits_the_replay_takes_to_come_there() -> None:
    """The replay may die on its way, and the next one has to know, too."""
    database = memory()
    reopened(database, 3)[1].enter("f", "u", 0, 9)
    RegisterFile(database, "job").keep({0: 2})
    file, _ = reopened(database, 3)
    for commit in range(3, 3 + 3 * UNDO_KEPT):
        file.forget({0: commit})
    RegisterFile(database, "job").keep({0: 3 * UNDO_KEPT})
    file, shard = reopened(database, 50)
    assert shard.enter("f", "u", 0, 9) is None
    assert file.questions()["f"].taken == 1
    file.forget({0: 50 + UNDO_KEPT})
    assert database.execute("SELECT COUNT(*) FROM notes").fetchone() == (0,), (
        "once it was asked for, it is as any other"
    )


def test_a_yes_that_is_said_again_is_kept_with_the_commit_that_it_belongs_to_now() -> None:
    database = memory()
    reopened(database, 1)[1].enter("f", "u", 0, 1)
    file, shard = reopened(database, 3)
    assert shard.enter("f", "u", 0, 1) is None
    file.forget({0: UNDO_KEPT + 2})
    assert reopened(database, 4)[1].enter("f", "u", 0, 1) is None


def test_what_is_full_is_not_looked_up_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    file, shard = reopened(memory(), 1)
    for user in ("u1", "u2"):
        shard.enter("f", user, 0, 1)
        shard.join("f\x1fx", user, 0, "a", 1, lambda _: "a")
    confirmed = file.confirm()
    monkeypatch.setattr(RegisterFile, "_change", None)
    assert shard.enter("f", "u3", 0, 1) == 1
    assert shard.look("f", "u4", 0, 1) == 1
    assert shard.join("f\x1fx", "u3", 0, "b", 1, lambda _: "b") == "a"
    shard.convert("f\x1fx", "u1")
    assert file.confirm() == confirmed


def test_more_places_are_given_when_a_later_version_has_more() -> None:
    shard = in_memory()
    assert [shard.enter("f", f"u{n}", 0, 1) for n in range(2)] == [None, 1]
    assert [shard.enter("f", f"u{n}", 1, 2) for n in range(2)] == [None, 2]
    assert shard.enter("f", "u9", 0, 1) == 2


def test_a_flow_that_gets_a_limit_counts_from_the_entries_that_it_has() -> None:
    database = memory()
    file, shard = reopened(database, 1)
    file.count_from({"f": 3})
    assert shard.enter("f", "u1", 0, 4) is None
    file.count_from({"f": 2})  # Fewer than is known: places that nobody used, after a crash.
    assert reopened(database, 1)[1].enter("f", "u2", 0, 4) == 4


# ---- who wins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "best"),
    [
        ({}, "a"),
        ({"a": (10, 0), "b": (10, 0), "c": (10, 0)}, "a"),
        ({"a": (10, 2), "b": (10, 3)}, "b"),
        ({"a": (10, 2), "b": (5, 1)}, "a"),
        ({"c": (1, 1), "b": (1, 1)}, "b"),
        ({"b": (3, 1), "c": (300_000, 100_001)}, "c"),
        ({"a": (0, 0), "gone": (1, 1)}, "a"),
    ],
)
def test_the_best_arm_has_the_highest_share_of_converted_users(counts: dict[str, tuple[int, int]], best: str) -> None:
    assert best_of(("a", "b", "c"), {arm: ArmCounts(*of) for arm, of in counts.items()}) == best


def test_a_user_counts_once_however_often_they_pass_and_convert() -> None:
    shard, seen = in_memory(), []

    def decide(counts: Mapping[str, ArmCounts]) -> str:
        seen.append(dict(counts))
        return "b"

    for seq in range(5):
        assert shard.join("f\x1fx", "u1", seq, "a", 2, decide) is None
    assert shard.join("f\x1fx", "u2", 0, "b", 2, decide) is None
    for _ in range(2):
        shard.convert("f\x1fx", "u1")
        shard.convert("f\x1fx", "nobody")
    assert shard.join("f\x1fx", "u1", 9, "a", 2, decide) == "b"
    assert seen == [{"a": (1, 1), "b": (1, 0)}]


# ---- the file ------------------------------------------------------------------------------------------------------


def test_two_processes_share_the_places(tmp_path: Path) -> None:
    files = [open_register(tmp_path / "register.sqlite3", "job") for _ in range(2)]
    shards = [file.of_shard(number, lambda: 1) for number, file in enumerate(files)]
    answers = [shards[n % 2].enter("f", f"u{n}", 0, 7) for n in range(20)]
    assert answers == [None] * 7 + [7] * 13
    assert files[0].confirm() == 1
    assert files[1].confirm() == 2
    for file in files:
        file.close()
    assert (tmp_path / "register.sqlite3").stat().st_mode & 0o077 == 0


def test_what_was_said_outlives_a_process_that_closes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "register.sqlite3"
    dead = open_register(path, "job")
    assert dead.of_shard(0, lambda: 1).enter("f", "u", 0, 1) is None
    shard = open_register(path, "job").of_shard(0, lambda: 1)
    assert shard.enter("f", "v", 0, 1) == 1
    assert shard.enter("f", "u", 0, 1) is None


def test_who_looks_at_it_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "register.sqlite3"
    assert look_at_register(path) is None
    file = open_register(path, "job")
    shard = file.of_shard(0, lambda: 1)
    shard.enter("f", "u", 0, 1)
    shard.join("f\x1fx", "u", 1, "a", 1, lambda _: "a")
    shard.convert("f\x1fx", "u")
    file.confirm()
    beside = look_at_register(path)
    file.close()
    before = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    view = look_at_register(path)
    assert view == beside
    assert view is not None
    assert (view.job, view.confirmed) == ("job", 1)
    assert view.questions["f"].taken == 1
    assert view.members == {"f\x1fx": {"a": ArmCounts(1, 1)}}
    assert {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == before


def test_a_register_of_another_job_a_newer_one_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "register.sqlite3"
    open_register(path, "job").close()
    with pytest.raises(StateRefused, match="belongs to job job, not to other"):
        open_register(path, "other")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE about SET format = 99")
    database.close()
    with pytest.raises(NewerFormatError, match="has format 99"):
        open_register(path, "job")
    with pytest.raises(NewerFormatError, match="has format 99"):
        look_at_register(path)
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(StateRefused, match="is damaged"):
        open_register(path, "job")
    with pytest.raises(StateRefused, match="is damaged"):
        look_at_register(path)


def test_after_something_went_wrong_nothing_is_confirmed(tmp_path: Path) -> None:
    """Users' steps contain errors; what they made of this one must not go out."""
    path = tmp_path / "register.sqlite3"
    file = open_register(path, "job")
    shard = file.of_shard(0, lambda: 1)
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE notes")
    database.close()
    with pytest.raises(StoreError, match=r"cannot write .*register\.sqlite3"):
        shard.enter("f", "u", 0, 1)
    with pytest.raises(StoreError, match=r"cannot write .*register\.sqlite3"):
        file.confirm()
