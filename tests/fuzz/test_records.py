"""Hostile records: each is one dead letter or one sound record, however it is looked at and whatever carries it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from connectors.formats.native import decode
from operators.conditions.index import MatchIndex
from state import records
from state.outgoing import DEAD_REASONS
from state.records import Record, Reject
from tests.fuzz.bounds import cpu_at_most
from tests.fuzz.corpus_files import built, examples
from tests.intake import taken
from tests.jobs import RunningJob, in_folder, on_kafka, simulated
from tests.kafka.broker import KafkaTopics

RECORDS = examples("records")
UNTIL = "2026-12-01T00:00:00Z"
NOON_MS = 1_795_435_200_000
FLOW = """
flow: hostile
trigger: {event: e}
entry: {concurrent: 1000, when: {not: {entry.a: {matches: "^refused$"}}}}
exit: [{event: e, where: {a: "{{ entry.b }}"}}]
steps:
  - send: webhook
    template: t
    vars: {all: "{{ entry.a | default: profile.a | default: '-' | truncate: 100 }}", raw: "{{ entry.a | default: 1 }}"}
  - send: webhook
    template: whole
    vars: {a: "{{ entry.a }}", sum: "{{ entry.a | plus: 1 }}"}
  - {set: {last: "{{ entry.a }}", was: "{{ now }}"}}
  - branch:
      - when: {any: [{entry.a: {gt: 1e300}}, {profile.a: {starts_with: x}}]}
        steps: [{send: sms, template: t}]
  - wait: 1h
"""


@pytest.mark.parametrize("example", RECORDS, ids=lambda one: one["name"])
def test_a_hostile_record_is_sound_or_a_dead_letter_for_the_first_reason(example: dict[str, Any]) -> None:
    raw = built(example["text"])
    with cpu_at_most(5):
        found = decode(raw)
    assert (found.reason if isinstance(found, Reject) else None) == example.get("reason")
    for wanted in ("e", "other"):
        with cpu_at_most(5):
            letters, inputs = taken(MatchIndex([(wanted, None)]), [raw])
        if isinstance(found, Reject):
            assert [(letter.reason, letter.detail) for letter in letters] == [(found.reason, found.detail)]
            assert inputs == []
        else:
            of_interest = found.traits is not None or found.name == wanted
            assert letters == []
            assert [(one.user_id, one.name, one.parse_properties(), one.traits) for one in inputs] == [
                (found.user_id, found.name, found.properties, found.traits)
            ] * (of_interest and found.kind in (records.EVENT, records.IDENTIFY))


def hostile_lines() -> list[bytes]:
    """Return all examples as they can stand in a file, between events like any other."""
    lines = []
    for number, example in enumerate(RECORDS):
        lines.append(b'{"user_id":"sane","event":"e","message_id":"s%d","properties":{"a":%d}}' % (number, number))
        lines.append(built(example["text"]))
    return [b'{"user_id":"sane","event":"e","timestamp":"2026-11-23T12:00:00Z"}', *lines]


def reasons(letters: list[dict[str, Any]]) -> Counter[str]:
    return Counter(letter["reason"] for letter in letters)


def test_a_file_of_hostile_records_gives_the_same_in_a_run_as_in_a_simulation(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(hostile_lines()) + b"\n")
    flow = tmp_path / "hostile.yaml"
    flow.write_text(FLOW)
    expected = simulated(flow, events, tmp_path / "simulated", until=UNTIL)
    arguments: list[str | Path] = [flow, "--source", f"file:{events}", "--sink", f"file:{tmp_path / 'out'}"]
    arguments += ["--state", tmp_path / "state", "--stop-at-end", "--until", UNTIL, "--shards", "4"]
    RunningJob(arguments, tmp_path / "log").wait()
    assert in_folder(tmp_path / "out").differences(expected) == []
    assert reasons(expected.dead_letters) == Counter(
        one["reason"] for one in RECORDS if "reason" in one and not one.get("blank")
    )
    places = [letter["offset"] for letter in expected.dead_letters]
    assert len(set(places)) == len(places)
    sane = {one["cause"]["message_id"] for one in expected.journal if one["user_id"] == "sane" and "cause" in one}
    assert sane >= {f"s{number}" for number in range(len(RECORDS))}
    assert not [one for one in expected.journal if one["kind"] == "failed"]


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
def test_hostile_records_on_kafka_with_odd_keys_and_headers(
    broker: KafkaTopics, topic_prefix: str, tmp_path: Path
) -> None:
    topic = f"{topic_prefix}events"
    broker.create_topic(topic, config={"max.message.bytes": "16000000"})
    headers = [("", b""), ("content-type", b"\xff\xfe"), ("content-type", b"again"), ("\u0000", b"x" * 10_000)]
    values = [built(example["text"]) for example in RECORDS]
    sane = b'{"user_id":"sane","event":"e","message_id":"s%d"}'
    records: list[tuple[Any, Any, int]] = []
    for number, value in enumerate(values):
        key = (None, b"", b"\xff\xfe", b"k" * 10_000)[number % 4]
        records += [(b"sane", sane % number, NOON_MS + number), (key, value, NOON_MS + number)]
    broker.produce(topic, records, headers=headers)
    broker.produce(topic, [(b"u", None, NOON_MS + 1000), (None, None, NOON_MS + 1000), (None, b"", NOON_MS + 1000)])
    flow = tmp_path / "hostile.yaml"
    flow.write_text(FLOW)
    address = f"kafka://{broker.bootstrap}"
    arguments: list[str | Path] = [
        flow,
        "--source",
        f"{address}/{topic}",
        "--sink",
        f"{address}?prefix={topic_prefix}out.",
    ]
    arguments += ["--state", tmp_path / "state", "--stop-at-end", "--until", UNTIL, "--shards", "4"]
    summary = RunningJob([*arguments, "--json"], tmp_path / "log").wait()
    found = on_kafka(broker, f"{topic_prefix}out.")
    dead = Counter(one["reason"] for one in RECORDS if "reason" in one)
    dead["not_json"] += 1  # The empty value; what has none is no record.
    assert reasons(found.dead_letters) == dead
    assert len({letter["offset"] for letter in found.dead_letters}) == sum(dead.values())
    assert json.loads(summary)["events"] == 2 * len(RECORDS) + 1
    assert json.loads(summary)["tombstones"] == 2
    entered = {one["cause"]["message_id"] for one in found.journal if one["kind"] == "entered"}
    assert entered >= {f"s{number}" for number in range(len(RECORDS))}
    assert not [one for one in found.journal if one["kind"] == "failed"]


def test_every_kind_of_dead_letter_has_an_example() -> None:
    known = {"too_large", "not_json", "too_deep", "not_an_object", "no_user", "no_event", "bad_type", "bad_time"}
    assert known == {*DEAD_REASONS} - {"unknown_format"}
    assert {one["reason"] for one in RECORDS if "reason" in one} == known
    assert isinstance(decode(built(RECORDS[-1]["text"])), Record)
