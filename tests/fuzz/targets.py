"""What is fuzzed: generators of hostile input, and what must hold of whatever they make.

A generator asks `Choices`, which are drawn by hypothesis, which shrinks, or from a seed, which is quick and repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from operators.conditions import arguments
from operators.conditions.base import Condition
from operators.conditions.codegen import compile_condition
from operators.conditions.index import MatchIndex
from operators.conditions.parse import parse_condition
from operators.conditions.tests import TESTS
from operators.conditions.where import NOWHERE
from operators.language.problems import PROBLEMS_MAX, Document, Problem, Problems, render
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from operators.templates.errors import TemplateFailed, TemplateSyntaxError
from operators.templates.missing import MISSING
from operators.templates.parse import parse_template
from tests.fuzz.bounds import cpu_at_most
from tests.gateway import test_several as several
from tests.intake import agree
from tests.records import Choices, any_record
from tests.test_match import Judged
from tests.test_native import check_json
from tests.test_scanner import same
from tests.test_templates import FILTERS

ONE_CPU_S: Final = 10.0

# ---- values of JSON ------------------------------------------------------------------------------------------------

ODD_NUMBERS: Final = [0, -0.0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, -1e308, 5e-324, 0.1, 1.0, 1e22]
ODD_TEXTS: Final = [
    *["", " ", "a", "0", "-1", "1e400", "nan", "Infinity", "9" * 400, "1e999999999", "true", "null", "\0", "\u202e"],
    *["\U0001f600" * 9, "é", "e\u0301", "\r\n", "<script>" * 50, "&amp;" * 50, "%F0%9F", "////", "{{ now }}", "{% if"],
    *[
        "2026-11-23",
        "2026-02-30",
        "9999-12-31T23:59:59.999Z",
        "0001-01-01",
        "now",
        "x" * 5000,
        "a b " * 900,
        "\\1",
        "$0",
    ],
    *["__class__", "size", "first", "\x1f", "%99Y" * 30, "+0000", "Asia/Shanghai", "12:00", "%", "a,b,,c", "'", '"'],
]


def any_value(choices: Choices, depth: int = 3) -> Any:
    """Return any JSON value, mostly an odd one."""
    kind = choices.below(9 if depth else 6)
    if kind == 0:
        return choices.one([None, True, False])
    if kind in (1, 2):
        return choices.one(ODD_NUMBERS)
    if kind in (3, 4, 5):
        return choices.one(ODD_TEXTS)
    if kind == 6:
        return [any_value(choices, depth - 1) for _ in range(choices.below(4))] * choices.one([1, 1, 1, 50])
    return {
        choices.one(["a", "b", "c", "", "size", "a.b"]): any_value(choices, depth - 1) for _ in range(choices.below(4))
    }


# ---- templates -----------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What a template sees."""

    profile: dict[str, Any]
    entry: dict[str, Any]
    event: dict[str, Any]
    flow: str = "f"
    now_ms: int = 1_795_435_200_000


PATHS: Final = [
    "profile.a",
    "entry.a",
    "entry.b",
    "event.c",
    "entry",
    "flow",
    "now",
    "x",
    "forloop.index",
    "entry[entry.a]",
]
LITERALS: Final = [
    "nil",
    "true",
    "0",
    "-1",
    "2.5",
    "9" * 30,
    "''",
    "'a'",
    "','",
    "'%Y'",
    "empty",
    "blank",
    "(1..9)",
    "(x..99999)",
]
OPERATORS: Final = ["==", "!=", "<", ">=", "contains", "and", "or", "<>", "=~"]
SCRAPS: Final = [
    "{{",
    "}}",
    "{%",
    "%}",
    "-",
    "|",
    ":",
    "endif",
    "raw",
    "(",
    ")",
    "[",
    "]",
    "'",
    "..",
    "\0",
    "\u202e",
    "{% liquid\n",
]


def any_template(choices: Choices, depth: int = 2) -> str:
    """Return the text of a template, now and then a damaged one."""

    def value() -> str:
        return choices.one(PATHS if choices.below(2) else LITERALS)

    def piped() -> str:
        text = value()
        for _ in range(choices.below(4)):
            arguments = ", ".join(value() for _ in range(choices.below(3)))
            text += f" | {choices.one(FILTERS)}" + (f": {arguments}" if arguments else "")
        return text

    def condition() -> str:
        return f"{value()} {choices.one(OPERATORS)} {value()}"

    def inner() -> str:
        return any_template(choices, depth - 1) if depth else "."

    parts = []
    for _ in range(1 + choices.below(3)):
        parts.append(
            [
                lambda: f"{{{{ {piped()} }}}}",
                lambda: f"{{% assign x = {piped()} %}}",
                lambda: f"{{% for x in {value()} %}}{inner()}{{% endfor %}}",
                lambda: f"{{% for y in (1..{value()}) limit: {value()} %}}{inner()}{{% endfor %}}",
                lambda: f"{{% if {condition()} %}}{inner()}{{% endif %}}",
                lambda: f"{{% case {value()} %}}{{% when {value()} %}}{inner()}{{% endcase %}}",
                lambda: f"{{% capture x %}}{inner()}{{% endcapture %}}{{{{ x }}}}",
                lambda: f"{{% tablerow x in {value()} cols: {value()} %}}{inner()}{{% endtablerow %}}",
                lambda: choices.one(SCRAPS),
                lambda: "{% for i in (1..9999) %}{% assign x = x | append: x %}{% endfor %}",
            ][choices.below(10)]()
        )
    return "".join(parts)


