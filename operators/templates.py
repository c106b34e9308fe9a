"""The template language: Liquid from python-liquid, without tags that read files, with our rules for what is missing.

A template sees `profile`, `entry`, `event`, `flow` and `now` (see `Scope`). Exactly one reference, `{{ entry.price }}`,
gives that value with its type; everything else gives text. null counts as missing everywhere, and a template that would
write, loop over or pass to a filter (other than `default`) what is missing gives `MISSING`.

The same template and scope always give the same result: `now` is stream time, `date` knows no other clock and no zone
or language of the machine. And rendering is bounded, whatever the template and the data: see the `*_MAX` below.

Plain texts and single references, most of what flows contain, need neither python-liquid nor its import (0.3 s).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from functools import cache, partial
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TextIO, TypeAlias

from state.iso import format_ms

if TYPE_CHECKING:
    from liquid import Token
    from liquid.exceptions import LiquidError

ROOTS: Final = ("profile", "entry", "event", "flow", "now")

SOURCE_MAX_CHARS: Final = 16_384
# Of one `{{ .. }}` or `{% .. %}`, and of white space in a row. The lexer takes quadratic time in these: without them a
# template of that size can take half a minute, with them half a second.
TAG_MAX_CHARS: Final = 2_000
BLANKS_MAX: Final = 200
DEPTH_MAX: Final = 50  # Of an expression, so that no template ends in Python's recursion limit.

OUTPUT_MAX_BYTES: Final = 65_536
LOOP_MAX: Final = 10_000  # Rounds of a loop, times those of the loops around it; also numbers in a range.
# What one rendering may do: a node, a look-up, an element or 16 characters that a filter touches are a step each. A
# table of 1000 products takes some 15 000; all of them take less than a second.
STEPS_MAX: Final = 200_000

_INTEGER_BITS_MAX: Final = 256
_CHARS_PER_STEP_BITS: Final = 4


class Missing(Enum):
    """The type of `MISSING`, so that type checkers can tell it from values."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What rendering gives instead of a value that is not there."""


class TemplateSyntaxError(ValueError):
    """The text is not a template. `str()` says what is wrong and where; `hint` what to try, "" if nobody knows."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TemplateFailed(Exception):
    """A template cannot be rendered with these values. The message names none of them, so it may be logged."""


Path: TypeAlias = tuple[str | int, ...]
"""A reference: the root, then names and positions in lists."""


class Scope(Protocol):
    """What a template sees: JSON objects, the flow's name, and stream time (ms since 1970 UTC)."""

    @property
    def profile(self) -> dict[str, Any]: ...
    @property
    def entry(self) -> dict[str, Any]: ...
    @property
    def event(self) -> dict[str, Any]: ...
    @property
    def flow(self) -> str: ...
    @property
    def now_ms(self) -> int: ...


class Template:
    """A text that may refer to values.

    Attributes:
        source: the text as written.
        is_constant: there is no markup in it; rendering gives `source`.
        is_reference: it is exactly one reference, so that rendering keeps the value's type.
        roots: the members of `ROOTS` that it refers to.
        paths: its references, as far as they are fixed: `{{ entry.items[0][profile.x] }}` is `("entry", "items", 0)`
            and `("profile", "x")`.
    """

    __slots__ = ("is_constant", "is_reference", "paths", "roots", "source")

    def __init__(
        self, source: str, paths: Iterable[Path], *, is_constant: bool = False, is_reference: bool = False
    ) -> None:
        self.source: Final = source
        self.is_constant: Final = is_constant
        self.is_reference: Final = is_reference
        self.paths: Final = frozenset(paths)
        self.roots: Final = frozenset(str(path[0]) for path in paths)

    def render(self, scope: Scope) -> object:
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

    def __reduce__(self) -> tuple[Callable[[str], Template], tuple[str]]:
        return parse_template, (self.source,)


def parse_template(text: str) -> Template:
    """Return the template written in *text*.

    Raises:
        TemplateSyntaxError: a syntax error, an unknown filter, tag or root, or beyond a limit of size.
    """
    if "{{" not in text and "{%" not in text:
        return _Text(text)
    single = _SINGLE.fullmatch(text) if len(text) <= SOURCE_MAX_CHARS else None
    if single is not None and single["root"] in ROOTS:
        return _Reference(text, (single["root"], *_segments(single["rest"])))
    _check_size(text)
    return _engine()(text)


# ----------------------------------------------------------------------------- plain texts and single references

# Names as Liquid has them, but those that begin with a digit or end in "-", on which `-}}` has a claim, are left to it.
_NAME: Final = r"[^\W\d](?:[\w-]*\w)?\??"
_SEGMENT: Final = (
    rf"""\.(?P<name>{_NAME})|\[\s*(?:(?P<index>-?\d{{1,9}})|"(?P<double>[^"}}]*)"|'(?P<single>[^'}}]*)')\s*\]"""
)
_SEGMENTS: Final = re.compile(_SEGMENT)
_SINGLE: Final = re.compile(
    rf"\{{\{{-?\s*(?P<root>{_NAME})(?P<rest>(?:{re.sub('[?]P<[a-z]+>', '?:', _SEGMENT)})*)\s*-?\}}\}}"
)


