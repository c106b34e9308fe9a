"""Fixtures that give tests a real Kafka."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator

import pytest

from tests.kafka.broker import Broker, BrokerError, ForeignBroker, KafkaUnavailableError

FOREIGN = "NUDGE_TEST_KAFKA"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | ForeignBroker]:
    """Give a running broker: one per test process, so that a test may break its own, or the one of NUDGE_TEST_KAFKA.

    A broker that cannot be had is a failure, never a skip: nobody would notice what is no longer tested.
    """
    if address := os.environ.get(FOREIGN):
        foreign = ForeignBroker(address)
        if not foreign.answers(timeout_s=10):
            pytest.fail(f"{FOREIGN}={address}: no Kafka answers there", pytrace=False)
        yield foreign
        return
    folder = tmp_path_factory.mktemp("kafka")
    own = Broker(folder)
    try:
        own.start()
    except (KafkaUnavailableError, BrokerError) as error:
        pytest.fail(f"these tests need a real Kafka: {error}", pytrace=False)
    yield own
    own.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def breakable_broker(broker: Broker | ForeignBroker) -> Iterator[Broker]:
    """Give the broker to a test that stops, kills or pauses it; afterwards it runs again for the next one."""
    if isinstance(broker, ForeignBroker):
        pytest.fail(
            f"this test stops its broker, and {FOREIGN} names one that is not ours; unset {FOREIGN} to run it",
            pytrace=False,
        )
    broker.ensure_ready()
    yield broker
    broker.ensure_ready()


@pytest.fixture
def topic_prefix(broker: Broker | ForeignBroker, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a prefix for topic names that no other test uses; topics that have it are deleted after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    prefix = f"{name}-{uuid.uuid4().hex[:8]}."
    yield prefix
    if isinstance(broker, ForeignBroker) or broker.running:
        broker.delete_topics(broker.topics(prefix))
