"""A cluster that is away is one line in the log, and one when it is back."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka_outage import Outage, in_words, is_of_the_connection


class Log:
    """Says what an `Outage` logs, in a time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.lines: list[str] = []
        self.outage = Outage("k:9092", self.lines.append, lambda: self.now_s)

    def at(self, now_s: float, reason: str | None) -> list[str]:
        """Return what is logged when trouble is noted at *now_s*, or that all is well."""
        self.now_s, before = now_s, len(self.lines)
        self.outage.well() if reason is None else self.outage.trouble(reason)
        return self.lines[before:]


@pytest.fixture
def log() -> Log:
    return Log()


def test_whoever_notices_it_first_tells_and_nobody_else(log: Log) -> None:
    assert log.at(100, "Connection refused") == ["Kafka at k:9092: Connection refused; the job waits for it"]
    assert log.at(101, "1/1 brokers are down") == []
    assert log.at(130, "it does not tell where events[0] ends") == []


def test_that_it_is_back_is_told_once_it_has_been_for_a_moment(log: Log) -> None:
    assert log.at(50, None) == []
    log.at(100, "Connection refused")
    log.at(130, "Connection refused")
    assert log.at(131, None) == []
    assert log.at(132, "Connection refused") == [], "a broker that restarts comes and goes"
    assert log.at(140, None) == []
    assert log.at(144, None) == []
    assert log.at(145, None) == ["Kafka at k:9092 is back, 40 s after its trouble was noticed"]
    assert log.at(200, None) == []
    assert len(log.at(300, "Connection refused")) == 1, "another time is another event"


def test_an_address_is_said_once(log: Log) -> None:
    assert log.at(100, "Kafka at k:9092 does not answer (offsets of a): no answer in time; trying for 60 s") == [
        "Kafka at k:9092: does not answer (offsets of a): no answer in time; trying for 60 s; the job waits for it"
    ]


def test_what_lasts_is_told_again_now_and_then(log: Log) -> None:
    lines = [line for at_s in range(100, 1900, 10) for line in log.at(at_s, "Connection refused")]
    assert len(lines) == 3
    assert "for 10 minutes now: Connection refused" in lines[1]


def test_what_a_client_found_out_itself_is_told_apart_from_what_a_broker_said() -> None:
    assert is_of_the_connection(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert not is_of_the_connection(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer in time")), "no answer in time"),
        ("no answer in time", "no answer in time"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_reason_is_told_in_words(reason: Any, words: str) -> None:
    assert in_words(reason) == words
