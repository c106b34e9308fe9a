"""Every template beyond a single reference: parsed and rendered by python-liquid, under our rules and within bounds.

The rules are subclasses of the library's nodes and expressions. Its parser names most of those classes itself, so what
it has parsed is turned into ours afterwards. Importing the library takes 0.3 s: import this module where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final, NamedTuple, TextIO

from liquid import BoundTemplate, Environment, Markup, RenderContext, Token, Undefined, escape
from liquid.ast import BlockNode, Node
from liquid.builtin.expressions import BooleanExpression, FilteredExpression, logical
from liquid.builtin.expressions import Path as PathExpression
from liquid.builtin.expressions.primitive import Blank, RangeLiteral
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.case_tag import CaseNode, MultiExpressionBlockNode
from liquid.builtin.tags.cycle_tag import CycleNode
from liquid.builtin.tags.echo_tag import EchoNode
from liquid.exceptions import LiquidError, LiquidInterrupt
from liquid.expression import Expression
from liquid.output import LimitedStringIO
from liquid.undefined import UNDEFINED
from liquid.utils import ReadOnlyChainMap

from operators.templates.bounds import DEPTH_MAX, LOOP_MAX, Budget, steps_of
from operators.templates.errors import TemplateFailed, TemplateSyntaxError
from operators.templates.filters import apply_filter, filters_of
from operators.templates.messages import FILE_TAGS, explained, nearest, unknown_root, where, why_it_failed
from operators.templates.missing import MISSING, Gap, MissingValue
from operators.templates.reference import Reference
from operators.templates.scope import OF_FLOWS, View
from operators.templates.template import Path, Template
from operators.templates.text import text_of


class _Environment(Environment):
    block_nesting_limit = 30
    loop_iteration_limit = LOOP_MAX

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for name in FILE_TAGS & self.tags.keys():
            del self.tags[name]


class _Gap(Gap, Undefined):
    """What is missing, as the library has to see it."""

    __slots__ = ()


@lru_cache
def _environment(output_max_bytes: int) -> _Environment:
    """Return what templates are parsed in that may write so much."""
    kind = type("_Bounded", (_Environment,), {"output_stream_limit": output_max_bytes})
    made = kind(undefined=_Gap)
    assert isinstance(made, _Environment)
    return made


_FILTERS: Final = filters_of(_environment(OF_FLOWS.output_max_bytes))
_GIVE_HTML: Final = frozenset({"escape", "escape_once", "safe"})  # In HTML what they give is written as it is.


class _Found(NamedTuple):
    """What a template refers to; see `Template`."""

    paths: frozenset[Path]
    needs: frozenset[Path]


class _Liquid(Template):
    """A template that python-liquid renders to text."""

    __slots__ = ("_bound", "_view")

    def __init__(
        self, source: str, found: _Found, bound: BoundTemplate, view: View, *, is_reference: bool = False
    ) -> None:
        super().__init__(source, found.paths, found.needs, is_reference=is_reference)
        self._bound, self._view = bound, view

    def render(self, scope: Any) -> object:
        try:
            values = {root: self._view.roots[root](scope) for root in self.roots}
            context = _Context(self._bound, values, Budget(scope.now_ms))
            context.autoescape = self._view.is_html
            return self._rendered(context)
        except MissingValue:
            return MISSING
        except (TemplateFailed, MemoryError):
            raise
        except Exception as error:
            raise TemplateFailed(
                why_it_failed(error, self._view.output_max_bytes)
            ) from None  # The chain would carry values.

    def _rendered(self, context: _Context) -> object:
        nodes = self._bound.nodes
        context.budget.spend(len(nodes))
        buffer = LimitedStringIO(self._view.output_max_bytes)
        try:
            for node in nodes:
                node.render(context, buffer)
        except LiquidInterrupt:
            pass  # A `break` outside of loops ends the template, as in Shopify's Liquid.
        return buffer.getvalue()

    def __reduce__(self) -> tuple[Callable[[str, View], Template], tuple[str, View]]:
        return parse_liquid, (self.source, self._view)


class _LookedUpReference(_Liquid):
    """A single reference with parts that are looked up: `{{ entry.items[profile.favourite] }}`; it keeps its type."""

    __slots__ = ("_expression",)

    def __init__(self, source: str, found: _Found, bound: BoundTemplate, view: View, expression: Expression) -> None:
        super().__init__(source, found, bound, view, is_reference=True)
        self._expression = expression

    def _rendered(self, context: _Context) -> object:
        value = self._expression.evaluate(context)
        return MISSING if isinstance(value, Undefined) else value


# ---- parsing -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1_000)  # The same greeting stands in many flows, and a template never changes.
def parse_liquid(text: str, view: View = OF_FLOWS) -> Template:
    """Return the template written in *text*, which is of a size that the lexer can bear.

    Raises:
        TemplateSyntaxError: a syntax error, or an unknown filter, tag or root.
    """
    environment = _environment(view.output_max_bytes)
    try:
        bound = environment.from_string(text)
    except LiquidError as error:
        raise explained(error, environment.tags) from None
    found = _check_and_convert(bound, text, view.roots)
    expression = _single_reference(bound, text) if view.keeps_types else None
    if expression is None:
        return _Liquid(text, found, bound, view)
    path = _fixed_part(expression)
    if view is OF_FLOWS and len(path) == len(expression.path):
        return Reference(text, path)
    return _LookedUpReference(text, found, bound, view, expression)


def _single_reference(bound: BoundTemplate, text: str) -> PathExpression | None:
    """Return the reference that is all there is in a template, None if there is more."""
    if len(bound.nodes) != 1 or not (text.startswith("{{") and text.endswith("}}")):
        return None
    node = bound.nodes[0]
    expression = node.expression if isinstance(node, OutputNode) else None
    if not isinstance(expression, FilteredExpression) or expression.filters:
        return None
    return expression.left if isinstance(expression.left, PathExpression) else None


def _check_and_convert(bound: BoundTemplate, text: str, roots: Collection[str]) -> _Found:
    """Put our rules on the nodes of *bound*, and return what it refers to of *roots*, as far as that is fixed."""
    problems: list[tuple[int, str, str]] = []
    found: list[PathExpression] = []
    asked: set[Path] = set()
    own_names: set[str] = set()
    nobody = _Context(bound, {}, Budget(0))
    todo: list[tuple[Node | Expression, int, bool]] = [(node, 0, False) for node in bound.nodes]
    while todo:
        one, depth, is_asked = todo.pop()
        if isinstance(one, Node):
            own_names.update(one.template_scope(), one.block_scope())
            todo.extend((child, 0, False) for child in one.children(nobody))
            is_asked = isinstance(one, CaseNode | MultiExpressionBlockNode)
            todo.extend((child, 1, is_asked) for child in one.expressions())
        else:
            todo.extend((child, depth + 1, is_asked or _asks_for(one, child)) for child in one.children())
            if depth > DEPTH_MAX:
                raise TemplateSyntaxError(f"an expression is nested more than {DEPTH_MAX} deep")
            if isinstance(one, FilteredExpression):
                for used in one.filters or ():
                    if used.name not in _FILTERS:
                        hint = nearest(used.name, _FILTERS) or "the filters are " + ", ".join(sorted(_FILTERS))
                        problems.append((used.token.start_index, f"unknown filter {used.name!r}", hint))
            elif isinstance(one, PathExpression):
                found.append(one)
                if is_asked:
                    asked.add(_fixed_part(one))
        _convert(one)
    for path in found:
        root = path.path[0]
        if not isinstance(root, str) or (root not in roots and root not in own_names):
            problems.append((path.token.start_index, *unknown_root(path.path, roots)))
    if problems:
        index, message, hint = min(problems)
        raise TemplateSyntaxError(message + where(text, index), hint)
    paths = frozenset(_fixed_part(path) for path in found if path.path[0] in roots)
    needs = frozenset(path for path in paths if not any(path[: len(one)] == one for one in asked))
    return _Found(paths, needs)


def _asks_for(one: Expression, child: Expression) -> bool:
    """Tell whether *child* may be missing in *one*."""
    if isinstance(one, FilteredExpression):
        return child is one.left and [used.name for used in one.filters or ()][:1] == ["default"]
    return isinstance(one, BooleanExpression)


def _fixed_part(path: PathExpression) -> Path:
    return tuple(
        one
        for one in takewhile(lambda one: not isinstance(one, PathExpression), path.path)
        if not isinstance(one, PathExpression)
    )


def _convert(one: Any) -> None:
    one.__class__ = _OURS.get(type(one), type(one))


# ---- rendering -----------------------------------------------------------------------------------------------------


class _Context(RenderContext):
    """A rendering: our look-ups, filters and budget."""

    def __init__(self, bound: BoundTemplate, values: dict[str, object], budget: Budget) -> None:
        super().__init__(bound, globals=values)
        self.scope = ReadOnlyChainMap(self.locals, self.globals, self.counters)  # The library's has a clock in it.
        self.budget = budget

    def get(self, path: list[object], *, token: Token | None, default: object = UNDEFINED) -> object:
        value = super().get(path, token=token, default=default)
        self.budget.spend(1 + (len(value) >> 10 if isinstance(value, str) else 0))  # It may be compared.
        return _Gap(str(path[0]), token=token) if value is None else value

    def get_item(self, obj: Any, key: Any) -> Any:
        # In the library `profile.size` is the number of attributes when there is none of that name, and
        # `profile.first` the first one. A size or a first name that we do not know must be missing.
        return obj[key] if isinstance(obj, dict) else super().get_item(obj, key)

    def assign(self, key: str, val: Any) -> None:
        self.budget.spend(1 + (steps_of(len(val)) if isinstance(val, str) else 0))
        super().assign(key, val)

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        def call(value: object, /, *args: object, **options: object) -> object:
            plain = {key: _plain(one) for key, one in options.items()}
            result = apply_filter(name, _FILTERS[name], self.budget, _plain(value), *map(_plain, args), **plain)
            if self.autoescape and isinstance(result, str):
                is_html = name in _GIVE_HTML or (name == "newline_to_br" and isinstance(value, Markup))
                return Markup(result) if is_html else result
            return _Gap(name, token=token) if result is None else result

        return call


def _plain(value: object) -> object:
    return None if isinstance(value, Undefined) else value


def _budget_of(context: RenderContext) -> Budget:
    assert isinstance(context, _Context)
    return context.budget


def _write(context: RenderContext, buffer: TextIO, value: object) -> int:
    _budget_of(context).spend_on(value)
    text = text_of(_plain(value))
    return buffer.write(escape(text) if context.autoescape else text)  # What is HTML already stays as it is.


def _spend_on_comparing(context: RenderContext, left: Expression) -> object:
    """Spend what comparing with a *left* that is a reference takes, and return its value."""
    value = left.evaluate(context) if isinstance(left, PathExpression) else None
    _budget_of(context).spend_on(value if isinstance(value, (list, tuple, dict)) else None)
    return value


class _Output(OutputNode):
    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _write(context, buffer, self.expression.evaluate(context))


class _Echo(EchoNode):
    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _write(context, buffer, self.expression.evaluate(context))


class _Cycle(CycleNode):
    """Cycles without a name are told apart by how they are written, not by their values."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        name = None if self.group is None else text_of(_plain(self.group.evaluate(context)))
        index = context.cycle((name, None if name else str(self)), len(self.args))
        return _write(context, buffer, self.args[index % len(self.args)].evaluate(context))


