"""The events of a batch: in their order, each once, with the headers that Kafka has beside it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.kafka_source import KafkaPartition, KnownEnds, headers_of
from connectors.sources import Batch
from dataflow.read.intake import Intake
from dataflow.shard import OPEN, Delivery, Shard
from operators.conditions.index import MatchIndex
from operators.machine.deployment import Deployment
from state.backend import MemoryBackend
from state.records import unpacked
from state.store import ShardStore
from tests.formats.read import AT, format_with, raw_of, taken


@pytest.mark.parametrize("restarts", [False, True])
def test_the_events_of_a_batch_stay_in_order_where_records_of_several_topics_are_put_in_order(restarts: bool) -> None:
    batch = {"batch": [{"type": "identify", "userId": "u", "traits": {"n": n, f"t{n}": n}} for n in range(30)]}
    inputs, _, _ = taken("segment", [batch], [], arrived_ms=[AT])
    backend = MemoryBackend()
    shard = Shard(ShardStore(backend), Deployment([]), sources=2, ordered=False)
    shard.take([Delivery(0, AT, OPEN, inputs)])
    if restarts:
        shard.settle()
        shard.store.commit()
        shard = Shard(ShardStore(backend), Deployment([]), sources=2, ordered=False)
    assert shard.held == 30
    shard.take([Delivery(0, AT + 1, OPEN, []), Delivery(1, AT + 1, OPEN, [])])
    profile = shard.store.slot("u").user.profile
    assert (profile["n"], len(profile)) == (29, 31)


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    """A replay ends at an offset: what is before it comes again, with all of its events."""
    whole = Batch([b"1", b"2"], [AT, AT], [5, 6], (), [[("a", b"")], [("b", b"")]])
    assert whole.before(6) == Batch([b"1"], [AT], [5], [], [[("a", b"")]])


def test_in_a_file_time_goes_on_within_a_batch_and_never_back() -> None:
    def call(at: int | None, **more: Any) -> dict[str, Any]:
        return {"type": "track", "userId": "u", "event": "e", "timestamp": at} | more

    batch = {"batch": [call(None), call(AT), call(AT - 5), call(None), call(AT, receivedAt=AT + 9)]}
    inputs, _, intake = taken("segment", [batch], ["e"])
    assert [one.now for one in inputs] == [0, AT, AT, AT, AT + 9]
    assert [one.at_ms for one in inputs] == [0, AT, AT - 5, AT, AT]
    assert intake.time.now_ms == AT + 9


def test_headers_come_with_their_records_and_are_read_only_where_the_format_wants_them() -> None:
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0, "partitioner": "murmur2_random"})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    ce = {"specversion": "1.0", "id": "a", "source": "s", "type": "e", "subject": "u"}
    headers: list[tuple[str, Any]] = [(f"ce_{name}", value.encode()) for name, value in ce.items()]
    headers += [("trace", b"\xff"), ("", None)]
    producer.produce("events", b'{"n": 1}', "u", partition=0, timestamp=AT, headers=headers)
    producer.produce("events", None, "u", partition=0, timestamp=AT, headers=headers)  # A tombstone is no event.
    producer.produce("events", raw_of(ce | {"id": "b", "data": {"n": 2}}), "u", partition=0, timestamp=AT)
    producer.produce("events", b"", "u", partition=0, timestamp=AT, headers=[*headers, ("ce_id", b"c")])
    assert producer.flush(30) == 0
    probe: Any = SimpleNamespace(ends=KnownEnds())
    partition = KafkaPartition(f"{broker.host}:{broker.port}", {}, "events", 0, 0, probe)
    index = MatchIndex([("e", None)])
    intake = Intake(index, format_with("cloudevents", {}), topic="events", partition=0, source=0, shards=1)
    found, tombstones = [], []
    deadline = time.monotonic() + 30
    while partition.position < 4 and time.monotonic() < deadline:
        batch = partition.poll(100)
        by_shard, dead = intake.take(batch)
        assert dead == []
        found += unpacked(by_shard.get(0, []))
        tombstones += batch.tombstones
    partition.close()
    assert [one.parse_properties() for one in found] == [{"n": 1}, {"n": 2}, {}]
    assert len({one.message_id for one in found}) == 3
    assert tombstones == [1]


def test_the_native_format_never_asks_for_headers() -> None:
    class Untouchable(list[Any]):
        def __getitem__(self, _: Any) -> Any:
            raise AssertionError("somebody asked")

        def __len__(self) -> int:
            return 1

    batch = Batch([b'{"userId": "u", "event": "e"}'], [AT], [0], (), Untouchable())
    for name in ("segment", "quick_audience", "quick_tracking"):
        Intake(MatchIndex([]), format_with(name, {}), topic="t", partition=0, source=0, shards=1).take(batch)
    with pytest.raises(AssertionError, match="somebody asked"):
        Intake(MatchIndex([]), format_with("auto", {}), topic="t", partition=0, source=0, shards=1).take(batch)


def test_headers_whose_names_are_no_text_are_none() -> None:
    class Odd:
        def headers(self) -> Any:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    odd: Any = Odd()
    assert headers_of(odd) == ()


def test_a_file_of_batches_is_where_time_begins(tmp_path: Path) -> None:
    from dataflow.read.intake import head_time

    events = tmp_path / "events.jsonl"
    events.write_bytes(
        b'5\n{"batch": [4, {"type": "track", "userId": "u", "event": "e"}]}\n'
        + raw_of({"batch": [{"type": "alias", "receivedAt": AT}]})
        + b"\n"
    )
    assert head_time(events, format_with("segment", {})) == AT
