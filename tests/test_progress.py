"""The progress log: a replay sees the same times, and the log does not grow."""

from __future__ import annotations

from pathlib import Path

from connectors.native import NativeDecoder
from connectors.sources import Batch
from dataflow.files import DiskFolder
from dataflow.intake import Intake
from dataflow.progress import ProgressLog, read_progress
from operators.match import MatchIndex
from state.records import Input


def test_what_was_noted_is_read_back_and_a_torn_line_is_not(tmp_path: Path) -> None:
    log = ProgressLog(DiskFolder(tmp_path), "events-0", 0)
    log.note(10, 1000)
    log.roll(10)
    log.note(20, 2000)
    log.close()
    newest = max(tmp_path.iterdir(), key=lambda path: int(path.suffix[1:]))
    with newest.open("ab") as file:
        file.write(b"30 30")
    assert read_progress(DiskFolder(tmp_path), "events-0") == [(10, 1000), (20, 2000)]
    assert read_progress(DiskFolder(tmp_path), "events-1") == []


def test_a_partition_that_stands_still_keeps_a_handful_of_segments(tmp_path: Path) -> None:
    log = ProgressLog(DiskFolder(tmp_path), "events[0]/x", 5)
    for epoch in range(50):
        log.note(5, epoch)
        log.roll(5)
    log.close()
    assert len(list(tmp_path.iterdir())) <= 6
    assert (5, 49) in read_progress(DiskFolder(tmp_path), "events[0]/x")


def test_what_a_dead_run_noted_ahead_of_the_replay_stays_until_the_replay_is_past_it(tmp_path: Path) -> None:
    dead = ProgressLog(DiskFolder(tmp_path), "p", 0)
    dead.note(100, 7777)
    dead.close()
    log = ProgressLog(DiskFolder(tmp_path), "p", 0)
    for position in range(10, 60, 10):
        log.note(position, position)
        log.roll(position)
    assert (100, 7777) in read_progress(DiskFolder(tmp_path), "p")
    for position in range(110, 160, 10):
        log.note(position, 8000)
        log.roll(position)
    assert (100, 7777) not in read_progress(DiskFolder(tmp_path), "p")


def intake(raises: list[tuple[int, int]], stream_ms: int = -1) -> Intake:
    index = MatchIndex([("hello", None)])
    decoder = NativeDecoder(index.events)
    return Intake(index, decoder, topic="t", partition=0, source=0, shards=1, stream_ms=stream_ms, raises=raises)


def taken(one: Intake, offsets: range, arrived_ms: list[int]) -> list[tuple[int, int]]:
    found: dict[int, list[Input]] = {}
    values = [b'{"user_id": "u", "event": "hello"}' for _ in offsets]
    one.take(Batch(values, arrived_ms, offsets), found)
    return [(record.offset, record.now) for record in found.get(0, [])]


def test_a_stamp_beyond_the_year_9999_counts_as_its_end() -> None:
    last = 253_402_300_799_999
    for raises in ([], [(0, 5)]):
        found = taken(intake(raises), range(4), [100, 9_000_000_000_000_000_000, last + 1, 200])
        assert [now for _, now in found] == [100, last, last, last]


def test_time_is_raised_at_the_same_offsets_as_before_the_crash() -> None:
    first = intake([])
    before = taken(first, range(3), [100, 110, 120])
    first.stream_ms = 500  # The wall clock, at the end of the partition, noted as (3, 500).
    before += taken(first, range(3, 6), [400, 450, 600])
    replay = intake([(3, 120), (3, 500), (6, 600)])
    assert taken(replay, range(6), [100, 110, 120, 400, 450, 600]) == before
    assert before == [(0, 100), (1, 110), (2, 120), (3, 500), (4, 500), (5, 600)]


def test_records_that_interest_nobody_move_time_and_dead_letters_do_not() -> None:
    one = intake([])
    values = [
        b'{"user_id": "u", "event": "other"}',
        b"not json",
        b'{"user_id": "u", "event": "hello"}',
        b'{"user_id": "u", "event": "other"}',
    ]
    found: dict[int, list[Input]] = {}
    dead = one.take(Batch(values, [100, 900, 50, 200], range(4)), found)
    assert [(letter.offset, letter.reason) for letter in dead] == [(1, "not_json")]
    assert [record.now for record in found[0]] == [100]
    assert one.stream_ms == 200
