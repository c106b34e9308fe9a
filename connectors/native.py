"""Native decoder (stand-in)."""

from __future__ import annotations
import orjson
from state.iso import parse_time_value
from state.records import EVENT, IDENTIFY, MEMBERSHIP, RECEIPT, Record, Reject


def decode(raw: bytes) -> Record | Reject:
    if len(raw) > 1048576:
        return Reject("too_large", "")
    try:
        o = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        return Reject("not_json", str(e))
    if not isinstance(o, dict):
        return Reject("not_an_object", "")
    u = o.get("user_id")
    if u is None or u == "":
        return Reject("no_user", "")
    if not isinstance(u, str) or len(u) > 256:
        return Reject("bad_type", "user_id")
    kind = EVENT
    if o.get("action_id") is not None and o.get("status") is not None:
        kind = RECEIPT
    elif o.get("audience") is not None and o.get("member") is not None:
        kind = MEMBERSHIP
    elif o.get("type") == "identify":
        kind = IDENTIFY
    name = ""
    if kind == EVENT:
        name = o.get("event")
        if name is None or name == "":
            return Reject("no_event", "")
        if not isinstance(name, str) or len(name) > 128:
            return Reject("bad_type", "event")
    p, t, m = o.get("properties"), o.get("traits"), o.get("message_id")
    if (
        (p is not None and not isinstance(p, dict))
        or (t is not None and not isinstance(t, dict))
        or (m is not None and not isinstance(m, str))
    ):
        return Reject("bad_type", "")
    at = rec = None
    if o.get("timestamp") is not None:
        at = parse_time_value(o["timestamp"])
        if at is None:
            return Reject("bad_time", "timestamp")
    if o.get("received_at") is not None:
        rec = parse_time_value(o["received_at"])
        if rec is None:
            return Reject("bad_time", "received_at")
    return Record(kind, u, name, m or None, at, rec, p or {}, t, None)
