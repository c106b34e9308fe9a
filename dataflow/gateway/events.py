"""`POST /v1/events`: records in a format of ours, each looked at as the job will, and stored before it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from connectors.formats import NATIVE, native
from connectors.formats.parsing import BYTES_MAX, LEVELS_MAX, is_too_deep, no_object, parse_value
from connectors.kafka_writer import KafkaWriter, Keyed
from dataflow.gateway.http import BATCH_MAX, JSON, RECORD_MAX, RETRY_AFTER_S, Answer, Came, NotTaken, said, too_large
from dataflow.gateway.keys import Key, Keys
from dataflow.gateway.metrics import Metrics
from dataflow.read.scanner import items_of, lines_of
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, UPDATED, Record, Reject

RECORDS_MAX: Final = 10_000  # Of one request, whose answer may say something of each.
LINES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
TYPES: Final = (JSON, *LINES, "text/plain")
_CALLED: Final = {
    EVENT: "events", IDENTIFY: "profile updates", RECEIPT: "receipts", MEMBERSHIP: "memberships",
    UPDATED: "completed updates of audiences",
}  # fmt: skip

Part = tuple[bytes, Any]
"""A record of a request as it is stored, and what it is as JSON."""


class Events:
    """Takes records, and answers when the broker has them."""

    def __init__(self, keys: Keys, writer: KafkaWriter, metrics: Metrics) -> None:
        self._keys, self._writer, self._metrics = keys, writer, metrics

    async def handle(self, came: Came) -> Answer:
        """Answer one request."""
        key = self._keys.of_bearer(came)
        key.must_wait()
        await came.read(BATCH_MAX, TYPES)
        found = records_of(came.body, key, are_lines=came.content_type in LINES)
        errors = [
            {"index": place, "reason": one.reason, "detail": one.detail}
            for place, one in enumerate(found)
            if one.__class__ is Reject
        ]
        places: Sequence[int] = range(len(found))
        if errors:
            places = [place for place in places if found[place].__class__ is not Reject]
            found = [found[place] for place in places]
        key.count(len(places) + len(errors))
        failures = await self._writer.begin(key.topic, found)
        return self._answer(key, places, errors, failures)

    def _answer(self, key: Key, places: Sequence[int], errors: list[dict[str, Any]], failures: Any) -> Answer:
        accepted = len(places) - len(failures)
        self._metrics.taken(key.name, accepted)
        is_away = False
        for place, failure in failures.items():
            is_away = is_away or not failure.is_refused
            reason = "too_large" if failure.is_refused else "unavailable"
            errors.append({"index": places[place], "reason": reason, "detail": str(failure)})
        if not errors:
            return Answer(200, b'{"accepted":%d}' % accepted)
        for error in errors:
            self._metrics.rejected(key.name, error["reason"])
        errors.sort(key=lambda error: int(error["index"]))
        content = {"accepted": accepted, "errors": errors}
        if is_away:
            message = "Kafka has not acknowledged all of it: send again what is unavailable"
            content = {"code": "unavailable", "message": message, **content}
            return said(503, content, {"retry-after": str(RETRY_AFTER_S)})
        return said(400, content)


def records_of(body: bytes, key: Key, *, are_lines: bool) -> list[Any]:
    """Return the records of a body, one object, a list, or JSON lines: each `Keyed`, or the `Reject` that it earns.

    Raises:
        NotTaken: there is none, or there are too many.
    """
    body = body.strip()
    if not body:
        raise NotTaken(400, "empty", "the body is empty")
    if not are_lines:
        if (found := _plain_list(body, key)) is not None:
            return found
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            are_lines = b"\n" in body
            if not are_lines:
                return [_keyed(_part(body), key)]
        else:
            if not isinstance(value, list):
                if len(body) > RECORD_MAX:
                    raise too_large(RECORD_MAX)
                return [_keyed(_checked(body, value), key)]
            _must_be_few(len(value))
            return [_keyed(_item(one), key) for one in value]
    _must_be_few(body.count(b"\n") + 1)
    if not key.takes_plain_events:
        return [_keyed(_part(line), key) for line in body.split(b"\n") if line.strip()]
    found, places = lines_of(body)
    for place in places:
        found[place] = _keyed(_part(found[place]), key)
    return found


def _plain_list(body: bytes, key: Key) -> list[Any] | None:
    """Return the records of a list, plain events among them as they were sent; None where it is read as a whole."""
    sent = items_of(body, RECORDS_MAX) if key.takes_plain_events and body.startswith(b"[") else None
    if sent is None:
        return None
    found, places = sent
    try:
        for place in places:
            found[place] = _keyed(_item(orjson.loads(found[place])), key)
    except orjson.JSONDecodeError:
        return None
    return found


def _must_be_few(count: int) -> None:
    if count > RECORDS_MAX:
        raise NotTaken(413, "too_many", f"{count} records in one request, {RECORDS_MAX} are allowed")


def _part(raw: bytes) -> Part | Reject:
    value = parse_value(raw)
    return value if isinstance(value, Reject) else _checked(raw, value)


def _item(value: Any) -> Part | Reject:
    try:
        raw = orjson.dumps(value)
    except orjson.JSONEncodeError:  # It goes only so deep.
        return _too_deep()
    return _checked(raw, value)


def _checked(raw: bytes, value: Any) -> Part | Reject:
    if len(raw) > BYTES_MAX:
        return Reject("too_large", f"the record has {len(raw)} bytes, {BYTES_MAX} are allowed")
    if is_too_deep(raw):
        return _too_deep()
    return (raw, value) if isinstance(value, dict) else no_object("the record", value)


def _too_deep() -> Reject:
    return Reject("too_deep", f"objects and lists nest more than {LEVELS_MAX} levels deep")


def _keyed(part: Part | Reject, key: Key) -> Keyed | Reject:
    """Return a record with the user whom it is about, or why it cannot be taken."""
    if isinstance(part, Reject):
        return part
    raw, value = part
    if key.settings.format == NATIVE:
        found: Any = native.record_of(value)
    else:
        found = key.settings.decode(raw, ())
        if isinstance(found, list):
            rejected = next((one for one in found if isinstance(one, Reject)), None)
            found = rejected or next(iter(found), Record(EVENT, "", "", None, None, None, {}, None))
    if isinstance(found, Reject):
        return found
    if found.kind not in key.taken and found.kind in _CALLED:
        return Reject("bad_type", f"this write key sends no {_CALLED[found.kind]}")
    return found.user_id or None, raw
