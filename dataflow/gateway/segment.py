"""The HTTP API of Segment, so that its SDKs work when they are pointed here.

Calls are stored as they came, one record each, also what no job can read: Segment answers with success then, and the
job makes a dead letter of it. What a batch says of all its calls is written into each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from connectors.formats.fields import USER_ID_CHARACTERS_MAX
from connectors.formats.parsing import BYTES_MAX, LEVELS_MAX, is_too_deep
from connectors.formats.segment import CALLS
from connectors.kafka_writer import KafkaWriter, Keyed
from dataflow.gateway.events import RECORDS_MAX
from dataflow.gateway.http import BATCH_MAX, JSON, Answer, Came, NotTaken, unavailable
from dataflow.gateway.keys import Key, Keys
from dataflow.gateway.metrics import Metrics
from state.iso import format_ms

TYPES: Final = (JSON, "text/plain")  # A browser asks nobody before it posts a text.
BATCH: Final = "batch"
PATHS: Final = {
    **{call: call for call in CALLS}, BATCH: BATCH, "import": BATCH, "b": BATCH,
    "t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias",
}  # fmt: skip
"""What is posted to /v1/<..>, also under the short names that SDKs for browsers and phones use."""
FORMATS: Final = ("segment", "auto")
_SUCCESS: Final = b'{"success":true}'


class Segment:
    """Takes what is posted to one of its paths.

    Args:
        call: which call that is, or `batch`.
    """

    def __init__(self, call: str, keys: Keys, writer: KafkaWriter, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        self._call, self._keys, self._writer, self._metrics, self._now_ms = call, keys, writer, metrics, now_ms

    async def handle(self, came: Came) -> Answer:
        """Answer one request."""
        key = self._keys.of_basic(came)
        if key is not None:
            key.must_wait()
        await came.read(BATCH_MAX, TYPES)
        value = _object(came.body)
        if key is None:
            given = value.get("writeKey")
            key = self._keys.must_be(given.encode() if isinstance(given, str) else b"")
            key.must_wait()
        if key.settings.format not in FORMATS:
            message = f"this write key is for the format {key.settings.format}: see `format` of its settings"
            raise NotTaken(403, "wrong_format", message)
        calls = calls_of(self._call, value, format_ms(self._now_ms()))
        if any(len(raw) > BYTES_MAX for _, raw in calls):
            raise NotTaken(413, "too_large", f"a call has more than {BYTES_MAX} bytes")
        key.count(len(calls))
        failures = await self._writer.begin(key.topic, calls)
        self._metrics.taken(key.name, len(calls) - len(failures))
        return self._answer(key, failures)

    def _answer(self, key: Key, failures: Any) -> Answer:
        for failure in failures.values():
            self._metrics.rejected(key.name, "too_large" if failure.is_refused else "unavailable")
        if any(not failure.is_refused for failure in failures.values()):
            raise unavailable("Kafka has not acknowledged all of it; send it again")
        if failures:
            raise NotTaken(400, "too_large", str(next(iter(failures.values()))))
        return Answer(200, _SUCCESS)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotTaken(400, "not_json", str(error)) from None
    if not isinstance(value, dict):
        raise NotTaken(400, "not_an_object", "the body is no JSON object")
    if is_too_deep(body, LEVELS_MAX + 2):  # The batch and its list are none of the call's own levels.
        raise NotTaken(400, "too_deep", f"objects and lists nest more than {LEVELS_MAX} levels deep")
    return value


def calls_of(call: str, value: dict[str, Any], received_at: str) -> list[Keyed]:
    """Return the records that a request makes.

    Raises:
        NotTaken: it is no batch, or too large a one.
    """
    if call != BATCH:
        return [_record({**value, "type": call}, {}, received_at)]
    calls = value.get(BATCH)
    if not isinstance(calls, list):
        raise NotTaken(400, "no_batch", "`batch` is no list")
    if len(calls) > RECORDS_MAX:
        raise NotTaken(413, "too_many", f"{len(calls)} calls in one request, {RECORDS_MAX} are allowed")
    common = {name: value[name] for name in ("sentAt", "context", "integrations") if value.get(name) is not None}
    return [_record(one, common, received_at) for one in calls]


def _record(call: Any, common: dict[str, Any], received_at: str) -> Keyed:
    if not isinstance(call, dict):
        return None, orjson.dumps(call)
    whole = {**common, **{name: value for name, value in call.items() if value is not None or name not in common}}
    whole.pop("writeKey", None)
    whole["receivedAt"] = received_at
    user_id = whole.get("userId") or whole.get("anonymousId")
    is_user = isinstance(user_id, str) and len(user_id) <= USER_ID_CHARACTERS_MAX
    return user_id if is_user else None, orjson.dumps(whole)
