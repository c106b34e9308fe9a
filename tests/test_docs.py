"""What the documentation says of itself: its links, the files it names, its flows, and its diagrams.

`make docs` has the diagrams parsed by Mermaid itself, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final, NamedTuple

import pytest
import yaml
from liquid import Environment

from dataflow.cli import main
from operators.language.workspace import Workspace
from operators.templates.filters import filters_of
from operators.templates.messages import FILE_TAGS
from operators.templates.parse import parse_template

REPO: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    [
        REPO / "README.md",
        *(REPO / "docs").glob("*.md"),
        REPO / "deploy" / "README.md",
        REPO / "examples" / "README.md",
        REPO / "benchmarks" / "README.md",
        REPO / "tests" / "scenarios" / "README.md",
    ]
)

LANGUAGE: Final = REPO / "docs" / "flow-language.md"
TOP: Final = ("dataflow", "operators", "connectors", "state", "tests", "docs", "deploy", "examples", "benchmarks")
BROKEN_FLOWS: Final = {("docs/tutorial.md", "welcome")}
"""Flows with a mistake on purpose; a test of their own says which."""


class Block(NamedTuple):
    """A fenced block of a page, and the number of its first line."""

    page: str
    line: int
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.M | re.S)
    return [
        Block(name_of(page), text[: one.start()].count("\n") + 2, one[2], one[3]) for one in found if one[2] == language
    ]


def prose(page: Path) -> str:
    """Return the text of *page* without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.M | re.S)


def shown(value: object) -> str:
    return (
        f"{value.page}:{value.line}" if isinstance(value, Block) else name_of(value) if isinstance(value, Path) else ""
    )


# ---- links ---------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of *page*."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found


def broken_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# Here, and `there`\n[a](#here-and-there) [b](#gone) [c](gone.md) [d](a.md#here) [e](https://x.y)\n"
    )
    assert list(broken_links(page)) == ["#gone: no such heading", "gone.md: no such file", "a.md#here: no such heading"]


# ---- files that are named ------------------------------------------------------------------------------------------


def named_paths(page: Path) -> Iterator[str]:
    """Yield every path in the repository that *page* names in backticks, every lone name of a file of code, and every
    room in its diagrams."""
    for block in blocks(page, "mermaid"):
        for room in re.findall(r'\["(\w+)/<br/>', block.text):
            if room not in TOP:
                yield next((f"{top}/{room}/" for top in TOP if (REPO / top / room).exists()), f"operators/{room}/")
    for name in re.findall(r"`([\w./-]+)`", prose(page)):
        if ("/" in name and name.partition("/")[0] in TOP) or re.fullmatch(r"\w+\.(py|rs)", name):
            yield name


def exists(name: str) -> bool:
    return (REPO / name).exists() if "/" in name else any(any((REPO / top).rglob(name)) for top in TOP)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_file_that_is_named_exists(page: Path) -> None:
    missing = {name for name in named_paths(page) if not exists(name)}
    assert missing - USERS_FILES.get(name_of(page), set()) == set()


USERS_FILES: Final = {"docs/tutorial.md": {"kafka.py", "receiver.py"}}
"""Files that a page has its reader make."""


# ---- flows ---------------------------------------------------------------------------------------------------------


def whole_flows() -> Iterator[Block]:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if {"flow", "trigger", "steps"} <= set(re.findall(r"^(\w+):", block.text, re.M)):
                yield block


WHOLE_FLOWS: Final = list(whole_flows())


def test_there_are_flows_to_check() -> None:
    assert {block.page for block in WHOLE_FLOWS} >= {"README.md", "docs/flow-language.md", "docs/tutorial.md"}


