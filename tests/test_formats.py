"""Formats of events: one file and one entry each; the rest of the job does not know them by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connectors import formats
from connectors.formats import NOT_YET
from connectors.formats.native import decode as decode_native
from dataflow.cli import main
from dataflow.errors import UsageError
from dataflow.urls import parse_source
from state.records import Record, Reject

FLOW = "flow: f\ntrigger: {event: bought, where: {sku: a}}\nsteps: [{send: webhook, template: t}]\n"


def decode_lines(raw: bytes) -> Record | Reject:
    """Return the record of `user event sku`."""
    user, event, sku = raw.decode().split()
    native = {"user_id": user, "event": event, "properties": {"sku": sku}, "timestamp": "2026-11-23T08:00:00Z"}
    return decode_native(json.dumps(native).encode())


def test_a_format_is_one_decoder_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, "lines", decode_lines)
    (tmp_path / "f.yaml").write_text(FLOW)
    (tmp_path / "events.txt").write_text("ann bought a\nbob bought b\nann looked a\n")
    actions = tmp_path / "actions.jsonl"
    events = str(tmp_path / "events.txt")
    assert main(["simulate", str(tmp_path), "--events", events, "--format", "lines", "--actions", str(actions)]) == 0
    assert [json.loads(line)["user_id"] for line in actions.open()] == ["ann"]


@pytest.mark.parametrize("name", NOT_YET)
def test_a_format_of_later_is_refused_and_not_taken_for_another(name: str) -> None:
    with pytest.raises(UsageError, match="not supported yet"):
        parse_source(f"kafka://h/events?format={name}")
