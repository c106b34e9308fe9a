"""Records of all formats, read as a source with these settings would read them."""

from __future__ import annotations

import json
from typing import Any, Final

from connectors.formats.decoding import Decoded
from connectors.sources import Batch, Headers
from dataflow.read.intake import Intake
from dataflow.read.scanner import PlainFormat, format_of
from operators.conditions.index import MatchIndex
from state.outgoing import DeadLetter
from state.records import Input, Record, Reject, unpacked

AT: Final = 1_795_420_800_123
"""2026-11-23T08:00:00.123Z"""


def format_with(name: str, settings: dict[str, str]) -> PlainFormat:
    found = format_of(name, {}, settings.items())
    assert isinstance(found, PlainFormat)
    return found


def raw_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def decode(name: str, value: Any, headers: Headers = (), **settings: str) -> Decoded:
    return format_with(name, settings).decode(raw_of(value), headers)


def record(name: str, value: Any, headers: Headers = (), **settings: str) -> Record:
    found = decode(name, value, headers, **settings)
    assert isinstance(found, Record), found
    return found


def rejected(name: str, value: Any, headers: Headers = (), **settings: str) -> Reject:
    found = decode(name, value, headers, **settings)
    assert isinstance(found, Reject), found
    return found


def items(name: str, value: Any, headers: Headers = (), **settings: str) -> list[Record | Reject]:
    found = decode(name, value, headers, **settings)
    assert isinstance(found, list), found
    return found


def taken(
    name: str, values: list[Any], wanted: list[str], *, arrived_ms: list[int] | None = None, **settings: str
) -> tuple[list[Input], list[DeadLetter], Intake]:
    """Return what comes of *values*, at the offsets from 5 on of `t`, where all events *wanted* are of interest."""
    index = MatchIndex([(event, None) for event in wanted])
    records = format_with(name, settings)
    intake = Intake(index, records, topic="t", partition=3, source=0, shards=1)
    raws = [raw_of(value) for value in values]
    found, dead = intake.take(Batch(raws, arrived_ms, range(5, 5 + len(raws))))
    return unpacked(found.get(0, [])), dead, intake
