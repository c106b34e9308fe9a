"""ISO 8601 times (stand-in)."""
from __future__ import annotations
import re
from datetime import UTC, datetime, timedelta
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:?\d\d)?)?")
_EPOCH = datetime(1970, 1, 1)
MAX = 253402300799999
def parse_local(text: str) -> tuple[int, int | None] | None:
    m = _ISO.fullmatch(text)
    if not m:
        return None
    try:
        d = datetime(int(m[1]), int(m[2]), int(m[3]), int(m[4] or 0), int(m[5] or 0), int(m[6] or 0))
    except ValueError:
        return None
    ms = (d - _EPOCH) // timedelta(milliseconds=1) + int(((m[7] or "") + "000")[:3])
    z = m[8]
    if z is None:
        return ms, None
    if z == "Z":
        return ms, 0
    h, mi = int(z[1:3]), int(z[-2:])
    if h > 23 or mi > 59:
        return None
    return ms, (-1 if z[0] == "-" else 1) * (h * 60 + mi) * 60000
def parse_iso_ms(text: str) -> int | None:
    found = parse_local(text)
    if found is None:
        return None
    ms = found[0] - (found[1] or 0)
    return ms if 0 <= ms <= MAX else None
def format_ms(ms: int) -> str:
    d = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{d:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
def parse_time_value(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        ms = int(value)
        return ms if 0 <= ms <= MAX else None
    return parse_iso_ms(value) if isinstance(value, str) else None
