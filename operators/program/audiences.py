"""Which audiences there are: those that `nudge.yaml` lists, and those that some flow adds users to.

Without such a list nobody knows, and nothing is checked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from operators.language.problems import Path, Problems, did_you_mean


class KnownAudiences:
    """The audiences of all flows that are compiled together.

    Args:
        listed: those of `nudge.yaml`, None where it lists none.
    """

    def __init__(self, listed: Collection[str] | None) -> None:
        self._listed = listed
        self._added: set[str] = set()
        self._asked: list[tuple[str, Path, Problems]] = []

    def note(self, problems: Problems, asked: Iterable[tuple[str, Path]], added: Iterable[str]) -> None:
        """Note the audiences that a flow asks for, each with its place, and those that it adds users to."""
        if self._listed is not None:
            self._asked.extend((name, path, problems) for name, path in asked)
            self._added.update(added)

    def places(self) -> list[tuple[Problems, Path]]:
        """Return where a problem may be noted in the end."""
        return [(problems, path) for _, path, problems in self._asked]

    def take(self, other: KnownAudiences) -> None:
        """Take in what *other* has noted of the files that follow."""
        self._added |= other._added
        self._asked += other._asked

    def check(self) -> None:
        """Note a problem at each that nobody knows, after the last flow."""
        if self._listed is None:
            return
        known = {*self._listed, *self._added}
        for name, path, problems in self._asked:
            if name not in known:
                hint = did_you_mean(name, known)
                hint = f"{hint}; or list it under 'audiences' in nudge.yaml" if hint else "list it in nudge.yaml"
                message = f"there is no audience '{name}': nudge.yaml does not list it, and no flow adds to it"
                problems.add(path, "unknown-audience", message, hint)
