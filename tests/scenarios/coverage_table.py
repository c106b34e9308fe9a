"""COVERAGE.md: which sentence of the specification is tested by which scenario, and which is not, and why.

`python -m tests.scenarios.coverage_table` writes it anew.
"""

from collections import defaultdict
from collections.abc import Sequence

from tests.scenarios.scenario_files import HERE, Scenario, load

TABLE = HERE / "COVERAGE.md"

SECTIONS = {
    "values": "Values",
    "top-level": "Top level",
    "where": "Conditions on an event: where",
    "when": "Conditions on the user: when",
    "trigger": "Trigger",
    "entry": "Entry",
    "order": "Order of things",
    "exit": "Exit",
    "steps": "Steps",
    "send": "Steps: send",
    "set": "Steps: set",
    "audience": "Steps: audience",
    "wait": "Steps: wait",
    "wait_for": "Steps: wait_for",
    "branch": "Steps: branch",
    "result_of": "Steps: result_of",
    "split": "Steps: split",
    "experiment": "Steps: experiment",
    "parallel": "Steps: parallel",
    "times": "Steps: times",
    "goto": "Steps: goto",
    "end": "Steps: end",
    "message-rules": "Message rules: channels and addresses",
    "templates": "Templates",
    "checks": "Checks",
    "records": "Records and topics",
    "cli": "Command line",
    "quality": "What done means",
}

FINE_PRINT = [
    *(f"X{n}" for n in (1, 2)),
    *(f"T{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 17, 18)),
    *(f"V{n}" for n in range(1, 12)),
    *(f"W{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18)),
    *(f"E{n}" for n in range(1, 9)),
    *(f"O{n}" for n in (3, 4, 5, 6)),
    *(f"S{n}" for n in (*range(1, 25), 26, 27, 28)),
    *(f"M{n}" for n in range(1, 11)),
    *(f"L{n}" for n in range(1, 8)),
    *(f"R{n}" for n in range(1, 10)),
    *(f"U{n}" for n in range(1, 13)),
    *(f"J{n}" for n in range(1, 9)),
    *(f"C{n}" for n in range(1, 9)),
    *(f"F{n}" for n in range(1, 5)),
]

COMMAND_TESTS = {  # By functions of test_scenarios.py, where the command itself is what is tested.
    "C1": "nudge.yaml beside a file or in a directory, `--config`, two different ones",
    "C2": "a tree of directories",
    "C4": "an empty events file",
    "C6": "`simulate` with the flows of every scenario of `check` that has errors",
    "C7": "every action of every scenario",
    "C8": "missing events file, FLOWS without a flow, empty events file",
    "J5": "every refusal of every scenario",
    "X2": "the order of the records of every scenario",
}

_LATER = "Not there yet: "
NOT_COVERED = {
    "T16": "Promises nothing that a test could find missing; scenarios give different records different ids.",
    "T17": "Needs more than one input topic; a scenario has one file.",
    "T18": "A file has no tombstones; tests/test_tombstones.py has them on Kafka.",
    "V10": "A warning; tests/test_doubts.py has it.",
}

PARTLY = {
    "W16": "`live`, outside the active period, and `paused`.",
    "J8": "By what wakes and what does not; the state itself is looked at by `audit`.",
}


def _by_spec(scenarios: Sequence[Scenario]) -> dict[str, dict[str, int]]:
    """Return spec -> name of a scenario, without the place of a table -> how often it is written out."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for scenario in scenarios:
        name = f"{scenario.topic}: {scenario.name.split(' [')[0]}"
        for spec in scenario.spec:
            found[spec][name] = found[spec].get(name, 0) + 1
    return found


def unknown_ids(scenarios: Sequence[Scenario]) -> list[str]:
    """Return the ids that nobody knows, that have neither test nor reason, and that have both."""
    found = _by_spec(scenarios)
    known = {*SECTIONS, *FINE_PRINT}
    strange = [spec for spec in found if spec not in known and not spec.startswith("incident: ")]
    missing = [one for one in FINE_PRINT if one not in {*found, *COMMAND_TESTS, *NOT_COVERED}]
    both = [one for one in NOT_COVERED if one in found or one in COMMAND_TESTS]
    return strange + missing + both


def coverage_text(scenarios: Sequence[Scenario]) -> str:
    """Return the text of COVERAGE.md."""
    found = _by_spec(scenarios)
    out = [
        "# What the scenarios cover",
        "",
        "Written by `python -m tests.scenarios.coverage_table`; a test says when it is out of date.",
        f"{len(scenarios)} scenarios, tables written out.",
    ]

    def section(title: str, keys: Sequence[str], names: dict[str, str]) -> None:
        out.extend(["", f"## {title}"])
        for key in keys:
            out.extend(["", f"### {names.get(key, key)}", ""])
            if key in NOT_COVERED:
                out.append(f"Not covered. {NOT_COVERED[key]}")
            if key in COMMAND_TESTS:
                out.append(f"- test_scenarios.py: {COMMAND_TESTS[key]}")
            for name, times in found.get(key, {}).items():
                out.append(f"- {name}" + (f" (in {times} places)" if times > 1 else ""))
            if key in PARTLY:
                out.extend(["", f"Covered: {PARTLY[key]}"])

    section("Fine print", FINE_PRINT, {})
    section("Flow language, records and command line", [key for key in SECTIONS if key in found], SECTIONS)
    incidents = sorted(spec for spec in found if spec.startswith("incident: "))
    section("Incidents that peers published", incidents, {i: i.removeprefix("incident: ") for i in incidents})
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    TABLE.write_text(coverage_text(load()), encoding="utf-8")
