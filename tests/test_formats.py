"""Formats of events: one file and one entry each; the rest of the job does not know them by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import formats
from connectors.formats import FORMATS
from connectors.formats.decoding import Decoded, Kind, settings_of
from connectors.formats.fields import NAME_CHARACTERS_MAX, USER_ID_CHARACTERS_MAX
from connectors.formats.native import decode as decode_native
from connectors.sources import Batch, Headers
from dataflow.cli import main
from dataflow.errors import UsageError
from dataflow.read.intake import Intake
from dataflow.urls import parse_source
from operators.conditions.index import MatchIndex
from state.iso import TIME_MS_MAX
from state.records import EVENT, IDENTIFY, Record, Reject
from tests.formats.read import AT, decode, format_with, items, record, rejected, taken
from tests.fuzz.targets import any_value
from tests.records import Choices

FLOW = "flow: f\ntrigger: {event: bought, where: {sku: a}}\nsteps: [{send: webhook, template: t}]\n"
OTHERS = sorted(FORMATS.keys() - {"native"})
ANY_USER = [name for name in OTHERS if "user" in FORMATS[name].settings]

CALL = {"type": "track", "messageId": "m", "userId": "u", "event": "e", "timestamp": AT, "properties": {"a": 1}}
QUICK_AUDIENCE = {"organizationId": "o", "customerId": "u", "eventCode": "e", "eventTime": AT, "properties": {"a": 1}}
QUICK_TRACKING = {"appkey": "k", "id": "e", "puid": "u", "umid": "d", "ts": str(AT), "cusp": {"a": 1}, "uuid": "m"}
CLOUDEVENT = {
    "specversion": "1.0",
    "id": "m",
    "source": "s",
    "type": "e",
    "subject": "u",
    "time": "2026-11-23T08:00:00.123Z",
}
NATIVE = {"user_id": "u", "event": "e", "message_id": "m", "timestamp": AT, "properties": {"a": 1}}
OF_EACH: dict[str, dict[str, Any]] = {
    "native": NATIVE,
    "segment": CALL,
    "quick_audience": QUICK_AUDIENCE,
    "quick_tracking": QUICK_TRACKING,
    "cloudevents": CLOUDEVENT | {"data": {"a": 1}},
}


def decode_lines(raw: bytes, _: Headers) -> Decoded:
    """Return the record of `user event sku`."""
    user, event, sku = raw.decode().split()
    native = {"user_id": user, "event": event, "properties": {"sku": sku}, "timestamp": "2026-11-23T08:00:00Z"}
    return decode_native(json.dumps(native).encode())


def test_a_format_is_one_decoder_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, "lines", Kind(lambda _: decode_lines))
    (tmp_path / "f.yaml").write_text(FLOW)
    (tmp_path / "events.txt").write_text("ann bought a\nbob bought b\nann looked a\n")
    actions = tmp_path / "actions.jsonl"
    events = str(tmp_path / "events.txt")
    assert main(["simulate", str(tmp_path), "--events", events, "--format", "lines", "--actions", str(actions)]) == 0
    assert [json.loads(line)["user_id"] for line in actions.open()] == ["ann"]


# ---- what a source says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["kafka://h/events", "file:events.jsonl"])
def test_a_source_names_its_format_and_what_belongs_to_it(scheme: str) -> None:
    source = parse_source(f"{scheme}?format=quick_audience&user=any&code_field=evt&from=start")
    assert (source.format, source.settings, source.from_start) == (
        "quick_audience",
        (("code_field", "evt"), ("user", "any")),
        True,
    )
    assert settings_of(dict(parse_source(f"{scheme}?format=cloudevents&user_from=a,data.b").settings)).user_from == (
        "a",
        "data.b",
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("format=odd", "there is no format odd; there are native, segment, quick_audience"),
        ("user=any", "'user' is not a parameter here"),
        ("format=cloudevents&user=any", "'user' is not a parameter here; there is .* user_from"),
        ("format=segment&user=all", "user=any is all"),
        ("format=segment&code_field=x", "'code_field' is not a parameter here"),
        ("format=cloudevents&user_from=a..b", "user_from is one path"),
        ("format=cloudevents&user_from=", "user_from is one path"),
        ("format=quick_audience&code_field=", "code_field is the name of a field"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(query: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_source(f"kafka://h/events?{query}")


def test_simulate_takes_the_settings_as_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.yaml").write_text(FLOW)
    events = tmp_path / "events.jsonl"
    events.write_text(json.dumps({"customerIdList": [{"customerId": "d", "idMapping": "oaid"}], "c": "bought"}) + "\n")
    arguments = ["simulate", str(tmp_path), "--events", str(events), "--json", "--format"]
    assert main([*arguments, "quick_audience", "--user", "any", "--code-field", "c"]) == 0
    assert json.loads(capsys.readouterr().out)["dead_letters"] == {}
    assert main([*arguments, "native", "--user", "any"]) == 2
    assert "format native has no user to be set" in capsys.readouterr().err


# ---- what all formats have in common --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a":' + b'"' + b"x" * 1_048_576 + b'"}', "too_large"),
        (b"nonsense", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": "\\ud800"}', "not_json"),
        (b'{"a": "\xff"}', "not_json"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "too_deep"),
        (b"17", "not_an_object"),
    ],
)
def test_what_no_format_can_read_has_the_same_reason_in_all(name: str, raw: bytes, reason: str) -> None:
    assert rejected(name, raw).reason == reason


@pytest.mark.parametrize("name", OTHERS)
def test_the_last_of_duplicate_keys_wins_and_long_numbers_are_doubles(name: str) -> None:
    known_as = OF_EACH.get(name, CALL)
    text = json.dumps(known_as).replace('{"a": 1}', '{"a": 1, "a": 123456789012345678901234567890}')
    assert record(name, text.encode()).properties == {"a": 123456789012345678901234567890.0}


@pytest.mark.parametrize("name", OF_EACH)
def test_the_same_event_is_read_alike_and_auto_tells_its_format(name: str) -> None:
    found = record("auto", OF_EACH[name])
    assert (found.user_id, found.name, found.at_ms, found.properties) == ("u", "e", AT, {"a": 1})
    if name != "native":
        assert found == record(name, OF_EACH[name])


@pytest.mark.parametrize("name", OTHERS)
def test_who_sends_the_native_format_to_another_is_told(name: str) -> None:
    if name != "auto":
        assert "use `--format native`" in rejected(name, NATIVE).detail


@pytest.mark.parametrize("name", [name for name in OF_EACH if name != "native"])
def test_who_sends_another_format_to_native_is_told_which(name: str) -> None:
    found = decode_native(json.dumps(OF_EACH[name]).encode())
    assert isinstance(found, Reject)
    assert f"use `--format {name}`, at a source `?format={name}`" in found.detail


# ---- auto -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4", "data": []}, "Snowplow's"),
        ({"event": "e", "distinct_id": "u"}, "PostHog's"),
        ({"api_key": "k", "event": "e", "properties": {"distinct_id": "u"}}, "PostHog's"),
        ({"api_key": "k", "batch": []}, "PostHog's"),
        ({"client_id": "1.2", "user_id": "u", "events": [{"name": "e"}]}, "Google Analytics 4's"),
        ({"app_instance_id": "1", "events": []}, "Google Analytics 4's"),
        ({"ekv": [{"session": []}]}, "SDK"),
        ({}, "no format that is read"),
        ({"userId": "u", "event": "e"}, "no format that is read"),  # Segment's, without a type.
        ({"type": "track", "event": "e"}, "no format that is read"),
    ],
)
def test_auto_names_what_it_does_not_read(value: dict[str, Any], detail: str) -> None:
    found = rejected("auto", value)
    assert (found.reason, detail in found.detail) == ("unknown_format", True)


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        (NATIVE | {"type": "track"}, "native"),
        (NATIVE | {"properties": {"type": "track", "userId": "x"}}, "native"),
        (NATIVE | {"userId": "x", "type": "track"}, "native"),
        (NATIVE | CLOUDEVENT, "cloudevents"),
        (CALL | {"customerIdList": []}, "segment"),
        (QUICK_AUDIENCE | {"distinct_id": "x"}, "quick_audience"),
        (QUICK_AUDIENCE | QUICK_TRACKING, "quick_audience"),
        (QUICK_TRACKING | {"distinct_id": "x"}, "quick_tracking"),
    ],
)
def test_of_two_shapes_the_first_is_taken(value: dict[str, Any], read_as: str) -> None:
    found = decode("auto", value)
    assert found == (decode_native(json.dumps(value).encode()) if read_as == "native" else decode(read_as, value))


def test_auto_reads_lists_of_quick_audience_and_no_others() -> None:
    assert items("auto", [QUICK_AUDIENCE]) == items("quick_audience", [QUICK_AUDIENCE])
    assert items("auto", json.dumps([5, QUICK_AUDIENCE])) == items("quick_audience", [5, QUICK_AUDIENCE])
    assert rejected("auto", [NATIVE]).reason == "not_an_object"
    assert rejected("auto", "text").reason == "not_an_object"


def test_auto_reads_all_kinds_of_native_records() -> None:
    for value in (
        {"type": "identify", "user_id": "u", "traits": {"a": 1}},
        {"audience": "vip", "user_id": "u", "member": True},
        {"audience": "vip", "updated": True},
        {"action_id": "a", "user_id": "u", "status": "opened"},
    ):
        assert record("auto", value) == decode_native(json.dumps(value).encode())


def test_auto_looks_at_headers_first() -> None:
    headers: Headers = [(f"ce_{name}", value.encode()) for name, value in CLOUDEVENT.items()]
    assert record("auto", {"a": 1}, headers) == record("auto", OF_EACH["cloudevents"])
    structured: Headers = [("content-type", b"application/cloudevents")]
    assert rejected("auto", NATIVE, structured).reason == "unknown_format"
    assert record("auto", NATIVE, [("content-type", b"application/json")]).name == "e"


# ---- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("secret", ["5ecret", '5ec\\"ret', "5ecret" + "x" * 20_000])
@pytest.mark.parametrize("key", ["writeKey", "api_key", "sign"])
def test_keys_of_senders_reach_no_dead_letter(name: str, key: str, secret: str) -> None:
    for raw in (
        f'{{"a": 5, "{key}" : "{secret}"}}',
        f'{{"{key}":"{secret}", nonsense',
        f'{{"batch": [{{"type": "track", "{key}": "{secret}"}}], "{key}": "{secret}"}}',
    ):
        _, dead, _ = taken(name, [raw.encode()], [])
        assert len(dead) == 1, raw
        assert b"5ec" not in dead[0].raw + dead[0].detail.encode()
        assert len(dead[0].raw) <= 16 * 1024


@pytest.mark.parametrize("name", OTHERS)
def test_keys_of_senders_reach_no_event(name: str) -> None:
    for value in OF_EACH.values():
        secrets = {"writeKey": "5ecret", "api_key": "5ecret", "sign": "5ecret"}
        inputs, _, _ = taken(name, [value | secrets], ["e"])
        assert "5ecret" not in repr([(one.body, one.traits, one.fields) for one in inputs])


# ---- whatever is sent -----------------------------------------------------------------------------------------------

SHAPES = [*OF_EACH.values(), {"batch": [CALL, CALL]}, {"type": "identify", "userId": "u", "traits": {}}]
HEADERS: list[tuple[str, bytes | None]] = [
    *[("ce_specversion", b"1.0"), ("ce_id", b"i"), ("ce_source", b"s"), ("ce_type", b"t"), ("ce_subject", b"u")],
    *[("content-type", b"application/json"), ("Content-Type", b"application/cloudevents+json"), ("ce_id", b"\xff")],
    *[("ce_time", None), ("", b""), ("ce_", b"x"), ("ce_data", b"x"), ("content-type", b"\xff")],
]


def any_sent(choices: Choices) -> tuple[Any, Headers]:
    """Return a record that is almost one of a format, and headers."""
    value: Any = dict(choices.one(SHAPES))
    for _ in range(choices.below(4)):
        other = choices.one([*choices.one(SHAPES), "receivedAt", "originalTimestamp", "anonymousId", "context", "gp"])
        value[other] = any_value(choices)
    shape = choices.below(8)
    if shape == 0:
        value = [value, any_value(choices)]
    elif shape == 1:
        value = {"batch": [any_value(choices), value]}
    elif shape == 2:
        value = json.dumps([value])
    headers = [choices.one(HEADERS) for _ in range(choices.one([0, 0, 3, 8]))]
    return value, headers


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data())
def test_nothing_that_is_sent_can_raise_and_what_is_read_is_sound(name: str, data: st.DataObject) -> None:
    value, headers = any_sent(Choices(lambda below: data.draw(st.integers(0, below - 1))))
    raw = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    settings = {"user": "any"} if name in ANY_USER else {}
    found = decode(name, raw, headers, **settings)
    assert found == decode(name, raw, headers, **settings)
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, Record) and one.kind in (EVENT, IDENTIFY):
            assert 0 < len(one.user_id) <= USER_ID_CHARACTERS_MAX
            assert 0 < len(one.name) <= NAME_CHARACTERS_MAX or one.kind == IDENTIFY
            assert one.at_ms is None or 0 <= one.at_ms <= TIME_MS_MAX
            assert isinstance(one.properties, dict)
            assert one.traits is None or isinstance(one.traits, dict)
    intake = Intake(MatchIndex([("e", None)]), format_with(name, settings), topic="t", partition=0, source=0, shards=4)
    by_shard, dead = intake.take(Batch([raw], [AT], [7], (), [headers]))
    assert len(dead) <= 1, "a dead letter is known by its place"
    for inputs in by_shard.values():
        assert isinstance(inputs, list)
        assert len({one.message_id for one in inputs if not one.id_sent}) == sum(not one.id_sent for one in inputs)


# ---- the documentation ----------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "records.md").read_text()
HEADINGS = {
    "segment": "Segment",
    "quick_audience": "Quick Audience",
    "quick_tracking": "Quick Tracking",
    "cloudevents": "CloudEvents",
}


@pytest.mark.parametrize("name", HEADINGS)
def test_the_page_shows_what_each_format_is_read_as(name: str) -> None:
    _, _, section = PAGE.partition(f"\n### {HEADINGS[name]}\n")
    sent, native = re.findall(r"```json\n(.*?)```", section.partition("\n### ")[0], re.S)
    wanted = decode_native(native.encode())
    found = decode(name, sent.encode())
    assert (found[0] if isinstance(found, list) else found) == wanted
    assert decode("auto", sent.encode()) == found


def test_the_page_has_a_section_for_every_format() -> None:
    assert {*HEADINGS, "native", "auto"} == FORMATS.keys()
    rows = re.findall(r"^\| \[`(\w+)`\]\(#", PAGE, re.M)
    assert rows == [*HEADINGS, "auto"]
