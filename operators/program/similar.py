"""Finds names of events that are nearly the same: one of the two is most likely a typing error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from operators.language.model import EVENT_NAME_MAX
from operators.language.problems import Path, Problems

NAMES_MAX: Final = 5_000  # With more, nothing is compared.

# `cart` and `card`, `view` and `views` are words. So are `shipped` and `skipped`: another letter is less telling than
# one too few, one too many, or two that have changed places.
_CHANGED_IN: Final = 8
_ADDED_TO: Final = 6

_SEPARATORS: Final = re.compile(r"[\s_.:/-]+")
_LETTERS: Final = re.compile(r"[a-z]+")


class _Use(NamedTuple):
    problems: Problems
    path: Path
    group: Path


class Similar:
    """The names of all events of one check, and where they stand."""

    def __init__(self) -> None:
        self._uses: dict[str, list[_Use]] = {}

    def note(self, name: str, problems: Problems, path: Path, group: Path) -> None:
        """Note the event *name*; in one *group* of a file several spellings stand on purpose."""
        if len(name) <= EVENT_NAME_MAX:
            self._uses.setdefault(name, []).append(_Use(problems, path, group))

    def places(self) -> list[tuple[Problems, Path]]:
        """Return where a problem may be noted in the end."""
        return [(use.problems, use.path) for uses in self._uses.values() for use in uses]

    def take(self, other: Similar) -> None:
        """Take in what *other* has noted of the files that follow."""
        for name, uses in other._uses.items():
            self._uses.setdefault(name, []).extend(uses)

    def tell(self) -> None:
        """Note a problem at each name that is nearly another one, where the rarer of the two first stands in a file."""
        if len(self._uses) > NAMES_MAX:
            return
        rank = {name: (-len(uses), index) for index, (name, uses) in enumerate(self._uses.items())}
        usual: dict[str, str] = {}
        for pair in _pairs(self._uses):
            better, worse = sorted(pair, key=rank.__getitem__)
            if not self._are_together(better, worse):
                usual[worse] = min(usual.get(worse, better), better, key=rank.__getitem__)
        for name, other in usual.items():
            best = usual.get(other, other)
            if not self._are_together(best, name):
                self._tell(name, best)

    def _are_together(self, one: str, other: str) -> bool:
        return bool(self._groups(one) & self._groups(other))

    def _groups(self, name: str) -> set[tuple[int, Path]]:
        return {(id(use.problems), use.group) for use in self._uses[name]}

    def _tell(self, name: str, usual: str) -> None:
        files: set[int] = set()
        there = self._uses[usual][0]
        line, _ = there.problems.document.place(there.path)
        for use in self._uses[name]:
            if id(use.problems) in files:
                continue
            files.add(id(use.problems))
            said = f"'{name}' is nearly '{usual}' of {there.problems.document.file}:{line}; names are compared exactly"
            use.problems.warn(use.path, "similar-event", said, f"if it is the same event, write {usual}")


def _pairs(names: dict[str, list[_Use]]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of names that are nearly the same, in the order in which they were written."""
    by_part: dict[str, list[str]] = {}
    for name in names:
        lower = name.lower()
        parts = {_SEPARATORS.sub("", lower), lower}
        parts.update(lower[:index] + lower[index + 1 :] for index in range(len(lower)))
        others = dict.fromkeys(other for part in parts for other in by_part.get(part, ()))
        for other in others:
            if _is_nearly(other, name):
                yield other, name
        for part in parts:
            by_part.setdefault(part, []).append(name)


def _is_nearly(one: str, other: str) -> bool:
    left, right = one.lower(), other.lower()
    if _SEPARATORS.sub("", left) == _SEPARATORS.sub("", right):
        return True
    start = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    first, second = left[start : len(left) - end], right[start : len(right) - end]
    if not all(map(str.isalpha, first + second)):
        return False
    words = [_word_around(text, start) for text in (left, right)]
    if words[0][:1] != words[1][:1]:
        return False  # Another first letter makes another word.
    length = max(map(len, words))
    if len(first) == len(second) == 1:
        return length >= _CHANGED_IN
    swapped = len(first) == 2 and first == second[::-1]
    return length >= _ADDED_TO and (swapped or {len(first), len(second)} == {0, 1})


def _word_around(text: str, index: int) -> str:
    return next((word[0] for word in _LETTERS.finditer(text) if word.start() <= index <= word.end()), "")
