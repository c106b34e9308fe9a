"""`cap_left`: whether the frequency caps would allow another marketing message on a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from operators.caps import Cap, against
from operators.conditions.base import Condition, Context
from operators.conditions.keyword import Keyword, Site
from operators.language.problems import BadValue, Path, Problems
from operators.language.values import parse_name
from state.outgoing import NAME_PATTERN


@dataclass(frozen=True, slots=True)
class CapLeft:
    """Holds when all of `caps` would allow a message on `channel`, and for members of the audiences `exempt`."""

    channel: str
    caps: tuple[Cap, ...]
    exempt: tuple[str, ...]

    def holds(self, context: Context) -> bool:
        return self._against(context) is None

    def key(self) -> list[Any]:
        return ["cap_left", self.channel]

    def failure(self, context: Context) -> dict[str, Any]:
        return self.described(context)

    def described(self, context: Context) -> dict[str, Any]:
        return {"path": "cap_left", "test": self.channel, "value": self._against(context)}

    def _against(self, context: Context) -> dict[str, Any] | None:
        """Return what stands against another message, None for nothing."""
        found = against(self.caps, context.sends, context.now)
        return None if any(name in context.audiences for name in self.exempt) else found


def _parse(raw: object, path: Path, problems: Problems, site: Site) -> Condition | None:
    try:
        channel = parse_name(raw)
    except BadValue as bad:
        problems.add_bad(path, bad)
        return None
    found = site.caps(channel, path)
    if found is None:
        return None
    caps, exempt = found
    if not caps:
        said = f"nudge.yaml has no caps for {channel}: this always holds"
        problems.warn(path, "no-effect", said, "remove it, or add caps")
    return CapLeft(channel, caps, exempt)


CAP_LEFT: Final = Keyword(
    _parse, {"type": "string", "pattern": NAME_PATTERN, "description": "the caps of this channel allow one more"}
)
