"""How records are read: one by one, and those of the native format by the compiled part, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import orjson

from connectors.formats import FORMATS, NATIVE
from connectors.formats.decoding import Decode, Decoded, settings_of, without_secrets
from connectors.formats.native import decode
from connectors.sources import Headers
from state.iso import parse_time_value
from state.outgoing import RAW_KEPT_BYTES
from state.records import Record, Reject

CONTRACT: Final = 2
"""What this and the compiled part are agreed on: to be raised in both when that changes, as in `lib.rs`."""

try:
    from dataflow.read._scanner import CONTRACT as _CONTRACT

    if _CONTRACT != CONTRACT:
        raise ImportError("it was compiled for another version of Nudge")
    from dataflow.read._scanner import Scanner, Table, items, lines
except ImportError as error:  # It was installed where there is no Rust compiler, or it is another system's.
    _missing = str(error)
else:
    _missing = ""

WHY_NOT_COMPILED: Final = _missing
"""Why this installation is without the compiled part (`dataflow/read/scanner`); "" if it has it."""


HOW_TO_COMPILE: Final = "install Rust 1.85 or newer and Nudge anew, in a checkout after `make clean`"


class PlainFormat:
    """A format whose records are decoded one by one.

    Args:
        decode: see `connectors/formats`.
        has_headers: whether it looks at headers.
    """

    def __init__(self, decode: Decode, *, has_headers: bool = False) -> None:
        self._decode = decode
        self.has_headers = has_headers

    def decode(self, raw: bytes, headers: Headers = ()) -> Decoded:
        """Return the record that *raw* is, or why it is none, or all that are in it."""
        return self._decode(raw, headers)

    def kept(self, raw: bytes) -> bytes:
        """Return what of *raw* a dead letter may show: no keys of senders."""
        return without_secrets(raw[:RAW_KEPT_BYTES])[:RAW_KEPT_BYTES]

    def times(self, raw: bytes) -> Iterable[tuple[str, int]]:
        """Return, of the records in *raw* that say when they came, the user and when that was."""
        found = self._decode(raw, ())
        for record in found if isinstance(found, list) else (found,):
            if isinstance(record, Record):
                at_ms = record.at_ms if record.received_ms is None else record.received_ms
                if at_ms is not None:
                    yield record.user_id, at_ms

    def scanner(self, *, prefix: str, source: int, shards: int, head_ms: int) -> None:
        """Return None: nothing reads batches of it."""


class _Stamp(msgspec.Struct):
    """Of a record, what its time is read from."""

    user_id: Any = None
    received_at: Any = None
    timestamp: Any = None


_read_stamp: Final = msgspec.json.Decoder(_Stamp).decode


class NativeFormat:
    """The native format.

    Plain events are read and matched by the scanner, everything else by `decode`, which is the definition of both.
    Without the scanner the same comes out, later.

    Args:
        table: what events are matched with, see `operators/conditions/index.py`; None: nothing, so all is
            left to `decode`.
    """

    has_headers = False

    def __init__(self, table: dict[str, Any] | None = None) -> None:
        self._table = Table(table, orjson.loads) if table is not None and not WHY_NOT_COMPILED else None

    def decode(self, raw: bytes, _: Headers = ()) -> Record | Reject:
        """Return the record that *raw* is, or why it is none."""
        return decode(raw)

    def kept(self, raw: bytes) -> bytes:
        """Return what of *raw* a dead letter may show."""
        return raw[:RAW_KEPT_BYTES]

    def times(self, raw: bytes) -> Iterable[tuple[str, int]]:
        """Return, if the record *raw* says when it came, the user and when that was; a dead letter may say so, too."""
        try:
            stamp = _read_stamp(raw)
        except msgspec.MsgspecError:
            return ()  # It may be a record all the same, for whoever reads all of it.
        came = stamp.timestamp if stamp.received_at is None else stamp.received_at
        at_ms = None if came is None else parse_time_value(came)
        return () if at_ms is None else ((str(stamp.user_id), at_ms),)

    def scanner(self, *, prefix: str, source: int, shards: int, head_ms: int) -> Scanner | None:
        """Return what reads the batches of one source partition, None where nothing does.

        Args:
            prefix: what a record's offset is put behind where it has no message id.
            source: the number of the partition in the job.
            shards: how many shards there are.
            head_ms: the stream time of records without any, before the first that has one.
        """
        if self._table is None or not prefix.isprintable():  # A file's name may be no text at all.
            return None
        return Scanner(self._table, prefix, source, shards, head_ms)


def format_of(name: str, table: dict[str, Any], settings: Iterable[tuple[str, str]] = ()) -> NativeFormat | PlainFormat:
    """Return the format *name*, whose events are matched with *table*, as a source's *settings* have it."""
    if name == NATIVE:
        return NativeFormat(table)
    kind = FORMATS[name]
    return PlainFormat(kind.decoder(settings_of(dict(settings))), has_headers=kind.has_headers)


Sent = tuple[list[Any], Sequence[int]]
"""Records as they were sent, and the places of those that are to be decoded.

Of all others, plain events, it is known that they are sound: they stand there with their users before them.
"""


def items_of(body: bytes, most: int) -> Sent | None:
    """Return the items of a JSON list, None where that takes a look at all of it; then it may be no list at all.

    If each item that is to be decoded is JSON, then so is *body*.

    Args:
        most: how many items there may be.
    """
    return None if WHY_NOT_COMPILED else items(body, most)


def lines_of(body: bytes) -> Sent:
    """Return the lines of a text that are not blank."""
    if not WHY_NOT_COMPILED:
        return lines(body)
    found = [line for line in body.split(b"\n") if line.strip()]
    return found, range(len(found))
