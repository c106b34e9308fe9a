"""Read YAML 1.2 (core schema) or JSON text into plain data, and remember where every value stands.

PyYAML parses YAML 1.1; what differs is how scalars are read and what ends a line, so that is decided here: `yes`,
`10:00` and `2026-11-23` are text, `0o17` and `0x1F` are integers, and there are no merge keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Final

import yaml

from operators.language.jsonfile import COLLECTION, PLAIN, TEXT, NotJson, compose_json
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

_OPENING: Final = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSING: Final = (yaml.SequenceEndEvent, yaml.MappingEndEvent)

_ANY_LINE_END: Final = re.compile("[\u0085\u2028\u2029]")  # They end a line in YAML 1.1, and are characters in 1.2.
_PRIVATE_USE: Final = range(0xE000, 0xF900)

_LOST_AT_THE_HEAD: Final = re.compile(r"[-+]?(0)[0-9]|(\+)[0-9]{7}")  # Of post codes and of telephone numbers.
_DEPTH_SAFE: Final = 1_000  # The composer in C takes some hundred bytes of the stack for each level.
_LINE_HEADS: Final = re.compile(r"^[ \t?:-]+", re.MULTILINE)
_BARE_TEMPLATE: Final = re.compile(r"(?:^|[:,\[-])\s*\{[{%]")
_NOT_RESOLVED: Final = re.compile(r"(&\S+\s+)?!(\s|$)")
_CORE: Final = "tag:yaml.org,2002:"
_COLLECTION_TAGS: Final[dict[type[yaml.Node], frozenset[str]]] = {
    yaml.SequenceNode: frozenset((COLLECTION, _CORE + "seq")),
    yaml.MappingNode: frozenset((COLLECTION, _CORE + "map")),
}
_KEY_TAGS: Final = frozenset((PLAIN, TEXT, _CORE + "str"))

_FAILED: Final = object()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Says of each node only what is written: its tag, or how it stands there without one."""

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:
        if kind is not yaml.ScalarNode:
            return COLLECTION
        return PLAIN if isinstance(implicit, tuple) and implicit[0] else TEXT


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
    node = _json_node(decoded) if file.endswith(".json") else None
    if node is not None:
        _read(node, _Reader(problems))
        return document, problems
    decoded, stand_ins = _without_other_line_ends(decoded)
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
        if mark and decoded[mark.index : mark.index + 1] == "\t":
            message, hint = "a tab stands where YAML allows spaces only", "indent with spaces"
        else:
            hint = _hint_for_yaml(error, decoded.splitlines())
        problems.add((), "bad-yaml", message, hint)
        return document, problems
    except (yaml.YAMLError, RecursionError) as error:
        document.marks[()] = (1, 1)
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        problems.add((), "bad-yaml", message)
        return document, problems
    if not documents or documents[0] is None:
        _is_empty(problems)
    elif len(documents) > 1:
        mark = documents[1].start_mark
        document.marks[()] = (mark.line + 1, mark.column + 1)
        problems.add((), "several-documents", "a file holds one document", "put each flow in a file of its own")
    else:
        _read(documents[0], _Reader(problems, decoded, stand_ins))
    return document, problems


def _read(node: yaml.Node, reader: _Reader) -> None:
    problems = reader.problems
    problems.document.data = reader.value(node, ())
    if problems.document.data is None and not problems.found:
        _is_empty(problems)


def _is_empty(problems: Problems) -> None:
    problems.add((), "empty-file", "there is no flow in this file", "a flow needs 'flow', 'trigger' and 'steps'")


def _hint_for_yaml(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None]
    near = [lines[number] for mark in marks for number in (mark.line, mark.line - 1) if 0 <= number < len(lines)]
    if any(_BARE_TEMPLATE.search(line) for line in near):
        return 'put quotes around the text with the template: "{{ profile.name }}"'
    if "block" in str(error.context) or "mapping values" in str(error.problem):
        return (
            "what belongs together begins in the same column: look at the indentation here and above; a text with ': ' "
            "needs quotes"
        )
    return "a text with ': ' or a leading special character needs quotes"


def _json_node(text: str) -> yaml.Node | None:
    """Return the node of a JSON text; None if it is none, and read as YAML: with comments, say."""
    try:
        return compose_json(text, depth_max=DEPTH_MAX + 1)
    except NotJson:
        return None


def _without_other_line_ends(text: str) -> tuple[str, dict[int, int]]:
    """Return *text* with other characters for those that only YAML 1.1 takes for line ends, and the way back."""
    there = sorted(set(_ANY_LINE_END.findall(text)))
    if not there:
        return text, {}
    free = (code for code in _PRIVATE_USE if chr(code) not in text)
    stand_ins = dict(zip(map(ord, there), free, strict=False))
    return text.translate(stand_ins), {code: original for original, code in stand_ins.items()}


def _too_deep(text: str) -> tuple[int, int] | None:
    """Return the line and column at which *text* nests too deeply, None for nowhere.

    Asked before it is composed: the composer in C recurses without a limit, up to the end of the stack.
    """
    if _depth_at_most(text) <= _DEPTH_SAFE:
        return None  # It cannot end the stack, and the reader sees how deep it is.
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


def _depth_at_most(text: str) -> int:
    """Return a depth that *text* surely does not exceed: what is cheap to know.

    A collection in brackets needs a bracket. One without begins further to the right than the one around it, or, a list
    in a mapping, in the same column. Before it in its line stand only blanks and the signs of those around it.
    """
    return text.count("[") + text.count("{") + 2 * max(map(len, _LINE_HEADS.findall(text)), default=0) + 2


