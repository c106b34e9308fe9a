"""What a command refuses. The tree that it belongs to is in `state/errors.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state.errors import Refused


class UsageError(Refused):
    """The command was given something it cannot work with; the message says what next."""


@contextmanager
def at_file(file: str) -> Iterator[None]:
    """Say of what is refused meanwhile that it stands in *file*."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def must_be_readable(path: Path, what: str) -> None:
    """Refuse *path*, which is *what* on the command line, if it is no file that can be read.

    Raises:
        UsageError: it is not.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{what}: a directory; name a file in it")
        if path.exists() and not path.is_file():
            raise UsageError(f"{what}: neither a file nor a link to one")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        hint = "the link leads nowhere" if path.is_symlink() else "no such file"
        raise UsageError(f"{what}: {hint}") from None
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}; check who may read it") from None
