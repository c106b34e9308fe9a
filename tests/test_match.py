"""The match index and the generated functions say what the definition of the language says."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.conditions.base import Condition
from operators.conditions.codegen import compile_condition
from operators.conditions.index import MatchIndex
from operators.conditions.parse import Dialect, parse_condition
from operators.conditions.values import dig
from operators.conditions.where import where_field
from operators.language.problems import Document, Problems
from tests.intake import taken

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.0, 1.5, -2.0, 1e300]),
    st.sampled_from(["", "a", "ab", "b"]),
)
SCALARS = VALUES.filter(lambda value: value is not None)
PROPERTIES = st.dictionaries(
    st.sampled_from("pqr"),
    st.one_of(VALUES, st.lists(VALUES, max_size=2), st.fixed_dictionaries({"x": VALUES})),
    max_size=3,
)
NUMBERS = st.integers(-3, 3)
TESTS = st.one_of(
    SCALARS,
    st.lists(SCALARS, min_size=1, max_size=3),
    st.none(),
    st.fixed_dictionaries({"ne": SCALARS}),
    st.fixed_dictionaries({"not_in": st.lists(SCALARS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"gt": NUMBERS}),
    st.fixed_dictionaries({"lte": st.one_of(NUMBERS, st.sampled_from(["a", "b"]))}),
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: {"between": sorted(pair)}),
    st.fixed_dictionaries({"contains": SCALARS}),
    st.fixed_dictionaries({"not_contains": st.sampled_from(["a", 1])}),
    st.fixed_dictionaries({"starts_with": st.sampled_from(["", "a"])}),
    st.fixed_dictionaries({"matches": st.sampled_from(["^a", "b$", "."])}),
    st.fixed_dictionaries({"exists": st.booleans()}),
)
PATHS = st.sampled_from(["p", "q", "r", "p.x", "properties.q"])
WHERE = st.recursive(
    st.dictionaries(PATHS, TESTS, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
        st.tuples(inner, inner).map(lambda pair: {**pair[0], **pair[1]}),
    ),
    max_leaves=5,
)


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


def test_ten_thousand_conditions_on_one_event_are_told_apart_by_their_values() -> None:
    interests = [("view", parsed({"sku": f"s{number}", "amount": {"gte": number}})[0]) for number in range(10_000)]
    index = MatchIndex(interests)
    assert index.match("view", {"sku": "s7000", "amount": 7000}) == (7000,)
    assert index.match("view", {"sku": "s7000", "amount": 6999}) == ()
