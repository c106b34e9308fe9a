"""Find flow files and the workspace file, read them, and compile them into a deployment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from operators.language.flow import OWN_TOPICS, Channel, Workspace, checked
from operators.language.flowfile import BYTES_MAX, read_flow_text
from operators.language.problems import FlowError, Problem
from operators.machine.deployment import Deployment
from operators.program.compile import Program, compile_flow

SUFFIXES: Final = (".yaml", ".yml", ".json")
WORKSPACE: Final = "nudge.yaml"


class UsageError(Exception):
    """The command was given something it cannot work with; the message says what next. Exit status 2."""


@dataclass(frozen=True, slots=True)
class FlowText:
    """A flow file as it was read: what is compiled is what was checked, also in another process."""

    file: str
    text: str


@dataclass(slots=True)
class Checked:
    """What came out of reading flows: the programs, and every problem."""

    programs: list[Program] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    texts: dict[str, FlowText] = field(default_factory=dict)
    """By the program's label, `<flow> 0x1F <version>`."""

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


def find_flows(arguments: Sequence[Path]) -> list[Path]:
    """Return the flow files under *arguments*, files or directories, in a stable order.

    Raises:
        UsageError: there is no flow.
    """
    found: list[Path] = []
    for argument in arguments:
        if argument.is_dir():
            found.extend(path for path in sorted(argument.rglob("*")) if path.is_file() and _is_flow(path))
        elif argument.is_file():
            found.append(argument)
        else:
            raise UsageError(f"{argument}: no such file or directory")
    unique = list(dict.fromkeys(found))
    if not unique:
        raise UsageError(f"no flows in {', '.join(map(str, arguments))}: looked for *.yaml, *.yml and *.json")
    return unique


def _is_flow(path: Path) -> bool:
    return path.suffix in SUFFIXES and ".test." not in path.name and path.name != WORKSPACE


def find_workspace(arguments: Sequence[Path], config: Path | None) -> Path | None:
    """Return the workspace file in force: *config*, else the one beside the first argument, None for none.

    Raises:
        UsageError: there are different ones, or *config* does not exist.
    """
    if config is not None:
        if not config.is_file():
            raise UsageError(f"{config}: no such file")
        return config
    found: list[Path] = []
    for argument in arguments:
        beside = (argument if argument.is_dir() else argument.parent) / WORKSPACE
        if beside.is_file():
            found.append(beside)
    if not found:
        return None
    if any(_read(other) != _read(found[0]) for other in found[1:]):
        names = ", ".join(dict.fromkeys(map(str, found)))
        raise UsageError(f"different workspace files: {names}; choose one with --config")
    first = arguments[0] if arguments[0].is_dir() else arguments[0].parent
    if found[0].parent != first:
        raise UsageError(f"{found[0]} is not beside the first argument: name it with --config, or give that one first")
    return found[0]


def read_workspace(file: str, text: bytes) -> tuple[Workspace, list[Problem]]:
    """Return the workspace in *text*, and what is wrong with it."""
    if not text.removeprefix(b"\xef\xbb\xbf").strip():
        return Workspace(), []
    source, problems = read_flow_text(file, text)
    if source.data is None:
        return Workspace(), problems.found
    workspace = checked(Workspace, source.data, (), problems)
    if workspace is None and isinstance(source.data, dict) and isinstance(source.data.get("channels"), dict):
        # What is wrong with a channel is told; that flows send to it is not wrong.
        names = {str(name): Channel() for name in source.data["channels"]}
        workspace = Workspace.model_construct(channels=names)
    for name, channel in workspace.channels.items() if workspace else ():
        if channel.topic in OWN_TOPICS:
            message = f"{channel.topic} is a topic of the job's own: a replay could not tell what is in it already"
            problems.add(("channels", name, "topic"), "reserved-topic", message, "choose another name")
    return workspace or Workspace(), problems.found


def _without_settings(text: str) -> str:
    """Return what a workspace says of channels and messages, as JSON: the part that a state keeps."""
    source, _ = read_flow_text(WORKSPACE, text.encode())
    data = source.data if isinstance(source.data, dict) else {}
    return json.dumps({key: value for key, value in data.items() if key not in ("run", "kafka")}, ensure_ascii=False)


def compile_texts(texts: Iterable[FlowText], workspace: Workspace) -> Checked:
    """Return the programs of *texts* and everything that is wrong with them, together."""
    result = Checked()
    places: dict[str, str] = {}
    for text in texts:
        source, problems = read_flow_text(text.file, text.text.encode(errors="surrogateescape"))
        if isinstance(source.data, dict):
            name, version = source.data.get("flow"), source.data.get("version", 1)
            if isinstance(name, str) and isinstance(version, int):
                result.titles[text.file] = f"{name} v{version}"
        program = compile_flow(problems, workspace) if source.data is not None else None
        if program is not None:
            if program.label in places:
                message = f"{program} is in {places[program.label]} too"
                problems.add(("version",), "duplicate-version", message, "give one of them another version")
            else:
                places[program.label] = text.file
                result.programs.append(program)
                result.texts[program.label] = text
        result.problems.extend(problems.found)
    return result


def read_flows(arguments: Sequence[Path]) -> list[FlowText]:
    """Return the texts of the flow files under *arguments*."""
    texts = []
    for path in find_flows(arguments):
        # What is not UTF-8 is a problem like others, told when the text is compiled.
        texts.append(FlowText(shown_path(path), _read(path).decode("utf-8-sig", errors="surrogateescape")))
    return texts


def read_workspace_file(path: Path | None) -> bytes:
    """Return what the workspace file says, nothing for None."""
    return b"" if path is None else _read(path)


def shown_path(path: Path | None) -> str:
    """Return *path* as it can be printed: a file's name need not be text."""
    return "" if path is None else str(path).encode(errors="surrogateescape").decode(errors="replace")


def _read(path: Path) -> bytes:
    """Return the bytes of a file, no more of them than are needed to see that it is too large."""
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{shown_path(path)}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that `simulate` and `run` need to know of the flows."""

    deployment: Deployment
    checked: Checked
    workspace: Workspace
    workspace_text: str
    workspace_file: str


def load(arguments: Sequence[Path], config: Path | None) -> Loaded:
    """Return the deployment of the flows under *arguments*.

    Raises:
        FlowError: there are problems.
        UsageError: there are no flows, or no one workspace.
    """
    workspace_path = find_workspace(arguments, config)
    workspace_bytes = read_workspace_file(workspace_path)
    workspace_file = shown_path(workspace_path)
    workspace, found = read_workspace(workspace_file, workspace_bytes)
    result = compile_texts(read_flows(arguments), workspace)
    result.problems[:0] = found
    if result.has_errors:
        raise FlowError(result.problems, result.titles)
    workspace_text = workspace_bytes.decode("utf-8-sig")  # It can be read, or there would be problems.
    kept = _without_settings(workspace_text)
    return Loaded(Deployment(result.programs), result, workspace, kept, workspace_file)