@pytest.mark.parametrize("block", WHOLE_FLOWS, ids=shown)
def test_every_whole_flow_is_right(block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(block.text)
    status = main(["check", str(file)])
    said = capsys.readouterr().out
    broken = (block.page, yaml.safe_load(block.text)["flow"]) in BROKEN_FLOWS
    assert (status, said) == (0, "1 flow: no problems\n") or (broken and status == 2)


class Mistake(NamedTuple):
    """An example in the section of a problem, and where it stands: in the flow `PLAIN`, or in `nudge.yaml`."""

    code: str
    text: str

    @property
    def flow(self) -> str:
        parts = dict(PLAIN)
        if self.text.startswith("- "):
            parts["steps"] = "steps:\n" + self.text
        elif self.text.startswith("where:"):
            parts["trigger"] += f"  {self.text}"
        elif self.text.startswith("vars:"):
            parts["steps"] += f"    {self.text}"
        else:
            parts.update(self._parts(of_flow=True))
        return "".join(parts.values())

    @property
    def workspace(self) -> str:
        """What of it belongs into `nudge.yaml`."""
        return "".join(self._parts(of_flow=False).values())

    def _parts(self, *, of_flow: bool) -> dict[str, str]:
        parts = {re.findall(r"\w+", part)[0]: part for part in re.split(r"^(?=\w)", self.text, flags=re.M)[1:]}
        return {key: part for key, part in parts.items() if (key not in Workspace.model_fields) == of_flow}


PLAIN: Final = {
    "flow": "flow: cart\n",
    "trigger": "trigger:\n  event: add_to_cart\n",
    "steps": "steps:\n  - send: sms\n    template: hello\n",
}
PROBLEMS: Final = LANGUAGE.read_text().partition("\n## Problems\n")[2]
MISTAKES: Final = [
    Mistake(code, text)
    for code, below in re.findall(r"^### `([\w-]+)`\n(.*?)(?=^### |\Z)", PROBLEMS, re.M | re.S)
    for example in re.findall(r"^```yaml\n(.*?)^```$", below, re.M | re.S)
    for text in (example.splitlines(keepends=True) if example.startswith("where:") else [example])
]


def test_the_sections_of_problems_stand_together_in_order() -> None:
    codes = re.findall(r"^### `([a-z]+-[a-z-]+)`$", LANGUAGE.read_text(), re.M)
    assert codes == re.findall(r"^### `(.+)`$", PROBLEMS, re.M) == sorted(codes)


def test_there_are_mistakes_to_check() -> None:
    assert len(MISTAKES) > 15


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.code)
def test_every_example_of_a_problem_has_it(
    mistake: Mistake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(mistake.flow)
    (tmp_path / "nudge.yaml").write_text(mistake.workspace)
    for name, text in re.findall(r"^# templates/(\S+): (.*)$", mistake.text, re.M):
        (tmp_path / "templates").mkdir(exist_ok=True)
        (tmp_path / "templates" / name).write_text(text)
    main(["check", "--json", str(file)])
    assert mistake.code in [json.loads(line)["code"] for line in capsys.readouterr().out.splitlines()]


def test_the_problems_of_the_tutorial_are_those_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = REPO / "docs" / "tutorial.md"
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "welcome.yaml").write_text(next(one.text for one in WHOLE_FLOWS if one.page == name_of(page)))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "flows"]) == 2
    said = next(one.text for one in blocks(page, "console"))
    assert said == "$ nudge check flows\n" + capsys.readouterr().out


def test_the_simulations_of_the_tutorial_give_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = REPO / "docs" / "tutorial.md"
    flow = next(one.text for one in WHOLE_FLOWS if one.page == name_of(page)).replace("tempalte", "template")
    with_default = re.search(r"Write `(vars: .*?)` in the first mail", page.read_text())
    assert with_default is not None
    shown = [one.text for one in blocks(page, "console") if one.text.startswith("$ nudge simulate")]
    (tmp_path / "flows").mkdir()
    (tmp_path / "events.jsonl").write_text(blocks(page, "json")[0].text)
    monkeypatch.chdir(tmp_path)
    for text, block in zip([flow, re.sub(r"vars: .*", with_default[1], flow, count=1)], shown, strict=True):
        (tmp_path / "flows" / "welcome.yaml").write_text(text)
        command, _, output = block.partition("\n")
        assert main(command.split()[2:]) == 0
        assert capsys.readouterr().out == output.partition("$ ")[0]
    suppressed = next(one.text for one in blocks(page, "console") if one.text.startswith("$ grep")).partition("\n")[2]
    assert suppressed in (tmp_path / "journal.jsonl").read_text()


def test_the_readme_shows_the_quick_start_and_what_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = REPO / "README.md"
    flow = yaml.safe_load(blocks(readme, "yaml")[0].text)
    assert flow == yaml.safe_load((REPO / "examples" / "quickstart" / "cart-reminder.yaml").read_text())
    command, _, output = next(
        one.text for one in blocks(readme, "console") if one.text.startswith("$ nudge simulate")
    ).partition("\n")
    monkeypatch.chdir(REPO)
    assert main(command.split()[2:]) == 0
    assert capsys.readouterr().out == output


# ---- templates -----------------------------------------------------------------------------------------------------


INTERNAL_TAGS: Final = frozenset(("#", "content", "illegal", "output"))
"""What the library keeps among its tags: its own means of parsing, and the sign of an inline comment."""


def section(page: Path, heading: str) -> str:
    """Return what stands below *heading*, as it is written, up to the next heading."""
    match = re.search(rf"^{heading}\n(.*?)^#+ ", page.read_text(), re.M | re.S)
    assert match is not None
    return match[1]


class Row(NamedTuple):
    """A row of a table of filters."""

    name: str
    example: str
    gives: str


FILTERS: Final = [
    Row(name, example.replace("\\|", "|"), gives)
    for name, example, gives in re.findall(
        r"^\| `(\w+)` \| .* \| `(.+)` \| `(.+)` \|$", section(LANGUAGE, "### Filters"), re.M
    )
]


def test_every_filter_is_in_the_tables_once() -> None:
    assert sorted(row.name for row in FILTERS) == sorted(filters_of(Environment()))


@pytest.mark.parametrize("row", FILTERS, ids=lambda row: row.name)
def test_a_filter_gives_what_its_row_says(row: Row) -> None:
    text = section(LANGUAGE, "### Filters")
    entry = json.loads(text[text.index("```json\n") + 8 : text.rindex("```")])
    scope = SimpleNamespace(profile={}, entry=entry, event={}, flow="f", now_ms=0)
    assert f"| {row.name}" in row.example
    written = parse_template(f"{{{{ {row.example} }}}}").render(scope)
    assert written == row.gives.replace("\\n", "\n")


