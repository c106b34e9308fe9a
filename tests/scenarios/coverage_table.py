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
    "X1": _LATER + "`limit`, `experiment`.",
    "T16": "Promises nothing that a test could find missing; scenarios give different records different ids.",
    "T17": "Needs more than one input topic; a scenario has one file.",
    "T18": "A file has no tombstones; tests/test_tombstones.py has them on Kafka.",
    "V10": "A warning; tests/test_doubts.py has it for `split`. `experiment` comes later.",
    "W15": _LATER + "`cap_left`.",
    "S1": _LATER + "quiet hours.",
    "S3": _LATER + "quiet hours.",
    "S14": _LATER + "`times`.",
    "S16": _LATER + "`experiment`.",
    "S17": _LATER + "`parallel`.",
    "S24": _LATER + "`experiment`.",
    "M1": _LATER + "`exempt`.",
    "M2": _LATER + "`suppress` and `consent`.",
    "M3": _LATER + "quiet hours.",
    "M4": _LATER + "quiet hours.",
    "M5": _LATER + "quiet hours.",
    "M6": _LATER + "caps.",
    "M7": _LATER + "quiet hours.",
    "M8": _LATER + "`templates` of nudge.yaml.",
    "M9": _LATER + "`suppress` and `exempt`.",
}

PARTLY = {
    "T5": "All reasons but `unknown_format`, which only other formats than `native` have.",
    "E2": "`reentry` and `concurrent`; `limit` comes later.",
    "O4": "Journeys of one branch; `parallel` comes later.",
    "O6": "The order of the stages; branches of one journey come with `parallel`.",
    "S5": "That a late reading refuses nothing; what is refused as expired comes with quiet hours.",
    "S13": "`split`; `experiment` comes later.",
    "S18": "Nested lists; the border of `parallel` and `times` comes with them.",
    "W8": "All places but goals of experiments.",
    "W16": "`live`, outside the active period, and `paused`.",
    "J2": "`wait`, `wait_for` and `result_of`.",
    "J3": "`branch`, `wait_for`, `result_of`, `split`, `goto` and `wait`.",
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
