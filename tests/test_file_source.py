"""A file that somebody appends to: whole lines are read, once, and a half line is nobody's dead letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.file_source import FilePartition, Lines, lines_of
from dataflow.read.discovery import partitions_of
from dataflow.urls import SourceUrl

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
