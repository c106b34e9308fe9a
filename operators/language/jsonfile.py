"""Compose JSON text into the nodes that YAML would give: nearly all JSON is YAML, but not all of it.

YAML parsers fold a text at some characters, refuse others, and know no key of more than 1 024 characters.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Final

import yaml

TEXT: Final = "text"
"""The tag of a scalar that is text, whatever it looks like."""
PLAIN: Final = "plain"
"""The tag of a scalar whose type follows from how it is written."""
COLLECTION: Final = "collection"
"""The tag of a list or mapping without a tag."""

_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_WORD: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")


class NotJson(Exception):
    """The text is no JSON, or nests too deeply."""


def compose_json(text: str, *, depth_max: int) -> yaml.Node:
    """Return the node of the JSON value in *text*.

    Raises:
        NotJson: there is none, or it nests over *depth_max* levels.
    """
    reader = _Reader(text, depth_max)
    node = reader.value(0)
    if reader.skip() != len(text):
        raise NotJson
    return node


class _Reader:
    def __init__(self, text: str, depth_max: int) -> None:
        self._text = text
        self._depth_max = depth_max
        self._at = 0
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def skip(self) -> int:
        """Go on to what is no blank, and return where that is."""
        blanks = _BLANKS.match(self._text, self._at)
        assert blanks is not None
        self._at = blanks.end()
        return self._at

    def value(self, depth: int) -> yaml.Node:
        if depth > self._depth_max:
            raise NotJson
        start = self.skip()
        opening = self._text[start : start + 1]
        if opening == "{":
            return self._mapping(depth)
        if opening == "[":
            return self._list(depth)
        if opening == '"':
            return self._string()
        word = _WORD.match(self._text, start)
        if word is None:
            raise NotJson
        self._at = word.end()
        return yaml.ScalarNode(PLAIN, word[0], self._mark(start), None)

    def _mapping(self, depth: int) -> yaml.Node:
        start = self._at
        entries: list[tuple[yaml.Node, yaml.Node]] = []
        if self._opens_empty("}"):
            return yaml.MappingNode(COLLECTION, entries, self._mark(start), None)
        while True:
            self.skip()
            key = self._string()
            self.skip()
            self._take(":")
            entries.append((key, self.value(depth + 1)))
            if self._is_last("}"):
                return yaml.MappingNode(COLLECTION, entries, self._mark(start), None)

    def _list(self, depth: int) -> yaml.Node:
        start = self._at
        items: list[yaml.Node] = []
        if self._opens_empty("]"):
            return yaml.SequenceNode(COLLECTION, items, self._mark(start), None)
        while True:
            items.append(self.value(depth + 1))
            if self._is_last("]"):
                return yaml.SequenceNode(COLLECTION, items, self._mark(start), None)

    def _string(self) -> yaml.Node:
        start = self._at
        found = _STRING.match(self._text, start)
        if found is None:
            raise NotJson
        self._at = found.end()
        value: str = json.loads(found[0]) if "\\" in found[0] else found[0][1:-1]
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotJson from None  # Half a character.
        return yaml.ScalarNode(TEXT, value, self._mark(start), None)

    def _opens_empty(self, closing: str) -> bool:
        self._at += 1
        if self._text[self.skip() : self._at + 1] != closing:
            return False
        self._at += 1
        return True

    def _is_last(self, closing: str) -> bool:
        """Step over what follows an element, and tell whether it was the last one."""
        if self._text[self.skip() : self._at + 1] == closing:
            self._at += 1
            return True
        self._take(",")
        return False

    def _take(self, wanted: str) -> None:
        if self._text[self._at : self._at + 1] != wanted:
            raise NotJson
        self._at += 1

    def _mark(self, index: int) -> yaml.Mark:
        line = bisect_right(self._line_starts, index) - 1
        return yaml.Mark("", index, line, index - self._line_starts[line], None, 0)
