"""Actions are pushed to a topic of another Kafka, and accepted once its brokers have them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.channels.base import Surroundings, Unfit
from connectors.channels.kafka import KafkaPush, KafkaSettings
from connectors.kafka import OptionRefused
from state.delivery import CONFIG, OK, PERMANENT, UNKNOWN, Answer
from state.outgoing import Action, dump
from tests.delivery.actions import action
from tests.kafka.broker import Broker, KafkaTopics


def provider(bootstrap: str, topic: str = "pushed", timeout_s: float = 20.0, **more: Any) -> KafkaPush:
    given = {"bootstrap": bootstrap, "topic": topic, **more}
    settings = KafkaSettings.model_validate(given, context={"environment": {"P": "secret"}})
    return KafkaPush(settings, Surroundings(lambda: 0, lambda: "", Path(), timeout_s))


def pushed(one: KafkaPush, *actions: Action) -> list[Answer]:
    async def push() -> list[Answer]:
        found = list(await asyncio.gather(*map(one.call, actions)))
        await one.close()
        return found

    return asyncio.run(push())


@pytest.mark.kafka
def test_what_is_acknowledged_is_accepted_and_has_its_id_its_key_and_the_whole_action(
    broker: KafkaTopics, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}pushed"
    broker.create_topic(topic, 3)
    some = [action(f"a{number}", f"u{number % 2}") for number in range(20)]
    assert pushed(provider(broker.bootstrap, topic), *some) == [Answer(OK)] * 20
    found = broker.read_all(topic)
    assert sorted(one.value or b"" for one in found) == sorted(map(dump, some))
    assert {one.key for one in found} == {b"u0", b"u1"}
    assert all(dict(one.headers)["action_id"].decode() in (one.value or b"").decode() for one in found)
    by_user = [json.loads(one.value or b"")["action_id"] for one in found if one.key == b"u0"]
    assert by_user == [one.action_id for one in some if one.user_id == "u0"], "a user's order is kept"


@pytest.mark.kafka
def test_fields_and_key_are_those_that_the_mapping_says(broker: KafkaTopics, topic_prefix: str) -> None:
    topic = f"{topic_prefix}pushed"
    broker.create_topic(topic, 1)
    fields = {"id": "action_id", "who": "to", "first_name": "vars.name", "all": "vars", "none": "vars.other.deep"}
    one = provider(broker.bootstrap, topic, key="to", fields=fields)
    sent = action("a", to="+86")
    assert pushed(one, sent) == [Answer(OK)]
    (record,) = broker.read_all(topic)
    assert record.key == b"+86"
    assert json.loads(record.value or b"") == {
        "id": sent.action_id, "who": "+86", "first_name": "Lina", "all": {"name": "Lina"}, "none": None
    }  # fmt: skip
    with pytest.raises(Unfit, match="missing_key"):
        provider(broker.bootstrap, topic, key="to").preview(action("b"))


@pytest.mark.kafka
def test_what_kafka_refuses_and_what_it_cannot_have(broker: KafkaTopics, topic_prefix: str) -> None:
    topic = f"{topic_prefix}pushed"
    broker.create_topic(topic, 1, {"max.message.bytes": "1000"})
    (too_large,) = pushed(provider(broker.bootstrap, topic), action("a", vars={"x": "y" * 2000}))
    assert (too_large.kind, too_large.code) == (PERMANENT, "msg_size_too_large")
    (missing,) = pushed(provider(broker.bootstrap, f"{topic_prefix}nowhere", timeout_s=8.0), action("a"))
    assert missing.kind in (CONFIG, UNKNOWN), missing


@pytest.mark.kafka
def test_while_the_other_kafka_hangs_it_may_have_been_sent_and_goes_on_after(
    breakable_broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}pushed"
    breakable_broker.create_topic(topic, 1)

    async def check() -> None:
        one = provider(breakable_broker.bootstrap, topic, timeout_s=2.0)
        assert (await one.call(action("a"))).kind == OK
        breakable_broker.pause()
        answer = await one.call(action("b"))
        assert answer.kind == UNKNOWN, answer
        breakable_broker.resume()
        for _ in range(20):
            if (await one.call(action("b"))).kind == OK:
                break
        else:
            pytest.fail("it does not go on")
        await one.close()

    asyncio.run(check())
    found = {json.loads(record.value or b"")["action_id"] for record in breakable_broker.read_all(topic)}
    assert found == {action("a").action_id, action("b").action_id}


@pytest.mark.parametrize("place", ["nothing", "to.name", "vars_x", ""])
def test_a_mapping_to_what_no_action_has_is_refused(place: str) -> None:
    with pytest.raises(ValidationError, match="is no field of an action"):
        provider("x:9092", fields={"a": place})


def test_options_are_checked_at_the_start_and_secrets_show_themselves_nowhere() -> None:
    with pytest.raises(OptionRefused):
        provider("x:9092", options={"acks": "0"})
    one = provider("x:9092", options={"sasl.username": "u", "sasl.password": {"env": "P"}})
    assert one._options["sasl.password"] == "secret"
    assert "secret" not in repr(one._settings)
