"""Message bodies as files: `templates/` beside `nudge.yaml`, with the parts of each message.

`<name>.subject.liquid`, `<name>.html.liquid` and `<name>.txt.liquid` are the parts of the message *name*, which is what
flows write as `template`. `.liquid` may be left out. All are read once, so that no name leads to another file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from connectors.channels.base import Content, Unfit
from dataflow.errors import UsageError
from operators.language.problems import Problem
from operators.language.workspace import Workspace
from operators.program.doubts import MessagesInFiles
from operators.templates.body import SOURCE_MAX_CHARS, Given, parse_body
from operators.templates.errors import TemplateFailed, TemplateSyntaxError
from operators.templates.missing import MISSING
from operators.templates.template import Path as Reference
from operators.templates.template import Template

FOLDER: Final = "templates"
PARTS: Final = ("subject", "txt", "html")
_ALWAYS: Final = ("sendgrid", "smtp", "twilio")
"""The providers whose messages all stand in files; those of `_SOMETIMES` may."""
_SOMETIMES: Final = ("apns", "fcm", "umeng")
_NAME: Final = re.compile(rf"(?P<name>[^.].*)\.(?P<part>{'|'.join(PARTS)})(?:\.liquid)?")
_PLACE: Final = re.compile(r", at character (\d+)(?: of line (\d+))?$")
_BYTES_MAX: Final = 4 * SOURCE_MAX_CHARS


class Messages:
    """The messages in a folder; none where there is no such folder.

    Attributes:
        problems: what is wrong with their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self._parts: dict[str, dict[str, Template]] = {}
        files: dict[tuple[str, str], Path] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match is None or not path.is_file():
                continue
            key = match["name"], match["part"]
            if key in files:
                said = f"{files[key].name} is this part of the message already"
                self._is_wrong(path, "duplicate-part", said, "remove one of them")
                continue
            files[key] = path
            if (template := self._read(path, is_html=match["part"] == "html")) is not None:
                self._parts.setdefault(match["name"], {})[match["part"]] = template

    def _read(self, path: Path, *, is_html: bool) -> Template | None:
        try:
            with path.open("rb") as file:
                raw = file.read(_BYTES_MAX + 1)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._is_wrong(path, "bad-encoding", "the file is not UTF-8", line=raw.count(b"\n", 0, error.start) + 1)
            return None
        try:
            return parse_body(text, is_html=is_html)
        except TemplateSyntaxError as bad:
            place = _PLACE.search(str(bad))
            line, column = (int(place[2] or 1), int(place[1])) if place is not None else (1, 1)
            said = str(bad)[: place.start()] if place is not None else str(bad)
            self._is_wrong(path, "bad-template", said, bad.hint, line, column)
            return None

    def _is_wrong(self, path: Path, code: str, said: str, hint: str = "", line: int = 1, column: int = 1) -> None:
        self.problems.append(Problem(str(path), line, column, "", code, said, hint))

    @property
    def names(self) -> list[str]:
        """The messages that there are."""
        return list(self._parts)

    def in_files(self, workspace: Workspace) -> MessagesInFiles:
        """Return what flows have to give to the messages, and on which channels."""
        providers = {name: (one.deliver or {}).get("provider") for name, one in workspace.channels.items()}
        needs = {
            name: {path[1:] for part in parts.values() for path in part.needs if path[0] == "vars" and len(path) > 1}
            for name, parts in self._parts.items()
        }
        always = [name for name, provider in providers.items() if provider in _ALWAYS]
        never = [name for name, one in providers.items() if one is not None and one not in (*_ALWAYS, *_SOMETIMES)]
        return MessagesInFiles(needs, always, never)

    def render(self, name: str, given: Given) -> Content:
        """Return what the message *name* says.

        Raises:
            Unfit: there is no such message, or not with these variables.
        """
        parts = self._parts.get(name)
        if parts is None:
            raise Unfit("no_template", f"there is no message {name!r} in {self.folder}")
        said = {part: _rendered(name, part, template, given) for part, template in parts.items()}
        subject = " ".join(said.get("subject", "").split())  # A header is one line.
        return Content(subject, said.get("txt", ""), said.get("html", ""))


def message_of(file: str) -> str | None:
    """Return the message of which a *file* of this name is a part, None for none."""
    match = _NAME.fullmatch(file)
    return None if match is None else match["name"]


def folder_of(arguments: Sequence[Path], workspace: Path | None) -> Path:
    """Return where messages are: beside the workspace file, without one beside the first argument."""
    if workspace is not None:
        return workspace.parent / FOLDER
    first = arguments[0] if arguments else Path()
    return (first if first.is_dir() else first.parent) / FOLDER


def _rendered(name: str, part: str, template: Template, given: Given) -> str:
    try:
        found = template.render(given)
    except TemplateFailed as failed:
        raise Unfit("template_error", f"{name}.{part}: {failed}") from None
    if found is MISSING:
        missing = sorted(".".join(map(str, path)) for path in template.needs if _is_missing(path, given))
        raise Unfit("missing_variable", f"{name}.{part} needs {', '.join(missing) or 'what is not there'}")
    assert isinstance(found, str), "a body always gives text"
    return str(found)


def _is_missing(path: Reference, given: Given) -> bool:
    value: Any = {"vars": given.vars, "unsubscribe_url": given.unsubscribe_url}
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if -len(value) <= part < len(value) else None
        else:
            return value is None
    return value is None
