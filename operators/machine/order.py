"""Orders that the language promises: within one instant, and of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from state.outgoing import Action, JournalRecord
from state.records import Input

Out = TypeVar("Out", Action, JournalRecord)


def in_one_instant(records: list[Input]) -> None:
    """Bring the *records* of one instant into the order in which they are handled: user by user, each as they came.

    Users go by the code points of their id. What falls due by that instant has been handled before all of them.
    """
    if len(records) > 1:
        records.sort(key=lambda record: record.user_id)


def in_order_of_output(records: Sequence[Out], before: str | None) -> tuple[list[Out], list[Out]]:
    """Return what is emitted *before* a time (ISO, None for all) in its final order, and what is left.

    The order is by time, then user, then as they were made.
    """
    ready = [record for record in records if before is None or record.at < before]
    left = [record for record in records if before is not None and record.at >= before]
    ready.sort(key=lambda record: (record.at, record.user_id))
    return ready, left
