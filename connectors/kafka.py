"""Kafka: what all our clients have in common, and looking at topics.

Clients are told what librdkafka should do, and nothing else here decides anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, Generic, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic, OffsetSpec

from connectors.kafka_reasons import CHECK_ADDRESS, Heard
from state.errors import Failed, Refused

ANSWER_TIMEOUT_S: Final = 5.0
START_PATIENCE_S: Final = 20.0  # A wrong address should be noticed soon, a broker that starts beside us be awaited.
WAIT_MAX_S: Final = 2.0
SETUP_TIMEOUT_MS: Final = 8_000  # So a client still says that nothing answers, before it is replaced by a new one.
MISSING_S: Final = 5.0  # For so long a broker that has just started may deny topics that it has.

Options = Mapping[str, Any]

_NO_ANSWER: Final = KafkaError(KafkaError._TIMED_OUT, "no answer in time")


class KafkaUnavailable(Failed):
    """A broker did not answer within the bound; the message names it and says what to check."""


class OptionRefused(Refused):
    """An option that clients cannot have; the message names it."""


_EACH_ONCE: Final = "the job sets it so that each record is sent once and none is lost"
_OFFSETS: Final = "where the job reads is in its state, not with the broker"
_OURS: Final = {
    "bootstrap.servers": "which cluster it is --source and --sink say",
    "metadata.broker.list": "which cluster it is --source and --sink say",
    "transactional.id": "the job sends each record once without transactions",
    "logger": "the job has its own",
    "acks": _EACH_ONCE,
    "request.required.acks": _EACH_ONCE,
    "enable.idempotence": _EACH_ONCE,
    "delivery.timeout.ms": _EACH_ONCE,
    "message.timeout.ms": _EACH_ONCE,
    "delivery.report.only.error": _EACH_ONCE,
    "group.id": _OFFSETS,
    "enable.auto.commit": _OFFSETS,
    "enable.auto.offset.store": _OFFSETS,
    "auto.offset.reset": _OFFSETS,
    "enable.partition.eof": _OFFSETS,
    "isolation.level": "the job reads what is committed, and looks at its own topics regardless of transactions",
}


def client_options(bootstrap: str, options: Options) -> dict[str, Any]:
    """Return the configuration that all clients share: ours first, then what the user passes through."""
    return {
        "bootstrap.servers": bootstrap,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 2,  # Its own lines are not structured; what concerns the job comes through callbacks.
        **options,
    }


STAMPED_BY_BROKER: Final = "message.timestamp.type=LogAppendTime"
KEPT_TWO_DAYS: Final = "retention.ms=172800000"


def how_to_create(bootstrap: str, topic: str, *settings: str) -> str:
    """Return the command, of Kafka's own tools, that creates *topic*."""
    given = "".join(f" --config {one}" for one in settings)
    return f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic} --partitions 4{given}"


MISSING: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC)


def check_options(options: Options, clients: Mapping[str, Callable[[], Any]]) -> None:
    """Find out whether clients can be made with *options*.

    Args:
        clients: what makes one of each kind, by name.

    Raises:
        OptionRefused: they cannot.
    """
    for name, value in options.items():
        if name in _OURS:
            raise OptionRefused(f"{name} cannot be set: {_OURS[name]}")
        if not isinstance(value, str | int | float):
            raise OptionRefused(f"{name} has to be a text, a number or a boolean")
    for kind, make in clients.items():
        try:
            make()
        except (KafkaException, TypeError, ValueError) as error:
            cause = error.args[0] if error.args else error
            reason = cause.str() if hasattr(cause, "str") else str(cause)
            raise OptionRefused(f"no {kind} can be made with these options: {reason}") from error


def _why(error: KafkaException, heard: Heard, options: Options) -> str:
    """Return why there was no answer, and what to check."""
    cause = error.args[0] if error.args else None
    if not isinstance(cause, KafkaError):
        return f"{error}; {CHECK_ADDRESS}"
    if cause.code() in (*MISSING, KafkaError.TOPIC_AUTHORIZATION_FAILED):
        return f"{cause.str()}; is the topic there, may it be described?"
    if _is_local(error) and heard.reason is not None:
        return heard.reason.told(options.get("ssl.ca.location"))
    return f"{cause.str()}; {CHECK_ADDRESS}"


