"""The match index, the generated functions and the scanner say what the definition of the language says.

What is generated follows the table of tests: a new row is tried here without a word, and one with a new kind of
argument fails until somebody says what its arguments look like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.conditions import tree
from operators.conditions.arguments import (
    DURATION,
    MOMENT,
    ORDERED,
    PAIR,
    PATTERN,
    SCALAR,
    SCALARS,
    TEXT,
    TRUTH,
)
from operators.conditions.base import Condition
from operators.conditions.codegen import compile_condition
from operators.conditions.implied import implies
from operators.conditions.index import MatchIndex
from operators.conditions.parse import Dialect, in_utc, parse_condition
from operators.conditions.tests import TESTS
from operators.conditions.values import dig
from operators.conditions.where import parse_where, where_field
from operators.language.problems import Document, Problems
from tests.intake import Watched, everything, taken

MOMENTS = ["2026-11-23T08:00:00Z", "2026-11-23T16:00:00+08:00", "2026-11-24T00:00:00.001Z", "2026-11-23"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.0, 1.5, -2.0, 1e300]),
    st.sampled_from(["", "a", "ab", "b"]),
    st.sampled_from(MOMENTS),
)
SCALAR_VALUES = VALUES.filter(lambda value: value is not None)
NUMBERS = st.integers(-3, 3)
TEXTS = st.sampled_from(["", "a", "b", "ab", "2026"])
PROPERTIES = st.dictionaries(
    st.sampled_from("pqr"),
    st.one_of(VALUES, st.lists(VALUES, max_size=2), st.fixed_dictionaries({"x": VALUES})),
    max_size=3,
)
ARGUMENTS = {
    SCALAR: SCALAR_VALUES,
    SCALARS: st.lists(SCALAR_VALUES, min_size=1, max_size=3),
    ORDERED: NUMBERS | TEXTS,
    PAIR: st.one_of(st.tuples(NUMBERS, NUMBERS), st.tuples(TEXTS, TEXTS)).map(sorted),
    TEXT: TEXTS,
    PATTERN: st.sampled_from(["^a", "b$", ".", "23"]),
    TRUTH: st.booleans(),
    MOMENT: st.sampled_from(MOMENTS),
    DURATION: st.sampled_from(["1s", "1h", "1d"]),
}
INDEXED = [name for name, kind in TESTS.items() if not kind.needs_time]


def written(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return the ways to write the test *name*."""
    argument = TESTS[name].argument
    assert argument in ARGUMENTS, f"say above what can stand behind '{name}'"
    return st.fixed_dictionaries({name: ARGUMENTS[argument]})


ANY_TEST = st.one_of(SCALAR_VALUES, ARGUMENTS[SCALARS], st.none(), *map(written, INDEXED))
PATHS = st.sampled_from(["p", "q", "r", "p.x", "properties.q"])
WHERE = st.recursive(
    st.dictionaries(PATHS, ANY_TEST, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
        st.tuples(inner, inner).map(lambda pair: {**pair[0], **pair[1]}),
    ),
    max_leaves=5,
)
SHAPES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "alone": lambda test: {"p": test},
    "nested": lambda test: {"p.x": test},
    "not": lambda test: {"not": {"p": test}},
    "any": lambda test: {"any": [{"p": test}, {"q": 1}]},
    "all": lambda test: {"all": [{"p": test}, {"q": {"ne": 1}}]},
    "after an equality": lambda test: {"q": 1, "p": test},
}


class Judged:
    """An event's properties as the context of a condition."""

    now = 0

    def __init__(self, properties: dict[str, Any]) -> None:
        self._properties = properties

    def value(self, root: str, path: tuple[str, ...]) -> Any:
        return dig(self._properties, path)

    def render(self, template: Any) -> Any:
        raise AssertionError("there are no templates here")


def parsed(where: dict[str, Any]) -> tuple[Condition | None, Problems]:
    problems = Problems(Document("test", where))
    dialect = Dialect(where_field, no_templates="this is a test")
    return parse_condition(where, ("where",), problems, dialect), problems


def plain_record(properties: dict[str, Any]) -> bytes:
    return orjson.dumps({"user_id": "u", "event": "e", "properties": properties})


def check_all_ways(condition: Condition, properties: dict[str, Any]) -> None:
    """Assert that the definition, the generated function, the index and the scanner agree."""
    holds = condition.holds(Judged(properties))
    index = MatchIndex([("e", condition)])
    assert compile_condition(condition)(properties) is holds
    assert index.match("e", properties) == ((0,) if holds else ())
    assert len(taken(index, [plain_record(properties)])[1]) == holds


