"""The part of Liquid that the oracle knows: references, text, three filters and `if`.

Whatever else stands in a template raises NotImplementedError: the oracle guesses nothing.
"""

import re
from typing import Any

from tests.oracle.values import at_path, is_number, same

PATH = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
SINGLE = re.compile(r"\{\{\s*(" + PATH + r")\s*\}\}")
TOKEN = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
FILTER = re.compile(r"(\w+)(?:\s*:\s*(.+))?")
TEST = re.compile(r"(" + PATH + r")(?:\s*(==|!=)\s*(.+))?")
LIQUID_OWN_NAMES = {"size", "first", "last"}


class Missing(Exception):
    """L3: a missing value would be written out, or passed to a filter other than `default`."""


class Failed(Exception):
    """Templates: "Rendering cannot fail the job: an error is a refusal `template_error`"."""


def is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def is_single_reference(text: str) -> bool:
    return SINGLE.fullmatch(text) is not None


def render(value: Any, fields: dict[str, Any]) -> Any:
    """L1: "a single reference, exactly `{{ path }}`, keeps its type; everything else gives text".

    What is no template is itself. Raise `Missing` or `Failed`.
    """
    if isinstance(value, dict):
        return {name: render(one, fields) for name, one in value.items()}
    if isinstance(value, list):
        return [render(one, fields) for one in value]
    if not is_template(value):
        return value
    single = SINGLE.fullmatch(value)
    if single:
        return present(reference(single.group(1), fields))
    tokens = [token for token in TOKEN.split(value) if token]
    text, rest = render_tokens(tokens, fields, writing=True)
    assert not rest, "unbalanced tags are an error of `nudge check`"
    return text


def reference(path: str, fields: dict[str, Any]) -> Any:
    """A field of L4; None when missing (L2: null is missing everywhere)."""
    names = path.split(".")
    if LIQUID_OWN_NAMES & set(names):
        raise NotImplementedError(path)
    return at_path(fields, names)


def present(value: Any) -> Any:
    if value is None:
        raise Missing
    return value


def render_tokens(tokens: list[str], fields: dict[str, Any], *, writing: bool) -> tuple[str, list[str]]:
    """Render up to the end, or up to an `else` or `endif` that belongs to the caller; return what is left."""
    out = ""
    while tokens:
        token, rest = tokens[0], tokens[1:]
        if token.startswith("{{"):
            out += as_text(present(evaluate(token[2:-2].strip(), fields))) if writing else ""
            tokens = rest
        elif token.startswith("{%"):
            word, _, argument = token[2:-2].strip().partition(" ")
            if word in ("else", "endif"):
                return out, tokens
            if word != "if":
                raise NotImplementedError(token)
            text, tokens = render_if(argument.strip(), rest, fields, writing=writing)
            out += text
        else:
            out += token if writing else ""
            tokens = rest
    return out, []


def render_if(test: str, tokens: list[str], fields: dict[str, Any], *, writing: bool) -> tuple[str, list[str]]:
    taken = is_true(test, fields) if writing else False
    out, tokens = render_tokens(tokens, fields, writing=writing and taken)
    if tokens[0][2:-2].strip() == "else":
        otherwise, tokens = render_tokens(tokens[1:], fields, writing=writing and not taken)
        out += otherwise
    assert tokens[0][2:-2].strip() == "endif"
    return out, tokens[1:]


def is_true(test: str, fields: dict[str, Any]) -> bool:
    """L3: `{% if %}` and comparisons may ask for a missing value. Liquid: only nil and false are not true."""
    found = TEST.fullmatch(test)
    if found is None:
        raise NotImplementedError(test)
    value = reference(found.group(1), fields)
    if found.group(2) is None:
        return value is not None and value is not False
    equal = same(value, literal(found.group(3).strip()))
    return equal if found.group(2) == "==" else not equal


def evaluate(expression: str, fields: dict[str, Any]) -> Any:
    """A reference or literal with filters; None when missing."""
    start, *filters = [part.strip() for part in expression.split("|")]
    value = operand(start, fields)
    for written in filters:
        found = FILTER.fullmatch(written)
        if found is None:
            raise NotImplementedError(written)
        name, argument = found.groups()
        if name == "default":
            # Liquid: nil, false and what is empty.
            if value is None or value is False or value in ("", [], {}):
                value = operand(argument, fields)
            continue
        value = present(value)
        if name == "upcase":
            value = as_text(value).upper()
        elif name == "downcase":
            value = as_text(value).lower()
        elif name == "divided_by":
            value = divide(value, present(operand(argument, fields)))
        else:
            raise NotImplementedError(name)
    return value


def divide(left: Any, right: Any) -> Any:
    if not is_number(left) or not is_number(right):
        raise NotImplementedError("Liquid makes numbers of texts")
    if right == 0:
        raise Failed
    return left // right if isinstance(left, int) and isinstance(right, int) else left / right


def operand(text: str, fields: dict[str, Any]) -> Any:
    return reference(text, fields) if re.fullmatch(PATH, text) and text not in ("true", "false") else literal(text)


def literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"'[^']*'|\"[^\"]*\"", text):
        return text[1:-1]
    if re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    raise NotImplementedError(text)


def as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise NotImplementedError("Liquid's way to write lists and objects")