def test_every_tag_is_named() -> None:
    named = re.search(r"The tags are\n(.*?)\.", section(LANGUAGE, "## Templates"), re.S)
    assert named is not None
    known = set(Environment().tags) - FILE_TAGS - INTERNAL_TAGS | {"raw"}  # The lexer itself knows that one.
    assert re.findall(r"`(\w+)`", named[1]) == sorted(known)


# ---- diagrams ------------------------------------------------------------------------------------------------------


DIAGRAMS: Final = [block for page in PAGES for block in blocks(page, "mermaid")]
OPENING: Final = frozenset(("alt", "box", "critical", "loop", "opt", "par", "rect", "subgraph"))
PAIRS: Final = {")": "(", "]": "[", "}": "{"}


def faults(text: str) -> Iterator[str]:
    """Yield what Mermaid would choke on in a flowchart or a sequence diagram, as far as that shows without a parser."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("%%{")]
    kind = lines[0].split()[0]
    if kind == "gantt":
        yield from faults_of_times(lines[1:])
        return
    if kind not in ("flowchart", "sequenceDiagram"):
        yield f"{kind}: not a kind of diagram that is used here"
        return
    is_flowchart = kind == "flowchart"
    depth = 0
    for line in lines[1:]:
        depth += (line.split()[0] in OPENING) - (line == "end")
        if line.count('"') % 2:
            yield f"{line}: a quote is not closed"
        bare = re.sub(r'"[^"]*"', '""', line)
        if is_flowchart and re.search(r'[\[({|][^\[({|"\s>]', bare):
            yield f"{line}: a label without quotes"
        if is_flowchart and line != "end" and re.search(r"\bend\b", bare):
            yield f"{line}: `end` is a word of the language"
        if not is_flowchart and re.search(r"[;#]", line):
            yield f"{line}: ends a statement in the middle of a text"
        open_now: list[str] = []
        for character in bare if is_flowchart else "":
            if character in PAIRS.values():
                open_now.append(character)
            elif character in PAIRS and (not open_now or open_now.pop() != PAIRS[character]):
                yield f"{line}: {character} closes nothing"
        if open_now:
            yield f"{line}: {open_now[-1]} is not closed"
    if depth:
        yield "a block is not closed"


A_TIME: Final = r"2\d{3}-\d\d-\d\d \d\d:\d\d"


def faults_of_times(lines: list[str]) -> Iterator[str]:
    """Yield what Mermaid would choke on in a gantt chart."""
    for line in lines:
        if line.split()[0] in ("title", "dateFormat", "axisFormat", "tickInterval", "section"):
            continue
        if not re.fullmatch(rf"[^:#;]+ :((crit|done|active|milestone), )*{A_TIME}, ({A_TIME}|\d+[mhd])", line):
            yield f"{line}: neither a span nor a section"


def test_there_are_diagrams_to_check() -> None:
    assert len(DIAGRAMS) > 4


@pytest.mark.parametrize("block", DIAGRAMS, ids=shown)
def test_every_diagram_looks_right(block: Block) -> None:
    assert list(faults(block.text)) == []


def shown_words(step: object) -> Iterator[str]:
    """Yield what a picture of a flow should have of *step* and the steps in it."""
    if isinstance(step, list):
        for one in step:
            yield from shown_words(one)
    elif isinstance(step, dict):
        for key, value in step.items():
            if key == "then":
                yield from value
            if key in ("wait_for", "then"):
                yield from shown_words(list(value.values()))
            elif isinstance(value, list):
                yield from shown_words(value)
            elif key not in ("id", "when", "where", "vars"):
                yield value


def test_the_picture_of_a_flow_shows_each_of_its_steps() -> None:
    flow = yaml.safe_load(next(block.text for block in WHOLE_FLOWS if block.page == name_of(LANGUAGE)))
    picture = blocks(LANGUAGE, "mermaid")[0].text
    words = [*shown_words(flow["steps"]), flow["exit"][0]["event"], flow["trigger"]["event"]]
    assert {"30m", "gold", "cart-gold", "viewed", "timeout", "1d", "cold"} <= set(words)
    assert [word for word in words if word not in picture] == []


@pytest.mark.parametrize(
    "text",
    [
        "graphic TB\n a --> b",
        "flowchart TB\n a[foo (bar)] --> b",
        'flowchart TB\n a["foo] --> b',
        'flowchart TB\n a["foo"] --> end',
        'flowchart TB\n a[("foo"] --> b',
        'flowchart TB\n subgraph x ["X"]\n a --> b',
        "sequenceDiagram\n A->>B: first; second",
        "sequenceDiagram\n loop often\n A->>B: x",
        "gantt\n dateFormat YYYY-MM-DD HH:mm\n 22:00 to 08:00 :crit, 2026-11-23 22:00, 10h",
        "gantt\n a message :milestone, 22:00, 0m",
    ],
)
def test_a_wrong_diagram_is_noticed(text: str) -> None:
    assert list(faults(text)) != []
