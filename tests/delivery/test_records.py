"""What stands on the topics of delivery and is none of ours ends nothing: it is told why, and passed over."""

from __future__ import annotations

import orjson
import pytest

from dataflow.deliver.service import LEVELS_MAX, read_action
from dataflow.gateway.receipts import Unmatched, read_unmatched
from state.outgoing import dump
from tests.delivery.actions import action


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("levels", [LEVELS_MAX + 1, 1_100, 100_000])
def test_an_action_that_nests_without_end_is_none(levels: int) -> None:
    with pytest.raises(ValueError, match="200 levels"):
        read_action(dump(action()).replace(b'"Lina"', nested(levels)))


def test_an_action_that_nests_as_deep_as_it_may_goes_on_to_everybody() -> None:
    found = read_action(dump(action()).replace(b'"Lina"', nested(LEVELS_MAX - 2)))
    assert orjson.loads(orjson.dumps({"data": orjson.Fragment(dump(found))}))["data"]["vars"] == found.vars


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b"\xff", b'{"action_id": 5}', nested(100_000)])
def test_what_is_no_action_is_told_why(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_action(raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"x": ' + nested(100_000) + b"}", nested(1_100)])
def test_what_is_no_report_is_told_why(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_unmatched(raw)


def test_a_report_that_waits_is_read_again() -> None:
    fields = {"channel": "sms", "since_ms": 1, "status": "delivered", "at_ms": 2, "action_id": "a"}
    assert read_unmatched(orjson.dumps(fields)) == Unmatched("sms", 1, "delivered", 2, "a")
