"""What is wrong with a flow: where, what, and what to try next.

Every problem has a stable code with a section in `docs/flow-language.md`; scripts may rely on codes, not on texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, Literal

from state.errors import Refused

Path = tuple[str | int, ...]

PROBLEMS_MAX: Final = 200  # Of one file. Nobody reads more, and looking for what was meant takes its time each time.
WARNINGS_MAX: Final = 50  # Of one file.
NAMES_COMPARED_MAX: Final = 1000
PART_SHOWN_MAX: Final = 100
TEXT_SHOWN_MAX: Final = 700  # As long as the list of filters.


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem at one place of a flow file.

    `line` and `column` count from 1 and are 0 where a place has none; `path` is what the author wrote, joined by dots.
    """

    file: str
    line: int
    column: int
    path: str
    code: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"


class FlowError(Refused):
    """Flows that cannot be used; `problems` has all of them."""

    def __init__(self, problems: list[Problem], titles: dict[str, str] | None = None) -> None:
        super().__init__(render(problems, titles))
        self.problems = problems


class BadValue(ValueError):
    """A value that is not what its place asks for, with a stable code."""

    def __init__(self, code: str, message: str, hint: str = "", path: Path = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.path = code, message, hint, path


def dotted(path: Path) -> str:
    """Return *path* as authors read it: `steps.2.branch.0`."""
    return ".".join(shortened(str(part), PART_SHOWN_MAX) for part in path)


def shortened(text: str, most: int) -> str:
    """Return *text*, cut to *most* characters with a mark where more was."""
    return text if len(text) <= most else text[: most - 3] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that names what is closest to *name*, else what there is, else ""."""
    names = sorted(set(known))
    if len(name) > PART_SHOWN_MAX or len(names) > NAMES_COMPARED_MAX:
        return ""
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if not names or len(names) > 24:
        return ""
    return "known here: " + ", ".join(names)


@dataclass(slots=True)
class Document:
    """A parsed flow file: its data, and where each value stands.

    `marks` maps the path of a value to (line, column), both from 1; `key_marks` the path of a mapping's key.
    """

    file: str
    data: object
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    key_marks: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def value_at(self, path: Path) -> object:
        """Return what is written at *path*, None for nothing."""
        value = self.data
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def place(self, path: Path, *, at_key: bool = False) -> tuple[int, int]:
        """Return (line, column) of *path*, or of the nearest place around it that was written."""
        if at_key and path in self.key_marks:
            return self.key_marks[path]
        while path not in self.marks and path:
            path = path[:-1]
        return self.marks.get(path, (1, 1))


class Problems:
    """A list of problems that grows while one file is looked at."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: list[Problem] = []
        self._known: set[Problem] = set()
        self._errors = 0
        self._warnings = 0

    def add(
        self,
        path: Path,
        code: str,
        message: str,
        hint: str = "",
        *,
        at_key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Note a problem at *path*; beyond `PROBLEMS_MAX` only that there are more, of warnings not even that."""
        if severity == "warning" and self._warnings >= WARNINGS_MAX:
            return
        if severity == "error" and self._errors >= PROBLEMS_MAX:
            self._note_more()
            return
        line, column = self.document.place(path, at_key=at_key)
        message, hint = shortened(message, TEXT_SHOWN_MAX), shortened(hint, TEXT_SHOWN_MAX)
        problem = Problem(self.document.file, line, column, dotted(path), code, message, hint, severity)
        if problem in self._known:
            return
        self._known.add(problem)
        self.found.append(problem)
        if severity == "error":
            self._errors += 1
        else:
            self._warnings += 1

    def warn(self, path: Path, code: str, message: str, hint: str = "", *, at_key: bool = False) -> None:
        """Note what is allowed and most likely a mistake."""
        self.add(path, code, message, hint, at_key=at_key, severity="warning")

    def _note_more(self) -> None:
        if self._errors == PROBLEMS_MAX:
            self._errors += 1
            message = f"there are more than {PROBLEMS_MAX} problems in this file, the others are not told"
            self.found.append(Problem(self.document.file, 1, 1, "", "too-many", message, "mend these first"))

    @property
    def is_full(self) -> bool:
        """Whether further problems would not be told."""
        return self._errors > PROBLEMS_MAX

    def add_bad(self, path: Path, bad: BadValue) -> None:
        """Note that the value at *path* is *bad*."""
        self.add(path + bad.path, bad.code, bad.message, bad.hint)

    @property
    def has_errors(self) -> bool:
        return self._errors > 0


def render(problems: list[Problem], titles: dict[str, str] | None = None) -> str:
    """Return *problems* for people, file by file.

    Args:
        titles: what to call the flow of a file, such as `cart-reminder v3`.
    """
    lines = []
    by_file: dict[str, list[Problem]] = {}
    for problem in problems:
        by_file.setdefault(problem.file, []).append(problem)
    for file, found in by_file.items():
        title = f": {titles[file]}" if titles and file in titles else ""
        lines.append(f"{file}{title}: {_counted(found)}")
        for problem in sorted(found, key=lambda one: (one.line, one.column, one.code)):
            kind = "" if problem.severity == "error" else "warning "
            where = f" at {problem.path}" if problem.path else ""
            place = f"{problem.line}:{problem.column}"
            lines.append(f"  {place:<6} {kind}{problem.code}{where}: {problem.message}")
            if problem.hint:
                lines.append(f"         {problem.hint}")
    return "\n".join(lines)


def _counted(found: list[Problem]) -> str:
    warnings = sum(problem.severity == "warning" for problem in found)
    counts = ((len(found) - warnings, "problem"), (warnings, "warning"))
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)
