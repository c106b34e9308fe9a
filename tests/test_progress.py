"""The progress log: a replay sees the same times, and the log does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.sources import Batch
from dataflow.keep.files import DiskFolder
from dataflow.read.intake import Intake
from dataflow.read.progress import ProgressLog, read_progress
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from operators.conditions.index import MatchIndex
from state.records import unpacked


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
    records = NativeFormat(index.table())
    return Intake(index, records, topic="t", partition=0, source=0, shards=1, time=StreamTime(stream_ms, raises or ()))


def taken(one: Intake, offsets: range, arrived_ms: list[int]) -> list[tuple[int, int]]:
    values = [b'{"user_id": "u", "event": "hello"}' for _ in offsets]
    found, _ = one.take(Batch(values, arrived_ms, offsets))
    return [(record.offset, record.now) for record in unpacked(found.get(0, []))]


@pytest.mark.parametrize("raises", [[], [(0, 5)]])
@pytest.mark.parametrize("name", ["hello", "of interest to nobody"])
def test_records_stamped_beyond_the_year_9999_are_dead_letters_and_move_no_time(
    raises: list[tuple[int, int]], name: str
) -> None:
    last = 253_402_300_799_999
    one = intake(raises)
    values = [b'{"user_id": "u", "event": "%s"}' % (name.encode() if at in (1, 2) else b"hello") for at in range(5)]
    found, dead = one.take(Batch(values, [100, 9_000_000_000_000_000_000, last + 1, 200, last], range(5)))
    assert [(letter.offset, letter.reason) for letter in dead] == [(1, "bad_time"), (2, "bad_time")]
    assert [(record.offset, record.now) for record in unpacked(found[0])] == [(0, 100), (3, 200), (4, last)]


def test_time_is_raised_at_the_same_offsets_as_before_the_crash() -> None:
    first = intake([])
    before = taken(first, range(3), [100, 110, 120])
    first.time.reach(500)  # The wall clock, at the end of the partition, noted as (3, 500).
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
    found, dead = one.take(Batch(values, [100, 900, 50, 200], range(4)))
    assert [(letter.offset, letter.reason) for letter in dead] == [(1, "not_json")]
    assert [record.now for record in unpacked(found[0])] == [100]
    assert one.time.now_ms == 200


def test_the_log_of_a_partition_with_a_very_long_name_has_a_short_one(tmp_path: Path) -> None:
    """A file source is named by its whole path, and each sign that is no letter takes three or nine."""
    folder, names = DiskFolder(tmp_path), [f"file:/{'目' * 80}/{number}.jsonl" for number in range(2)]
    for number, name in enumerate(names):
        log = ProgressLog(folder, name, 0)
        log.note(number, 7)
        log.close()
    assert [read_progress(folder, name) for name in names] == [[(0, 7)], [(1, 7)]]
    assert max(map(len, folder.names())) < 255
