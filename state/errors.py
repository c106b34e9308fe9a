"""What can go wrong without a bug in the code: one tree, in which a class's place says how it ends.

    ExpectedError          told in one line; anything else is a bug, and shown with its traceback
      Refused              exit status 2
        UsageError, FlowError, OptionRefused
        StateRefused       a StoreError too
          NewerFormatError, DecidedOtherwise
      Failed               exit status 1
        JobFailed, KafkaUnavailable, SinkError, SourceError, DeliveryFailed, LedgerAway
        StoreError

The classes stand where they are raised; here are the branches, and what is wrong with a state.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO})


class ExpectedError(Exception):
    """Something that people outside the code can mend; the message says how."""

    exit_status: ClassVar[int]


class Refused(ExpectedError):
    """What was asked for, or what was given, is not usable. Starting again does not help."""

    exit_status = 2


class Failed(ExpectedError):
    """Something outside the job failed. Starting again may help."""

    exit_status = 1


class StoreError(Failed):
    """A store cannot be read or written; the message says what to do."""


class StateRefused(Refused, StoreError):
    """The state is not one that this software can go on from: of a newer format, damaged, or put together from parts.

    Nothing about it is guessed, and starting again does not help.
    """


class NewerFormatError(StateRefused):
    """Something was written by a later version of the software."""


def exit_status_of(error: Exception) -> int | None:
    """Return the exit status of a command that ends with *error*, None for a bug."""
    if isinstance(error, ExpectedError):
        return error.exit_status
    is_disk = isinstance(error, OSError) and error.errno in DISK_ERRORS
    return Failed.exit_status if is_disk else None


def is_expected(error: Exception) -> bool:
    """Tell whether one line says enough of *error*: it is none of ours, or the operating system says what it is."""
    return isinstance(error, ExpectedError | OSError)


def in_one_line(error: Exception) -> str:
    """Return what went wrong, with the kind of the error where its message alone may say too little."""
    return str(error) if isinstance(error, ExpectedError) else f"{type(error).__name__}: {error}"
