"""Emission: what a process that died had written is compared and not written again, topic by topic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.file_sink import FileSink
from connectors.sinks import Ends
from dataflow.delays import Delays
from dataflow.emit import Emitter
from dataflow.keep.differences import DifferenceFiles
from dataflow.keep.files import DiskFolder
from dataflow.readback import DecidedOtherwise
from operators.language.workspace import DEAD_LETTERS, JOURNAL
from operators.machine.outbox import Outbox
from state.outgoing import Action, Cause, DeadLetter, JournalRecord
from state.shards import shard_of

TOPICS = {"sms": "actions.sms"}
ALL = ["actions.sms", JOURNAL, DEAD_LETTERS]


def out_of(*seqs: int) -> Outbox:
    """Two records of one user per seq: an action and its journal record."""
    out = Outbox()
    for seq in seqs:
        at, cause = "2026-11-23T08:00:00.000Z", Cause("m", "e")
        out.actions.append(
            Action(f"a{seq}", "sms", "u", None, "f", 1, "j", "s", seq, "t", {}, "marketing", at, None, seq, cause)
        )
        out.journal.append(JournalRecord(at, "u", seq, "f", 1, "j", "sent"))
    return out


def records(folder: Path, topic: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{topic}.jsonl").open()]


def lines(folder: Path, topic: str) -> list[int]:
    return [record["seq"] for record in records(folder, topic)]


def opened(folder: Path) -> FileSink:
    sink = FileSink(folder)
    sink.open_topics(ALL)
    sink.cut_torn_lines(ALL)
    return sink


def files_of(folder: Path) -> DifferenceFiles:
    return DifferenceFiles(DiskFolder(folder))


def test_of_two_topics_a_crash_may_have_lost_the_earlier_record_and_kept_the_later(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    before = Emitter(sink, TOPICS, "job", files_of(tmp_path))
    before.emit(out_of(1, 2))
    before.confirm()
    starts = before.ends(0)
    before.emit(out_of(3, 4))
    before.confirm()
    # The crash: of what came after the checkpoint, the journal kept everything, the channel lost the last record.
    (tmp_path / "actions.sms.jsonl").write_bytes(
        b"".join((tmp_path / "actions.sms.jsonl").open("rb").readlines()[:3]) + b'{"torn'
    )
    sink = opened(tmp_path)
    delays = Delays(lambda: 1_795_435_200_000)
    after = Emitter(sink, TOPICS, "job", files_of(tmp_path), delays=delays)
    after.read_back(starts)
    after.emit(out_of(3, 4, 5))
    after.confirm()
    assert sum(delays.so_far().counts) == 2, "only those that are written now"
    assert lines(tmp_path, "actions.sms") == [1, 2, 3, 4, 5]
    assert lines(tmp_path, JOURNAL) == [1, 2, 3, 4, 5]
    assert after.skipped == 3


def test_what_a_broker_has_refused_is_written_again_though_it_took_what_came_after_it(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    before = Emitter(sink, TOPICS, "job", files_of(tmp_path), dead_shards={("events", 1): 0})
    before.confirm()
    starts = before.ends(0)
    before.emit(out_of(1, 2, 3))
    before.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    for topic, lost in (("actions.sms", 1), (JOURNAL, 0), (DEAD_LETTERS, 0)):
        file = tmp_path / f"{topic}.jsonl"
        kept = [line for number, line in enumerate(file.open("rb")) if number != lost]
        file.write_bytes(b"".join(kept))
    after = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path), dead_shards={("events", 1): 0})
    after.read_back(starts)
    after.emit(out_of(1, 2, 3, 4))
    after.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    after.confirm()
    assert sorted(lines(tmp_path, "actions.sms")) == sorted(lines(tmp_path, JOURNAL)) == [1, 2, 3, 4]
    assert sorted(json.loads(line)["offset"] for line in (tmp_path / f"{DEAD_LETTERS}.jsonl").open()) == [4, 9]
    assert after.ends(0) != starts, "nothing is left to come again"


def test_dead_letters_are_told_apart_by_their_place_in_the_source(tmp_path: Path) -> None:
    def dead(*offsets: int) -> list[DeadLetter]:
        return [DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in offsets]

    first = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    first.confirm()
    starts = first.ends(0)
    first.emit_dead(dead(4, 9))
    first.confirm()
    second = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    second.read_back(starts)
    second.emit_dead(dead(4, 9, 12))
    second.confirm()
    found = [json.loads(line)["offset"] for line in (tmp_path / f"{DEAD_LETTERS}.jsonl").open()]
    assert found == [4, 9, 12]


def test_a_crash_amid_a_replay_reads_back_once_more_what_has_not_come_again_yet(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1, 2, 3))
    first.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    first.confirm()
    for _ in range(2):
        replay = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path), dead_shards={("events", 1): 0})
        replay.read_back(starts)
        replay.emit(out_of(1, 2))
        replay.confirm()
        assert replay.ends(0) == starts, "a checkpoint here must not hide the third record from the next replay"
    replay.emit(out_of(3))
    replay.confirm()
    assert replay.ends(0) == starts, "nor the dead letters"
    replay.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    replay.confirm()
    assert replay.ends(0) != starts
    assert lines(tmp_path, "actions.sms") == lines(tmp_path, JOURNAL) == [1, 2, 3]


def test_only_the_shard_whose_users_are_to_come_again_looks_back(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1))
    first.confirm()
    replay = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path), shards=2)
    replay.read_back(starts)
    replay.confirm()
    mine = shard_of("u", 2)
    assert replay.ends(mine) == starts
    assert replay.ends(1 - mine) != starts


def test_what_was_sent_before_the_checkpoint_holds_no_shard_back(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1, 2, 3))
    first.emit_dead([DeadLetter("events", 1, 9, "not_json", "", b"?")])
    first.confirm()
    place = ("events", 1)
    replay = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path), dead_shards={place: 0}, positions={place: 10})
    replay.read_back(starts)
    assert replay.back.users_of(0) == {"u"}
    replay.back.in_the_books({"u": 2})
    replay.confirm()
    assert replay.ends(0) == starts, "the third record comes again"
    replay.back.in_the_books({"u": 3})
    assert replay.ends(0) != starts


# ---- two that decide differently -------------------------------------------------------------------------------------


def decided(*what: str, user_id: str = "u", first: int = 1) -> Outbox:
    """Journal records with the reasons *what*, numbered from *first*; for `send:x` also the action x."""
    out, at, cause = Outbox(), "2026-11-23T08:00:00.000Z", Cause("m", "e")
    for seq, reason in enumerate(what, first):
        out.journal.append(JournalRecord(at, user_id, seq, "f", 1, "j", "sent", reason=reason, detail={"n": 1e17}))
        if reason.startswith("send:"):
            action_id = f"{user_id}-{reason}"
            out.actions.append(
                Action(
                    action_id, "sms", user_id, None, "f", 1, "j", reason, 1, "t", {}, "marketing", at, None, seq, cause
                )
            )
    return out


def died_after(folder: Path, *outs: Outbox) -> Ends:
    """Let a process write *outs* and die; return the offsets to read back from."""
    emitter = Emitter(opened(folder), TOPICS, "job", files_of(folder))
    emitter.confirm()
    starts = emitter.ends(0)
    for out in outs:
        emitter.emit(out)
    emitter.confirm()
    return starts


def after_crash(folder: Path, starts: Ends, *, accepts: bool = False) -> Emitter:
    emitter = Emitter(opened(folder), TOPICS, "job", files_of(folder), accepts=accepts)
    emitter.read_back(starts)
    return emitter


def test_what_is_decided_otherwise_stops_the_job_before_anything_of_that_turn_is_written(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("send:A", "send:B"))
    with pytest.raises(DecidedOtherwise) as stopped:
        after_crash(tmp_path, starts).emit(decided("more", "send:A", "send:B"))
    assert lines(tmp_path, JOURNAL) == lines(tmp_path, "actions.sms") == [1, 2], "nothing was added"
    said = str(stopped.value)
    assert "topic actions.sms, seq 1: f v1 action at send:A was written, nothing is decided now (and 3 more)" in said
    assert "--accept-difference" in said
    noted = [json.loads(line) for line in (tmp_path / "differences.jsonl").open()]
    assert str(tmp_path / "differences.jsonl") in said
    assert (tmp_path / "differences.jsonl").stat().st_mode & 0o777 == 0o600
    assert [(one["topic"], one["number"], one["accepted"]) for one in noted] == [
        ("actions.sms", 1, False), ("actions.sms", 2, False), (JOURNAL, 1, False), (JOURNAL, 2, False)
    ]  # fmt: skip
    assert (noted[2]["read_back"]["reason"], noted[2]["decided"]["reason"]) == ("send:A", "more")


def test_a_job_that_is_started_again_and_again_notes_its_difference_once(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("a"))
    for _ in range(3):
        with pytest.raises(DecidedOtherwise):
            after_crash(tmp_path, starts).emit(decided("b"))
    assert len((tmp_path / "differences.jsonl").read_text().splitlines()) == 1


def test_a_message_has_nothing_of_the_user(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("a", user_id="ann@example.org"))
    with pytest.raises(DecidedOtherwise) as stopped:
        after_crash(tmp_path, starts).emit(decided("b", user_id="ann@example.org"))
    assert "ann" not in str(stopped.value).replace(str(tmp_path), "")


def test_what_the_same_user_got_past_is_a_difference_and_what_has_not_come_yet_is_none(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("a", "send:B", "c"))
    journal = tmp_path / f"{JOURNAL}.jsonl"
    journal.write_bytes(b"".join(journal.open("rb").readlines()[:1]))  # Of the rest only the action arrived.
    emitter = after_crash(tmp_path, starts)
    emitter.emit(decided("a"))
    with pytest.raises(
        DecidedOtherwise, match=r"topic actions\.sms, seq 2: f v1 action at send:B was written, nothing"
    ):
        emitter.emit(decided("b", "c", first=2))


@pytest.mark.parametrize(
    ("written", "is_same"),
    [
        ('"n":100000000000000000.0', True),
        ('"n":1e+17', True),
        ('"n":1.0000000000000002e17', False),
    ],
)
def test_values_are_compared_and_not_how_a_version_writes_them(tmp_path: Path, written: str, is_same: bool) -> None:
    starts = died_after(tmp_path, decided("a"))
    file = tmp_path / f"{JOURNAL}.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"n":1e17', written).replace(',"flow"', ', "flow"'))
    assert file.read_text() != text
    emitter = after_crash(tmp_path, starts)
    if is_same:
        emitter.emit(decided("a"))
        assert emitter.skipped == 1
    else:
        with pytest.raises(DecidedOtherwise):
            emitter.emit(decided("a"))


def test_a_mistake_of_ours_may_have_another_detail(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("error"))
    file = tmp_path / f"{JOURNAL}.jsonl"
    file.write_text(file.read_text().replace('"n":1e17', '"error":"KeyError"'))
    emitter = after_crash(tmp_path, starts)
    emitter.emit(decided("error"))
    assert emitter.skipped == 1


def test_dead_letters_are_compared_too(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job", files_of(tmp_path))
    first.confirm()
    starts = first.ends(0)
    first.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    first.confirm()
    for otherwise in (
        DeadLetter("events", 1, 4, "no_user", "", b"?"),
        DeadLetter("events", 1, 9, "not_json", "", b"?"),
    ):
        with pytest.raises(DecidedOtherwise, match="topic dead-letters, offset 4: not_json of events-1 was written"):
            after_crash(tmp_path, starts).emit_dead([otherwise])
    accepting = after_crash(tmp_path, starts, accepts=True)
    accepting.emit_dead([DeadLetter("events", 1, offset, "no_user", "", b"?") for offset in (4, 9, 12)])
    accepting.confirm()
    assert [record["offset"] for record in records(tmp_path, DEAD_LETTERS)] == [4, 9, 12]
    assert accepting.back.accepted == 2


# ---- differences that are accepted -----------------------------------------------------------------------------------


def test_a_user_goes_on_above_what_was_read_back_and_no_action_comes_twice(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("first", "send:A", "send:B"))
    emitter = after_crash(tmp_path, starts, accepts=True)
    assert emitter.emit(decided("first", "more", "send:A", "send:B", "send:C")) == {"u": 5}
    emitter.confirm()
    assert [(one["seq"], one["reason"]) for one in records(tmp_path, JOURNAL)] == [
        (1, "first"), (2, "send:A"), (3, "send:B"), (4, "more"), (5, "send:C")
    ]  # fmt: skip
    assert [(one["seq"], one["step"]) for one in records(tmp_path, "actions.sms")] == [
        (2, "send:A"), (3, "send:B"), (5, "send:C")
    ]  # fmt: skip
    assert emitter.back.accepted == 1
    assert emitter.ends(0) != starts, "nothing of this user has to come again"


def test_what_comes_later_is_numbered_on(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("send:A"), decided("send:B", "c", first=2))
    emitter = after_crash(tmp_path, starts, accepts=True)
    assert emitter.emit(decided("more", "send:A")) == {"u": 4}
    assert emitter.emit(decided("send:B", "d", first=5)) == {"u": 5}, "what was found has no number of its own"
    emitter.confirm()
    assert [(one["seq"], one["reason"]) for one in records(tmp_path, JOURNAL)] == [
        (1, "send:A"), (2, "send:B"), (3, "c"), (4, "more"), (5, "d")
    ]  # fmt: skip
    assert lines(tmp_path, "actions.sms") == [1, 2]


@pytest.mark.parametrize("journal_kept", range(4))
@pytest.mark.parametrize("actions_kept", range(2))
def test_killed_while_a_difference_is_accepted_it_comes_to_the_same(
    tmp_path: Path, journal_kept: int, actions_kept: int
) -> None:
    """However much of what the accepting process wrote has arrived, in whichever topic."""
    starts = died_after(tmp_path, decided("send:A", "send:B"))
    now = ("more", "send:A", "send:B", "send:C", "e")
    emitter = after_crash(tmp_path, starts, accepts=True)
    emitter.emit(decided(*now))
    emitter.confirm()
    for topic, kept in ((JOURNAL, journal_kept), ("actions.sms", actions_kept)):
        file = tmp_path / f"{topic}.jsonl"
        file.write_bytes(b"".join(file.open("rb").readlines()[: 2 + kept]))
    emitter = after_crash(tmp_path, starts, accepts=True)
    last = emitter.emit(decided(*now))["u"]
    emitter.confirm()
    journal = {one["seq"]: one["reason"] for one in records(tmp_path, JOURNAL)}
    assert len(lines(tmp_path, JOURNAL)) == len(journal) == 5
    assert max(journal) == last
    assert sorted(journal.values()) == ["e", "more", "send:A", "send:B", "send:C"]
    actions = records(tmp_path, "actions.sms")
    assert [one["action_id"] for one in actions] == ["u-send:A", "u-send:B", "u-send:C"]
    assert all(journal[one["seq"]] == one["step"] for one in actions)


def test_an_action_that_was_accepted_is_not_sent_again_by_a_later_process(tmp_path: Path) -> None:
    """Other rules of time zones: what was sent at ten is decided for eleven, and the job is started again between."""
    starts = died_after(tmp_path, decided("send:A"))
    accepting = after_crash(tmp_path, starts, accepts=True)
    accepting.emit(decided("waiting"))
    accepting.confirm()
    later = after_crash(tmp_path, accepting.ends(0))
    later.emit(decided("send:A", "send:B", first=3))
    later.confirm()
    assert [one["action_id"] for one in records(tmp_path, "actions.sms")] == ["u-send:A", "u-send:B"]


def test_others_are_not_touched_by_a_difference(tmp_path: Path) -> None:
    starts = died_after(tmp_path, decided("send:A"), decided("send:A", "b", user_id="v"))
    emitter = after_crash(tmp_path, starts, accepts=True)
    both = decided("other")
    same = decided("send:A", "b", "c", user_id="v")
    both.actions += same.actions
    both.journal += same.journal
    assert emitter.emit(both) == {"u": 2}
    emitter.confirm()
    assert [(one["user_id"], one["seq"]) for one in records(tmp_path, JOURNAL)] == [
        ("u", 1), ("v", 1), ("v", 2), ("u", 2), ("v", 3)
    ]  # fmt: skip