class _Reader:
    """Turns the nodes of one document into data."""

    def __init__(self, problems: Problems, source: str = "", stand_ins: dict[int, int] | None = None) -> None:
        self.problems = problems
        self._source = source
        self._has_tags = "!" in source
        self._stand_ins = stand_ins or {}
        self._nodes = 0

    def value(self, node: yaml.Node, path: Path) -> object:
        self.problems.document.marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._nodes += 1
        if len(path) > DEPTH_MAX or self._nodes > NODES_MAX:
            if self._nodes <= NODES_MAX + 1:
                self._nodes = NODES_MAX + 1
                self.problems.add(path[:3], "too-large", f"nested over {DEPTH_MAX} levels, or over {NODES_MAX} values")
            return None
        allowed = _COLLECTION_TAGS.get(type(node))
        if allowed is not None and node.tag not in allowed:
            self._bad_tag(node, path)
        if isinstance(node, yaml.MappingNode):
            bare = self._bare_template(node)
            if bare is None:
                return self._mapping(node, path)
            quote = "'" if '"' in bare else '"'
            hint = f"put quotes around it: {quote}{bare}{quote}"
            self.problems.add(path, "bad-key", "a template without quotes is a mapping in a mapping", hint)
            return bare
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _bare_template(self, node: yaml.MappingNode) -> str | None:
        """Return the text of a template that was written without quotes, None if *node* is none."""
        if len(node.value) != 1 or not isinstance(node.value[0][0], yaml.MappingNode) or node.end_mark is None:
            return None
        text = self._source[node.start_mark.index : node.end_mark.index]
        return text if text.startswith("{{") else None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        data: dict[str, object] = {}
        merged: object = None
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.document.marks[(*path, "?")] = mark
                self.problems.add((*path, "?"), "bad-key", "a key is a text")
                continue
            key = self._text(key_node)
            key_path = (*path, key)
            if key == "<<" and key_node.tag == PLAIN:
                self.problems.document.key_marks[key_path] = mark
                hint = "write the keys out; an alias can stand for a whole value"
                self.problems.add(key_path, "merge-key", "merge keys are not part of YAML 1.2", hint, at_key=True)
                merged = self.value(value_node, key_path)
                continue
            if key in data:
                self.problems.document.marks[key_path] = mark
                self.problems.add(key_path, "duplicate-key", f"'{key}' is written twice here", "keep one of them")
                continue
            self.problems.document.key_marks[key_path] = mark
            if key_node.tag not in _KEY_TAGS:
                self._bad_tag(key_node, key_path)
            data[key] = self.value(value_node, key_path)
        # As it was meant, else all the keys would be missing, too.
        return {**merged, **data} if isinstance(merged, dict) else data

    def _text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        return text.translate(self._stand_ins) if self._stand_ins else text

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text = self._text(node)
        if node.tag in (TEXT, _CORE + "str") or (node.tag == PLAIN and self._is_text(node)):
            return text
        if node.tag == PLAIN:
            value = self._plain(text, path)
            if value is _FAILED:
                return text
            if (lost := _LOST_AT_THE_HEAD.match(text)) is not None and value is not None:
                said = f"{text[:40]} is the number {str(value)[:40]}: '{lost[1] or lost[2]}' at its head is lost"
                self.problems.warn(path, "leading-zero", said, f'if it is a text, write "{text[:40]}"')
            return value
        if node.tag.removeprefix(_CORE) not in _READS:
            self._bad_tag(node, path)
            return text
        named, is_one = _READS[node.tag.removeprefix(_CORE)]
        if not is_one(text):
            said = f"{_written(node.tag)} says that this is {named}, but {text[:40]!r} is none"
            self.problems.add(path, "bad-tag", said, "write another value, or leave the tag out")
            return text
        value = self._plain(text, path)
        return float(value) if node.tag == _CORE + "float" and isinstance(value, int) else value

    def _is_text(self, node: yaml.ScalarNode) -> bool:
        """Tell whether a scalar is quoted or a block, or has the tag `!`, which means the same and is not handed on."""
        if node.style or not self._has_tags:
            return bool(node.style)
        return _NOT_RESOLVED.match(self._source, node.start_mark.index) is not None

    def _bad_tag(self, node: yaml.Node, path: Path) -> None:
        tag = _written(node.tag)
        if node.tag.removeprefix(_CORE) in _TAGS:
            hint = "a key is always a text" if isinstance(node, yaml.ScalarNode) else "leave it out"
            self.problems.add(path, "bad-tag", f"the tag {tag} does not fit what it stands before", hint)
        else:
            hint = "leave it out; there are " + ", ".join(f"!!{tag}" for tag in _TAGS)
            self.problems.add(path, "bad-tag", f"the tag {tag} has no meaning in a flow", hint)

    def _plain(self, text: str, path: Path) -> object:
        """Return what a scalar without quotes is, `_FAILED` when it is a text."""
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
        return _FAILED

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
            self.problems.add(path, "bad-number", f"{text[:20]} is no number that an event could have")
            return None
        return number


def _written(tag: str) -> str:
    """Return *tag* as authors write it."""
    return "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag


def _is_float(text: str) -> bool:
    return bool(_FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text))


_READS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "int": ("a whole number", _INT.fullmatch),
    "float": ("a number", _is_float),
    "bool": ("true or false", (_TRUE | _FALSE).__contains__),
    "null": ("null", _NULL.__contains__),
}
"""By tag: what it says that a scalar is, and which texts are."""
_TAGS: Final = ("str", *_READS, "seq", "map")
