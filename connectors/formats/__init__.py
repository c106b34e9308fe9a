"""The formats of events, one file each; a new format is one more file and one entry here."""

from __future__ import annotations

from typing import Final

from connectors.formats import auto, cloudevents, native, quick_audience, quick_tracking, segment
from connectors.formats.decoding import Kind

NATIVE: Final = "native"

FORMATS: Final[dict[str, Kind]] = {
    NATIVE: Kind(lambda _: lambda raw, _: native.decode(raw)),
    "segment": Kind(segment.decoder, ("user",)),
    "quick_audience": Kind(quick_audience.decoder, ("user", "code_field", "time_field", "properties_field")),
    "quick_tracking": Kind(quick_tracking.decoder, ("user",)),
    "cloudevents": Kind(cloudevents.decoder, ("user_from",), has_headers=True),
    "auto": Kind(auto.decoder, ("user", "user_from", "code_field", "time_field", "properties_field"), has_headers=True),
}
"""By the name that a source gives: `?format=native`."""
