"""What is counted per flow, and what of it must add up."""

from __future__ import annotations

from operators.machine import totals
from operators.machine.totals import FlowTotals, Totals, add_totals, inside_by, key_of, read_totals

CART = "cart\x1f3"
KINDS = {
    totals.ENTERED, totals.CONVERTED, totals.ENDED, totals.EXITED,
    totals.FAILED, totals.REFUSED, totals.SENT, totals.SUPPRESSED, totals.POSTPONED,
}  # fmt: skip


def test_every_kind_that_is_counted_is_read() -> None:
    assert set(FlowTotals.__struct_fields__) == KINDS
    plain = {totals.ENTERED, totals.CONVERTED}
    counts = {key_of(kind, None if kind in plain else "why"): 2 for kind in KINDS}
    read = FlowTotals.read(counts)
    for kind in KINDS:
        assert getattr(read, kind) == (2 if kind in plain else {"why": 2}), kind


def test_a_label_may_have_a_colon_or_be_missing() -> None:
    read = FlowTotals.read({"ended": 1, "ended:a:b": 2, "entered": 5})
    assert read.ended == {"": 1, "a:b": 2}
    assert read.inside == 2


def test_who_entered_has_ended_exited_failed_or_is_inside() -> None:
    counts = {"entered": 10, "ended": 1, "ended:cold": 2, "exited:bought": 3, "failed:loop": 1, "sent:sms": 99}
    balance = FlowTotals.read(counts).balance()
    assert balance == {"entered": 10, "ended": 3, "exited": 3, "failed": 1, "inside": 3}
    assert balance.pop("entered") == sum(balance.values())
    assert inside_by(counts) == balance["inside"]


def test_totals_of_shards_add_up_and_leave_theirs_alone() -> None:
    one: Totals = {CART: {"entered": 1}}
    other: Totals = {CART: {"entered": 2, "sent:sms": 1}, "new\x1f1": {"entered": 7}}
    added: Totals = {}
    add_totals(added, one)
    add_totals(added, other)
    assert added == {CART: {"entered": 3, "sent:sms": 1}, "new\x1f1": {"entered": 7}}
    assert one == {CART: {"entered": 1}}


def test_of_a_flow_in_which_nothing_happened_there_is_nothing() -> None:
    assert read_totals({}, [CART]) == {CART: FlowTotals()}
