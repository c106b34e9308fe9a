"""Where topics end, as a checkpoint asks for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors import kafka
from connectors.kafka import KafkaTopics


def test_all_ends_come_from_one_question_which_is_asked_again_until_all_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = itertools.count()

    def ends_now(admin: object, places: list[TopicPartition]) -> Iterator[tuple[TopicPartition, int | None, object]]:
        refused = {0: "no answer in time", 1: KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))}
        reason = refused.get(next(questions))
        for number, place in enumerate(places):
            yield (place, None, reason) if reason and number == 1 else (place, 10 + number, "")

    anew: list[object] = []

    def learn_anew(client: kafka.Renewed[AdminClient]) -> None:
        anew.append(client)

    monkeypatch.setattr(kafka, "ends_now", ends_now)
    monkeypatch.setattr(kafka.Renewed, "learn_anew", learn_anew)
    monkeypatch.setattr(kafka, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: None))
    topics = KafkaTopics("127.0.0.1:1", {})
    assert topics.ends({"actions": [0, 1], "journal": [0]}) == {"actions": [10, 11], "journal": [12]}
    assert (next(questions), len(anew)) == (3, 2), "whoever is refused learns anew who leads"
    topics.close()
