"""The flow language, sentence by sentence: every scenario of this folder through the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.coverage_table import TABLE, coverage_text, unknown_ids
from tests.scenarios.scenario_files import (
    EVENTS,
    Scenario,
    assert_is_compared,
    assert_rows,
    assert_sound,
    instant,
    line_of,
    load,
    marked_lines,
    readable_dead_letter,
    write,
    write_config,
    write_flows,
)

Capture = pytest.CaptureFixture[str]
SCENARIOS = load()
DEPLOYMENTS = [s for s in SCENARIOS if s.phases]
GOOD = [s for s in SCENARIOS if not s.checks and not s.phases]
BAD = [s for s in SCENARIOS if s.checks]
FAR = "2027-12-31 00:00"  # The end of time for scenarios that name none, where both commands need one.
COMMAND = [sys.executable, "-m", "dataflow.cli"]


def ids(scenarios: list[Scenario]) -> list[str]:
    return [f"{s.topic}: {s.name}" for s in scenarios]


def call(*args: str | Path) -> int:
    """Return the exit status of the command, run in this process."""
    from dataflow.cli import main

    try:
        return main([str(arg) for arg in args]) or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def spawn(*args: str | Path, seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )


def outputs(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.jsonl" for name in ("actions", "journal", "dead-letters")}


def simulate_args(scenario: Scenario, flows: Path, until: str | None) -> list[str | Path]:
    folder = flows.parent
    args: list[str | Path] = ["simulate", flows, "--events", folder / EVENTS, *scenario.format_options]
    for name, path in outputs(folder).items():
        args += [f"--{name}", path]
    return args + (["--until", instant(until)] if until else [])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_expected(scenario: Scenario, actions: list[Any], journal: list[Any], dead: list[Any]) -> None:
    expect = scenario.expect
    if "actions" in expect:
        assert_rows(expect["actions"], actions, "actions")
    if "journal" in expect:
        kinds = expect.get("journal_kinds")
        assert_rows(expect["journal"], [r for r in journal if kinds is None or r["kind"] in kinds], "journal")
    totals = Counter(record["kind"] for record in journal)
    assert {kind: totals[kind] for kind in expect.get("totals", {})} == expect.get("totals", {})
    letters = [readable_dead_letter(record) for record in dead]
    assert_rows(expect.get("dead_letters", []), letters, "dead letters")


@pytest.mark.parametrize("scenario", GOOD, ids=ids(GOOD))
def test_simulate(scenario: Scenario, tmp_path: Path, capsys: Capture) -> None:
    flows = write(scenario, tmp_path)
    status = call(*simulate_args(scenario, flows, scenario.until))
    assert status == 0, capsys.readouterr().err
    actions, journal, dead = (rows_of(path) for path in outputs(tmp_path).values())
    for rows in (actions, journal):  # In order of time, then user.
        order = [(row["at"], row["user_id"]) for row in rows]
        assert order == sorted(order)
    assert_sound(actions, journal)
    assert_expected(scenario, actions, journal, dead)


def run(folder: Path, until: str | None, query: str = "") -> subprocess.CompletedProcess[str]:
    """Run the job on the files of *folder*, or go on with it."""
    source, sink = f"file:{folder / EVENTS}{query}", f"file:{folder / 'out'}"
    args = ["--source", source, "--sink", sink, "--state", folder / "state", "--shards", "4", "--stop-at-end"]
    return spawn("run", folder / "flows", *args, *(["--until", instant(until)] if until else []))


def sink_files(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("*.jsonl"))


def sent_to(folder: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the actions, journal records and dead letters that `run` wrote, in the order of `simulate`."""
    rows = [row for path in sink_files(folder) for row in rows_of(path)]
    dead = [row for row in rows if "raw" in row]
    actions = [row for row in rows if "action_id" in row and "channel" in row]
    journal = [row for row in rows if "kind" in row]
    assert len(actions) + len(journal) + len(dead) == len(rows)
    for part in (actions, journal):
        part.sort(key=lambda row: (row["at"], row["user_id"], row["seq"]))
    return actions, journal, sorted(dead, key=lambda row: row["offset"])


RUN = [s for s in GOOD if s.run]