class _Block(BlockNode):
    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        _budget_of(context).spend(3 + len(self.nodes))  # Also each round of a loop, which costs time of its own.
        return super().render_to_output(context, buffer)


class _Case(CaseNode):
    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        for _ in self.blocks:
            _spend_on_comparing(context, self.expression)
        return super().render_to_output(context, buffer)


class _Range(RangeLiteral):
    __slots__ = ()

    def evaluate(self, context: RenderContext) -> range:
        numbers = super().evaluate(context)
        if numbers.stop - numbers.start > LOOP_MAX:
            raise TemplateFailed(f"a range has more than {LOOP_MAX} numbers")
        return numbers


def _counted(base: type[Any]) -> type[Any]:
    """Return the operator *base* as one that spends steps."""

    def evaluate(self: Any, context: RenderContext) -> object:
        left = _spend_on_comparing(context, self.left)
        if isinstance(left, Undefined) and isinstance(self.right, Blank) and base in _EQUAL:
            return _EQUAL[base]  # As in Shopify's Liquid; not so in the library.
        return base.evaluate(self, context)

    return type(base.__name__, (base,), {"__slots__": (), "evaluate": evaluate})


_EQUAL: Final[dict[type[Any], bool]] = {logical.EqExpression: True, logical.NeExpression: False}

_OURS: Final[dict[type[Any], type[Any]]] = {
    OutputNode: _Output,
    EchoNode: _Echo,
    CycleNode: _Cycle,
    BlockNode: _Block,
    CaseNode: _Case,
    RangeLiteral: _Range,
} | {
    operator: _counted(operator)
    for operator in (
        logical.LogicalAndExpression,
        logical.LogicalOrExpression,
        logical.EqExpression,
        logical.NeExpression,
        logical.LtExpression,
        logical.LeExpression,
        logical.GtExpression,
        logical.GeExpression,
        logical.ContainsExpression,
    )
}