def _segments(text: str) -> Iterator[str | int]:
    for match in _SEGMENTS.finditer(text):
        yield int(match["index"]) if match.lastgroup == "index" else match[match.lastgroup or ""]


class _Text(Template):
    """A text without any markup."""

    __slots__ = ()

    def __init__(self, source: str) -> None:
        super().__init__(source, (), is_constant=True)

    def render(self, scope: Scope) -> object:
        return self.source


class _Reference(Template):
    """Exactly one path."""

    __slots__ = ("_root", "_segments")

    def __init__(self, source: str, path: Path) -> None:
        super().__init__(source, [path], is_reference=True)
        root, *segments = path
        self._root: Callable[[Scope], object] = _now if root == "now" else attrgetter(str(root))
        self._segments = tuple(segments)

    def render(self, scope: Scope) -> object:
        value = self._root(scope)
        for segment in self._segments:
            value = value.get(segment) if type(value) is dict else _part(value, segment)
        return MISSING if value is None else value


def _now(scope: Scope) -> str:
    try:
        return format_ms(scope.now_ms)
    except (ValueError, OverflowError):
        raise TemplateFailed("the year has more than four digits") from None


def _part(value: object, segment: str | int) -> object:
    """Return what *segment* of a path means in a *value* that is no object, None for nothing."""
    if isinstance(value, list):
        if isinstance(segment, int):
            return value[segment] if -len(value) <= segment < len(value) else None
        if segment == "size":
            return len(value)
        if segment in {"first", "last"} and value:
            return value[0 if segment == "first" else -1]
    elif isinstance(value, str) and segment == "size":
        return len(value)
    return None


# --------------------------------------------------------------------------------------------- everything else


class _Composite(Template):
    """A template that python-liquid renders."""

    __slots__ = ("_render",)

    def __init__(
        self,
        source: str,
        paths: Iterable[Path],
        render: Callable[[frozenset[str], Scope], object],
        *,
        is_reference: bool = False,
    ) -> None:
        super().__init__(source, paths, is_reference=is_reference)
        self._render = render

    def render(self, scope: Scope) -> object:
        try:
            return self._render(self.roots, scope)
        except _MissingValue:
            return MISSING
        except (TemplateFailed, MemoryError):
            raise
        except Exception as error:
            raise TemplateFailed(_why_it_failed(error)) from None  # The chain would carry values.


class _MissingValue(Exception):
    """Something missing was about to be used; makes the whole template missing."""


class _Budget:
    """What one rendering may still do, and its stream time (ms)."""

    __slots__ = ("now_ms", "steps_left")

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.steps_left = STEPS_MAX

    def spend(self, steps: int) -> None:
        """Raise `TemplateFailed` unless *steps* more are allowed."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise TemplateFailed(f"it takes more than {STEPS_MAX} steps")

    def spend_on(self, value: object) -> None:
        """As `spend`, for work that touches all of *value*."""
        if isinstance(value, str):
            self.spend(1 + (len(value) >> _CHARS_PER_STEP_BITS))
        elif isinstance(value, (list, tuple, dict, range)):
            steps, todo = 0, [value]
            while todo and steps <= self.steps_left:
                one: object = todo.pop()
                steps += 1
                if isinstance(one, str):
                    steps += len(one) >> _CHARS_PER_STEP_BITS
                elif isinstance(one, range):
                    steps += len(one)
                elif isinstance(one, (list, tuple)):
                    todo.extend(one)
                elif isinstance(one, dict):
                    todo.extend(one)
                    todo.extend(one.values())
            self.spend(steps)
        else:
            self.spend(1)


def _text_of(value: object) -> str:
    """Return *value* as a template writes it: lists without anything between, objects as JSON.

    Raises:
        _MissingValue: null, or null in a list.
        TemplateFailed: a number without a value.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        raise _MissingValue
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateFailed("a number is too large")
    if isinstance(value, (list, tuple)):
        return "".join([_text_of(one) for one in value])
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if isinstance(value, range):
        return f"{value.start}..{value.stop - 1}"
    return str(value)


# ----------------------------------------------------------------------------------------------------- filters


class _Filter(NamedTuple):
    """A filter: the library's function, or one of ours, which takes the budget first.

    `on_text`: its value and arguments become text as if written out. `at_a_glance`: it does not touch all of its value.
    `even_missing`: it may be asked about what is missing.
    """

    call: Callable[..., object]
    ours: bool = False
    on_text: bool = False
    at_a_glance: bool = False
    even_missing: bool = False


