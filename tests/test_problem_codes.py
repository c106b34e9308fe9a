"""Every problem code has a section in the reference, and every section there has a code: both are read, not listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import pytest
from pydantic_core.core_schema import ErrorType

from tests.jobs import REPO

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

CODE: Final = re.compile(r"[a-z]+(-[a-z]+)+")
MAKERS: Final = {"Problem": 4, "BadValue": 0, "PydanticCustomError": 0}
"""What a problem begins with, and which of its arguments is the code. Functions that pass a code on are found."""
CARRIER: Final = "BadValue"  # Its `code` was found where it was made.
PYDANTICS: Final = (
    "ErrorDetails"  # Its `type` is of pydantic's own, or was found where a `PydanticCustomError` is made.
)


class NotFound(Exception):
    """A code that cannot be read out of the source: write it so that it can, or teach the search the new form."""


@dataclass
class Scope:
    """A function, what is around it, and the names that are bound in it."""

    file: str
    function: Function | None = None
    outer: Scope | None = None
    values: dict[str, list[tuple[ast.expr, int | None]]] = field(default_factory=dict)
    """Of a name: what it is assigned, and which part of that where a tuple is taken apart."""
    types: dict[str, str] = field(default_factory=dict)

    def owner(self, name: str) -> Scope | None:
        """Return the scope in which *name* is bound."""
        bound = name in self.values or name in self.types or name in parameters(self.function)
        return self if bound else self.outer and self.outer.owner(name)


def parameters(function: Function | None) -> list[str]:
    if function is None:
        return []
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names[:1] == ["self"] else names


def scopes(file: str, tree: ast.Module) -> Iterator[tuple[Scope, ast.Call]]:
    """Yield every call with the scope it stands in; all names of the file are bound by then."""
    calls: list[tuple[Scope, ast.Call]] = []

    def look(node: ast.AST, scope: Scope) -> None:
        if isinstance(node, Function):
            scope = Scope(file, node, scope)
            for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if one.annotation is not None:
                    scope.types[one.arg] = ast.unparse(one.annotation)
        elif isinstance(node, ast.ExceptHandler) and node.name and node.type:
            scope.types[node.name] = ast.unparse(node.type)
        elif isinstance(node, ast.Call):
            calls.append((scope, node))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                bind(scope, target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            bind(scope, node.target, node.value)
        for child in ast.iter_child_nodes(node):
            look(child, scope)

    look(tree, Scope(file))
    yield from calls


def bind(scope: Scope, target: ast.expr, value: ast.expr) -> None:
    if isinstance(target, ast.Name):
        scope.values.setdefault(target.id, []).append((value, None))
    elif isinstance(target, ast.Tuple):
        for number, part in enumerate(target.elts):
            if isinstance(part, ast.Name):
                scope.values.setdefault(part.id, []).append((value, number))


class Search:
    """Finds the codes in *files*, (name, source) each.

    A function that takes a code as an argument and makes a problem of it is a maker, too, under its name: its callers
    are looked at until nothing new is found.
    """

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        self.makers = {name: {number} for name, number in MAKERS.items()}
        self.keywords = {"code"}
        calls = [one for file, text in files for one in scopes(file, ast.parse(text))]
        self.codes: set[str] = set()
        before = -1
        while before != sum(map(len, self.makers.values())) + len(self.keywords):
            before = sum(map(len, self.makers.values())) + len(self.keywords)
            self.codes = {code for scope, call in calls for code in self._codes_of(scope, call)}

    def _codes_of(self, scope: Scope, call: ast.Call) -> Iterator[str]:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        for number in self.makers.get(name, ()):
            given = [one.value for one in call.keywords if one.arg in self.keywords]
            if len(call.args) > number and not any(isinstance(one, ast.Starred) for one in call.args[: number + 1]):
                given.append(call.args[number])
            elif not given and any(isinstance(one, ast.Starred) for one in call.args):
                raise NotFound(f"{scope.file}:{call.lineno}: {ast.unparse(call)}")
            for one in given:  # None where a set's `add`, or another namesake, takes fewer arguments.
                yield from self._read(one, scope, None)

    def _read(self, value: ast.expr, scope: Scope, part: int | None) -> Iterator[str]:
        """Yield the texts that *value* can be, or its part number *part*."""
        match value:
            case ast.Constant(value=str(code)) if part is None:
                yield code
            case ast.Tuple(elts=parts) if part is not None:
                yield from self._read(parts[part], scope, None)
            case ast.IfExp(body=one, orelse=other):
                yield from self._read(one, scope, part)
                yield from self._read(other, scope, part)
            case ast.BoolOp(values=several):
                for one in several:
                    yield from self._read(one, scope, part)
            case ast.Dict(values=several):  # A table of codes: what is taken out of it is one of them.
                for one in several:
                    yield from self._read(one, scope, part)
            case ast.Subscript(value=ast.Name(id=name)) if self._type(name, scope) == PYDANTICS:
                return
            case ast.Subscript(value=table):
                yield from self._read(table, scope, part)
            case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, *default]):
                for one in (table, *default):
                    yield from self._read(one, scope, part)
            case ast.Attribute(value=ast.Name(id=name), attr="code") if self._type(name, scope) == CARRIER:
                return
            case ast.Name(id=name) if (owner := scope.owner(name)) is not None:
                if name in parameters(owner.function) and name not in owner.values and part is None:
                    self._note_maker(owner, name)
                elif name in owner.values:
                    for one, place in owner.values[name]:
                        yield from self._read(one, owner, place if part is None else part)
                else:
                    raise NotFound(f"{scope.file}:{value.lineno}: {ast.unparse(value)}")
            case _:
                raise NotFound(f"{scope.file}:{value.lineno}: {ast.unparse(value)}")

    def _type(self, name: str, scope: Scope) -> str | None:
        owner = scope.owner(name)
        return owner.types.get(name) if owner is not None else None

    def _note_maker(self, scope: Scope, parameter: str) -> None:
        assert scope.function is not None
        if isinstance(scope.function, ast.Lambda):
            raise NotFound(f"{scope.file}:{scope.function.lineno}: {ast.unparse(scope.function)}")
        if scope.function.name == "__init__":
            return  # The makers themselves.
        self.makers.setdefault(scope.function.name, set()).add(parameters(scope.function).index(parameter))
        self.keywords.add(parameter)


def product() -> list[tuple[str, str]]:
    rooms = ("operators", "dataflow", "connectors", "state")
    return [(str(path.relative_to(REPO)), path.read_text()) for room in rooms for path in (REPO / room).rglob("*.py")]


def sections() -> list[str]:
    reference = (REPO / "docs" / "flow-language.md").read_text()
    problems = re.split(r"^## ", reference.partition("\n## Problems\n")[2], maxsplit=1, flags=re.M)[0]
    return re.findall(r"^### `([^`]+)`$", problems, re.M)


def test_every_problem_code_has_a_section_in_the_reference_and_every_section_a_code() -> None:
    codes = Search(product()).codes
    assert [one for one in codes if not CODE.fullmatch(one)] == []
    assert sorted(codes - set(sections())) == [], "without a section"
    assert sorted(set(sections()) - codes) == [], "without a code"


def test_the_sections_are_in_the_order_of_the_alphabet_each_one_once() -> None:
    assert sections() == sorted(set(sections()))


def test_no_error_of_pydantics_own_is_taken_for_a_code_of_ours() -> None:
    """A hyphen tells them apart, in `operators/language/flow.py` as well."""
    assert "missing" in get_args(ErrorType)
    assert [one for one in get_args(ErrorType) if "-" in one] == []


FOUND: Final = {
    "Problem(file, 1, 1, '', 'one-code', 'text')": {"one-code"},
    "Problem(file, 1, 1, path='', code='one-code', message='')": {"one-code"},
    "raise BadValue('one-code' if x else 'other-code', 'text')": {"one-code", "other-code"},
    "code = 'one-code'\nBadValue(code, '')": {"one-code"},
    "def f(code): BadValue(code, '')\nf('one-code')\nf(code='other-code')": {"one-code", "other-code"},
    "def f(what): BadValue(what, '')\ndef g(to): f(to)\nself.g('one-code')": {"one-code"},
    "class A:\n def add(self, path, code): Problem(1, 2, 3, 4, code)\nproblems.add((), 'one-code')\nseen.add(x)": {
        "one-code"
    },
    "T = {'a': ('one-code', 1), 'b': ('other-code', 2)}\ncode, _ = T.get(x, ('third-code', 3))\nBadValue(code, '')": {
        "one-code", "other-code", "third-code",
    },
    "T = {'a': 'one-code'}\nBadValue(T[x], '')": {"one-code"},
    "try: pass\nexcept BadValue as bad: BadValue(bad.code, '')": set(),
    "def f(detail: ErrorDetails):\n kind = detail['type']\n BadValue(kind, '')": set(),
}  # fmt: skip


@pytest.mark.parametrize("source", FOUND)
def test_a_code_is_found_however_it_gets_to_its_problem(source: str) -> None:
    assert Search([("a.py", source)]).codes == FOUND[source]


@pytest.mark.parametrize(
    "source",
    [
        "BadValue('a' + '-b', '')",
        "BadValue(f'a-{b}', '')",
        "BadValue(code_for(x), '')",
        "BadValue(other.code, '')",
        "BadValue(imported, '')",
        "BadValue(*arguments)",
        "make = lambda code: BadValue(code, '')",
        "for code in ('one-code', 'other-code'): BadValue(code, '')",
    ],
)
def test_a_code_that_cannot_be_read_is_no_code_that_is_overlooked(source: str) -> None:
    with pytest.raises(NotFound, match=r"^a\.py:1: "):
        Search([("a.py", source)])


def test_the_files_are_those_of_the_product() -> None:
    assert {Path(file).parts[0] for file, _ in product()} == {"operators", "dataflow", "connectors", "state"}
    assert Search(product()).makers.keys() > MAKERS.keys()
