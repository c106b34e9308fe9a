"""What a further key of `when` is: its parser and its JSON Schema, for the list in `operators/conditions/when.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from operators.caps import Cap
from operators.conditions.arguments import Schema
from operators.conditions.base import Clause, Condition
from operators.conditions.parse import Resolve
from operators.language.model import Model
from operators.language.problems import Path, Problems


class Site(NamedTuple):
    """Where a `when` stands."""

    note: Callable[[Clause], None]
    """Called with every `did` found, so that its events are counted."""
    at_entry: bool
    """Before a journey exists: a `did` needs a window there."""
    ask: Callable[[str, Path], None]
    """Called with every audience found and where it stands, so that it is known."""
    resolve: Resolve
    """Says which moment is meant where one is written."""
    caps: Callable[[str, Path], tuple[tuple[Cap, ...], tuple[str, ...]] | None]
    """Returns the caps of a channel, and the audiences for which they do not hold; notes one that nobody knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyword:
    """A key of `when` that is no field of the user."""

    parse: Callable[[object, Path, Problems, Site], Condition | None]
    """Returns the condition behind the key, or None after noting why not."""
    schema: Schema
    """What may stand behind the key."""
    models: tuple[type[Model], ...] = ()
    """The models that the schema refers to, as `#/$defs/<name without Model>`."""
    definitions: Mapping[str, Schema] = field(default_factory=dict)
    """What else it refers to."""