@pytest.mark.parametrize("name", INDEXED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_each_test_means_the_same_in_all_ways(name: str, data: st.DataObject) -> None:
    test = data.draw(written(name))
    events = data.draw(st.lists(PROPERTIES | st.fixed_dictionaries({"p": VALUES, "q": NUMBERS}), max_size=5))
    for shape in SHAPES.values():
        condition, _ = parsed(shape(test))
        assert condition is not None
        for properties in events:
            check_all_ways(condition, properties)


@pytest.mark.parametrize("name", [name for name in TESTS if name not in INDEXED])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_asks_for_the_time_is_left_to_the_journey(name: str, data: st.DataObject) -> None:
    problems = Problems(Document("test", None))
    where = parse_where({"p": data.draw(written(name)), "q": 1}, (), problems, resolve=in_utc, templates=False)
    assert isinstance(where.live, tree.Test)
    assert where.live.op == name
    assert isinstance(where.fixed, tree.Test)
    with pytest.raises(TypeError, match="cannot be compiled"):
        compile_condition(where.live)


# ---- who answers ---------------------------------------------------------------------------------------------------

# Per kind of argument: arguments, each with values that the scanner can read. Lists it leaves to Python.
DECIDED: dict[Any, list[tuple[Any, list[Any]]]] = {
    SCALAR: [("b", ["b", "abc", "x", 1, True, None]), (1, [1, 1.0, 2, "1", True]), (True, [True, False, 1])],
    SCALARS: [(["b", 1, True], ["b", 1, True, False, "x", None])],
    ORDERED: [(1, [0, 1, 2, "1", None]), ("b", ["a", "b", "c", 1, True])],
    PAIR: [([1, 2], [0, 1, 1.5, 2, 3, "1"]), (["a", "c"], ["", "a", "b", "c", "d", 1])],
    TEXT: [("ab", ["ab", "abc", "cab", "b", 1, None])],
    PATTERN: [("^a", ["a", "ba", 1, None])],
    TRUTH: [(True, [0, "", None]), (False, [0, "", None])],
    MOMENT: [(MOMENTS[0], ["2026-11-23T07:59:59.999Z", MOMENTS[0], "2026-11-23T08:00:00.001Z", 1, None])],
}


class Counted:
    """A function that counts how often it is called."""

    def __init__(self, judge: Callable[[dict[str, Any]], bool], calls: list[str]) -> None:
        self._judge, self._calls = judge, calls

    def __call__(self, properties: dict[str, Any]) -> bool:
        self._calls.append("Python")
        return self._judge(properties)


def counted(table: Any, calls: list[str]) -> Any:
    """Return *table* with its functions counted, wherever they stand."""
    if callable(table):
        return Counted(table, calls)
    if isinstance(table, dict):
        return {name: counted(one, calls) for name, one in table.items()}
    if isinstance(table, list):
        return [counted(one, calls) for one in table]
    return tuple(counted(one, calls) for one in table) if isinstance(table, tuple) else table


@pytest.mark.parametrize("name", INDEXED)
def test_the_scanner_answers_what_plain_data_can_say_and_asks_python_for_the_rest(name: str) -> None:
    kind = TESTS[name]
    assert kind.argument in DECIDED, f"say above which values tell what '{name}' does"
    passed = set()
    for argument, values in DECIDED[kind.argument]:
        for shape, where in SHAPES.items():
            condition, _ = parsed(where({name: argument}))
            assert condition is not None
            index = MatchIndex([("e", condition)])
            calls: list[str] = []
            records = Watched(counted(index.table(), calls))
            for value in values:
                properties = {"p": {"x": value} if shape == "nested" else value, "q": 1}
                holds = condition.holds(Judged(properties))
                asked = len(calls)
                assert ("Input(" in everything(index, records, [plain_record(properties)], None)[-1]) is holds
                assert (len(calls) > asked) is (kind.plain is None), (name, shape, value)
                if shape == "alone":
                    passed.add(holds)
            assert records.looked_at == [], (name, shape)
    assert passed == {True, False}, f"add values of which some pass '{name}' and some do not"


@given(WHERE, st.lists(PROPERTIES, min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_a_generated_function_holds_exactly_when_the_condition_does(
    where: dict[str, Any], events: list[dict[str, Any]]
) -> None:
    condition, _ = parsed(where)
    assert condition is not None
    judge = compile_condition(condition)
    for properties in events:
        assert judge(properties) == condition.holds(Judged(properties)), (where, properties)


@given(
    st.lists(st.tuples(st.sampled_from(["e", "f"]), st.none() | WHERE), max_size=8), st.lists(PROPERTIES, max_size=5)
)
@settings(max_examples=300, deadline=None)
def test_the_index_finds_every_interest_that_an_event_satisfies_and_no_other(
    written: list[tuple[str, dict[str, Any] | None]], events: list[dict[str, Any]]
) -> None:
    interests = [(event, None if where is None else parsed(where)[0]) for event, where in written]
    index = MatchIndex(interests)
    for properties in events:
        for name in ("e", "f", "g"):
            expected = tuple(
                number
                for number, (event, condition) in enumerate(interests)
                if event == name and (condition is None or condition.holds(Judged(properties)))
            )
            assert index.match(name, properties) == expected
            record = orjson.dumps({"user_id": "u", "event": name, "properties": properties})
            _, inputs = taken(index, [record])
            assert tuple(hit for one in inputs for hit in one.hits) == expected


@given(WHERE, PROPERTIES)
@settings(max_examples=300, deadline=None)
def test_a_condition_that_check_calls_impossible_never_holds(where: dict[str, Any], properties: dict[str, Any]) -> None:
    condition, problems = parsed(where)
    assert condition is not None
    if [problem.code for problem in problems.found if problem.path == "where"] == ["impossible-condition"]:
        assert not condition.holds(Judged(properties)), (where, properties)


ENDS = st.sampled_from([-1, 0, 1, 1.5, "", "2026", "2026-11-23", "2026-11-24T00:00:00Z", "2027", "b"])
LISTS = st.lists(ENDS, min_size=1, max_size=3)
MOMENT_ENDS = st.sampled_from(["2026-11-23", "2026-11-24T00:00:00Z"])
WRITTEN_WITH_ENDS = {
    "in": LISTS,
    "not_in": LISTS,
    "between": st.sampled_from([[-1, 1], [0, 0], [1, 1.5], ["", "b"], ["2026", "2027"], ["2026-11-23", "2026-11-23"]]),
    "before": MOMENT_ENDS,
    "after": MOMENT_ENDS,
    "exists": st.booleans(),
}
NAMES_TRIED = [*WRITTEN_WITH_ENDS, "eq", "ne", "gt", "gte", "lt", "lte"]
DENSE = [
    None, True, False, [], {}, *(n / 4 for n in range(-12, 13)), -1, 0, 1, 2, -(10**9), 10**9,
    "", " ", "1", "2", "2026", "2026-", "20260", "2026-11-22", "2026-11-22T23:59:59.999Z", "2026-11-23",
    "2026-11-23 00:00",
    "2026-11-23T00:00:00.001Z", "2026-11-23T08:00+09:00", "2026-11-24", "2026-11-24T00:00:00Z",
    "2026-11-24T00:00:00.001Z",
    "2026-11-24T09:00:00+09:00", "2026-12-01", "2027", "2027-01-01", "2028-01-01", "1999-01-01", "3000-01-01",
    "a", "b", "b\x00", "ba", "c", "\U0010ffff",
]  # fmt: skip
"""Values at every end that is tried, on both sides of it, and of every other type."""


@given(st.data())
@settings(max_examples=1_500, deadline=None)
def test_check_calls_impossible_what_no_value_satisfies_and_nothing_else(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(NAMES_TRIED), min_size=2, max_size=4, unique=True))
    tests = {name: data.draw(WRITTEN_WITH_ENDS.get(name, ENDS)) for name in names}
    condition, problems = parsed({"p": tests})
    assert condition is not None
    assert {one.code for one in problems.found} <= {"impossible-condition"}
    holding = [value for value in DENSE if condition.holds(Judged({} if value is None else {"p": value}))]
    if problems.found:
        assert holding == [], tests
    elif not ({"before", "after"} & tests.keys() and len(tests) > 1):  # Texts and moments have no common order.
        assert holding, tests


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_what_is_said_to_follow_from_a_condition_holds_where_it_does(data: st.DataObject) -> None:
    conditions = []
    for _ in range(2):
        names = data.draw(st.lists(st.sampled_from(NAMES_TRIED), min_size=1, max_size=2, unique=True))
        condition, _ = parsed({"p": {name: data.draw(WRITTEN_WITH_ENDS.get(name, ENDS)) for name in names}})
        assert condition is not None
        conditions.append(condition)
    given, other = conditions
    if implies(given, other):
        for value in DENSE:
            context = Judged({} if value is None else {"p": value})
            assert other.holds(context) or not given.holds(context), value


@pytest.mark.parametrize(
    "tests",
    [
        {"lt": ""},
        {"gte": 5, "lte": 5, "ne": 5},
        {"between": ["a", "a"], "not_in": ["a", "b"]},
        {"between": ["a", "a"], "starts_with": "b"},
        {"after": "2026-11-23T00:00:00Z", "before": "2026-11-23T00:00:00.001Z"},
        {"after": "2026-11-24", "before": "2026-11-23"},
        {"exists": False, "gt": 5},
        {"gt": 5, "lt": "9"},
        {"gt": 5, "before": "2026-11-23"},
    ],
)
def test_what_no_value_satisfies_is_impossible(tests: dict[str, Any]) -> None:
    assert [one.code for one in parsed({"p": tests})[1].found] == ["impossible-condition"]


@pytest.mark.parametrize("tests", [{"gt": "2026", "before": "2027-01-01"}, {"lt": "2027", "after": "2026-01-01"}])
def test_a_text_may_be_in_an_order_of_texts_and_of_moments(tests: dict[str, Any]) -> None:
    condition, problems = parsed({"p": tests})
    assert problems.found == []
    assert condition is not None
    assert condition.holds(Judged({"p": "2026-11-23T08:00:00Z"}))


def test_ten_thousand_conditions_on_one_event_are_told_apart_by_their_values() -> None:
    interests = [("view", parsed({"sku": f"s{number}", "amount": {"gte": number}})[0]) for number in range(10_000)]
    index = MatchIndex(interests)
    assert index.match("view", {"sku": "s7000", "amount": 7000}) == (7000,)
    assert index.match("view", {"sku": "s7000", "amount": 6999}) == ()
