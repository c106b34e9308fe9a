"""Any of the formats, each record told by its shape: for topics in which they are mixed, and for a first look."""

from __future__ import annotations

from typing import Any, Final

from connectors.formats import cloudevents, native, quick_audience, quick_tracking, segment
from connectors.formats.decoding import Decode, Decoded, Read, Settings, read_whole
from connectors.formats.parsing import no_object, parse_value
from connectors.formats.shapes import UNSUPPORTED, is_of_quick_audience, shape_of
from connectors.sources import Headers
from state.records import Reject

_UNKNOWN: Final = "the record has the shape of no format that is read: see auto in docs/records.md, or name the format"


def decoder(settings: Settings) -> Decode:
    """Return what decodes records of all formats."""
    readers: dict[str, Read] = {
        "native": native.record_of,
        "segment": segment.reader(settings),
        "quick_audience": quick_audience.reader(settings),
        "quick_tracking": quick_tracking.reader(settings),
        "cloudevents": cloudevents.reader(settings),
    }
    decode_cloudevent = cloudevents.decoder(settings)

    def decode(raw: bytes, headers: Headers = ()) -> Decoded:
        if headers and cloudevents.is_told_by(headers):
            return decode_cloudevent(raw, headers)
        value = parse_value(raw)
        if isinstance(value, Reject):
            return value
        if not isinstance(value, dict):
            if _is_list_of_quick_audience(value):
                return quick_audience.read_any(readers["quick_audience"], value)
            return no_object("the record", value)
        shape = shape_of(value)
        if shape in readers:
            return read_whole(readers[shape], value)
        if shape in UNSUPPORTED:
            return Reject("unknown_format", f"the record looks like {shape}, which is not supported")
        return Reject("unknown_format", _UNKNOWN)

    return decode


def _is_list_of_quick_audience(value: Any) -> bool:
    if isinstance(value, str) and value[:1] == "[":
        value = parse_value(value.encode())
    return isinstance(value, list) and any(is_of_quick_audience(one) for one in value)
