"""What was sent, for the receipts that say what became of it: rows of their own beside those of the users.

A receipt names only the action. So each action is a row, until some time after its journey has closed; then all that
the journey had sent goes. Two more rows per closed journey say when it closed, and when it is to be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from state.errors import StateRefused
from state.outgoing import Action
from state.rows import closed_key, forgotten_key, forgotten_rows, of_forgotten_key, sent_key, sent_rows
from state.store import ShardStore
from state.user import NEVER

FORGOTTEN_AT_ONCE: Final = 500  # Journeys; some milliseconds.
FORGETS_EVERY_MS: Final = 3_600_000
ID_BYTES: Final = 16


class Sent(msgspec.Struct, array_like=True, gc=False):
    """An action that was sent: the number of its journey, and its fields as they are on the topic.

    `closed_ms` is when the journey closed, None while it is open; it is not part of the row.
    """

    journey: int
    action: dict[str, Any]
    closed_ms: int | None = None


class _SentRow(msgspec.Struct, array_like=True, gc=False):
    journey: int
    action: Action


class _OnlyJourney(msgspec.Struct, array_like=True, gc=False):
    journey: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Sent).decode
_decode_journey = msgspec.msgpack.Decoder(_OnlyJourney).decode


def load_sent(row: bytes) -> Sent:
    """Return the action written in *row*.

    Raises:
        StateRefused: it is damaged.
    """
    try:
        return _decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateRefused(
            f"what was sent to one user cannot be read ({error}): restore the whole state directory from one backup"
        ) from None


def action_key(user_id: bytes, action_id: str) -> bytes | None:
    """Return the key of an action's row, None where *action_id* is none of ours: a provider may send anything."""
    try:
        raw = bytes.fromhex(action_id)
    except ValueError:
        return None
    return sent_key(user_id, raw) if len(raw) == ID_BYTES and raw.hex() == action_id else None


class SentActions:
    """The actions that the users of one shard were sent.

    What is noted is seen at once, and is part of the next commit of *store*.

    Args:
        kept_ms: how long after its journey has closed an action is known.
        keeps: whether more are noted. What was noted before is known in any case, and is forgotten in time.
    """

    def __init__(self, store: ShardStore, *, kept_ms: int, keeps: bool) -> None:
        self._store = store
        self._kept_ms = kept_ms
        self.keeps = keeps
        self.has_some = keeps or next(sent_rows(store.written), None) is not None
        """Whether there may be anything to know or to forget."""
        self._from = b"x"  # There is nothing to be forgotten by a row before this one,
        self._due = 0  # nor before this time.

    def note(self, user_id: str, journey: int, action: Action) -> None:
        """Note that *action* is sent by the user's journey number *journey*."""
        if self.keeps:
            key = sent_key(user_id.encode(), bytes.fromhex(action.action_id))
            self._store.put_row(key, _encode(_SentRow(journey, action)))

    def close(self, user_id: str, journey: int, closed_ms: int, action_ids: Sequence[str]) -> None:
        """Note that a journey has closed, which may have sent *action_ids* and nothing else."""
        user, due = user_id.encode(), closed_ms + self._kept_ms
        self._store.put_row(closed_key(user, journey), closed_ms.to_bytes(8, "big"))
        key = forgotten_key(due, user, journey)
        self._store.put_row(key, b"".join(map(bytes.fromhex, action_ids)))
        self._from, self._due = min(self._from, key), min(self._due, due)

    def find(self, user_id: str, action_id: str, now: int) -> Sent | None:
        """Return the action that was sent to the user under this id and is known at *now*, None where there is none."""
        if not self.has_some:
            return None
        user = user_id.encode()
        key = action_key(user, action_id)
        row = None if key is None else self._store.get_row(key)
        if row is None:
            return None
        sent = load_sent(row)
        closed = self._store.get_row(closed_key(user, sent.journey))
        if closed is not None:
            sent.closed_ms = int.from_bytes(closed, "big")
            if now - sent.closed_ms > self._kept_ms:
                return None
        return sent

    def forget(self, now: int) -> None:
        """Drop some of what has been kept long enough at *now*; whether it is dropped or not, `find` says the same.

        Not each time when something falls due, for what has changed has to be written first.
        """
        if now <= self._due + FORGETS_EVERY_MS or not self.has_some:
            return
        store = self._store
        store.spill()
        for number, (key, ids) in enumerate(forgotten_rows(store.written, self._from)):
            due, user, journey = of_forgotten_key(key)
            if due >= now or number == FORGOTTEN_AT_ONCE:
                self._from, self._due = key, due
                return
            store.put_row(key, None)
            store.put_row(closed_key(user, journey), None)
            for place in range(0, len(ids), ID_BYTES):
                of_action = sent_key(user, ids[place : place + ID_BYTES])
                row = store.get_row(of_action)
                # It may be of a later journey: a record that is sent again after a day makes the same ids.
                if row is not None and _decode_journey(row).journey == journey:
                    store.put_row(of_action, None)
        self._from, self._due = forgotten_key(now, b"", 0), NEVER
