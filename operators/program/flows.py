"""All flows of a deployment together: each is compiled, and what only several of them show is told.

Here are the rules on versions, too: two files may not hold the same one, one that was deployed may not come back with
other content, and one may not be left out while users are in it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from operators.language.flowfile import read_document
from operators.language.problems import Document, FlowError, Path, Problem, Problems
from operators.language.workspace import Workspace
from operators.program.audiences import KnownAudiences
from operators.program.compile import compile_flow
from operators.program.doubts import Doubts
from operators.program.program import Program

VERSION: Final = ("version",)


@dataclass(frozen=True, slots=True)
class FlowText:
    """A flow file as it was read: what is compiled is what was checked, also in another process."""

    file: str
    text: str


@dataclass(slots=True)
class _LookedAt:
    """What came of one file; the program may be left in the process that has made it, the label not."""

    text: FlowText
    problems: Problems
    title: str = ""
    label: str | None = None
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What one process has found in some files, for another one."""

    looked_at: list[_LookedAt]
    audiences: KnownAudiences
    doubts: Doubts | None


@dataclass(slots=True)
class Checked:
    """What came out of reading flows: the programs, and every problem.

    `titles` says what to call the flow of a file; `texts` has the files by the label of their program.
    """

    programs: list[Program] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    texts: dict[str, FlowText] = field(default_factory=dict)

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


class Compilation:
    """Flow files are compiled one by one; what only several of them show is told in the end.

    Args:
        doubts: also notes what is allowed and most likely a mistake.
    """

    def __init__(self, workspace: Workspace, doubts: Doubts | None = None) -> None:
        self._workspace = workspace
        self._doubts = doubts
        self._audiences = KnownAudiences(workspace.audiences)
        self._looked_at: list[_LookedAt] = []

    def add(self, texts: Iterable[FlowText]) -> None:
        """Compile *texts*."""
        with _nothing_collected():
            self._looked_at.extend(map(self._look_at, texts))

    def _look_at(self, text: FlowText) -> _LookedAt:
        document, problems = read_document(text.file, text.text.encode(errors="surrogateescape"))
        found = _LookedAt(text, problems)
        if isinstance(document.data, dict):
            name, version = document.data.get("flow"), document.data.get("version", 1)
            if isinstance(name, str) and isinstance(version, int):
                found.title = f"{name} v{version}"
        if document.data is not None:
            found.program = compile_flow(problems, self._workspace, self._audiences, self._doubts)
            found.label = None if found.program is None else found.program.label
        return found

    def findings(self) -> Findings:
        """Return all that has been found, but no programs: another process can take it in."""
        places = [(one.problems, VERSION) for one in self._looked_at] + self._audiences.places()
        if self._doubts is not None:
            places += self._doubts.places()
        by_document: dict[int, dict[Path, tuple[int, int]]] = {}
        for problems, path in places:
            by_document.setdefault(id(problems), {})[path] = problems.document.place(path)
        for one in self._looked_at:
            one.problems.document = Document(one.text.file, None, by_document[id(one.problems)])
            one.program = None
        return Findings(self._looked_at, self._audiences, self._doubts)

    def take(self, found: Findings) -> None:
        """Take in what another process has found in files that follow those known here."""
        self._looked_at.extend(found.looked_at)
        self._audiences.take(found.audiences)
        if self._doubts is not None and found.doubts is not None:
            self._doubts.take(found.doubts)

    def checked(self) -> Checked:
        """Return the programs and everything that is wrong, with what only several files show."""
        of_rules = Problems(self._workspace.document)
        self._audiences.note(of_rules, self._workspace.audiences_of_rules(), ())
        result = Checked()
        for one in self._looked_at:
            if one.title:
                result.titles[one.text.file] = one.title
            if one.label is None:
                continue
            same = result.texts.get(one.label)
            if same is not None:
                message = f"{one.title} is in {same.file} too"
                one.problems.add(VERSION, "duplicate-version", message, "give one of them another version")
                continue
            result.texts[one.label] = one.text
            if one.program is not None:
                result.programs.append(one.program)
        self._audiences.check()
        if self._doubts is not None:
            self._doubts.compare()
        for problems in (of_rules, *(one.problems for one in self._looked_at)):
            result.problems.extend(problems.found)
        return result


def compile_texts(texts: Iterable[FlowText], workspace: Workspace, doubts: Doubts | None = None) -> Checked:
    """Return the programs of *texts* and everything that is wrong with them, together; see `Compilation`."""
    compilation = Compilation(workspace, doubts)
    compilation.add(texts)
    return compilation.checked()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep the collector of cycles away while a lot is built that stays: each time it would look at all of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def refuse_reused_versions(checked: Checked, deployed: Mapping[str, str]) -> list[Program]:
    """Refuse versions that were deployed before and do something else now.

    Args:
        deployed: by the label of a version, the content of what was deployed.

    Returns:
        Those that were deployed while moments without an offset were UTC, and have some that are others in their zone.
        They say what they said; refused, a version that users are in could neither stay nor go.

    Raises:
        FlowError: there are some.
    """
    problems = []
    reread = []
    for program in checked.programs:
        before = deployed.get(program.label, program.content)
        if before in (program.content, program.content_unordered):
            continue
        if before == program.content_in_utc:
            reread.append(program)
        else:
            where = checked.texts[program.label].file
            message = f"{program} was deployed in this state with other content"
            hint = "give the new content a new version"
            problems.append(Problem(where, 1, 1, "version", "version-reused", message, hint))
    if problems:
        raise FlowError(problems, checked.titles)
    return reread


def left_out(checked: Checked, in_force: Iterable[str]) -> list[str]:
    """Return those of the labels *in_force* that the new flows lack, or make a draft: nobody may be inside them."""
    running = {program.label for program in checked.programs if program.state != "draft"}
    return [label for label in in_force if label not in running]
