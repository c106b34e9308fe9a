"""Emission: what a process that died had written is not written again, topic by topic."""

from __future__ import annotations

import json
from pathlib import Path

from connectors.file_sink import FileSink
from dataflow.emit import Emitter
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


def lines(folder: Path, topic: str) -> list[int]:
    return [json.loads(line)["seq"] for line in (folder / f"{topic}.jsonl").open()]


def opened(folder: Path) -> FileSink:
    sink = FileSink(folder)
    sink.open_topics(ALL)
    sink.cut_torn_lines(ALL)
    return sink


def test_of_two_topics_a_crash_may_have_lost_the_earlier_record_and_kept_the_later(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    before = Emitter(sink, TOPICS, "job")
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
    after = Emitter(sink, TOPICS, "job")
    after.read_back(starts)
    after.emit(out_of(3, 4, 5))
    after.confirm()
    assert lines(tmp_path, "actions.sms") == [1, 2, 3, 4, 5]
    assert lines(tmp_path, JOURNAL) == [1, 2, 3, 4, 5]
    assert after.skipped == 3


def test_what_a_broker_has_refused_is_written_again_though_it_took_what_came_after_it(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    before = Emitter(sink, TOPICS, "job", dead_shards={("events", 1): 0})
    before.confirm()
    starts = before.ends(0)
    before.emit(out_of(1, 2, 3))
    before.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    for topic, lost in (("actions.sms", 1), (JOURNAL, 0), (DEAD_LETTERS, 0)):
        file = tmp_path / f"{topic}.jsonl"
        kept = [line for number, line in enumerate(file.open("rb")) if number != lost]
        file.write_bytes(b"".join(kept))
    after = Emitter(opened(tmp_path), TOPICS, "job", dead_shards={("events", 1): 0})
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

    first = Emitter(opened(tmp_path), TOPICS, "job")
    first.confirm()
    starts = first.ends(0)
    first.emit_dead(dead(4, 9))
    first.confirm()
    second = Emitter(opened(tmp_path), TOPICS, "job")
    second.read_back(starts)
    second.emit_dead(dead(4, 9, 12))
    second.confirm()
    found = [json.loads(line)["offset"] for line in (tmp_path / f"{DEAD_LETTERS}.jsonl").open()]
    assert found == [4, 9, 12]


def test_a_crash_amid_a_replay_reads_back_once_more_what_has_not_come_again_yet(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job")
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1, 2, 3))
    first.emit_dead([DeadLetter("events", 1, offset, "not_json", "", b"?") for offset in (4, 9)])
    first.confirm()
    for _ in range(2):
        replay = Emitter(opened(tmp_path), TOPICS, "job", dead_shards={("events", 1): 0})
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
    first = Emitter(opened(tmp_path), TOPICS, "job")
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1))
    first.confirm()
    replay = Emitter(opened(tmp_path), TOPICS, "job", shards=2)
    replay.read_back(starts)
    replay.confirm()
    mine = shard_of("u", 2)
    assert replay.ends(mine) == starts
    assert replay.ends(1 - mine) != starts


def test_what_was_sent_before_the_checkpoint_holds_no_shard_back(tmp_path: Path) -> None:
    first = Emitter(opened(tmp_path), TOPICS, "job")
    first.confirm()
    starts = first.ends(0)
    first.emit(out_of(1, 2, 3))
    first.emit_dead([DeadLetter("events", 1, 9, "not_json", "", b"?")])
    first.confirm()
    replay = Emitter(opened(tmp_path), TOPICS, "job", dead_shards={("events", 1): 0}, positions={("events", 1): 10})
    replay.read_back(starts)
    assert replay.users_read_back(0) == {"u"}
    replay.in_the_books({"u": 2})
    replay.confirm()
    assert replay.ends(0) == starts, "the third record comes again"
    replay.in_the_books({"u": 3})
    assert replay.ends(0) != starts
