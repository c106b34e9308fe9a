"""Records that go out have one definition; the docs, the schemas and the JSON follow it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest

from operators.schemas import SCHEMAS
from state.outgoing import DEAD_REASONS, Action, Cause, DeadLetter, JournalKind, JournalRecord, SendReason, dump

DOCS = (Path(__file__).parents[1] / "docs" / "records.md").read_text()
AT = "2026-11-23T08:00:00.000Z"

# Of kinds that only later versions write the page does not speak yet.
LATER_KINDS = {"migrated"}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCS, re.M | re.S)
    assert found, title
    return found[1]


def fields(record: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(record)}


@pytest.mark.parametrize(
    ("title", "record"), [("Action", Action), ("Journal", JournalRecord), ("Dead letters", DeadLetter)]
)
def test_the_docs_name_every_field_and_no_other(title: str, record: type[msgspec.Struct]) -> None:
    text = section(title)
    sample = re.search(r"```json\n(.*?)```", text, re.S)
    assert sample
    shown = set(orjson.loads(sample[1]))
    assert shown <= fields(record)
    assert fields(record) <= shown | set(re.findall(r"`(\w+)`", text)), "each field is in the sample or explained"


def test_the_docs_have_a_row_for_every_kind_of_journal_record() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", section("Journal"), re.M))
    assert rows == set(get_args(JournalKind)) - LATER_KINDS


def test_the_docs_name_every_reason() -> None:
    named = set(re.findall(r"`(\w+)`", section("Journal")))
    assert set(get_args(SendReason)) <= named
    assert set(DEAD_REASONS) <= set(re.findall(r"`(\w+)`", section("Dead letters")))


@pytest.mark.parametrize(
    ("schema", "record"), [("action", Action), ("journal", JournalRecord), ("dead-letter", DeadLetter)]
)
def test_the_schema_has_every_field_with_what_it_is_for(schema: str, record: type[msgspec.Struct]) -> None:
    properties: dict[str, Any] = SCHEMAS[schema]()["properties"]
    assert list(properties) == [field.encode_name for field in msgspec.structs.fields(record)]
    assert all(value.get("description") for value in properties.values())


def test_a_journal_record_leaves_out_what_does_not_apply_and_an_action_nothing() -> None:
    journal = JournalRecord(AT, "u", 1, "f", 1, None, "refused")
    assert orjson.loads(dump(journal)) == {
        "at": AT, "user_id": "u", "seq": 1, "flow": "f", "version": 1, "journey_id": None, "kind": "refused",
    }  # fmt: skip
    action = Action("a", "sms", "u", None, "f", 1, "j", "s", 1, "t", {}, "marketing", AT, None, 1, Cause("m", None))
    assert set(orjson.loads(dump(action))) == fields(Action) - {"job"}


def test_raw_bytes_of_a_dead_letter_are_base64() -> None:
    assert orjson.loads(dump(DeadLetter("t", 0, 7, "not_json", "x", b"\xff{")))["raw"] == "/3s="
