"""Pushes actions to a topic of another Kafka: accepted once its brokers have acknowledged the record.

What may have been sent is sent again: the same bytes under the same `action_id`, in a header. Readers drop repeats by
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import orjson
from confluent_kafka import Producer
from pydantic import AfterValidator, Field

from connectors.channels.base import Callback, NotTheirs, Reply, Secret, Settings, Surroundings, Unfit
from connectors.kafka import check_options, client_options
from connectors.kafka_writer import KafkaWriter
from state.delivery import CONFIG, OK, PERMANENT, RETRY, UNKNOWN, Answer
from state.outgoing import Action, dump

KIND_OF: Final = {
    "MSG_SIZE_TOO_LARGE": PERMANENT,
    "INVALID_RECORD": PERMANENT,
    "TOPIC_AUTHORIZATION_FAILED": CONFIG,
    "CLUSTER_AUTHORIZATION_FAILED": CONFIG,
    "UNKNOWN_TOPIC_OR_PART": CONFIG,
    "_UNKNOWN_TOPIC": CONFIG,
    "TOPIC_EXCEPTION": CONFIG,
    "_AUTHENTICATION": CONFIG,
    "_SSL": CONFIG,
    "_QUEUE_FULL": RETRY,
    "_PURGE_QUEUE": RETRY,
}
"""What an error of Kafka's client means; any other may have been sent."""
_FIELDS: Final = frozenset(Action.__struct_fields__) - {"vars", "cause"}


def _field(name: str) -> str:
    head, _, tail = name.partition(".")
    if (name not in _FIELDS and head not in ("vars", "cause")) or (tail and head not in ("vars", "cause")):
        raise ValueError(f"{name!r} is no field of an action; write one such as user_id, to, vars, or vars.NAME")
    return name


Place = Annotated[str, AfterValidator(_field)]


class KafkaSettings(Settings):
    """`deliver:` of a channel with `provider: kafka`."""

    provider: Literal["kafka"] = "kafka"
    bootstrap: Annotated[str, Field(description="The cluster: host:9092, or several with commas.")]
    topic: Annotated[str, Field(description="Its topic; it has to be there.")]
    key: Annotated[Place | None, Field(description="The field of the action that is the key; null: none.")] = "user_id"
    fields: Annotated[
        dict[str, Place] | None, Field(description="Their fields, each with ours; default: the whole action.")
    ] = None
    options: Annotated[dict[str, str | int | Secret], Field(description="Options of Kafka's client.")] = {}


class KafkaPush:
    """One topic of another cluster. What may have been sent is sent again: dropping it is the readers' duty."""

    settings: ClassVar[type[Settings]] = KafkaSettings
    drops_repeats: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = False

    def __init__(self, settings: KafkaSettings, around: Surroundings) -> None:
        self._settings, self._around = settings, around
        given = settings.options
        self._options = {name: one.reveal() if isinstance(one, Secret) else one for name, one in given.items()}
        config = client_options(settings.bootstrap, self._options)
        check_options(self._options, {"producer": lambda: Producer({**config, "partitioner": "murmur2_random"})})
        self._writer: KafkaWriter | None = None

    def _record(self, action: Action) -> tuple[str | None, bytes]:
        fields, key = self._settings.fields, None
        if self._settings.key is not None:
            found = _at(action, self._settings.key)
            if not isinstance(found, str | int):
                raise Unfit("missing_key", f"the action has no {self._settings.key}, which is the key")
            key = str(found)
        if fields is None:
            return key, dump(action)
        return key, orjson.dumps({theirs: _at(action, ours) for theirs, ours in fields.items()})

    async def call(self, action: Action) -> Answer:
        """Write *action*; see `Provider`."""
        key, value = self._record(action)
        headers = [("action_id", action.action_id.encode()), ("content-type", b"application/json")]
        if self._writer is None:
            patience_s = max(1.0, self._around.timeout_s)
            self._writer = KafkaWriter(self._settings.bootstrap, self._options, patience_s=patience_s)
        failures = await self._writer.begin(self._settings.topic, [(key, value)], headers)
        if failures:
            failed = failures[0]
            return Answer(KIND_OF.get(failed.code, UNKNOWN), failed.code.lower() or "no_answer", str(failed))
        return Answer(OK)

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Nobody can be asked."""
        return Answer(UNKNOWN)

    async def renew(self) -> bool:
        """There is no credential that runs out."""
        return False

    def callback(self, came: Callback) -> Reply:
        """Readers report to the topic of receipts, and not here."""
        raise NotTheirs("a Kafka calls nobody")

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return the record; see `Provider`."""
        key, value = self._record(action)
        return {"topic": self._settings.topic, "key": key, "value": orjson.loads(value)}

    async def close(self) -> None:
        """Let go of the connections, once what is on its way has been acknowledged."""
        if self._writer is not None:
            await self._writer.close(self._around.timeout_s)


def _at(action: Action, name: str) -> Any:
    """Return a field of *action*, None where it has none."""
    found: Any = msgspec.to_builtins(action)
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
