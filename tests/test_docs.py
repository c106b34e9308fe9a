"""What the documentation says of itself: its links, the files it names, its flows, and its diagrams.

`make docs` has the diagrams parsed by Mermaid itself, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import yaml

from dataflow.cli import main

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


USERS_FILES: Final = {"docs/tutorial.md": {"kafka.py"}}
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


# ---- diagrams ------------------------------------------------------------------------------------------------------


DIAGRAMS: Final = [block for page in PAGES for block in blocks(page, "mermaid")]
OPENING: Final = frozenset(("alt", "box", "critical", "loop", "opt", "par", "rect", "subgraph"))
PAIRS: Final = {")": "(", "]": "[", "}": "{"}


def faults(text: str) -> Iterator[str]:
    """Yield what Mermaid would choke on in a flowchart or a sequence diagram, as far as that shows without a parser."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("%%{")]
    kind = lines[0].split()[0]
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


def test_there_are_diagrams_to_check() -> None:
    assert len(DIAGRAMS) > 4


@pytest.mark.parametrize("block", DIAGRAMS, ids=shown)
def test_every_diagram_looks_right(block: Block) -> None:
    assert list(faults(block.text)) == []


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
    ],
)
def test_a_wrong_diagram_is_noticed(text: str) -> None:
    assert list(faults(text)) != []
