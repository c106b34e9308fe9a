"""The soak of delivery and the door, a share of it: some kills and faults, after which every promise holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from state.delivery import Entry, Outcome
from tests.delivery.actions import action
from tests.delivery.soak.lives import warm_up
from tests.delivery.soak.promises import Found, Seen, broken
from tests.delivery.soak.round import Round
from tests.kafka.broker import Broker
from tests.redis.fixtures import started
from tests.redis.server import RedisServer

ONE = action("one", channel="letter")
TWO = action("two", channel="letter")


def noted(status: str) -> Entry:
    return Entry(1, 0, "u", "me", 1, Outcome(status, 1))


def receipt(action_id: str, status: str, **more: str) -> bytes:
    message_id = f"{action_id}/{status}"
    return json.dumps({"action_id": action_id, "status": status, "message_id": message_id, **more}).encode()


def told(*statuses: str, ledger: str | None, taken: int = 1, drops: bool = False, **more: Any) -> list[str]:
    """Return what is said of one action with these receipts."""
    seen = {"letter": Seen(drops, [ONE.action_id] * taken, more.pop("mistakes", ()))}
    records = [*(receipt(ONE.action_id, one) for one in statuses), *more.pop("records", ())]
    entries = {ONE.action_id: None if ledger is None else noted(ledger)}
    return [one.replace(ONE.action_id, "A") for one in broken(Found([ONE], seen, entries, records, **more))]


def test_what_is_as_promised_is_not_told() -> None:
    assert told("accepted", ledger="accepted") == []
    assert told("accepted", "accepted", ledger="accepted") == []
    assert told("rejected", ledger="rejected", taken=0) == []
    assert told("unknown", ledger="unknown", taken=2) == []
    assert told("unknown", "accepted", ledger="accepted") == []
    event = b'{"message_id": "m"}'
    assert told("accepted", ledger="accepted", records=[event, event], sent={"m"}, acknowledged={"m"}) == []
    assert told("accepted", ledger="accepted", records=[event], sent={"m", "n"}) == []


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("no outcome in the ledger", {"statuses": ("accepted",), "ledger": None}),
        ("accepted in the ledger, and no receipt", {"ledger": "accepted"}),
        ("two final outcomes: accepted, rejected", {"statuses": ("accepted", "rejected"), "ledger": "accepted"}),
        ("unknown in the ledger, and receipts say accepted", {"statuses": ("accepted",), "ledger": "unknown"}),
        ("accepted in the ledger, and receipts say unknown", {"statuses": ("unknown",), "ledger": "accepted"}),
        ("was taken 2 times, and is accepted", {"statuses": ("accepted",), "ledger": "accepted", "taken": 2}),
        ("was taken 2 times", {"statuses": ("unknown",), "ledger": "unknown", "taken": 2, "drops": True}),
        ("is accepted, and was never taken", {"statuses": ("accepted",), "ledger": "accepted", "taken": 0}),
        ("is rejected, and was taken", {"statuses": ("rejected",), "ledger": "rejected"}),
        ("two requests", {"statuses": ("accepted",), "ledger": "accepted", "mistakes": ["two requests under one id"]}),
        ("m: acknowledged, and not on", {"statuses": ("accepted",), "ledger": "accepted", "acknowledged": {"m"}}),
        (
            "2 different receipts say accepted",
            {
                "statuses": ("accepted",),
                "ledger": "accepted",
                "records": [receipt(ONE.action_id, "accepted", code="other")],
            },
        ),
        (
            "a receipt of no action",
            {"statuses": ("accepted",), "ledger": "accepted", "records": [receipt("x", "unknown")]},
        ),
        (
            "m: on the topic, and sent by nobody",
            {"statuses": ("accepted",), "ledger": "accepted", "records": [b'{"message_id": "m"}']},
        ),
    ],
)
def test_what_is_not_as_promised_is_told(said: str, given: dict[str, Any]) -> None:
    (found,) = told(*given.pop("statuses", ()), **given)
    assert said in found


def test_a_user_who_gets_the_second_before_the_first_is_told() -> None:
    seen = {"letter": Seen(False, [TWO.action_id, ONE.action_id])}
    entries = {one.action_id: noted("accepted") for one in (ONE, TWO)}
    records = [receipt(one.action_id, "accepted") for one in (ONE, TWO)]
    (found,) = broken(Found([ONE, TWO], seen, entries, records))
    assert "was taken after a later one" in found
    seen = {"letter": Seen(False, [ONE.action_id, TWO.action_id])}
    assert list(broken(Found([ONE, TWO], seen, entries, records))) == []


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_shared", [True, False], ids=["redis", "sqlite"])
def test_killed_under_load_amid_other_faults_delivery_and_the_door_keep_what_they_promise(
    breakable_broker: Broker, tmp_path: Path, is_shared: bool
) -> None:
    redis = RedisServer(tmp_path / "redis", fsync="always")
    started(redis)
    warm_up()
    one = Round(breakable_broker, redis, tmp_path / "round", 11, faults=20, is_shared=is_shared, has_short_leases=True)
    try:
        done = one.run()
    finally:
        redis.stop()
    assert done.problems == []
    assert done.kills >= 5
    assert done.outcomes["accepted"] > 50
