"""What can go wrong with a template: while it is read, and while it is rendered."""

from __future__ import annotations


class TemplateSyntaxError(ValueError):
    """The text is not a template. `str()` says what is wrong and where; `hint` what to try, "" if nobody knows."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TemplateFailed(Exception):
    """A template cannot be rendered with these values. The message names none of them, so it may be logged."""