def check_template(choices: Choices) -> None:
    """A template is refused, or gives a JSON value, `MISSING` or a failure: soon, and twice the same."""
    text = any_template(choices)
    scope = View(*({"a": any_value(choices), "b": any_value(choices), "c": any_value(choices)} for _ in range(3)))
    before = orjson.dumps(scope[:3])
    with cpu_at_most(ONE_CPU_S):
        try:
            template = parse_template(text)
        except TemplateSyntaxError:
            return
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(template.render(scope))
            except TemplateFailed as failed:
                outcomes.append(f"failed: {failed}")
    assert repr(outcomes[0]) == repr(outcomes[1])
    assert "an unexpected" not in str(outcomes[0]) or template.is_reference, text
    if outcomes[0] is not MISSING:
        orjson.dumps(outcomes[0])  # It can be emitted,
        msgspec.msgpack.encode(outcomes[0])  # and remembered.
    assert orjson.dumps(scope[:3]) == before


# ---- conditions ----------------------------------------------------------------------------------------------------

INDEXED: Final = [name for name, kind in TESTS.items() if not kind.needs_time]
MOMENTS: Final = ["2026-11-23", "2026-11-23T08:00:00Z", "2026-11-23T16:00:00.5+08:00", "1970-01-01"]
USUAL: Final = [0, 1, 0.1, 2**53, True, "", "a", "ab", "ba", *MOMENTS]  # Often enough equal, or nearly.
PATTERNS: Final = ["^a", "(x+x+)+y", "[^a]{20}", r"\pL{3}", "(a?){50}a{50}", "", "(?i)É", ".*", r"\x{10FFFF}", "$"]


def any_where(choices: Choices, depth: int = 3) -> dict[str, Any]:
    """Return what could stand behind `where`."""
    where: dict[str, Any] = {}
    for _ in range(1 + choices.below(3)):
        group = choices.below(6) if depth else 5
        if group == 0:
            where[choices.one(["any", "all"])] = [any_where(choices, depth - 1) for _ in range(1 + choices.below(3))]
        elif group == 1:
            where["not"] = any_where(choices, depth - 1)
        else:
            op = choices.one(INDEXED)
            wanted: Any = choices.one(USUAL) if choices.below(2) else any_value(choices, 1)
            match TESTS[op].argument:
                case arguments.SCALARS | arguments.PAIR as listed:
                    size = 2 if listed is arguments.PAIR else 1 + choices.below(4)
                    wanted = [choices.one(USUAL) if choices.below(2) else any_value(choices, 0) for _ in range(size)]
                case arguments.PATTERN:
                    wanted = choices.one(PATTERNS)
                case arguments.TRUTH:
                    wanted = bool(choices.below(2))
                case arguments.MOMENT:
                    wanted = choices.one(MOMENTS)
            where[choices.one(["a", "b", "c.a", "properties.a", "a.b", "size"])] = {op: wanted}
    return where


def check_condition(choices: Choices) -> None:
    """A condition is a problem, or holds alike as a tree, as generated code and through the index."""
    where = any_where(choices)
    problems = Problems(Document("fuzz", where))
    with cpu_at_most(ONE_CPU_S):
        condition = parse_condition(where, (), problems, NOWHERE)
        if condition is None or any(one.code != "impossible-condition" for one in problems.found):
            return
        judge, index = compile_condition(condition), MatchIndex([("e", condition)])
        for _ in range(5):
            properties = {name: any_value(choices) for name in "abc" if choices.below(4)}
            context: Any = Judged(properties)
            holds = condition.holds(context)
            assert judge(properties) is holds, (where, properties)
            assert index.match("e", properties) == ((0,) if holds else ()), (where, properties)
            orjson.dumps(condition.described(context))
            if not holds:
                orjson.dumps(condition.failure(context))


def check_scanner(choices: Choices) -> None:
    """With and without the scanner the same comes of any records, whatever conditions ask of them."""
    interests: list[tuple[str, Condition | None]] = []
    for _ in range(1 + choices.below(4)):
        where = any_where(choices)
        problems = Problems(Document("fuzz", where))
        condition = parse_condition(where, (), problems, NOWHERE)
        if condition is not None and all(one.code == "impossible-condition" for one in problems.found):
            interests.append((choices.one(["e", "e", "f"]), condition))
    records = []
    for _ in range(choices.below(8)):
        properties = {name: any_property(choices) for name in ("a", "b", "size") if choices.below(4)}
        if choices.below(2):
            properties["c"] = {"a": any_property(choices)}
        made = orjson.dumps({"user_id": "u", "event": choices.one(["e", "e", "f"]), "properties": properties})
        records.append(choices.one([made, made, made, any_record(choices)]))
    with cpu_at_most(ONE_CPU_S):
        agree(MatchIndex(interests), records)