_TEXT_FILTERS: Final = frozenset(
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
_GLANCING_FILTERS: Final = frozenset({"first", "last", "size"})


def _apply(name: str, rule: _Filter, budget: _Budget, value: object, /, *args: object, **options: object) -> object:
    """Call a filter. None stands for what is missing, also as its result.

    Raises:
        _MissingValue: the value or an argument is missing, and the filter is not `default`.
        TemplateFailed: it cannot work with these, or the result is out of bounds.
    """
    inputs = (*args, *options.values())
    if not rule.even_missing and (value is None or any(one is None for one in inputs)):
        raise _MissingValue
    if not rule.at_a_glance:
        for one in (value, *inputs):
            budget.spend_on(one)
    if rule.on_text and not (name == "slice" and isinstance(value, (list, tuple, range))):
        value = _text_of(value)
        args = tuple(one if type(one) in {int, float} else _text_of(one) for one in args)
    try:
        result = rule.call(budget, value, *args, **options) if rule.ours else rule.call(value, *args, **options)
    except (_MissingValue, TemplateFailed, MemoryError):
        raise
    except Exception:
        if name in {"divided_by", "modulo"} and len(args) == 1 and _number(args[0]) == 0:
            raise TemplateFailed(f"the filter {name!r} would divide by zero") from None
        if not _fits(rule, args, options):
            raise TemplateFailed(f"the filter {name!r} takes other arguments") from None
        kinds = ", ".join(_kind(one) for one in inputs)
        raise TemplateFailed(
            f"the filter {name!r} cannot take {_kind(value)}{' with ' if kinds else ''}{kinds}"
        ) from None
    if isinstance(result, float) and not math.isfinite(result):
        raise TemplateFailed(f"the result of the filter {name!r} is too large")
    if isinstance(result, int) and result.bit_length() > _INTEGER_BITS_MAX:
        raise TemplateFailed(f"the result of the filter {name!r} is too large")
    if not rule.at_a_glance:
        budget.spend_on(result)
    return result


def _fits(rule: _Filter, args: tuple[object, ...], options: dict[str, object]) -> bool:
    """Say whether a filter takes as many arguments, and such options."""
    from inspect import signature  # Slow to import, and python-liquid has done so.

    try:
        signature(rule.call).bind(*([None] * (1 + rule.ours)), *args, **options)
    except TypeError:
        return False
    return True


def _default(_: _Budget, value: object, fallback: object = "", *, allow_false: object = False) -> object:
    """`default`: something else for what is missing, empty or, unless *allow_false*, false."""
    if value is None or (value is False and allow_false is not True):
        return fallback
    return fallback if isinstance(value, (str, list, tuple, dict)) and not value else value


def _join(budget: _Budget, value: object, separator: object = " ") -> str:
    texts = [_text_of(one) for one in _items(value)]
    separator = _text_of(separator)
    budget.spend((len(separator) * len(texts) + sum(map(len, texts))) >> _CHARS_PER_STEP_BITS)
    return separator.join(texts)


def _replace(budget: _Budget, value: str, old: object, new: object = "") -> str:
    old, new = _text_of(old), _text_of(new)
    budget.spend((value.count(old) * len(new)) >> _CHARS_PER_STEP_BITS)  # Can be huge: text | replace: "", text
    return value.replace(old, new)


def _map(_: _Budget, value: object, key: object) -> list[object]:
    key = _text_of(key)
    return [None if one is None else _member(one, key) for one in _items(value)]


def _sort(_: _Budget, value: object, key: object = None) -> list[Any]:
    """`sort`: what is missing comes last, as in Shopify's Liquid."""
    name = None if key is None else _text_of(key)
    keyed = [(one if name is None or one is None else _member(one, name), one) for one in _items(value)]
    present: list[tuple[Any, Any]] = [pair for pair in keyed if pair[0] is not None]
    return [one for _, one in sorted(present, key=lambda pair: pair[0])] + [one for by, one in keyed if by is None]


def _uniq(_: _Budget, value: object, key: object = None) -> list[object]:
    """`uniq`, in linear time."""
    name = None if key is None else _text_of(key)
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


def _round(_: _Budget, value: object, digits: object = 0) -> int | float:
    """`round`, halves away from zero, in decimal as written: 2.5 is 3, and 1.005 to two digits is 1.01."""
    number, places = _number(value), int(_number(digits))
    rounded = number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return float(rounded) if places > 0 and number.as_tuple().exponent != 0 else int(rounded)


def _truncate(_: _Budget, value: str, chars: object = 50, end: object = "...") -> str:
    """`truncate` to at most *chars* characters, *end* included."""
    end = _text_of(end)
    return value if len(value) <= _whole(chars) else value[: max(_whole(chars) - len(end), 0)] + end


def _truncatewords(_: _Budget, value: str, words: object = 15, end: object = "...") -> str:
    most, found = max(_whole(words), 1), value.split()
    return value if len(found) <= most else " ".join(found[:most]) + _text_of(end)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not _NUMBER.fullmatch(str(value).strip()):
        raise TypeError
    return int(_number(value))


def _number(value: object) -> Decimal:
    """Return a number, or a text that looks like one; as in Shopify's Liquid anything else is 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return Decimal(0)
    text = str(value).strip()
    return Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)


_NUMBER: Final = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?(?:e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def _strip_html(_: _Budget, value: str) -> str:
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


# -------------------------------------------------------------------------------------------------------- dates

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:(Z)|([+-])(\d\d):?(\d\d))?)?", re.ASCII
)
_SECONDS_BELOW: Final = 10**11  # A smaller number is epoch seconds, as in Liquid; others are ms, as in all our records.


def _date(budget: _Budget, value: object, layout: object) -> object:
    """`date`: write a moment after *layout*, as Ruby's strftime does. What is no date stays as it is, as in Liquid.

    A date is "now" or "today" (stream time, in UTC), an ISO 8601 text, shown with the offset that is written in it, or
    a number since 1970 UTC, also as text.
    """
    layout = _text_of(layout)
    moment = _moment(value, budget.now_ms)
    if moment is None or not layout:
        return value
    budget.spend(len(layout))
    return _strftime(moment, layout)


def _moment(value: object, now_ms: int) -> datetime | None:
    """Return the aware moment that *value* means to `date`, None if it is none."""
    try:
        if isinstance(value, str):
            text = value.strip()
            if text.lower() in {"now", "today"}:
                return _from_ms(now_ms)
            if text.isascii() and text.isdigit() and len(text) < 20:
                return _moment(int(text), now_ms)
            return _from_iso(text)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return _from_ms(int(value * 1000) if abs(value) < _SECONDS_BELOW else int(value))
    except (ValueError, OverflowError):
        return None


def _from_ms(moment_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)


def _from_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    *numbers, fraction, _, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = (int(one or 0) for one in numbers)
    microsecond = int(((fraction or "") + "000000")[:6])
    zone = UTC
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
    return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone)


_DIRECTIVE: Final = re.compile(r"%([-_0^#]*)(\d{0,2})(:{0,2})([A-Za-z%+])")
_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_COMPOUND: Final = {
    "D": "%m/%d/%y",
    "F": "%Y-%m-%d",
    "R": "%H:%M",
    "T": "%H:%M:%S",
    "X": "%H:%M:%S",
    "c": "%a %b %e %H:%M:%S %Y",
    "r": "%I:%M:%S %p",
    "v": "%e-%^b-%Y",
    "x": "%m/%d/%y",
    "+": "%a %b %e %H:%M:%S %Z %Y",
}
_NUMERIC: Final[dict[str, tuple[Callable[[datetime], int], int, str]]] = {  # How, to how many characters, with what.
    "C": (lambda one: one.year // 100, 2, "0"),
    "G": (lambda one: one.isocalendar().year, 4, "0"),
    "H": (lambda one: one.hour, 2, "0"),
    "I": (lambda one: one.hour % 12 or 12, 2, "0"),
    "M": (lambda one: one.minute, 2, "0"),
    "S": (lambda one: one.second, 2, "0"),
    "U": (lambda one: (one.timetuple().tm_yday + 6 - one.isoweekday() % 7) // 7, 2, "0"),
    "V": (lambda one: one.isocalendar().week, 2, "0"),
    "W": (lambda one: (one.timetuple().tm_yday + 6 - one.weekday()) // 7, 2, "0"),
    "Y": (lambda one: one.year, 4, "0"),
    "d": (lambda one: one.day, 2, "0"),
    "e": (lambda one: one.day, 2, " "),
    "g": (lambda one: one.isocalendar().year % 100, 2, "0"),
    "j": (lambda one: one.timetuple().tm_yday, 3, "0"),
    "k": (lambda one: one.hour, 2, " "),
    "l": (lambda one: one.hour % 12 or 12, 2, " "),
    "m": (lambda one: one.month, 2, "0"),
    "s": (lambda one: (one - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1), 1, "0"),
    "u": (lambda one: one.isoweekday(), 1, "0"),
    "w": (lambda one: one.isoweekday() % 7, 1, "0"),
    "y": (lambda one: one.year % 100, 2, "0"),
}
_WORDS: Final[dict[str, Callable[[datetime], str]]] = {
    "A": lambda one: _DAYS[one.weekday()],
    "B": lambda one: _MONTHS[one.month - 1],
    "P": lambda one: "am" if one.hour < 12 else "pm",
    "Z": lambda one: _offset(one, ":") if one.utcoffset() else "UTC",
    "a": lambda one: _DAYS[one.weekday()][:3],
    "b": lambda one: _MONTHS[one.month - 1][:3],
    "h": lambda one: _MONTHS[one.month - 1][:3],
    "n": lambda _: "\n",
    "p": lambda one: "AM" if one.hour < 12 else "PM",
    "t": lambda _: "\t",
    "%": lambda _: "%",
}


def _strftime(moment: datetime, layout: str) -> str:
    """Return *moment* after *layout*: Ruby's directives and flags, in English, on every machine the same."""

    def write(match: re.Match[str]) -> str:
        flags, width, colons, letter = match.groups()
        pad = " "
        if letter in _NUMERIC:
            how, digits, pad = _NUMERIC[letter]
            text = str(how(moment))
        elif letter in {"L", "N"}:  # The width says how many digits, and what follows is cut.
            return f"{moment.microsecond:06}000".ljust(99, "0")[: int(width or {"L": 3, "N": 9}[letter])]
        elif letter == "z":
            text, digits = _offset(moment, ":" * bool(colons)), 0
        elif letter in _WORDS:
            text, digits = _WORDS[letter](moment), 0
        elif letter in _COMPOUND:
            text, digits = _strftime(moment, _COMPOUND[letter]), 0
        else:
            return match[0]
        if "^" in flags:
            text = text.upper()
        elif "#" in flags:
            text = text.lower() if letter == "p" else text.upper()
        if "-" in flags:
            return text
        pad = "0" if "0" in flags else " " if "_" in flags else pad
        return text.rjust(int(width or digits), pad)

    return _DIRECTIVE.sub(write, layout)


def _offset(moment: datetime, colon: str) -> str:
    minutes = (moment.utcoffset() or timedelta(0)) // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{colon}{abs(minutes) % 60:02}"


_OUR_FILTERS: Final = {
    "date": _Filter(_date, ours=True),
    "default": _Filter(_default, ours=True, at_a_glance=True, even_missing=True),
    "join": _Filter(_join, ours=True),
    "map": _Filter(_map, ours=True),
    "replace": _Filter(_replace, ours=True, on_text=True),
    "round": _Filter(_round, ours=True),
    "sort": _Filter(_sort, ours=True),
    "strip_html": _Filter(_strip_html, ours=True, on_text=True),
    "truncate": _Filter(_truncate, ours=True, on_text=True),
    "truncatewords": _Filter(_truncatewords, ours=True, on_text=True),
    "uniq": _Filter(_uniq, ours=True),
}


# ---------------------------------------------------------------------------------------------------- what is wrong

_FILE_TAGS: Final = frozenset({"include", "render"})
_OTHER_FILE_TAGS: Final = frozenset({"block", "extends", "import", "layout", "section"})  # Of other Liquids.


def _check_size(text: str) -> None:
    """Raise `TemplateSyntaxError` unless every tag is closed and everything is of a length the lexer can bear."""
    if len(text) > SOURCE_MAX_CHARS:
        raise TemplateSyntaxError(f"a template may have {SOURCE_MAX_CHARS} characters, this one has {len(text)}")
    if (blanks := _BLANKS.search(text)) is not None:
        raise TemplateSyntaxError(f"more than {BLANKS_MAX} blanks in a row{_where(text, blanks.start())}")
    done = 0
    while (opening := _OPENING.search(text, done)) is not None:
        closing = "}}" if opening[0] == "{{" else "%}"
        end = text.find(closing, opening.end())
        if end < 0:
            raise TemplateSyntaxError(
                f"{opening[0]!r} is never closed{_where(text, opening.start())}", f"put {closing!r} where it ends"
            )
        if end - opening.end() > TAG_MAX_CHARS:
            raise TemplateSyntaxError(
                f"more than {TAG_MAX_CHARS} characters between {opening[0]!r} and {closing!r}"
                f"{_where(text, opening.start())}"
            )
        done = end + 2
        if (verbatim := _VERBATIM.fullmatch(text, opening.start(), done)) is not None:
            after = re.compile(rf"\{{%-?\s*end{verbatim[1]}\s*-?%\}}").search(text, done)
            if after is None:
                raise TemplateSyntaxError(
                    f"'{{% {verbatim[1]} %}}' is never closed{_where(text, opening.start())}",
                    f"put '{{% end{verbatim[1]} %}}' where it ends",
                )
            done = after.end()


_BLANKS: Final = re.compile(rf"\s{{{BLANKS_MAX + 1}}}")
_OPENING: Final = re.compile(r"\{[{%]")
_VERBATIM: Final = re.compile(r"\{%-?\s*(raw|doc)\s*-?%\}")


def _where(text: str, index: int) -> str:
    """Return where the character *index* of *text* is, for the end of a message."""
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f", at character {column}" + (f" of line {line}" if "\n" in text else "")


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # Only mistakes need it.

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _unknown_root(path: list[Any]) -> tuple[str, str]:
    """Return message and hint for a reference that does not begin with one of `ROOTS`."""
    known = f"a template knows {', '.join(ROOTS[:-1])} and {ROOTS[-1]}"
    root, *rest = path
    if not isinstance(root, str):
        return f"a reference must begin with a name: {known}", ""
    if root in {"today", "date"}:
        return f"{root!r} is unknown: {known}", "the date is {{ 'now' | date: '%Y-%m-%d' }}"
    if near := _nearest(root, ROOTS):
        return f"{root!r} is unknown: {known}", near
    name = rest[0] if rest and isinstance(rest[0], str) else root
    return f"{root!r} is unknown: {known}", f"did you mean 'profile.{name}' or 'entry.{name}'?"


def _explained(error: LiquidError, tags: Iterable[str]) -> TemplateSyntaxError:
    """Say what python-liquid found wrong in the words of those who write templates."""
    said, hint = str(error.message), ""
    if match := re.fullmatch(r"unexpected tag '(.*)'", said):
        name = match[1]
        if name in _FILE_TAGS | _OTHER_FILE_TAGS:
            said, hint = f"templates cannot read others, so there is no tag {name!r}", "write its text here"
        elif name.startswith("end") or name in {"else", "elsif", "when"}:
            said = f"'{{% {name} %}}' has no beginning, or belongs to a tag before the last one"
        else:
            words = [one for one in (*tags, "else", "elsif", "when") if one.isalpha()]
            said, hint = f"unknown tag {name!r}", _nearest(name, words)
    elif match := re.fullmatch(r"expected tag end(\w+), found .*", said):
        said, hint = f"'{{% {match[1]} %}}' is never closed", f"put '{{% end{match[1]} %}}' where it ends"
    elif said == "expected a primitive expression, found end of expression":
        said = "a value is missing"
    elif said == "missing expression":
        said = "the tag says nothing"
    elif match := re.fullmatch(r"expected end of expression, found (.+)", said):
        said = f"{_token(match[1])} is not expected here"
        hint = "a filter comes after '|', and what it takes after ':', as in {{ profile.name | default: 'friend' }}"
        if match[1] == "'='":
            hint = "equal is '=='"
    elif said == "expected an identifier, found integer":
        said, hint = "a number cannot stand after a dot", "an element of a list is [0], the first one"
    elif (match := re.fullmatch(r"expected an identifier, found ([a-z]+)", said)) and match[1] not in _TOKENS:
        said = f"{match[1]!r} is a word of the language and cannot stand after a dot"
        hint = f"write ['{match[1]}'] instead of .{match[1]}"
    elif said in {"unexpected '“'", "unexpected '”'", "unexpected '‘'", "unexpected '’'"}:
        hint = "use straight quotes"
    elif said == "block nesting limit reached":
        said = "tags are nested too deeply"
    elif said == "unexpected liquid parsing error":
        said = "it is nested too deeply, or not a template"
    elif match := re.fullmatch(r"expected (.+), found (.+)", said):
        said = f"expected {_token(match[1])}, found {_token(match[2])}"
    token = error.token
    if token is not None and token.start_index >= 0:
        said += _where(token.source, token.start_index)
    return TemplateSyntaxError(said, hint)


def _token(kind: str) -> str:
    return _TOKENS.get(kind, kind if kind.startswith("'") else repr(kind))


_TOKENS: Final = {
    "a primitive expression": "a value",
    "an identifier": "a name",
    "colon": "':'",
    "comma": "','",
    "dot": "'.'",
    "dpipe": "'||'",
    "end of expression": "nothing more",
    "float": "a number",
    "identindex": "an element '[0]'",
    "identstring": "a name in brackets",
    "integer": "a number",
    "lbracket": "'['",
    "lparen": "'('",
    "pipe": "'|'",
    "range": "'..'",
    "rbracket": "']'",
    "rparen": "')'",
    "string": "a text in quotes",
    "word": "a name",
}


def _kind(value: object) -> str:
    """Return what kind of JSON *value* is, for a message."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"


def _why_it_failed(error: Exception) -> str:
    """Return a sentence about *error* without anything of the values, which may be personal data."""
    match type(error).__name__:
        case "LoopIterationLimitError":
            return f"loops take more than {LOOP_MAX} rounds"
        case "ContextDepthError":
            return "loops are nested too deeply"
        case "OutputStreamLimitError":
            return f"it writes more than {OUTPUT_MAX_BYTES} bytes"
        case "LiquidTypeError" | "LiquidValueError" | "TypeError" | "ValueError" | "OverflowError":
            return "it compares what cannot be compared, or counts with what is no whole number"
        case "UnicodeEncodeError":
            return "it writes half a character"
        case kind:
            return f"an unexpected {kind}"


# ---------------------------------------------------------------------------------------------------- python-liquid


@cache
def _engine() -> Callable[[str], Template]:
    """Import python-liquid, put our rules on it, and return its parser.

    The rules are subclasses of its nodes and expressions. Its parser names most of those classes itself, so what it
    has parsed is turned into ours afterwards.
    """
    from liquid import BoundTemplate, Environment, RenderContext, Undefined
    from liquid.ast import BlockNode, Node
    from liquid.builtin.expressions import FilteredExpression, logical
    from liquid.builtin.expressions import Path as Reference
    from liquid.builtin.expressions.primitive import Blank, RangeLiteral
    from liquid.builtin.output import OutputNode
    from liquid.builtin.tags.case_tag import CaseNode
    from liquid.builtin.tags.cycle_tag import CycleNode
    from liquid.builtin.tags.echo_tag import EchoNode
    from liquid.exceptions import LiquidError, LiquidInterrupt
    from liquid.expression import Expression
    from liquid.output import LimitedStringIO
    from liquid.undefined import UNDEFINED
    from liquid.utils import ReadOnlyChainMap

    class Gap(Undefined):
        """What is missing: conditions may ask for it, any other use ends the rendering."""

        __slots__ = ()

        def __bool__(self) -> bool:
            return False

        def __str__(self) -> str:
            raise _MissingValue

        def __int__(self) -> int:
            raise _MissingValue

        def __len__(self) -> int:  # Asked before each loop.
            raise _MissingValue

        def __iter__(self) -> Iterator[Any]:
            raise _MissingValue

    class Context(RenderContext):
        """A rendering: our look-ups, filters and budget."""

        def __init__(self, template: BoundTemplate, values: dict[str, object], budget: _Budget) -> None:
            super().__init__(template, globals=values)
            self.scope = ReadOnlyChainMap(self.locals, self.globals, self.counters)  # The library's has a clock in it.
            self.budget = budget

        def get(self, path: list[object], *, token: Token | None, default: object = UNDEFINED) -> object:
            value = super().get(path, token=token, default=default)
            self.budget.spend(1 + (len(value) >> 10 if isinstance(value, str) else 0))  # It may be compared.
            return Gap(str(path[0]), token=token) if value is None else value

        def get_item(self, obj: Any, key: Any) -> Any:
            # In the library `profile.size` is the number of attributes when there is none of that name, and
            # `profile.first` the first one. A size or a first name that we do not know must be missing.
            return obj[key] if isinstance(obj, dict) else super().get_item(obj, key)

        def assign(self, key: str, val: Any) -> None:
            self.budget.spend(1 + (len(val) >> _CHARS_PER_STEP_BITS if isinstance(val, str) else 0))
            super().assign(key, val)

        def filter(self, name: str, token: Token | None) -> Callable[..., object]:
            def call(value: object, /, *args: object, **options: object) -> object:
                plain = {key: plain_of(one) for key, one in options.items()}
                result = _apply(name, rules[name], self.budget, plain_of(value), *map(plain_of, args), **plain)
                return Gap(name, token=token) if result is None else result

            return call

    def plain_of(value: object) -> object:
        return None if isinstance(value, Undefined) else value

    def budget_of(context: RenderContext) -> _Budget:
        assert isinstance(context, Context)
        return context.budget

    def write(context: RenderContext, buffer: TextIO, value: object) -> int:
        budget_of(context).spend_on(value)
        return buffer.write(_text_of(plain_of(value)))

    class Output(OutputNode):
        __slots__ = ()

        def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
            return write(context, buffer, self.expression.evaluate(context))

    class Echo(EchoNode):
        __slots__ = ()

        def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
            return write(context, buffer, self.expression.evaluate(context))

    class Cycle(CycleNode):
        """Cycles without a name are told apart by how they are written, not by their values."""

        __slots__ = ()

        def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
            name = None if self.group is None else _text_of(plain_of(self.group.evaluate(context)))
            index = context.cycle((name, None if name else str(self)), len(self.args))
            return write(context, buffer, self.args[index % len(self.args)].evaluate(context))

    class Block(BlockNode):
        __slots__ = ()

        def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
            budget_of(context).spend(3 + len(self.nodes))  # Also each round of a loop, which costs time of its own.
            return super().render_to_output(context, buffer)

    class Case(CaseNode):
        __slots__ = ()

        def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
            for _ in self.blocks:
                spend_on_comparing(context, self.expression)
            return super().render_to_output(context, buffer)

    class Range(RangeLiteral):
        __slots__ = ()

        def evaluate(self, context: RenderContext) -> range:
            numbers = super().evaluate(context)
            if numbers.stop - numbers.start > LOOP_MAX:
                raise TemplateFailed(f"a range has more than {LOOP_MAX} numbers")
            return numbers

    def counted(base: type[Any]) -> type[Any]:
        """Return the operator *base* as one that spends steps."""

        def evaluate(self: Any, context: RenderContext) -> object:
            left = spend_on_comparing(context, self.left)
            if isinstance(left, Undefined) and isinstance(self.right, Blank) and base in equal:
                return equal[base]  # As in Shopify's Liquid; not so in the library.
            return base.evaluate(self, context)

        return type(base.__name__, (base,), {"__slots__": (), "evaluate": evaluate})

    equal: dict[type[Any], bool] = {logical.EqExpression: True, logical.NeExpression: False}

    def spend_on_comparing(context: RenderContext, left: Expression) -> object:
        """Spend what comparing with a *left* that is a reference takes, and return its value."""
        value = left.evaluate(context) if isinstance(left, Reference) else None
        budget_of(context).spend_on(value if isinstance(value, (list, tuple, dict)) else None)
        return value

    ours: dict[type[Any], type[Any]] = {
        OutputNode: Output,
        EchoNode: Echo,
        CycleNode: Cycle,
        BlockNode: Block,
        CaseNode: Case,
        RangeLiteral: Range,
    }
    ours |= {
        operator: counted(operator)
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

    class Rules(Environment):
        block_nesting_limit = 30
        loop_iteration_limit = LOOP_MAX
        output_stream_limit = OUTPUT_MAX_BYTES

    environment = Rules(undefined=Gap)
    for name in _FILE_TAGS & environment.tags.keys():
        del environment.tags[name]
    rules = {
        name: _Filter(
            partial(call, environment=environment) if hasattr(call, "with_environment") else call,
            on_text=name in _TEXT_FILTERS,
            at_a_glance=name in _GLANCING_FILTERS,
        )
        for name, call in environment.filters.items()
    } | _OUR_FILTERS

    def parse(text: str) -> Template:
        try:
            template = environment.from_string(text)
        except LiquidError as error:
            raise _explained(error, environment.tags) from None
        paths = check_and_convert(template, text)
        nodes = template.nodes
        if len(nodes) == 1 and isinstance(nodes[0], Output) and text.startswith("{{") and text.endswith("}}"):
            expression = nodes[0].expression
            if (
                isinstance(expression, FilteredExpression)
                and isinstance(expression.left, Reference)
                and not expression.filters
            ):
                path = fixed_part(expression.left)
                if len(path) == len(expression.left.path):
                    return _Reference(text, path)
                return _Composite(text, paths, partial(value_of, template, expression), is_reference=True)
        return _Composite(text, paths, partial(render, template))

    def check_and_convert(template: BoundTemplate, text: str) -> frozenset[Path]:
        """Put our rules on the nodes of *template*, and return the paths it refers to, as far as they are fixed."""
        problems: list[tuple[int, str, str]] = []
        found: list[Reference] = []
        own_names: set[str] = set()
        nobody = Context(template, {}, _Budget(0))
        todo: list[tuple[Node | Expression, int]] = [(node, 0) for node in template.nodes]
        while todo:
            one, depth = todo.pop()
            if isinstance(one, Node):
                own_names.update(one.template_scope(), one.block_scope())
                todo.extend((child, 0) for child in one.children(nobody))
                todo.extend((child, 1) for child in one.expressions())
            else:
                todo.extend((child, depth + 1) for child in one.children())
                if depth > DEPTH_MAX:
                    raise TemplateSyntaxError(f"an expression is nested more than {DEPTH_MAX} deep")
                if isinstance(one, FilteredExpression):
                    for used in one.filters or ():
                        if used.name not in rules:
                            hint = _nearest(used.name, rules)
                            problems.append((used.token.start_index, f"unknown filter {used.name!r}", hint))
                elif isinstance(one, Reference):
                    found.append(one)
            convert(one)
        for path in found:
            root = path.path[0]
            if not isinstance(root, str) or (root not in ROOTS and root not in own_names):
                problems.append((path.token.start_index, *_unknown_root(path.path)))
        if problems:
            index, message, hint = min(problems)
            raise TemplateSyntaxError(message + _where(text, index), hint)
        return frozenset(fixed_part(path) for path in found if path.path[0] in ROOTS)

    def fixed_part(path: Reference) -> Path:
        return tuple(
            one
            for one in takewhile(lambda one: not isinstance(one, Reference), path.path)
            if not isinstance(one, Reference)
        )

    def convert(one: Any) -> None:
        one.__class__ = ours.get(type(one), type(one))

    def context_for(template: BoundTemplate, roots: frozenset[str], scope: Scope) -> Context:
        values = {root: _now(scope) if root == "now" else getattr(scope, root) for root in roots}
        return Context(template, values, _Budget(scope.now_ms))

    def value_of(template: BoundTemplate, expression: Expression, roots: frozenset[str], scope: Scope) -> object:
        value = expression.evaluate(context_for(template, roots, scope))
        return MISSING if isinstance(value, Undefined) else value

    def render(template: BoundTemplate, roots: frozenset[str], scope: Scope) -> str:
        context = context_for(template, roots, scope)
        context.budget.spend(len(template.nodes))
        buffer = LimitedStringIO(OUTPUT_MAX_BYTES)
        try:
            for node in template.nodes:
                node.render(context, buffer)
        except LiquidInterrupt:
            pass  # A `break` outside of loops ends the template, as in Shopify's Liquid.
        return buffer.getvalue()

    return parse
