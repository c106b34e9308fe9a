"""The filters: those of the library that do what Shopify's Liquid does, and ours for the rest.

None stands for what is missing, as a value, as an argument and as a result.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from inspect import signature
from typing import Any, Final, NamedTuple

from liquid import Environment

from operators.templates.bounds import Budget, steps_of
from operators.templates.dates import date
from operators.templates.errors import TemplateFailed
from operators.templates.messages import kind_of
from operators.templates.missing import MissingValue
from operators.templates.text import text_of

_INTEGER_BITS_MAX: Final = 256


class Filter(NamedTuple):
    """A filter: the library's function, or one of ours, which takes the budget first.

    `on_text`: its value and arguments become text as if written out. `on_numbers`: of text among them it takes the
    number. `at_a_glance`: it does not touch all of its value. `even_missing`: it may be asked about what
    is missing.
    """

    call: Callable[..., object]
    ours: bool = False
    on_text: bool = False
    on_numbers: bool = False
    at_a_glance: bool = False
    even_missing: bool = False


TEXT_FILTERS: Final = frozenset(
    {
        "append",
        "base64_decode",
        "base64_encode",
        "base64_url_safe_decode",
        "base64_url_safe_encode",
        "capitalize",
        "downcase",
        "escape",
        "escape_once",
        "escapejs",
        "lstrip",
        "newline_to_br",
        "prepend",
        "remove",
        "remove_first",
        "remove_last",
        "replace",
        "replace_first",
        "replace_last",
        "rstrip",
        "slice",
        "split",
        "squish",
        "strip",
        "strip_html",
        "strip_newlines",
        "truncate",
        "truncatewords",
        "upcase",
        "url_decode",
        "url_encode",
    }
)
_NUMBER_FILTERS: Final = frozenset(
    {"abs", "at_least", "at_most", "ceil", "divided_by", "floor", "minus", "modulo", "plus", "times"}
)
_GLANCING_FILTERS: Final = frozenset({"first", "last", "size"})


def apply_filter(name: str, rule: Filter, budget: Budget, value: object, /, *args: object, **options: object) -> object:
    """Call a filter.

    Raises:
        MissingValue: the value or an argument is missing, and the filter is not `default`.
        TemplateFailed: it cannot work with these, or the result is out of bounds.
    """
    inputs = (*args, *options.values())
    if not rule.even_missing and (value is None or any(one is None for one in inputs)):
        raise MissingValue
    if not rule.at_a_glance:
        for one in (value, *inputs):
            budget.spend_on(one)
    if rule.on_text and not (name == "slice" and isinstance(value, (list, tuple, range))):
        value = text_of(value)
        args = tuple(one if type(one) in {int, float} else text_of(one) for one in args)
    if rule.on_numbers:
        value = _in_text(value) if isinstance(value, str) else value
        args = tuple(_in_text(one) if isinstance(one, str) else one for one in args)
    try:
        result = rule.call(budget, value, *args, **options) if rule.ours else rule.call(value, *args, **options)
    except (MissingValue, TemplateFailed, MemoryError):
        raise
    except Exception:
        if name in {"divided_by", "modulo"} and len(args) == 1 and _number(args[0]) == 0:
            raise TemplateFailed(f"the filter {name!r} would divide by zero") from None
        if not _fits(rule, args, options):
            raise TemplateFailed(f"the filter {name!r} takes other arguments") from None
        kinds = ", ".join(kind_of(one) for one in inputs)
        raise TemplateFailed(
            f"the filter {name!r} cannot take {kind_of(value)}{' with ' if kinds else ''}{kinds}"
        ) from None
    if isinstance(result, float) and not math.isfinite(result):
        raise TemplateFailed(f"the result of the filter {name!r} is too large")
    if isinstance(result, int) and result.bit_length() > _INTEGER_BITS_MAX:
        raise TemplateFailed(f"the result of the filter {name!r} is too large")
    if not rule.at_a_glance:
        budget.spend_on(result)
    return result


def _fits(rule: Filter, args: tuple[object, ...], options: dict[str, object]) -> bool:
    """Say whether a filter takes as many arguments, and such options."""
    try:
        signature(rule.call).bind(*([None] * (1 + rule.ours)), *args, **options)
    except TypeError:
        return False
    return True


def _default(_: Budget, value: object, fallback: object = "", *, allow_false: object = False) -> object:
    """`default`: something else for what is missing, empty or, unless *allow_false*, false."""
    if value is None or (value is False and allow_false is not True):
        return fallback
    return fallback if isinstance(value, (str, list, tuple, dict)) and not value else value


def _join(budget: Budget, value: object, separator: object = " ") -> str:
    texts = [text_of(one) for one in _items(value)]
    separator = text_of(separator)
    budget.spend(steps_of(len(separator) * len(texts) + sum(map(len, texts))))
    return separator.join(texts)


def _replace(budget: Budget, value: str, old: object, new: object = "") -> str:
    old, new = text_of(old), text_of(new)
    budget.spend(steps_of(value.count(old) * len(new)))  # Can be huge: text | replace: "", text
    return value.replace(old, new)


def _map(_: Budget, value: object, key: object) -> list[object]:
    key = text_of(key)
    return [None if one is None else _member(one, key) for one in _items(value)]


def _sort(_: Budget, value: object, key: object = None) -> list[Any]:
    """`sort`: what is missing comes last, as in Shopify's Liquid."""
    name = None if key is None else text_of(key)
    keyed = [(one if name is None or one is None else _member(one, name), one) for one in _items(value)]
    present: list[tuple[Any, Any]] = [pair for pair in keyed if pair[0] is not None]
    return [one for _, one in sorted(present, key=lambda pair: pair[0])] + [one for by, one in keyed if by is None]


