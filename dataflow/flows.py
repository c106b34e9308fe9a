"""Find flow files and the workspace file, read them, and compile them into a deployment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from dataflow.errors import UsageError, must_be_readable
from operators.language.flowfile import BYTES_MAX
from operators.language.problems import FlowError
from operators.language.workspace import FILE as WORKSPACE
from operators.language.workspace import Workspace, read_workspace, without_settings
from operators.machine.deployment import Deployment
from operators.program.flows import Checked, FlowText, compile_texts

SUFFIXES: Final = (".yaml", ".yml", ".json")
FOLDERS_ABOVE: Final = 4  # In so many a workspace file is looked for, besides the one in which the flows are.


def find_flows(arguments: Sequence[Path]) -> list[Path]:
    """Return the flow files under *arguments*, files or directories, in a stable order, each once.

    In directories names that begin with a dot are left out. Links are followed: Kubernetes mounts a ConfigMap as a
    folder of links to files in a folder whose name begins with two dots.

    Raises:
        UsageError: there is no flow, or a link leads nowhere.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        if argument.is_dir():
            for path in _files_in(argument, set()):
                found.setdefault(os.path.realpath(path), path)
        elif argument.is_file():
            found.setdefault(os.path.realpath(argument), argument)
        else:
            raise UsageError(f"{argument}: {_NOWHERE if argument.is_symlink() else 'no such file or directory'}")
    if not found:
        raise UsageError(f"no flows in {', '.join(map(str, arguments))}: looked for *.yaml, *.yml and *.json")
    return list(found.values())


_NOWHERE: Final = "the link leads nowhere; remove it, or restore what it leads to"


def _files_in(folder: Path, above: set[str]) -> Iterator[Path]:
    """Yield the flow files in *folder* and the folders in it, in order of their names.

    Args:
        above: the real paths of the folders that it is in: a link may lead back to one of them.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_in(path, above | {real})
        elif _is_flow(path):
            if path.is_file():
                yield path
            elif path.is_symlink():
                raise UsageError(f"{path}: {_NOWHERE}")


def _is_flow(path: Path) -> bool:
    return path.suffix in SUFFIXES and ".test." not in path.name and path.name != WORKSPACE


def find_workspace(arguments: Sequence[Path], config: Path | None) -> Path | None:
    """Return the workspace file in force, None for none.

    It is *config*, else the one beside the first argument, else the nearest in the folders above it: up to the one that
    is a repository, and at most four. Without arguments the search begins in the working directory.

    Raises:
        UsageError: one stands only beside a later argument, or a different one there; or *config* cannot be read.
    """
    if config is not None:
        must_be_readable(config, f"--config {config}")
        return config
    folders = [one if one.is_dir() else one.parent for one in arguments] or [Path()]
    found = _nearest_workspace(folders[0])
    for folder in folders[1:]:
        other = folder / WORKSPACE
        if not other.is_file():
            continue
        if found is None:
            raise UsageError(f"{other} is beside a later argument: name it with --config, or give that argument first")
        if _read(other) != _read(found):
            raise UsageError(f"different workspace files: {found}, {other}; choose one with --config")
    return found


def _nearest_workspace(folder: Path) -> Path | None:
    if (folder / WORKSPACE).is_file():
        return folder / WORKSPACE
    here, working = Path(os.path.abspath(folder)), Path.cwd()
    for above in [here, *here.parents][: FOLDERS_ABOVE + 1]:
        path = above / WORKSPACE
        if os.path.isfile(path):  # False also where we may not look.
            return path.relative_to(working) if path.is_relative_to(working) else path
        if os.path.exists(above / ".git"):
            break
    return None


def read_flows(arguments: Sequence[Path]) -> list[FlowText]:
    """Return the texts of the flow files under *arguments*."""
    texts = []
    for path in find_flows(arguments):
        # What is not UTF-8 is a problem like others, told when the text is compiled.
        texts.append(FlowText(shown_path(path), _read(path).decode("utf-8-sig", errors="surrogateescape")))
    return texts


def contents_of(arguments: Sequence[Path], config: Path | None) -> bytes:
    """Return a digest of all that `load` would read: it changes when a file does, comes or goes.

    What cannot be read is a part of it, as that.
    """
    digest = blake2b(digest_size=16)

    def add(text: bytes) -> None:
        digest.update(b"%d " % len(text) + text)

    try:
        add(read_workspace_file(find_workspace(arguments, config)))
        for path in find_flows(arguments):
            add(os.fsencode(path))
            add(_read(path))
    except (UsageError, OSError) as error:
        add(str(error).encode(errors="surrogateescape"))
    return digest.digest()


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
    kept = without_settings(workspace_text)
    return Loaded(Deployment(result.programs), result, workspace, kept, workspace_file)
