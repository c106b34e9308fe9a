"""What can be wrong with a state."""

from __future__ import annotations


class StoreError(Exception):
    """A store cannot be read or written; the message says what to do."""


class StateRefused(StoreError):
    """The state is not one that this software can go on from: of a newer format, damaged, or put together from parts.

    Nothing about it is guessed, and starting again does not help.
    """


class NewerFormatError(StateRefused):
    """Something was written by a later version of the software."""
