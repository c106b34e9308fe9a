"""How the records of a format are read: one by one, and those of the native format by the compiled part, too."""

from __future__ import annotations

from typing import Any, Final

import orjson

from connectors.formats import FORMATS, NATIVE, Decode
from connectors.formats.native import decode
from state.records import Record, Reject

CONTRACT: Final = 1
"""What this and the compiled part are agreed on: to be raised in both when that changes, as in `lib.rs`."""

try:
    from dataflow.read._scanner import CONTRACT as _CONTRACT
    from dataflow.read._scanner import Scanner, Table
except ImportError as error:  # It was installed where there is no Rust compiler, or it is another system's.
    _missing = str(error)
else:
    _missing = "" if _CONTRACT == CONTRACT else "it was compiled for another version of Nudge"

WHY_NOT_COMPILED: Final = _missing
"""Why this installation is without the compiled part (`dataflow/read/scanner`); "" if it has it."""


class PlainFormat:
    """A format whose records are decoded one by one.

    Args:
        decode: see `connectors/formats`.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def scanner(self, *, prefix: str, source: int, shards: int, head_ms: int) -> None:
        """Return None: nothing reads batches of it."""


class NativeFormat:
    """The native format.

    Plain events are read and matched by the scanner, everything else by `decode`, which is the definition of both.
    Without the scanner the same comes out, later.

    Args:
        table: what events are matched with, see `operators/conditions/index.py`; None: nothing, so all is
            left to `decode`.
    """

    def __init__(self, table: dict[str, Any] | None = None) -> None:
        self._table = Table(table, orjson.loads) if table is not None and not WHY_NOT_COMPILED else None

    def decode(self, raw: bytes) -> Record | Reject:
        """Return the record that *raw* is, or why it is none."""
        return decode(raw)

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


def format_of(name: str, table: dict[str, Any]) -> NativeFormat | PlainFormat:
    """Return the format *name*, whose events are matched with *table*."""
    return NativeFormat(table) if name == NATIVE else PlainFormat(FORMATS[name])
