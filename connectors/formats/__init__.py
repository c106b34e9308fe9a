"""The formats of events, one file each; a new format is one more file and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from connectors.formats import native
from state.records import Record, Reject

Decode = Callable[[bytes], Record | Reject]
"""Returns the record that some bytes are, or why they are none."""

NATIVE: Final = "native"

FORMATS: Final[dict[str, Decode]] = {NATIVE: native.decode}
"""By the name that a source gives: `?format=native`."""

NOT_YET: Final = ("segment", "quick_audience", "quick_tracking", "cloudevents", "auto")
"""Part of what is promised, but not of this version."""
