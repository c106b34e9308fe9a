"""What a record costs in each format, against the native one, in one run.

`python -m benchmarks.formats` lets one source partition read the same events in every format: decoded, matched and
packed for their shards, without a job around it. One event in ten is relevant. It is the CPU time of the process; the
cases take turns, and the median of all turns counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, Final, NamedTuple

import orjson

from connectors.sources import Batch, Headers
from dataflow.read.intake import Format, Intake
from dataflow.read.scanner import WHY_NOT_COMPILED, NativeFormat, format_of
from operators.conditions.index import MatchIndex
from operators.language.workspace import Workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from state.iso import format_ms
from state.records import packed

START_MS: Final = 1_795_435_200_000
AT_ONCE: Final = 10_000
IN_A_BATCH: Final = 20
FLOW: Final = (
    "flow: cart\ntrigger: {event: add_to_cart, where: {amount: {gte: 50}}}\nsteps: [{send: webhook, template: t}]\n"
)


class Case(NamedTuple):
    """A format, and the records of the run in it."""

    name: str
    records: Format
    values: list[bytes]
    headers: list[Headers]


class Event(NamedTuple):
    """What is sent, in whatever format."""

    number: int
    user: str
    name: str
    properties: dict[str, Any]

    @property
    def at(self) -> str:
        return format_ms(START_MS + self.number)

    @property
    def id(self) -> str:
        return f"01J9ZK4T-{self.number:012x}-aaaa"


def events(number: int) -> list[Event]:
    """Return events of a shop, of which one in ten is relevant."""
    return [
        Event(
            n,
            f"u-{n * 7919 % 50_000}",
            "add_to_cart" if n % 10 == 0 else "view_item",
            {"sku": f"A-{n % 1000}", "amount": 60 + n % 100, "currency": "CNY", "category": "bags", "page": "detail"},
        )
        for n in range(number)
    ]


def native(one: Event) -> dict[str, Any]:
    return {
        "message_id": one.id,
        "user_id": one.user,
        "event": one.name,
        "timestamp": one.at,
        "properties": one.properties,
        "context": {"app": "ios", "version": "7.1.0"},
    }


def segment(one: Event) -> dict[str, Any]:
    return {
        "type": "track",
        "messageId": one.id,
        "userId": one.user,
        "event": one.name,
        "timestamp": one.at,
        "properties": one.properties,
        "context": {"library": {"name": "analytics-python", "version": "2.4.0"}},
    }


def quick_audience(one: Event) -> dict[str, Any]:
    return {
        "organizationId": "org-1",
        "customerId": one.user,
        "channel": "app_ios",
        "eventCode": one.name,
        "eventTime": one.at,
        "properties": one.properties,
    }


def quick_tracking(one: Event) -> dict[str, Any]:
    return {
        "sign": "0123456789abcdef0123456789abcdef",
        "appkey": "app1",
        "id": one.name,
        "umid": "dev-1",
        "puid": one.user,
        "ts": str(START_MS + one.number),
        "cusp": one.properties,
        "gp": {"vip": "1"},
        "sdk_type": "httpapi",
        "uuid": one.id,
    }


def cloudevent(one: Event) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": one.id,
        "source": "//shop/orders",
        "type": one.name,
        "subject": one.user,
        "time": one.at,
        "datacontenttype": "application/json",
        "data": one.properties,
    }


def binary(one: Event) -> Headers:
    attributes = cloudevent(one)
    content_type = attributes.pop("datacontenttype")
    del attributes["data"]
    return [("content-type", content_type.encode()), *((f"ce_{name}", at.encode()) for name, at in attributes.items())]


def batches(calls: list[dict[str, Any]]) -> list[bytes]:
    starts = range(0, len(calls), IN_A_BATCH)
    return [orjson.dumps({"batch": calls[start : start + IN_A_BATCH], "writeKey": "k"}) for start in starts]


def cases(index: MatchIndex, sent: list[Event]) -> list[Case]:
    """Return all cases; the first is what the others are compared with."""
    table = index.table()
    of = {
        name: format_of(name, table) for name in ("segment", "quick_audience", "quick_tracking", "cloudevents", "auto")
    }
    whole = {
        shape.__name__: list(map(orjson.dumps, map(shape, sent)))
        for shape in (native, segment, quick_audience, quick_tracking, cloudevent)
    }
    calls = list(map(segment, sent))
    data = [orjson.dumps(one.properties) for one in sent]
    headers = list(map(binary, sent))
    return [
        Case("native, compiled", NativeFormat(table), whole["native"], []),
        Case("native, without the compiled part", NativeFormat(), whole["native"], []),
        Case("segment", of["segment"], whole["segment"], []),
        Case(f"segment, batches of {IN_A_BATCH}", of["segment"], batches(calls), []),
        Case("quick_audience", of["quick_audience"], whole["quick_audience"], []),
        Case("quick_tracking", of["quick_tracking"], whole["quick_tracking"], []),
        Case("cloudevents, structured", of["cloudevents"], whole["cloudevent"], []),
        Case("cloudevents, binary", of["cloudevents"], data, headers),
        Case("auto, of native", of["auto"], whole["native"], []),
        Case("auto, of segment", of["auto"], whole["segment"], []),
    ]


def seconds(index: MatchIndex, case: Case) -> float:
    """Return the CPU time that it takes to read all records of *case* and pack what is relevant."""
    intake = Intake(index, case.records, topic="t", partition=0, source=0, shards=64)
    inputs = 0
    began = time.process_time()
    for start in range(0, len(case.values), AT_ONCE):
        values = case.values[start : start + AT_ONCE]
        stamps = list(range(START_MS + start, START_MS + start + len(values)))
        offsets = range(start, start + len(values))
        found, dead = intake.take(Batch(values, stamps, offsets, (), case.headers[start : start + AT_ONCE]))
        assert not dead
        inputs += sum(len(packed(some)) for some in found.values())
    took = time.process_time() - began
    assert inputs
    return took


def main() -> int:
    """Measure, and print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    index = Deployment(compile_texts([FlowText("cart.yaml", FLOW)], Workspace()).programs).index
    all_cases = cases(index, events(options.events))
    took: dict[str, list[float]] = {case.name: [] for case in all_cases}
    for turn in range(options.runs):
        for case in all_cases if turn % 2 == 0 else reversed(all_cases):
            took[case.name].append(seconds(index, case))
    each = {name: statistics.median(times) / options.events * 1e6 for name, times in took.items()}
    first = next(iter(each.values()))
    if options.json:
        print(json.dumps({"us_per_event": each, "events": options.events, "runs": options.runs}))
        return 0
    if WHY_NOT_COMPILED:
        print(f"without the compiled part: {WHY_NOT_COMPILED}")
    for name, us in each.items():
        print(f"{name:36} {us:6.2f} us per event, {us / first:5.1f} times the first")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
