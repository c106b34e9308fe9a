"""What every template can do, and the simplest one: a text without any markup."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""A reference: the root, then names and positions in lists."""


class Template:
    """A text that may refer to values.

    The same template and scope always give the same result: `now` is stream time, and there is no other clock, and no
    zone or language of the machine.

    Attributes:
        source: the text as written.
        is_constant: there is no markup in it; rendering gives `source`.
        is_reference: it is exactly one reference, so that rendering keeps the value's type.
        roots: the members of `ROOTS` that it refers to.
        paths: its references, as far as they are fixed: `{{ entry.items[0][profile.x] }}` is `("entry", "items", 0)`
            and `("profile", "x")`.
        needs: those of them that have to be there: nothing in the template asks whether they are.
    """

    __slots__ = ("is_constant", "is_reference", "needs", "paths", "roots", "source")

    def __init__(
        self,
        source: str,
        paths: Collection[Path],
        needs: Collection[Path] | None = None,
        *,
        is_constant: bool = False,
        is_reference: bool = False,
    ) -> None:
        self.source: Final = source
        self.is_constant: Final = is_constant
        self.is_reference: Final = is_reference
        self.paths: Final = frozenset(paths)
        self.needs: Final = self.paths if needs is None else frozenset(needs)
        self.roots: Final = frozenset(str(path[0]) for path in paths)

    def render(self, scope: Any) -> object:
        """Return a JSON value for a single reference, else text; `MISSING` if what it needs is missing.

        Objects and lists are those of *scope* itself: copy what you keep, change nothing.

        Raises:
            TemplateFailed: it cannot be rendered with these values, or would do or write too much.
        """
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"parse_template({self.source!r})"


class Text(Template):
    """A text without any markup."""

    __slots__ = ()

    def __init__(self, source: str) -> None:
        super().__init__(source, (), is_constant=True)

    def render(self, scope: Any) -> object:
        return self.source