def _uniq(_: Budget, value: object, key: object = None) -> list[object]:
    """`uniq`, in linear time."""
    name = None if key is None else text_of(key)
    found: dict[str, object] = {}
    for one in _items(value):
        by = one if name is None or one is None else _member(one, name)
        found.setdefault(json.dumps(by, sort_keys=True), one)
    return list(found.values())


def _member(value: object, key: str) -> object:
    if not isinstance(value, dict):
        raise TypeError
    return value.get(key)


def _items(value: object) -> list[object]:
    """Return the elements of a list, also those of lists in it; a single value as the only one."""
    if not isinstance(value, (list, tuple, range)):
        return [value]
    flat: list[object] = []
    todo: list[object] = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (list, tuple, range)):
            todo.extend(reversed(one))
        else:
            flat.append(one)
    return flat


def _round(_: Budget, value: object, digits: object = 0) -> int | float:
    """`round`, halves away from zero, in decimal as written: 2.5 is 3, and 1.005 to two digits is 1.01."""
    number, places = _number(value), int(_number(digits))
    rounded = number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return float(rounded) if places > 0 and number.as_tuple().exponent != 0 else int(rounded)


def _truncate(_: Budget, value: str, chars: object = 50, end: object = "...") -> str:
    """`truncate` to at most *chars* characters, *end* included."""
    end = text_of(end)
    return value if len(value) <= _whole(chars) else value[: max(_whole(chars) - len(end), 0)] + end


def _truncatewords(_: Budget, value: str, words: object = 15, end: object = "...") -> str:
    most, found = max(_whole(words), 1), value.split()
    return value if len(found) <= most else " ".join(found[:most]) + text_of(end)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not _NUMBER.fullmatch(str(value).strip()):
        raise TypeError
    return int(_number(value))


def _number(value: object) -> Decimal:
    """Return a number, or the one that a text is or begins with; as in Shopify's Liquid anything else is 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return Decimal(0)
    return Decimal(str(_in_text(value) if isinstance(value, str) else value))


def _in_text(text: str) -> int | float:
    """Return the number that *text* is, else the integer that it begins with, else 0: "12.50 EUR" is 12, as in Ruby."""
    text = text.strip()
    if _DECIMAL.fullmatch(text):
        return float(text)
    begins = _INTEGER.match(text)
    return 0 if begins is None else int(begins[0])


_DECIMAL: Final = re.compile(r"-?\d{1,30}\.\d{1,30}", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d{1,80}", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?(?:e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def _split(_: Budget, value: str, separator: object) -> list[str]:
    """`split`, as in Ruby: a blank stands for blanks of any number, and empty texts at the end are dropped."""
    between = text_of(separator)
    found = value.split() if between == " " else value.split(between) if between else list(value)
    while found and not found[-1]:
        found.pop()
    return found


_MARKUP: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_BARE_AMPERSAND: Final = re.compile(r"&(?!(?:[a-zA-Z]{1,32}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});)")


def _escape(_: Budget, value: str) -> str:
    return value.translate(_MARKUP)


def _escape_once(_: Budget, value: str) -> str:
    return _BARE_AMPERSAND.sub("&amp;", value).translate({ord(one): _MARKUP[ord(one)] for one in "<>\"'"})


def _strip_html(_: Budget, value: str) -> str:
    """`strip_html`, in linear time: scripts, styles and comments go with what is in them, other tags alone."""
    kept: list[str] = []
    closings = dict(_HTML_BLOCKS)
    done = 0
    while (start := value.find("<", done)) >= 0:
        for opening, closing in tuple(closings.items()):
            if value[start : start + len(opening)].lower() == opening:
                if (match := closing.search(value, start + len(opening))) is not None:
                    end = match.end()
                    break
                del closings[opening]  # There is none in the rest either.
        else:
            end = value.find(">", start) + 1
        if not end:
            break
        kept.append(value[done:start])
        done = end
    return "".join(kept) + value[done:]


_HTML_BLOCKS: Final = {
    "<script": re.compile("</script>", re.IGNORECASE),
    "<style": re.compile("</style>", re.IGNORECASE),
    "<!--": re.compile("-->"),
}


OUR_FILTERS: Final = {
    "date": Filter(date, ours=True),
    "default": Filter(_default, ours=True, at_a_glance=True, even_missing=True),
    "escape": Filter(_escape, ours=True, on_text=True),
    "escape_once": Filter(_escape_once, ours=True, on_text=True),
    "join": Filter(_join, ours=True),
    "map": Filter(_map, ours=True),
    "replace": Filter(_replace, ours=True, on_text=True),
    "round": Filter(_round, ours=True),
    "sort": Filter(_sort, ours=True),
    "split": Filter(_split, ours=True, on_text=True),
    "strip_html": Filter(_strip_html, ours=True, on_text=True),
    "truncate": Filter(_truncate, ours=True, on_text=True),
    "truncatewords": Filter(_truncatewords, ours=True, on_text=True),
    "uniq": Filter(_uniq, ours=True),
}


def filters_of(environment: Environment) -> dict[str, Filter]:
    """Return all filters by name: ours, and in their place those of *environment*."""
    return {
        name: Filter(
            partial(call, environment=environment) if hasattr(call, "with_environment") else call,
            on_text=name in TEXT_FILTERS,
            on_numbers=name in _NUMBER_FILTERS,
            at_a_glance=name in _GLANCING_FILTERS,
        )
        for name, call in environment.filters.items()
    } | OUR_FILTERS