@pytest.mark.parametrize("scenario", RUN, ids=ids(RUN))
def test_run_does_what_simulate_does(scenario: Scenario, tmp_path: Path, capsys: Capture) -> None:
    flows = write(scenario, tmp_path)
    until = scenario.until or FAR
    assert call(*simulate_args(scenario, flows, until)) == 0, capsys.readouterr().err
    simulated = [rows_of(path) for path in outputs(tmp_path).values()]

    done = run(tmp_path, until, scenario.format_query)
    assert done.returncode == 0, done.stderr
    ran = sent_to(tmp_path)
    for rows, expected in zip(ran, simulated, strict=True):
        assert canonical(rows) == canonical(expected)
    assert_sound(*ran[:2])
    assert_expected(scenario, *ran)
    assert_topics(scenario, tmp_path)


def assert_topics(scenario: Scenario, folder: Path) -> None:
    if "topics" in scenario.expect:
        lines = {path.name.removesuffix(".jsonl"): len(rows_of(path)) for path in sink_files(folder)}
        assert {topic: number for topic, number in lines.items() if number} == scenario.expect["topics"]


def canonical(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(
        json.dumps({key: value for key, value in row.items() if key != "job"}, sort_keys=True) for row in rows
    )


@pytest.mark.parametrize("scenario", DEPLOYMENTS, ids=ids(DEPLOYMENTS))
def test_run_goes_on_where_the_run_before_stopped(scenario: Scenario, tmp_path: Path) -> None:
    for phase in scenario.phases:
        if "flows" in phase:
            shutil.rmtree(tmp_path / "flows", ignore_errors=True)
            write_flows(phase["flows"], tmp_path)
        if "config" in phase:
            write_config(phase["config"], tmp_path / "flows")
        with (tmp_path / EVENTS).open("ab") as events:
            events.writelines(line_of(row) + b"\n" for row in phase["events"])
        done = run(tmp_path, phase.get("until"))
        if "refuses" in phase:
            assert done.returncode == 2, done.stderr
            assert [word for word in phase["refuses"] if word not in done.stderr] == []
        else:
            assert done.returncode == 0, done.stderr
    ran = sent_to(tmp_path)
    assert_sound(*ran[:2])
    assert_expected(scenario, *ran)
    assert_topics(scenario, tmp_path)


@pytest.mark.parametrize("scenario", [s for s in GOOD if s.subprocess], ids=lambda s: s.name)
def test_two_simulations_give_the_same_bytes(scenario: Scenario, tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        done = spawn(*simulate_args(scenario, write(scenario, folder), scenario.until), seed=seed)
        assert done.returncode == 0, done.stderr
        written.append([path.read_bytes() for path in outputs(folder).values()])
    assert written[0] == written[1]
    assert written[0][1], "a scenario with an empty journal shows nothing here"


def problems(flows: Path, capsys: Capture) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    status = call("check", flows, "--json")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for problem in found:
        assert problem.keys() >= {"file", "line", "column", "path", "code", "severity", "message", "hint"}
        assert problem["message"]
    return status, found


@pytest.mark.parametrize("scenario", BAD, ids=ids(BAD))
def test_check(scenario: Scenario, tmp_path: Path, capsys: Capture) -> None:
    """`check: marked`: each line marked `# problem` has one, and no other line. `check: []`: no error at all.

    `check: [..]`: these, in any order, and no others. `check: {files: [..]}`: errors in these files and in no
    others. `check: some`: at least one error.
    """
    flows = write(scenario, tmp_path)
    status, found = problems(flows, capsys)
    errors = [problem for problem in found if problem["severity"] == "error"]
    assert status == (2 if errors else 0)
    expected = scenario.expect["check"]
    if expected == "marked":
        marks = marked_lines(scenario)
        assert marks, "no line is marked"
        places = {(Path(p["file"]).name, p["line"]) for p in errors}
        assert sorted(marks.keys() - places) == [], "marked lines without a problem"
        extra = [p for p in errors if (Path(p["file"]).name, p["line"]) not in marks]
        assert extra == [], "problems on lines that are not marked"
        for (name, line), code in marks.items():
            codes = {p["code"] for p in errors if (Path(p["file"]).name, p["line"]) == (name, line)}
            assert code is None or code in codes
    elif expected == "some":
        assert errors
    elif isinstance(expected, dict):
        assert sorted({Path(p["file"]).name for p in errors}) == expected["files"]
    else:
        left = list(errors)
        for row in expected:
            matching = [p for p in left if all(_problem_has(p, key, value) for key, value in row.items())]
            assert matching, (row, left)
            left.remove(matching[0])
        assert left == []

    if errors:  # Nothing runs with bad flows, and the problems are named.
        assert call(*simulate_args(scenario, flows, None)) == 2
        assert any(Path(p["file"]).name in capsys.readouterr().err for p in errors[:1])


def _problem_has(problem: dict[str, Any], key: str, value: Any) -> bool:
    if key == "mentions":
        return value in problem["message"] + (problem["hint"] or "") + (problem["path"] or "")
    return bool((Path(problem["file"]).name if key == "file" else problem[key]) == value)


# --- Promises about the command itself ------------------------------------------------------------

PLAIN = Scenario(
    topic="command",
    name="plain",
    spec=(),
    flows=(
        {
            "flow": "f",
            "trigger": {"event": "a"},
            "steps": [{"wait": "1h"}, {"send": "line", "template": "t"}],
        },
    ),
    config={"channels": {"line": {"topic": "actions.line"}}},
    events=({"at": "08:00", "event": "a"},),
)


def test_a_missing_events_file_is_wrong_use(tmp_path: Path, capsys: Capture) -> None:
    """C8."""
    flows = write(PLAIN, tmp_path)
    (tmp_path / EVENTS).unlink()
    assert call("simulate", flows, "--events", tmp_path / EVENTS) == 2
    assert EVENTS in capsys.readouterr().err


def test_flows_without_any_flow_are_wrong_use(tmp_path: Path) -> None:
    """C8."""
    write(PLAIN, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert call("simulate", empty, "--events", tmp_path / EVENTS) == 2
    assert call("check", empty) == 2


def test_an_empty_events_file_does_nothing(tmp_path: Path) -> None:
    """C8, C4: the output files are there all the same."""
    flows = write(PLAIN, tmp_path)
    (tmp_path / EVENTS).write_bytes(b"")
    assert call(*simulate_args(PLAIN, flows, None)) == 0
    assert [path.read_bytes() for path in outputs(tmp_path).values()] == [b"", b"", b""]


def test_directories_are_searched_recursively_for_flows_only(tmp_path: Path) -> None:
    """C2, and the names that are no flows."""
    flows = write(PLAIN, tmp_path)
    inner = flows / "deep" / "deeper"
    inner.mkdir(parents=True)
    (flows / "flow-1.json").rename(inner / "moved.yml")  # JSON is YAML, too.
    (flows / "cart.test.yaml").write_text("not a flow", encoding="utf-8")
    (flows / "notes.txt").write_text("not a flow", encoding="utf-8")
    assert call(*simulate_args(PLAIN, flows, None)) == 0
    assert len(rows_of(outputs(tmp_path)["actions"])) == 1


def test_nudge_yaml_beside_a_flow_file_counts(tmp_path: Path) -> None:
    """C1: the first argument is a file."""
    flows = write(PLAIN, tmp_path)
    args = simulate_args(PLAIN, flows, None)
    args[1] = flows / "flow-1.json"
    assert call(*args) == 0
    assert len(rows_of(outputs(tmp_path)["actions"])) == 1


def test_config_overrides_the_nudge_yaml_beside_the_flows(tmp_path: Path) -> None:
    """C1."""
    flows = write(PLAIN, tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("channels: {line: {address: line_id}}", encoding="utf-8")
    assert call(*simulate_args(PLAIN, flows, None), "--config", other) == 0
    reasons = [row["reason"] for row in rows_of(outputs(tmp_path)["journal"]) if row["kind"] == "suppressed"]
    assert reasons == ["no_address"]


def test_different_nudge_yaml_files_beside_the_arguments_are_an_error(tmp_path: Path) -> None:
    """C1."""
    flows = write(PLAIN, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "g.json").write_bytes((flows / "flow-1.json").read_bytes().replace(b'"f"', b'"g"'))
    (other / "nudge.yaml").write_text("channels: {line: {address: line_id}}", encoding="utf-8")
    assert call("simulate", flows, other, "--events", tmp_path / EVENTS) == 2


HUGE = 10**30
TOO_LARGE: dict[str, dict[str, Any]] = {
    "version": {"version": HUGE},
    "priority": {"priority": -HUGE},
    "a trigger's count": {"trigger": {"event": "a", "count": {"at_least": HUGE}}},
    "a trigger's count in a window": {"trigger": {"event": "a", "count": {"at_least": 10_001, "within": "1h"}}},
    "a trigger's window": {"trigger": {"event": "a", "count": {"at_least": 1, "within": "99999999999w"}}},
    "within_last": {"trigger": {"event": "a", "where": {"v": {"within_last": "99999999999w"}}}},
    "concurrent": {"entry": {"concurrent": HUGE}},
    "reentry after": {"entry": {"reentry": {"after": "36601d"}}},
    "reentry at_most": {"entry": {"reentry": {"at_most": 10_001, "within": "1h"}}},
    "reentry within": {"entry": {"reentry": {"at_most": 1, "within": "99999999999w"}}},
    "expires": {"steps": [{"send": "webhook", "template": "t", "expires": "99999999999w"}]},
    "wait": {"steps": [{"wait": "367d"}]},
    "offset": {"steps": [{"wait": {"until": "{{ entry.t }}", "offset": "-99999999999w", "if_missing": "end"}}]},
    "wait_for at_least": {"steps": [{"wait_for": {"x": {"event": "x", "at_least": HUGE}}, "timeout": "1h"}]},
    "timeout": {"steps": [{"wait_for": {"x": {"event": "x"}}, "timeout": "367d"}]},
    "did within": {"steps": [{"branch": [{"when": {"did": {"event": "a", "within": "99999999999w"}}, "steps": []}]}]},
}
MOST, LONGEST, LAST = 2**63 - 1, "36600d", "9999-12-31T23:59:59.999Z"
LARGEST: dict[str, tuple[dict[str, Any], str | None]] = {
    "version": ({"version": MOST}, "ended"),
    "priority": ({"priority": -MOST - 1}, "ended"),
    "a number of a where": ({"trigger": {"event": "a", "where": {"v": {"lt": 10**300}}}}, "ended"),
    "a trigger's count": ({"trigger": {"event": "a", "count": {"at_least": MOST}}}, None),
    "a trigger's count in a window": (
        {"trigger": {"event": "a", "count": {"at_least": 10_000, "within": LONGEST}}},
        None,
    ),
    "a trigger's window": ({"trigger": {"event": "a", "count": {"at_least": 1, "within": LONGEST}}}, "ended"),
    "within_next": ({"trigger": {"event": "a", "where": {"t": {"within_next": LONGEST}}}}, "ended"),
    "active": ({"active": {"from": "1970-01-01T00:00:00Z", "until": LAST}}, "ended"),
    "concurrent": ({"entry": {"concurrent": MOST}}, "ended"),
    "reentry after": ({"entry": {"reentry": {"after": LONGEST}}}, "ended"),
    "reentry at_most": ({"entry": {"reentry": {"at_most": 10_000, "within": LONGEST}}}, "ended"),
    "set": ({"steps": [{"set": {"v": HUGE}}]}, "ended"),
    "vars": ({"steps": [{"send": "webhook", "template": "t", "vars": {"v": HUGE}}]}, "ended"),
    "expires": ({"steps": [{"send": "webhook", "template": "t", "expires": LONGEST}]}, "ended"),
    "wait": ({"steps": [{"wait": "366d"}]}, "ended"),
    "until": ({"steps": [{"wait": {"until": LAST}}]}, "waiting"),
    "until, past": ({"steps": [{"wait": {"until": "1970-01-01T00:00:00Z"}}]}, "ended"),
    "offset": (
        {"steps": [{"wait": {"until": "{{ entry.last }}", "offset": LONGEST, "if_missing": "end"}}]},
        "waiting",
    ),
    "offset, past": (
        {"steps": [{"wait": {"until": "{{ entry.t }}", "offset": f"-{LONGEST}", "if_missing": "end"}}]},
        "ended",
    ),
    "wait_for": ({"steps": [{"wait_for": {"x": {"event": "x", "at_least": MOST}}, "timeout": "366d"}]}, "ended"),
    "did": ({"steps": [{"branch": [{"when": {"did": {"event": "a", "at_least": MOST}}, "steps": []}]}]}, "ended"),
    "did within": (
        {"steps": [{"branch": [{"when": {"did_not": {"event": "b", "within": LONGEST}}, "steps": []}]}]},
        "ended",
    ),
}


def with_part(part: dict[str, Any]) -> Scenario:
    flow = {"flow": "f", "trigger": {"event": "a"}, "steps": [{"wait": "1h"}]} | part
    event = {"at": "08:00", "event": "a", "v": HUGE, "t": "2026-12-01", "last": LAST}
    return replace(PLAIN, flows=(flow,), events=(event,))


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_one_problem_and_does_not_run(what: str, tmp_path: Path, capsys: Capture) -> None:
    scenario = with_part(TOO_LARGE[what])
    flows = write(scenario, tmp_path)
    status, found = problems(flows, capsys)
    assert (status, len(found)) == (2, 1)
    assert found[0]["code"] in ("wrong-type", "out-of-range", "too-long")
    assert call(*simulate_args(scenario, flows, None)) == 2


@pytest.mark.parametrize("what", LARGEST)
def test_what_check_lets_pass_runs_however_extreme_its_numbers(what: str, tmp_path: Path) -> None:
    part, last = LARGEST[what]
    scenario = with_part(part)
    flows = write(scenario, tmp_path)
    assert call("check", flows) == 0
    assert call(*simulate_args(scenario, flows, None)) == 0
    actions, journal, _ = (rows_of(path) for path in outputs(tmp_path).values())
    assert_sound(actions, journal)
    assert (journal[-1]["kind"] if journal else None) == last


def test_a_flow_file_that_is_not_utf_8_is_a_problem_of_that_file(tmp_path: Path, capsys: Capture) -> None:
    flows = write(PLAIN, tmp_path)
    (flows / "other.yaml").write_bytes(b"flow: g\ntitle: \xff\xfe\ntrigger: {event: a}\nsteps: [{end: x}]\n")
    status, found = problems(flows, capsys)
    assert status == 2
    assert {Path(problem["file"]).name for problem in found} == {"other.yaml"}


def test_a_duplicate_key_is_an_error_in_json_too(tmp_path: Path, capsys: Capture) -> None:
    """V1."""
    flows = write(PLAIN, tmp_path)
    text = '{"flow": "g", "flow": "h", "trigger": {"event": "a"}, "steps": [{"end": "x"}]}'
    (flows / "other.json").write_text(text, encoding="utf-8")
    status, found = problems(flows, capsys)
    assert status == 2
    assert {Path(problem["file"]).name for problem in found} == {"other.json"}


def test_simulate_prints_a_table_per_flow(tmp_path: Path, capsys: Capture) -> None:
    flows = write(PLAIN, tmp_path)
    assert call("simulate", flows, "--events", tmp_path / EVENTS) == 0
    printed = capsys.readouterr().out
    assert "entered" in printed
    assert "line" in printed


# --- The table of what is covered -----------------------------------------------------------------


def test_every_scenario_has_a_name_of_its_own() -> None:
    names = Counter(ids(SCENARIOS))
    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize(
    ("expect", "runs"),
    [
        ({}, True),
        ({"totals": {"sent": 1}}, True),
        ({"actions": [], "stderr": "text"}, True),
        ({"actions": [], "check": []}, True),
        ({"actions": [], "journal_kinds": ["moved"]}, True),
        ({"actions": [], "topics": {"journal": 1}}, False),
        ({"journal": [], "journal_kinds": ["moove"]}, True),
        ({"actions": [], "totals": {"faild": 0}}, True),
        ({"actions": [{}]}, True),
        ({"journal": [{"resaon": "<absent>"}]}, True),
        ({"actions": [], "dead_letters": [{"ofset": 1}]}, True),
    ],
    ids=str,
)
def test_an_expectation_that_nothing_is_compared_with_is_no_scenario(expect: dict[str, Any], runs: bool) -> None:
    with pytest.raises(AssertionError, match=r"^named: "):
        assert_is_compared(expect, "named", runs=runs)


def test_the_coverage_list_is_up_to_date() -> None:
    """Run `python -m tests.scenarios.coverage_table` to write it anew."""
    assert unknown_ids(SCENARIOS) == []
    assert TABLE.read_text(encoding="utf-8") == coverage_text(SCENARIOS)
