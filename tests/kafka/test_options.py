"""How Kafka's clients are set up."""

from __future__ import annotations

import pytest

from connectors.kafka_source import BUFFERED_KB, BUFFERED_MESSAGES, FETCHED_BYTES, consumer_options


@pytest.mark.parametrize("readers", [1, 3, 4, 64, 256])
def test_what_a_process_buffers_does_not_grow_with_its_partitions(readers: int) -> None:
    options = consumer_options({}, readers)
    assert readers * options["queued.max.messages.kbytes"] <= BUFFERED_KB
    assert readers * options["queued.min.messages"] <= BUFFERED_MESSAGES
    assert readers * options["fetch.message.max.bytes"] <= FETCHED_BYTES


def test_a_single_partition_does_not_take_it_all() -> None:
    assert consumer_options({}, 1)["queued.max.messages.kbytes"] == 128 * 1024


def test_what_is_set_for_kafka_goes_before_it() -> None:
    assert consumer_options({"queued.min.messages": 7}, 64)["queued.min.messages"] == 7
