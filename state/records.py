"""The records that go through the job, as the code holds them; `docs/records.md` has their JSON.

All times are integers of milliseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from state.outgoing import DeadReason

EVENT: Final = 0
IDENTIFY: Final = 1
RECEIPT: Final = 2
MEMBERSHIP: Final = 3
UPDATED: Final = 4
"""An audience's update is complete; such a record is about no user."""
IGNORED: Final = 5
"""What some other format has and nothing follows from; such a record is about no user, either."""


class Record(msgspec.Struct, gc=False):
    """One decoded input record.

    `message_id` is only what was sent: the default id (`<topic>-<partition>-<offset>`) is the reader's to add, since
    it takes no part in the dropping of duplicates. `at_ms` is the record's own `timestamp`, `received_ms` its
    `received_at`; None where it has none. `name` is the event's name, "" for other kinds. `fields` holds the whole
    object for receipts, memberships and completed updates, else None. The last have `user_id` "", as what
    is ignored has.
    """

    kind: int
    user_id: str
    name: str
    message_id: str | None
    at_ms: int | None
    received_ms: int | None
    properties: dict[str, Any]
    traits: dict[str, Any] | None
    fields: dict[str, Any] | None = None


class Reject(msgspec.Struct, gc=False):
    """Why a record cannot be read: a stable reason (see `docs/records.md`, dead letters) and a sentence for people.

    `raw` is what it is about, where that is one item of a record with several.
    """

    reason: DeadReason
    detail: str
    raw: bytes = b""


class Input(msgspec.Struct, array_like=True, gc=False):
    """A record on its way to its user: decoded, matched, and with its stream time.

    `message_id` is what was sent or the default id; only a sent one (`id_sent`) takes part in the dropping of
    duplicates. `body` is the object of the event's properties, or its text as it was sent: most events are only
    counted, and nobody looks into them. `hits` are the numbers of the interests that the event satisfies
    (`operators/conditions/index.py`). `source` and `offset` are its place: the number of the source partition, in order
    of topic and partition, and the offset there.

    `kind` tells what kind of record it is; `fields` holds the whole object of a receipt or a membership.
    """

    user_id: str
    now: int
    name: str
    message_id: str
    id_sent: bool
    at_ms: int
    body: dict[str, Any] | bytes
    traits: dict[str, Any] | None
    hits: tuple[int, ...]
    source: int
    offset: int
    kind: int = EVENT
    fields: dict[str, Any] | None = None

    def parse_properties(self) -> dict[str, Any]:
        """Return the event's properties; the first call parses their text, and `body` is the object from then on."""
        body = self.body
        if isinstance(body, bytes):
            self.body = body = orjson.loads(body)
        assert isinstance(body, dict)
        return body


# Inputs on their way to a shard, as they are or packed. Packed they are small, quickly handed to another process, and
# come to life where and when they are needed, so that they are still in the caches then.
Inputs = list[Input] | bytes

pack = msgspec.msgpack.Encoder().encode
"""Return a list of inputs, or one of them, as bytes."""

_unpack = msgspec.msgpack.Decoder(list[Input]).decode


def packed(inputs: Inputs) -> bytes:
    """Return *inputs* as bytes."""
    return inputs if isinstance(inputs, bytes) else pack(inputs)


def unpacked(inputs: Inputs) -> list[Input]:
    """Return *inputs* as they are."""
    return _unpack(inputs) if isinstance(inputs, bytes) else inputs
