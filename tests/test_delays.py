"""How long it took from an event to its action."""

from __future__ import annotations

from itertools import accumulate

import pytest

from dataflow.delays import BOUNDS_S, MEASURED_MAX, Delayed, Delays
from state.iso import format_ms
from state.outgoing import Action, Cause

NOON_MS = 1_795_435_200_000


def action(at_ms: int) -> Action:
    digest, cause = "0" * 32, Cause("m", "e")
    return Action(
        digest, "sms", "ann", None, "f", 1, digest, "s", 1, "t", {}, "marketing", format_ms(at_ms), None, 1, cause
    )


@pytest.mark.parametrize(
    ("took_ms", "least_bound_s"),
    [(0, 0.005), (5, 0.005), (6, 0.01), (1000, 1.0), (1001, 2.0), (3_600_000, 3600.0), (3_600_001, None), (-50, 0.005)],
)
def test_an_action_counts_in_every_bucket_from_the_time_that_it_took(took_ms: int, least_bound_s: float | None) -> None:
    delays = Delays(lambda: NOON_MS)
    delays.note([action(NOON_MS - took_ms)])
    found = delays.so_far()
    so_many = dict(zip((*BOUNDS_S, None), accumulate(found.counts), strict=True))
    assert [bound for bound, number in so_many.items() if number] == [
        bound for bound in so_many if bound is None or (least_bound_s is not None and bound >= least_bound_s)
    ]
    assert found.total_ms == max(0, took_ms)


@pytest.mark.parametrize("number", [1, 7, 8, 9, 15, 16, 17, 100, 10_000])
def test_each_action_counts_once_though_few_of_many_are_measured(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr("dataflow.delays.parse_iso_ms", lambda text: measured.append(text) or NOON_MS - 3)
    delays = Delays(lambda: NOON_MS)
    delays.note([action(NOON_MS)] * number)
    assert (delays.so_far().counts[0], delays.so_far().total_ms) == (number, 3 * number)
    assert len(measured) <= MEASURED_MAX


def test_what_was_said_does_not_change_when_more_comes() -> None:
    delays = Delays(lambda: NOON_MS)
    delays.note([action(NOON_MS - 7)] * 2)
    before = delays.so_far()
    delays.note([action(NOON_MS)])
    assert (sum(before.counts), before.total_ms) == (2, 14)
    assert sum((before + delays.so_far()).counts) == 5
    assert before + Delayed() == before
