"""A file that somebody appends to: whole lines are read, once, and a half line is nobody's dead letter."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.file_source import LINE_BYTES_MAX, FilePartition, Lines, is_as_read, lines_of
from connectors.sources import SourceError
from dataflow.read.discovery import partitions_of
from dataflow.urls import SourceUrl
from tests.test_run import small_run

ANN, BOB = b'{"user_id":"ann","event":"go"}', b'{"user_id":"bob","event":"go"}'


def read(path: Path, position: int = 1) -> tuple[list[bytes], int]:
    """Return what is read from *position* on, and where the next run goes on."""
    file = FilePartition(path, position)
    try:
        return file.poll(100).values, file.position
    finally:
        file.close()


@pytest.mark.parametrize("cut", [1, 10, len(BOB) - 1])
def test_a_half_line_is_read_by_the_run_that_finds_it_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(ANN + b"\n" + BOB[:cut])
    assert read(path) == ([ANN], 2)
    with path.open("ab") as more:
        more.write(BOB[cut:] + b"\n")
    assert read(path, 2) == ([BOB], 3)


def test_a_last_line_that_is_a_whole_record_is_read_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(ANN + b"\n" + BOB)
    assert read(path) == ([ANN, BOB], 3)


@pytest.mark.parametrize(
    ("text", "stops", "end", "said"),
    [
        (b"", True, 1, 0),
        (ANN + b"\n", True, 2, 0),
        (ANN + b"\n" + BOB, True, 3, 0),
        (ANN + b"\n" + BOB, False, 2, 1),
        (ANN + b"\n" + BOB[:-3], True, 2, 1),
        (ANN + b"\n" + BOB[:-3], False, 2, 1),
        (b"\xef\xbb\xbf" + ANN, True, 2, 0),
        (b"17", True, 1, 1),
    ],
)
def test_up_to_where_a_run_reads_a_file_and_what_it_says_of_the_rest(
    tmp_path: Path, text: bytes, stops: bool, end: int, said: int
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(text)
    log: list[str] = []
    (one,) = partitions_of([SourceUrl("file", "", str(path))], {}, up_to_now=stops, slack_ms=None, log=log.append)
    assert (one.end, len(log)) == (end, said)
    assert all(f"line {end} has no end yet" in line for line in log)


@given(st.lists(st.sampled_from([ANN, b"", b"no json", b"{", b"x" * 70_000]), max_size=40), st.booleans())
def test_lines_are_counted_as_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool
) -> None:
    path = tmp_path_factory.mktemp("file") / "events.jsonl"
    text = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    path.write_bytes(text)
    found = lines_of(path)
    *ended, last = text.split(b"\n")
    assert found == (Lines(len(ended), len(ended) + 1, last == ANN) if last else Lines(len(ended)))
    assert read(path)[1] == found.ended + 1 + found.is_whole


# ---- going on in a file --------------------------------------------------------------------------------------------


def lines(*values: bytes) -> bytes:
    return b"".join(value + b"\n" for value in values)


LONG: Final = b'{"user_id":"ann","event":"go","properties":{"text":"' + b"x" * LINE_BYTES_MAX + b'"}}'


@pytest.mark.parametrize("records_max", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "text",
    [
        lines(ANN, BOB, ANN, BOB),
        b"\xef\xbb\xbf" + lines(ANN, b"", b"  ", BOB) + BOB,
        ANN + b"\r\n" + lines(BOB, LONG, ANN),
    ],
)
def test_from_every_mark_a_reader_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, text: bytes, records_max: int
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(text)
    whole = FilePartition(path)
    left = FilePartition(path).poll(100)
    all_left = list(zip(left.offsets, left.values, strict=True))
    while True:
        batch = whole.poll(records_max)
        for position in {*batch.offsets, whole.position}:
            goes_on = FilePartition(path, position, whole.mark(position))
            assert goes_on.position == position
            found = goes_on.poll(100)
            there = list(zip(found.offsets, found.values, strict=True))
            assert there == [one for one in all_left if one[0] >= position]
            goes_on.close()
        if not batch.values:
            break
    whole.close()


@pytest.mark.parametrize(
    ("now", "goes_on"),
    [
        (lines(ANN, BOB, ANN, ANN), True),
        (lines(ANN, BOB), True),
        (lines(ANN), False),
        (b"", False),
        (lines(BOB, ANN, ANN, BOB), False),
        (lines(ANN, ANN.replace(b"ann", b"eve"), ANN), False),
    ],
)
def test_a_file_that_was_replaced_or_cut_is_not_read_on(tmp_path: Path, now: bytes, goes_on: bool) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(ANN, BOB))
    reader = FilePartition(path)
    reader.poll(100)
    mark = reader.mark(reader.position)
    reader.close()
    path.unlink()
    path.write_bytes(now)
    assert is_as_read(path, mark) == goes_on
    if goes_on:
        FilePartition(path, 3, mark).close()
    else:
        with pytest.raises(SourceError, match="what was read is not there any more"):
            FilePartition(path, 3, mark)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \n"])
def test_a_last_line_that_was_read_without_its_end_gets_it_later_and_no_line_has_another_number(
    tmp_path: Path, end: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(ANN) + BOB)
    reader = FilePartition(path)
    reader.poll(100)
    mark = reader.mark(reader.position)
    reader.close()
    assert FilePartition(path, 3, mark).poll(100).values == []
    path.write_bytes(lines(ANN) + BOB + end + lines(ANN, BOB))
    goes_on = FilePartition(path, 3, mark)
    batch = goes_on.poll(100)
    assert (batch.offsets, batch.values) == ([3, 4], [ANN, BOB])
    assert goes_on.mark(5) == (path.stat().st_size, goes_on.mark(5)[1])
    goes_on.close()


def test_a_change_near_the_end_of_what_was_read_of_a_large_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    text = lines(*[ANN] * 20_000)
    path.write_bytes(text)
    reader = FilePartition(path)
    reader.poll(30_000)
    mark = reader.mark(reader.position)
    reader.close()
    assert is_as_read(path, mark)
    path.write_bytes(text[: -len(ANN) - 1] + lines(BOB))
    assert not is_as_read(path, mark)


def test_a_job_refuses_a_file_that_was_replaced_and_reads_one_that_grew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(ANN, BOB))
    assert small_run(tmp_path, f"file:{path}", f"file:{tmp_path / 'out'}").returncode == 0
    with path.open("ab") as more:
        more.write(lines(ANN))
    grown = small_run(tmp_path, f"file:{path}", f"file:{tmp_path / 'out'}")
    assert (grown.returncode, grown.stdout.split()[0]) == (0, "1"), grown.stderr
    path.write_bytes(lines(BOB, BOB, BOB, BOB, BOB))
    refused = small_run(tmp_path, f"file:{path}", f"file:{tmp_path / 'out'}")
    assert refused.returncode == 2
    assert "was read up to line 3, and what was read is not in it any more: put it back as it was" in refused.stderr
