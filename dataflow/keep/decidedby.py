"""Who decides: the version of this software and of everything else that decisions depend on."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from operators.decisions import DECISIONS

UNKNOWN = "unknown"


class DecidedBy(msgspec.Struct, frozen=True):
    """A decision version.

    `software` is the version of Nudge, for people; `parts` is what decisions depend on, each with its version.
    """

    software: str
    parts: dict[str, str]

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.parts.items())

    def differences(self, other: DecidedBy) -> list[str]:
        """Say in which parts *self* differs from *other*."""
        names = dict.fromkeys([*self.parts, *other.parts])
        mine, theirs = ({name: one.parts.get(name, "none") for name in names} for one in (self, other))
        return [f"{name} {mine[name]} instead of {theirs[name]}" for name in names if mine[name] != theirs[name]]


@cache
def decided_by() -> DecidedBy:
    """Return what decides here."""
    return DecidedBy(
        _version_of("nudge"),
        {
            "decisions": str(DECISIONS),
            # Zones come from the package alone (operators/language/localtime.py); those of the system have no part.
            "tzdata package": _version_of("tzdata"),
            "python-liquid": _version_of("python-liquid"),
            "google-re2": _version_of("google-re2"),
        },
    )


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN  # Run from a checkout, or put there by other means than a package.
