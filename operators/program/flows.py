"""All flows of a deployment together: each is compiled, and what only several of them show is told.

Here are the rules on versions, too: two files may not hold the same one, one that was deployed may not come back with
other content, and one may not be left out while users are in it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from operators.language.flowfile import read_document
from operators.language.problems import FlowError, Problem, Problems
from operators.language.workspace import Workspace
from operators.program.audiences import KnownAudiences
from operators.program.compile import compile_flow
from operators.program.doubts import Doubts
from operators.program.program import Program


@dataclass(frozen=True, slots=True)
class FlowText:
    """A flow file as it was read: what is compiled is what was checked, also in another process."""

    file: str
    text: str


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


def compile_texts(texts: Iterable[FlowText], workspace: Workspace, doubts: Doubts | None = None) -> Checked:
    """Return the programs of *texts* and everything that is wrong with them, together.

    Args:
        doubts: also notes what is allowed and most likely a mistake.
    """
    result = Checked()
    audiences = KnownAudiences(workspace.audiences)
    of_rules = Problems(workspace.document)
    audiences.note(of_rules, workspace.audiences_of_rules(), ())
    with _nothing_collected():
        looked_at = [_compile_text(text, workspace, audiences, doubts, result) for text in texts]
        audiences.check()
        if doubts is not None:
            doubts.compare()
    for problems in (of_rules, *looked_at):
        result.problems.extend(problems.found)
    return result


def _compile_text(
    text: FlowText, workspace: Workspace, audiences: KnownAudiences, doubts: Doubts | None, result: Checked
) -> Problems:
    """Add the program of *text* to *result*, and return its problems."""
    document, problems = read_document(text.file, text.text.encode(errors="surrogateescape"))
    if isinstance(document.data, dict):
        name, version = document.data.get("flow"), document.data.get("version", 1)
        if isinstance(name, str) and isinstance(version, int):
            result.titles[text.file] = f"{name} v{version}"
    program = compile_flow(problems, workspace, audiences, doubts) if document.data is not None else None
    if program is not None:
        same = result.texts.get(program.label)
        if same is not None:
            message = f"{program} is in {same.file} too"
            problems.add(("version",), "duplicate-version", message, "give one of them another version")
        else:
            result.programs.append(program)
            result.texts[program.label] = text
    return problems


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
        if before == program.content:
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
