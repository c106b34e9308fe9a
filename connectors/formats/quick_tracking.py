"""Quick Tracking's events, as its HTTP API takes them."""

from __future__ import annotations

import re
from typing import Any, Final

from connectors.formats.decoding import Decode, Read, Settings, decoding
from connectors.formats.fields import Unreadable, an_object, look_of, message_id, name, time_ms, user
from state.records import EVENT, IDENTIFY, Record, Reject

PROFILE: Final = "$$_user_profile"
SDK_LOG: Final = (
    "this is a log of Quick Tracking's SDK (`ekv`), which is not supported: send the events of its HTTP API"
)

_DIGITS: Final = re.compile(r"[0-9]{1,15}")


def decoder(settings: Settings) -> Decode:
    """Return what decodes records of Quick Tracking."""
    return decoding(reader(settings))


def reader(settings: Settings) -> Read:
    """Return what reads an event."""

    def read(event: dict[str, Any]) -> Record:
        get = event.get
        if "ekv" in event:
            raise Unreadable(Reject("unknown_format", SDK_LOG))
        user_id = _user(event, settings)
        code = name("id", get("id"), "no_event")
        own = an_object("cusp", get("cusp")) or {}
        common = an_object("gp", get("gp")) or {}
        logged = message_id("log_id", get("log_id"))
        sent_id = message_id("uuid", get("uuid")) if logged is None else logged
        at_ms, received_ms = _time("ts", get("ts")), _time("server_ts", get("server_ts"))
        if code == PROFILE:
            return Record(IDENTIFY, user_id, "", sent_id, at_ms, received_ms, {}, own)
        properties = {**common, **own}
        if get("page_name") is not None:
            properties["page_name"] = event["page_name"]
        return Record(EVENT, user_id, code, sent_id, at_ms, received_ms, properties, None)

    return read


def _user(event: dict[str, Any], settings: Settings) -> str:
    user_id, device = event.get("puid"), event.get("umid")
    if user_id is None or user_id == "":
        if device is not None and device != "":
            if settings.any_user:
                return user("umid", device)
            raise Unreadable(Reject("no_user", "`puid` is missing, null or empty; user=any takes `umid` as the user"))
        look = look_of(event, "quick_tracking")
        raise Unreadable(
            Reject("no_user", "`puid` and `umid` are missing, null or empty" + (f"; {look}" if look else ""))
        )
    return user("puid", user_id)


def _time(field: str, value: Any) -> int | None:
    """Return a time in ms, which mostly is sent as text.

    Raises:
        Unreadable: it is none.
    """
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    elif isinstance(value, str):
        raise Unreadable(Reject("bad_time", f"`{field}` is no number of ms since 1970"))
    return time_ms(field, value)
