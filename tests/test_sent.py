"""What was sent is known until some time after its journey has closed, then it is gone, and a crash changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataflow.shard import CLOSED, OPEN, Delivery, Shard
from operators.ids import action_id, journey_id
from operators.language.values import DAY, HOUR
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.machine.receipt import KEPT_MS
from operators.program.flows import FlowText, compile_texts
from state.backend import Backend, MemoryBackend
from state.outgoing import Action, Cause
from state.records import EVENT, RECEIPT, Input
from state.rocks import RocksBackend
from state.sent import FORGETS_EVERY_MS, SentActions
from state.store import ShardStore
from state.undo import AsOf
from tests.outgoing import journal_of

START = 1_795_420_800_000
FLOW = """
flow: f
trigger: {event: a}
steps: [{id: hi, send: webhook, template: t}, {wait: 1d}]
"""


@pytest.fixture(params=["memory", "rocks"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else RocksBackend(tmp_path / "db")
    yield made
    made.close()


def opened(backend: Backend, commit: int | None = None, *, keeps: bool = True) -> tuple[ShardStore, SentActions]:
    store = ShardStore(backend)
    if commit is not None:
        store.roll_back(commit)
    return store, SentActions(store, kept_ms=KEPT_MS, keeps=keeps)


def action(number: int, template: str = "t") -> Action:
    return Action(
        f"{number:032x}", "webhook", "u", None, "f", 1, "0" * 32, "hi", 1, template, {}, "marketing", "", None, 1,
        Cause("m", "a"),
    )  # fmt: skip


def rows(backend: Backend) -> list[bytes]:
    kinds = (b"j", b"s", b"x")
    return [key for kind in kinds for key, _ in backend.scan(kind, bytes([kind[0] + 1]))]


def test_what_is_noted_is_found_at_once_and_only_for_its_user(backend: Backend) -> None:
    store, sent = opened(backend)
    sent.note("u", 7, action(1))
    for _ in range(2):
        found = sent.find("u", f"{1:032x}", START)
        assert found is not None
        assert (found.journey, found.action["template"], found.closed_ms) == (7, "t", None)
        assert found.action.keys() == {*Action.__struct_fields__} - {"job"}
        assert sent.find("v", f"{1:032x}", START) is None
        assert sent.find("u", f"{2:032x}", START) is None
        store.commit()


@pytest.mark.parametrize("strange", ["", "x", "0" * 31, "0" * 30 + " 1", "A" * 32, "0" * 34, "é" * 32, "\udc80"])
def test_a_strange_id_is_that_of_no_action(strange: str) -> None:
    _, sent = opened(MemoryBackend())
    sent.note("u", 1, action(int("a" * 32, 16)))
    assert sent.find("u", strange, START) is None


def test_it_is_known_up_to_its_time_after_the_journey_has_closed_and_then_every_row_goes(backend: Backend) -> None:
    store, sent = opened(backend)
    sent.note("u", 1, action(1))
    sent.note("u", 1, action(2))
    sent.note("u", 2, action(3))
    sent.close("u", 1, START, [f"{1:032x}", f"{2:032x}", f"{9:032x}"])
    store.commit()
    sent.forget(START + KEPT_MS)
    assert sent.find("u", f"{1:032x}", START + KEPT_MS) is not None
    assert sent.find("u", f"{2:032x}", START + KEPT_MS + 1) is None
    sent.forget(START + KEPT_MS + FORGETS_EVERY_MS + 1)
    store.commit()
    assert rows(backend) == [key for key in rows(backend) if key.endswith((3).to_bytes(16, "big"))]
    assert len(rows(backend)) == 1, "what an open journey has sent stays"


def test_what_is_still_to_be_written_is_forgotten_too(backend: Backend) -> None:
    store, sent = opened(backend)
    for number in range(1, 4):
        sent.note("u", number, action(number))
        sent.close("u", number, START + number * DAY, [f"{number:032x}"])
        sent.forget(START + number * DAY)
    sent.forget(START + KEPT_MS + 2 * DAY + HOUR)
    sent.close("u", 4, START, [])  # Woken late: it closed long ago.
    sent.forget(START + KEPT_MS + 9 * DAY)
    store.commit()
    assert rows(backend) == []


def test_an_id_that_a_later_journey_makes_again_outlives_the_earlier_one(backend: Backend) -> None:
    store, sent = opened(backend)
    sent.note("u", 1, action(1))
    sent.close("u", 1, START, [f"{1:032x}"])
    sent.note("u", 2, action(1, "later"))
    store.commit()
    sent.forget(START + KEPT_MS + 2 * HOUR)
    found = sent.find("u", f"{1:032x}", START + KEPT_MS + 2 * HOUR)
    assert found is not None
    assert found.action["template"] == "later"


def test_a_crash_takes_back_what_was_not_committed_also_what_was_spilled_or_forgotten(backend: Backend) -> None:
    store, sent = opened(backend)
    sent.note("u", 1, action(1))
    sent.close("u", 1, START, [f"{1:032x}"])
    commit = store.commit()
    before = rows(backend)
    sent.note("u", 2, action(2))
    sent.forget(START + KEPT_MS + DAY)
    store.spill()
    assert rows(AsOf(backend, commit)) == before
    store, sent = opened(backend, commit)
    assert sent.find("u", f"{2:032x}", START) is None
    assert sent.find("u", f"{1:032x}", START) is not None
    assert rows(backend) == before


def test_who_keeps_nothing_still_knows_what_was_kept_and_lets_go_of_it(backend: Backend) -> None:
    store, sent = opened(backend, keeps=False)
    assert not sent.has_some
    store, sent = opened(backend)
    sent.note("u", 1, action(1))
    store.commit()
    store, sent = opened(backend, keeps=False)
    assert sent.has_some
    sent.note("u", 2, action(2))
    assert sent.find("u", f"{1:032x}", START) is not None
    assert sent.find("u", f"{2:032x}", START) is None
    sent.close("u", 1, START, [f"{1:032x}"])
    store.commit()
    sent.forget(START + KEPT_MS + DAY)
    store.commit()
    assert rows(backend) == []
    assert not opened(backend, keeps=False)[1].has_some


# ---- in a shard ----------------------------------------------------------------------------------------------------


def deployment() -> Deployment:
    checked = compile_texts([FlowText("f.yaml", FLOW)], Workspace())
    assert not checked.has_errors, checked.problems
    return Deployment(checked.programs)


ACTION = action_id(journey_id("f", "u", None, "m-1"), "hi", 1)


def event(deployed: Deployment, offset: int, at: int) -> Input:
    hits = deployed.index.match("a", {})
    return Input("u", at, "a", f"m-{offset}", False, at, {}, None, hits, 0, offset, EVENT)


def receipt(offset: int, at: int, status: str = "opened", **fields: Any) -> Input:
    fields = {"action_id": ACTION, "status": status, **fields}
    return Input("u", at, "", f"m-{offset}", False, at, {}, None, (), 0, offset, RECEIPT, fields)


def reasons(shard: Shard) -> list[str]:
    return [one["reason"] for one in journal_of(shard) if one["kind"] == "receipt"]


def test_a_receipt_that_is_held_for_its_turn_survives_a_restart() -> None:
    deployed, backend = deployment(), MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=2, ordered=False)
    shard.take([Delivery(0, START + HOUR, OPEN, [event(deployed, 1, START), receipt(2, START + HOUR, code="C")])])
    shard.settle()
    shard.store.commit()
    assert journal_of(shard) == []
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=2, ordered=False)
    shard.take([Delivery(1, START + 2 * HOUR, CLOSED, []), Delivery(0, START + 2 * HOUR, CLOSED, [])])
    assert reasons(shard) == ["opened"]
    assert next(one for one in journal_of(shard) if one["kind"] == "receipt")["detail"] == {
        "action_id": ACTION,
        "channel": "webhook",
        "code": "C",
    }


def test_a_receipt_of_an_unknown_action_leaves_no_trace() -> None:
    deployed, backend = deployment(), MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
    unknown = receipt(1, START)
    unknown.id_sent = True
    shard.take([Delivery(0, START, OPEN, [unknown])])
    assert shard.out.unknown_receipts == 1
    assert not shard.store.write()
    assert backend.rows == {}


def test_without_keeping_what_is_sent_receipts_are_unknown_and_nothing_is_written_for_them() -> None:
    deployed, backend = deployment(), MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1, keeps_sent=False)
    shard.take([Delivery(0, START, OPEN, [event(deployed, 1, START), receipt(2, START)])])
    shard.advance_to(START + 2 * DAY)
    shard.settle()
    shard.store.commit()
    assert shard.out.unknown_receipts == 1
    assert rows(backend) == []


def test_in_time_a_shard_forgets_everything_that_was_sent() -> None:
    deployed, backend = deployment(), MemoryBackend()
    shard = Shard(ShardStore(backend, due_of=deployed.due_of), deployed, sources=1)
    for day in range(60):
        at = START + day * DAY
        shard.take([Delivery(0, at, OPEN, [event(deployed, day + 1, at)])])
        shard.settle()
        shard.store.commit()
    assert len(rows(backend)) <= 3 * 33, "of the days before the last thirty nothing"
    shard.take([Delivery(0, START + 99 * DAY, OPEN, [])])
    shard.take([Delivery(0, START + 100 * DAY, OPEN, [])])
    shard.settle()
    shard.store.commit()
    assert rows(backend) == []


def test_a_status_of_any_length_fits_into_the_journal() -> None:
    deployed = deployment()
    shard = Shard(ShardStore(MemoryBackend(), due_of=deployed.due_of), deployed, sources=1)
    huge = "x" * 900_000
    shard.take(
        [Delivery(0, START, OPEN, [event(deployed, 1, START), receipt(2, START, huge, code=huge, detail=[huge])])]
    )
    (found,) = [one for one in journal_of(shard) if one["kind"] == "receipt"]
    assert len(str(found)) < 10_000
