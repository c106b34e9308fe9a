"""Read YAML 1.2 (core schema) or JSON text into plain data, and remember where every value stands.

PyYAML parses YAML 1.1; what differs is only how plain scalars are read, so the scalars are read here: `yes`, `10:00`
and `2026-11-23` are text, `0o17` and `0x1F` are integers, and there are no merge keys.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

import yaml

from operators.language.problems import Document, Path, Problems

BYTES_MAX: Final = 1_048_576  # As for a record. Flows that people write have a hundredth of it.
DEPTH_MAX: Final = 64
NODES_MAX: Final = 200_000  # Counts what aliases expand to, so that a few lines cannot become gigabytes.

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE: Final = frozenset(("true", "True", "TRUE"))
_FALSE: Final = frozenset(("false", "False", "FALSE"))
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
INTEGER_DIGITS_MAX: Final = 300  # A double has no more, and reading longer ones is slow.
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

# JSON may write a character beyond the first 65 536 as two escapes, which YAML refuses; an escaped backslash is none.
_HALVES: Final = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)

_OPENING: Final = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSING: Final = (yaml.SequenceEndEvent, yaml.MappingEndEvent)

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FAILED: Final = object()


def read_document(file: str, text: bytes) -> tuple[Document, Problems]:
    """Return the data of *text* with its places, and the problems found; data is None when it cannot be read."""
    document = Document(file, None)
    problems = Problems(document)
    if len(text) > BYTES_MAX:
        message = f"the file has more than {BYTES_MAX} bytes"
        problems.add((), "too-large", message, "make several flows of it, or ask for less in one")
        return document, problems
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        document.marks[()] = (line, 1)
        problems.add((), "bad-encoding", f"byte {error.start} is not UTF-8", "save the file as UTF-8")
        return document, problems
    if file.endswith(".json"):
        decoded = _HALVES.sub(_whole_character, decoded)
    try:
        too_deep = _too_deep(decoded)
        if too_deep is not None:
            document.marks[()] = too_deep
            problems.add((), "too-large", f"nested over {DEPTH_MAX} levels", "name parts of it, or write it flatter")
            return document, problems
        documents = list(islice(yaml.compose_all(decoded, Loader=_Loader), 2))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.marks[()] = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(part for part in (error.context, error.problem) if part)
        hint = "a text with ': ' or a leading special character needs quotes"
        if mark and decoded[mark.index : mark.index + 1] == "\t":
            message, hint = "a tab stands where YAML allows spaces only", "indent with spaces"
        problems.add((), "bad-yaml", message, hint)
        return document, problems
    except (yaml.YAMLError, RecursionError) as error:
        document.marks[()] = (1, 1)
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        problems.add((), "bad-yaml", message)
        return document, problems
    if not documents or documents[0] is None:
        problems.add((), "empty-file", "there is no flow in this file", "a flow needs 'flow', 'trigger' and 'steps'")
    elif len(documents) > 1:
        mark = documents[1].start_mark
        document.marks[()] = (mark.line + 1, mark.column + 1)
        problems.add((), "several-documents", "a file holds one document", "put each flow in a file of its own")
    else:
        data = _Reader(problems).value(documents[0], ())
        document.data = None if data is _FAILED else data
    return document, problems


def _whole_character(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[0]
    return chr(0x10000 + ((int(escape[1], 16) & 0x3FF) << 10) + (int(escape[2], 16) & 0x3FF))


def _too_deep(text: str) -> tuple[int, int] | None:
    """Return the line and column at which *text* nests too deeply, None for nowhere.

    Asked before it is composed: the composer in C recurses without a limit, up to the end of the stack.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, _OPENING):
            depth += 1
            if depth > DEPTH_MAX + 1:
                mark = event.start_mark
                return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        elif isinstance(event, _CLOSING):
            depth -= 1
    return None


class _Reader:
    """Turns the nodes of one document into data."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._nodes = 0

    def value(self, node: yaml.Node, path: Path) -> object:
        self._problems.document.marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._nodes += 1
        if len(path) > DEPTH_MAX or self._nodes > NODES_MAX:
            if self._nodes <= NODES_MAX + 1:
                self._nodes = NODES_MAX + 1
                self._problems.add(path[:3], "too-large", f"nested over {DEPTH_MAX} levels, or over {NODES_MAX} values")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        data: dict[str, object] = {}
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.document.marks[(*path, "?")] = mark
                self._problems.add((*path, "?"), "bad-key", "a key is a text")
                continue
            key = key_node.value
            key_path = (*path, key)
            if key in data:
                self._problems.document.marks[key_path] = mark
                self._problems.add(key_path, "duplicate-key", f"'{key}' is written twice here", "keep one of them")
                continue
            self._problems.document.key_marks[key_path] = mark
            data[key] = self.value(value_node, key_path)
        return data

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text: str = node.value
        if node.tag.startswith("!") or node.tag in ("tag:yaml.org,2002:binary", "tag:yaml.org,2002:set"):
            self._problems.add(path, "bad-tag", f"the tag {node.tag} has no meaning in a flow", "leave it out")
            return text
        if node.style:  # None or "" for plain scalars, depending on the parser.
            return text  # Quoted and block scalars are text.
        if text in _NULL:
            return None
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        if _INT.fullmatch(text):
            return self._integer(text, path)
        if _FLOAT.fullmatch(text):
            return self._finite(float(text), text, path)
        if _NOT_FINITE.fullmatch(text):
            return self._finite(float("inf"), text, path)
        return text

    def _integer(self, text: str, path: Path) -> int | float | None:
        """Return an integer; beyond 64 bits it is a double, as in events."""
        if text[:2] in ("0o", "0x"):
            number = int(text, 0)
        elif len(text) <= INTEGER_DIGITS_MAX:
            number = int(text)
        else:
            return self._finite(float(text), text, path)
        return number if -(2**63) <= number < 2**63 else self._finite(float(number), text, path)

    def _finite(self, number: float, text: str, path: Path) -> float | None:
        if number in (float("inf"), float("-inf")):
            self._problems.add(path, "bad-number", f"{text[:20]} is no number that an event could have")
            return None
        return number
