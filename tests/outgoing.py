"""Records that go out, as whoever reads the topics sees them."""

from __future__ import annotations

from typing import Any

import orjson

from dataflow.shard import Shard
from state.outgoing import Action, DeadLetter, JournalRecord, dump


def plain(record: Action | JournalRecord | DeadLetter) -> dict[str, Any]:
    """Return *record* as its JSON is read."""
    found: dict[str, Any] = orjson.loads(dump(record))
    return found


def actions_of(shard: Shard) -> list[dict[str, Any]]:
    """Return the actions that *shard* has emitted."""
    return [plain(action) for action in shard.out.actions]


def journal_of(shard: Shard) -> list[dict[str, Any]]:
    """Return the journal records that *shard* has emitted."""
    return [plain(record) for record in shard.out.journal]
