"""Who recorded a file is told what is wrong with its times, and what its unreadable records look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources import Batch
from dataflow.cli import main
from dataflow.read.disorder import Disorder
from dataflow.read.scanner import NativeFormat
from dataflow.read.streamtime import StreamTime
from operators.language.values import DAY, HOUR
from state.iso import format_ms
from tests.test_run import small_run

START = 1_795_420_800_000  # 2026-11-23T08:00Z
FLOW = "flow: f\ntrigger: {event: a}\nsteps: [{wait: 1h}, {send: webhook, template: t}]\n"

Capture = pytest.CaptureFixture[str]


def record(at_ms: int, user: str = "u") -> bytes:
    return b'{"user_id": "%s", "event": "a", "timestamp": "%s"}' % (user.encode(), format_ms(at_ms).encode())


def look(*values: bytes, dead: frozenset[int] = frozenset()) -> Disorder:
    found = Disorder()
    found.look(Batch(list(values), None, range(1, len(values) + 1)), dead, NativeFormat().times)
    return found


@given(st.lists(st.integers(START, START + 20 * DAY), max_size=20))
def test_every_record_whose_time_is_not_its_own_is_counted(times: list[int]) -> None:
    clock, raised = StreamTime(), []
    for at_ms in times:
        if clock.reach(at_ms) != at_ms:
            raised.append(clock.now_ms - at_ms)
    found = look(*map(record, times))
    assert (found.raised, found.most_ms) == (len(raised), max(raised, default=0))


def test_a_record_that_moves_time_a_day_ahead_of_its_neighbours_is_told() -> None:
    found = look(record(START), record(START + 2 * DAY, "eve"), record(START + HOUR), record(START + 2 * HOUR))
    (jump,) = found.jumps
    assert (jump.offset, jump.user_id, jump.from_ms, jump.to_ms, jump.raised) == (2, "eve", START, START + 2 * DAY, 2)


@pytest.mark.parametrize(
    "times",
    [
        [0, 3 * DAY, 3 * DAY + HOUR],  # A quiet weekend.
        [0, 3 * DAY, 3 * DAY - HOUR],  # And somewhat out of order after it.
        [0, 2 * HOUR, HOUR],
        [0, 30 * DAY],
    ],
)
def test_a_quiet_day_is_no_mistake(times: list[int]) -> None:
    assert look(*(record(START + at) for at in times)).jumps == []


def test_a_record_years_ahead_is_told_also_if_it_is_the_last_one() -> None:
    assert [jump.offset for jump in look(record(START), record(START + 5000 * DAY)).jumps] == [2]


def test_what_is_no_record_moves_no_time() -> None:
    assert look(record(START), record(START + 9 * DAY), record(START), dead=frozenset({2})) == look(
        record(START), b"{", record(START)
    )


def simulate(folder: Path, lines: list[Any], capsys: Capture, *more: str) -> tuple[str, str]:
    """Return what a simulation prints."""
    (folder / "f.yaml").write_text(FLOW)
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "events.jsonl").write_bytes(b"".join(text + b"\n" for text in texts))
    assert main(["simulate", str(folder / "f.yaml"), "--events", str(folder / "events.jsonl"), *more]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def test_a_simulation_tells_what_was_raised_and_by_which_record(tmp_path: Path, capsys: Capture) -> None:
    out, err = simulate(tmp_path, [record(START), record(START + 2 * DAY, "eve"), record(START)], capsys)
    assert "\n1 record was out of order and raised to the time before, by 2 days, 0:00:00 at most\n" in out
    assert err == (
        f"warning: {tmp_path}/events.jsonl: line 2 (user eve) moves time from 2026-11-23T08:00:00.000Z to "
        "2026-11-25T08:00:00.000Z, and 1 later record was raised to it: is its time right?\n"
    )
    out, _ = simulate(tmp_path, [record(START), record(START - HOUR)], capsys, "--json")
    assert json.loads(out)["raised"] == 1


def test_a_simulation_shows_the_first_dead_letter_of_each_reason(tmp_path: Path, capsys: Capture) -> None:
    lines = [record(START), b"\x07 [bold]" + b"x" * 200, b"still no JSON", {"event": "a"}, record(START), record(START)]
    out, err = simulate(tmp_path, lines, capsys)
    assert "dead letters: no_user 1, not_json 2\n" in out
    assert '\n  no_user, first in line 4: `user_id` is missing, null or empty: {"event": "a"}\n' in out
    assert "\n  not_json, first in line 2: " in out
    assert ": \N{REPLACEMENT CHARACTER} [bold]xxx" in out
    assert "xxx...\n" in out
    assert err == ""


@pytest.mark.parametrize(
    ("lines", "looks_like"),
    [
        ([{"userId": "u", "event": "a", "type": "track"}] * 3, "the format may be Segment's: use `--format segment`"),
        ([json.dumps({"user_id": "u", "event": "a"}).encode("utf-16")], "this looks like UTF-16: write UTF-8"),
        ([b"\x1f\x8b\x08rest"], "this looks like gzip"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, capsys: Capture, lines: list[Any], looks_like: str) -> None:
    _, err = simulate(tmp_path, [*lines, record(START)][: len(lines) + (len(lines) > 1)], capsys)
    assert err.startswith(f"warning: {tmp_path}/events.jsonl: ")
    assert "records cannot be read: " in err
    assert looks_like in err


def test_a_simulation_says_how_far_time_ran_on(tmp_path: Path, capsys: Capture) -> None:
    out, _ = simulate(tmp_path, [record(START)], capsys)
    assert out.endswith("\ntime ran on after the last record until nobody waited: 2026-11-23T09:00:00.000Z\n")
    out, _ = simulate(tmp_path, [record(START)], capsys, "--until", "2026-11-23T08:30:00Z")
    assert "time ran on" not in out


def test_a_simulation_says_that_it_ends_after_400_days(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "f.yaml").write_text(FLOW.replace("{wait: 1h}", "{wait: 366d}, {wait: 366d}"))
    (tmp_path / "events.jsonl").write_bytes(record(START) + b"\n")
    assert main(["simulate", str(tmp_path / "f.yaml"), "--events", str(tmp_path / "events.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "\ntime ran on for 400 days after the last record, and 1 inside still wait; see --until\n" in said


def test_the_table_of_a_simulation_has_who_converted(tmp_path: Path, capsys: Capture) -> None:
    flow = FLOW + "exit: [{event: buy, goal: true}]\n"
    (tmp_path / "f.yaml").write_text(flow)
    bought = record(START + 1).replace(b'"a"', b'"buy"')
    (tmp_path / "events.jsonl").write_bytes(record(START) + b"\n" + bought + b"\n")
    assert main(["simulate", str(tmp_path / "f.yaml"), "--events", str(tmp_path / "events.jsonl")]) == 0
    head, row = capsys.readouterr().out.splitlines()[:2]
    assert (head.split()[:3], row.split()[2:4]) == (["flow", "entered", "converted"], ["1", "1"])


def test_a_job_says_once_what_most_records_of_a_source_look_like(tmp_path: Path) -> None:
    lines = [json.dumps({"userId": f"u{number}", "event": "a", "type": "track"}) + "\n" for number in range(50)]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    done = small_run(tmp_path, f"file:{tmp_path}/events.jsonl", f"file:{tmp_path}/out", "--log-format", "json")
    assert done.returncode == 0
    told = [json.loads(line)["event"] for line in done.stderr.splitlines() if "cannot be read" in line]
    assert len(told) == 1
    assert told[0].startswith("50 of the first 50 records of ")
    assert "the format may be Segment's" in told[0]
    assert "(such as offset 1); they are dead letters" in told[0]