def any_property(choices: Choices) -> Any:
    """Return the value of a property: more often than not one that the scanner can read."""
    return choices.one([None, False, -1, "x" * 5000, *USUAL]) if choices.below(3) else any_value(choices)


# ---- flows ---------------------------------------------------------------------------------------------------------

FLOW: Final = """\
flow: f
version: 2
timezone: Asia/Shanghai
active: {from: 2026-01-01T00:00:00Z}
trigger: {any: [{event: e, where: {a: {gte: 5}}, count: {at_least: 2, within: 1h}}, {event: g}]}
entry: {key: k, reentry: {at_most: 3, within: 7d}, holdout: 10%, when: {did: {event: v, within: 1d}}}
exit: [{event: bye, goal: true, where: {k: "{{ entry.k }}"}, label: done}]
steps:
  - {id: again, send: sms, template: t, to: "{{ profile.phone }}", vars: {a: "{{ entry.a | plus: 1 }}"}, expires: 1h}
  - {set: {a: null, b: [1, {c: "{{ now }}"}]}}
  - {wait: {until: "09:00", days: [mon]}}
  - wait_for: {x: {event: v, at_least: 2}}
    timeout: 1d
    then: {x: [{goto: again}], timeout: [end]}
  - branch:
      - when: {any: [{profile.a: 1}, {not: {local_time: {after: "09:00"}}}]}
        steps: [{end: left}]
      - else: [{wait: {for: 1d, at: "12:00"}}]
"""
ODD_YAML: Final = [
    *[
        "null",
        "~",
        "{}",
        "[]",
        "''",
        "-1",
        "0",
        "1e400",
        ".nan",
        "0x7f",
        "9" * 50,
        "true",
        "yes",
        "a: b",
        "- a",
        "*a",
        "&a",
    ],
    *[
        "!!binary x",
        "!x",
        "<<",
        "? a",
        "| ",
        ">",
        "#",
        "%",
        "@",
        "`",
        "\t",
        "\0",
        "\ufeff",
        "\u202e",
        "\U0001f600",
        "{{",
        "}}",
    ],
    *[
        "'",
        '"',
        "[[",
        "{a",
        "...",
        "---",
        "\\",
        ": ",
        ", ",
        "\n",
        "\n  ",
        "\n    - ",
        "366d",
        "367d",
        "0s",
        "100%",
        "25:00",
    ],
    *["again", "f", "e", "{{ entry }}", "{{ nobody }}", "{% raw %}", "(?=a)", "any", "all", "not", "did", "id", "end"],
]


def any_flow(choices: Choices) -> bytes:
    """Return the text of a flow, damaged in a few places."""
    text = FLOW
    for _ in range(choices.below(6)):
        here = choices.below(len(text) + 1)
        there = min(len(text), here + choices.below(20))
        match choices.below(5):
            case 0:
                text = text[:here] + choices.one(ODD_YAML) + text[here:]
            case 1:
                text = text[:here] + choices.one(ODD_YAML) + text[there:]
            case 2:
                text = text[:here] + text[there:]
            case 3:
                text = text[:there] + text[here:there] * (1 + choices.below(50)) + text[there:]
            case _:
                lines = text.split("\n")
                lines.insert(choices.below(len(lines)), lines.pop(choices.below(len(lines))))
                text = "\n".join(lines)
    raw = text.encode()
    if choices.below(10) == 0:
        here = choices.below(len(raw) + 1)
        raw = raw[:here] + bytes([choices.below(256)]) + raw[here:]
    return raw


def check_flow(choices: Choices) -> None:
    """A flow file is a program that can be deployed, or has problems that can be told."""
    raw = any_flow(choices)
    with cpu_at_most(ONE_CPU_S):
        text = raw.decode("utf-8-sig", errors="surrogateescape")
        checked = compile_texts([FlowText("f.yaml", text)], Workspace())
        assert checked.programs or checked.problems
        assert len(checked.problems) <= PROBLEMS_MAX + 1
        assert all(isinstance(one, Problem) for one in checked.problems)
        render(checked.problems, checked.titles).encode()
        if not checked.has_errors:
            Deployment(checked.programs)


def check_record(choices: Choices) -> None:
    """All ways to look at a record agree, and agree with the standard library on what is JSON."""
    raw = any_record(choices)
    same([raw])
    check_json(raw)


def check_several(choices: Choices) -> None:
    """With and without the compiled part the gateway takes the same of a list, and of JSON lines."""
    body = several.any_body(choices)
    with cpu_at_most(ONE_CPU_S):
        several.same(body)


TARGETS: Final[dict[str, Callable[[Choices], None]]] = {
    "record": check_record,
    "flow": check_flow,
    "condition": check_condition,
    "scanner": check_scanner,
    "several": check_several,
    "template": check_template,
}
