"""How flow files are read: YAML 1.2 with its core tags, and JSON, which is nearly YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.language.flowfile import DEPTH_MAX, read_document


def read(text: str, file: str = "flow.yaml") -> tuple[object, list[tuple[str, str, int, int]]]:
    """Return the data of *text*, and code, path, line and column of each problem."""
    document, problems = read_document(file, text.encode())
    return document.data, [(one.code, one.path, one.line, one.column) for one in problems.found]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("!!str 10115", "10115"),
        ("!!str true", "true"),
        ("!!str", ""),
        ("!!str null", "null"),
        ("! 10115", "10115"),
        ("&zip ! 10115", "10115"),
        ('! "10115"', "10115"),
        ('!!int "7"', 7),
        ("!!int 0x1F", 31),
        ("!!float 7", 7.0),
        ('!!float "1.5e3"', 1500.0),
        ('!!bool "true"', True),
        ('!!null ""', None),
        ("!!null ~", None),
        ("!!seq [1]", [1]),
        ("!!map {b: 1}", {"b": 1}),
        ("!<tag:yaml.org,2002:str> 5", "5"),
    ],
)
def test_a_core_tag_decides_what_a_value_is(written: str, value: object) -> None:
    data, problems = read(f"a: {written}\n")
    assert isinstance(data, dict)
    assert (data["a"], type(data["a"])) == (value, type(value))
    assert problems == []


@pytest.mark.parametrize(
    "written",
    [
        "!!int seven",
        "!!int 1.5",
        "!!float 0x1F",
        "!!float one",
        "!!bool yes",
        "!!null none",
        "!!str [1]",
        "!!seq {b: 1}",
        "!!map [1]",
        "!!set {b}",
        "!!omap [{b: 1}]",
        "!!timestamp 2026-11-23",
        "!!binary aGk=",
        "!secret key",
    ],
)
def test_a_tag_that_does_not_fit_or_is_none_of_the_core_is_told(written: str) -> None:
    assert read(f"a: {written}\n")[1] == [("bad-tag", "a", 1, 4)]


def test_a_key_is_a_text_with_any_tag_but_that_one_refused() -> None:
    assert read("!!str 5: x\n") == ({"5": "x"}, [])
    assert read("!!int 5: x\n")[1] == [("bad-tag", "5", 1, 1)]
    assert read("!mine 5: x\n")[1] == [("bad-tag", "5", 1, 1)]


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_what_ends_a_line_in_yaml_1_1_only_is_a_character(character: str) -> None:
    text = f"a: one{character}two\nb: 'one{character}two'\nc: |\n  one{character}two\nd{character}: 1\n"
    data, problems = read(text)
    assert data == {
        "a": f"one{character}two",
        "b": f"one{character}two",
        "c": f"one{character}two\n",
        f"d{character}": 1,
    }
    assert problems == []


@pytest.mark.parametrize("character", ["\x85", "\x7f", "\u2028", "\ufeff", "\x9f", "😀"])
def test_json_may_have_any_character_in_a_text(character: str) -> None:
    value = {f"k{character}": f"one{character}two"}
    assert read(json.dumps(value, ensure_ascii=False), "flow.json") == (value, [])
    assert read(json.dumps(value), "flow.json") == (value, [])


def test_json_may_have_long_keys() -> None:
    assert read(json.dumps({"k" * 5000: 1}), "flow.json") == ({"k" * 5000: 1}, [])


def test_places_in_json_are_those_of_the_values() -> None:
    text = '{\n  "a": [1,\n    {"b": 2, "b": 3}],\n  "c": 1e999\n}\n'
    assert read(text, "flow.json")[1] == [("duplicate-key", "a.1.b", 3, 14), ("bad-number", "c", 4, 8)]


@pytest.mark.parametrize("text", ['{"a": 1,}', '{"a": 1} # why', "a: 1"])
def test_what_is_no_json_in_a_json_file_is_read_as_yaml(text: str) -> None:
    assert read(text, "flow.json") == ({"a": 1}, [])


@pytest.mark.parametrize("text", ['{"a": 1', '{"a": "\\ud83d"}', '{"a" 1}', '{"a": 1}}', '{"a": "\x01"}'])
def test_what_is_neither_is_told(text: str) -> None:
    data, problems = read(text, "flow.json")
    assert data is None
    assert [code for code, *_ in problems] == ["bad-yaml"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "~", "---\n"])
@pytest.mark.parametrize("file", ["flow.yaml", "flow.json"])
def test_a_file_with_nothing_in_it_is_told(text: str, file: str) -> None:
    assert [code for code, *_ in read(text, file)[1]] == ["empty-file"]


def test_json_that_nests_too_deeply_is_too_large() -> None:
    assert read("[" * DEPTH_MAX + "]" * DEPTH_MAX, "flow.json")[1] == []
    for deep in (DEPTH_MAX + 2, 100_000):
        assert read("[" * deep + "]" * deep, "flow.json")[1][0][0] == "too-large"


@pytest.mark.parametrize("depth", [3, DEPTH_MAX, DEPTH_MAX + 2, 400, 3_000])
@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "[" * depth + "]" * depth,
        lambda depth: "{a: " * depth + "1" + "}" * depth,
        lambda depth: "- " * depth + "1",
        lambda depth: "-\t" * depth + "1",
        lambda depth: "? " * depth + "1",
        lambda depth: "".join(" " * level + "a:\n" for level in range(depth - 1)) + " " * depth + "a: 1",
        lambda depth: "".join(" " * level + "-\n" for level in range(depth - 1)) + " " * depth + "- 1",
        lambda depth: "".join(" " * level + "a:\n" + " " * level + "- \n" for level in range(depth // 2)),
    ],
)
def test_however_deep_a_file_nests_it_is_read_or_told(nested: Callable[[int], str], depth: int) -> None:
    codes = {code for code, *_ in read(nested(depth))[1]}
    assert codes <= {"too-large", "bad-key", "bad-yaml"}
    assert depth > DEPTH_MAX or "too-large" not in codes
    assert depth <= DEPTH_MAX or codes


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON.filter(lambda value: value is not None), st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read_as_every_reader_of_json_reads_it(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read(text, "flow.json") == (json.loads(text), [])