def _is_local(error: KafkaException) -> bool:
    """Tell whether the client itself says *error*, and not a broker."""
    return bool(error.args) and isinstance(error.args[0], KafkaError) and error.args[0].code() < 0


def _is_passing(error: KafkaException) -> bool:
    """Tell whether *error* is what a broker says of a topic that was made a moment ago."""
    return "NOT_LEADER" in str(error) or "UNKNOWN_TOPIC" in str(error) or "LEADER_NOT_AVAILABLE" in str(error)


_Client = TypeVar("_Client", Consumer, AdminClient)
_Answer = TypeVar("_Answer")


class Renewed(Generic[_Client]):
    """A client that asks, and is replaced by a new one when it has lost its brokers.

    A broker that has just started, or was paused, says for a moment that the cluster has no brokers at all. librdkafka
    (2.10 to 2.16, its issue 5301) then forgets all that it knows, sometimes also the addresses that it began with, and
    never connects again, however well the brokers are. Only a new client helps.

    Args:
        make: makes a client, when one is needed.
    """

    def __init__(self, make: Callable[[], _Client]) -> None:
        self._make = make
        self._client: _Client | None = None

    @property
    def now(self) -> _Client:
        """The client."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def learn_anew(self) -> None:
        """Have the client ask which topics and partitions there are, and who leads them since when.

        A broker that has just started, or was paused, denies partitions for a moment, and a partition that has another
        leader, or the same one anew, refuses who names the old epoch. librdkafka keeps for minutes what it learned
        last, and where a question about offsets was refused for it, it does not look again by itself.
        """
        with suppress(KafkaException):
            # Asked for one by name, a broker may make a topic that is gone.
            if self.now.list_topics(timeout=ANSWER_TIMEOUT_S).brokers:
                return
        self.renew()

    def renew(self) -> None:
        """Take a new client from now on."""
        if self._client is not None:
            self.take_log()
            self.close()

    def take_log(self) -> None:
        """Have the client hand over what it has logged, if it logs to somebody."""
        self.now.poll(0)

    def close(self) -> None:
        """End the client."""
        if isinstance(self._client, Consumer):
            self._client.close()
        self._client = None  # One that administers ends with its last reference.


def ends_now(
    admin: AdminClient, partitions: Sequence[TopicPartition]
) -> Iterator[tuple[TopicPartition, int | None, object]]:
    """Ask where *partitions* end, all at once: one request for each broker that leads some of them.

    Yields:
        Each partition, its end, and why there is none where that is None. Also what an open transaction still hides,
        of anybody, lies before the end.

    Raises:
        KafkaException: the question could not be sent.
    """
    futures = admin.list_offsets(
        {place: OffsetSpec.latest() for place in partitions},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=ANSWER_TIMEOUT_S,
    )
    for place, future in futures.items():
        reason: object = "no answer in time"
        try:
            offset = future.result(timeout=ANSWER_TIMEOUT_S + 1).offset
        except (KafkaException, TimeoutError) as error:
            offset, reason = OFFSET_INVALID, error
        # As a question that timed out is answered, too: with an offset below 0.
        yield (place, offset, "") if offset >= 0 else (place, None, reason)


def _numbers(there: ClusterMetadata, topic: str) -> list[int]:
    found = there.topics.get(topic)
    return [] if found is None or found.error is not None else sorted(found.partitions)


class KafkaTopics:
    """Look at the topics of one cluster, and create them.

    Args:
        patience_s: how long an answer about offsets is waited for. A broker that is restarted refuses connections and
            then, for a moment, knows of no partition; a job that runs should live through that.
    """

    def __init__(
        self,
        bootstrap: str,
        options: Options,
        log: Callable[[str], None] = lambda _: None,
        *,
        patience_s: float = START_PATIENCE_S,
    ) -> None:
        self._bootstrap = bootstrap
        self._patience_s = patience_s
        self._log = log
        # For what can be done without, nobody waits longer than for anything else.
        self._optional_s = min(ANSWER_TIMEOUT_S, float(options.get("socket.timeout.ms", math.inf)) / 1000)
        self._common = client_options(bootstrap, options)
        self._heard = Heard()
        self._listens = True  # Until somebody has answered.
        looks = {"group.id": "nudge-looks", "enable.auto.commit": False}
        self._admin = Renewed(lambda: AdminClient(self._client_options()))
        self._consumer = Renewed(lambda: Consumer({**self._client_options(), **looks}))

    def _client_options(self) -> dict[str, Any]:
        if not self._listens:
            return self._common
        timeout = {"socket.connection.setup.timeout.ms": SETUP_TIMEOUT_MS}
        return {**timeout, **self._common, "log_level": 6, "logger": self._heard}

    def rest(self) -> None:
        """Go on with clients that log nothing: what they say while nobody asks would pile up for ever."""
        if self._listens:
            self._listens = False
            self._admin.renew()
            self._consumer.renew()

    def _asked(
        self,
        what: str,
        client: Renewed[_Client],
        look: Callable[[_Client], _Answer],
        *,
        patience_s: float = START_PATIENCE_S,
    ) -> _Answer:
        """Return what *look* finds with *client*, trying again until *patience_s* are over.

        Raises:
            KafkaUnavailable: no answer in that time.
        """
        deadline = time.monotonic() + patience_s
        wait_s, said = WAIT_MAX_S / 8, ""
        for attempt in count(1):
            try:
                return look(client.now)
            except KafkaException as error:
                client.take_log()
                why = f"({what}): {_why(error, self._heard, self._common)}"
                if time.monotonic() + wait_s > deadline:
                    raise KafkaUnavailable(
                        f"Kafka at {self._bootstrap} did not answer for {patience_s:.0f} s {why}"
                    ) from error
                if not self._listens and _is_local(error):
                    self._listens = True  # The next attempt will tell why.
                    client.renew()
                else:
                    if why != said and (attempt > 1 or not _is_passing(error)):
                        self._log(f"Kafka at {self._bootstrap} does not answer {why}; trying for {patience_s:.0f} s")
                        said = why
                    client.learn_anew()
                time.sleep(wait_s)
                wait_s = min(wait_s * 2, WAIT_MAX_S)
        raise AssertionError("the last attempt returns or raises")

    def partitions(self, topic: str, *, awaited_s: float = 0) -> list[int]:
        """Return the partitions of *topic*, none when there is no such topic.

        Args:
            awaited_s: for how long a topic that is missing is looked for again: where that would be an error.
        """

        def look(client: Consumer) -> list[int]:
            return _numbers(client.list_topics(topic, timeout=ANSWER_TIMEOUT_S), topic)

        deadline = time.monotonic() + awaited_s
        while True:
            numbers = self._asked(f"partitions of {topic}", self._consumer, look)
            if numbers or time.monotonic() >= deadline:
                return numbers
            time.sleep(WAIT_MAX_S / 8)

    def partitions_of_all(self, topics: Sequence[str], *, patience_s: float = START_PATIENCE_S) -> dict[str, list[int]]:
        """Return the partitions of each of *topics*, none of one that is missing; with one question for all."""

        def look(client: Consumer) -> dict[str, list[int]]:
            there = client.list_topics(timeout=ANSWER_TIMEOUT_S)
            return {topic: _numbers(there, topic) for topic in topics}

        return self._asked("topics", self._consumer, look, patience_s=patience_s)

    def topic_id(self, topic: str) -> str:
        """Return the id that *topic* got when it was made; "" where the broker gives none, or none can be had now."""
        try:
            (described,) = self._admin.now.describe_topics(
                TopicCollection([topic]), request_timeout=self._optional_s
            ).values()
            found = described.result(timeout=self._optional_s + 1).topic_id
        except (KafkaException, TimeoutError):
            return ""
        return str(found) if found.get_most_significant_bits() or found.get_least_significant_bits() else ""

    def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return how *topics* are configured, without those of which we may not know, or no answer can be had now."""
        found = {}
        places = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        with suppress(KafkaException):
            described = self._admin.now.describe_configs(places, request_timeout=self._optional_s)
            for place, future in described.items():
                with suppress(KafkaException, TimeoutError):
                    one = future.result(timeout=self._optional_s + 1)
                    found[place.name] = {name: str(entry.value) for name, entry in one.items()}
        return found

    def setting(self, topic: str, name: str) -> str | None:
        """Return how *topic* is configured under *name*; None when we may not know, or no answer can be had now."""
        return self.settings([topic]).get(topic, {}).get(name)

    def create(self, topics: Sequence[str], *, partitions: int) -> None:
        """Create *topics*; one that is there by now is fine."""
        wanted = [NewTopic(topic, num_partitions=partitions) for topic in topics]
        for topic, future in self._admin.now.create_topics(wanted, request_timeout=ANSWER_TIMEOUT_S).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise KafkaUnavailable(f"topic {topic} could not be created: {error.args[0].str()}") from error
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not all(self.partitions_of_all(topics).values()):
            if time.monotonic() > deadline:
                raise KafkaUnavailable(f"topics {', '.join(topics)} were created but did not appear")
            time.sleep(0.05)
        # A moment later their leaders know it, too; whoever asks before would be told "Not leader for partition".
        while not self._have_ends(topics) and time.monotonic() < deadline:
            time.sleep(0.05)
            self._admin.learn_anew()

    def _have_ends(self, topics: Sequence[str]) -> bool:
        found = self.partitions_of_all(topics)
        places = [TopicPartition(topic, number) for topic, numbers in found.items() for number in numbers]
        try:
            return all(offset is not None for _, offset, _ in ends_now(self._admin.now, places))
        except KafkaException:
            return False

    def end_offsets(self, topic: str, partitions: Sequence[int]) -> list[int]:
        """Return the end offset of each partition: that of the next record to come."""
        return [high for _, high in self._watermarks(topic, partitions)]

    def ends(self, partitions: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """Return the end offset of each partition of each topic, regardless of transactions.

        All are asked at once: this is a part of every checkpoint, and one after the other they took 4 ms each.
        """
        places = [TopicPartition(topic, number) for topic, numbers in partitions.items() for number in numbers]

        def look(client: AdminClient) -> dict[str, list[int]]:
            found: dict[str, list[int]] = {topic: [] for topic in partitions}
            for place, offset, reason in ends_now(client, places):
                if offset is None:
                    raise reason if isinstance(reason, KafkaException) else KafkaException(_NO_ANSWER)
                found[place.topic].append(offset)
            return found

        what = f"offsets of {', '.join(partitions)}"
        return self._asked(what, self._admin, look, patience_s=self._patience_s)

    def start_offsets(self, topic: str, partitions: Sequence[int]) -> list[int]:
        """Return the offset of the first record that is still there, for each partition."""
        return [low for low, _ in self._watermarks(topic, partitions)]

    def offsets_at(self, topic: str, partitions: Sequence[int], at_ms: int) -> list[int]:
        """Return, for each partition, the offset of the first record stamped *at_ms* or later, else its end."""
        ends = self.end_offsets(topic, partitions)  # Asked first: what comes in between is not to be passed over.
        wanted = [TopicPartition(topic, partition, at_ms) for partition in partitions]

        def look(client: Consumer) -> list[int]:
            found = client.offsets_for_times(wanted, timeout=ANSWER_TIMEOUT_S)
            for place in found:
                if place.error is not None:
                    raise KafkaException(place.error)
            return [place.offset for place in found]

        what = f"offsets of {topic} at a time"
        offsets = self._asked(what, self._consumer, look, patience_s=self._patience_s)
        return [end if offset < 0 else offset for offset, end in zip(offsets, ends, strict=True)]

    def _watermarks(self, topic: str, partitions: Sequence[int]) -> list[tuple[int, int]]:
        places = [TopicPartition(topic, partition) for partition in partitions]

        def look(client: Consumer) -> list[tuple[int, int]]:
            return [client.get_watermark_offsets(place, timeout=ANSWER_TIMEOUT_S) for place in places]

        return self._asked(f"offsets of {topic}", self._consumer, look, patience_s=self._patience_s)

    def close(self) -> None:
        self._consumer.close()
