"""Telling formats apart by the shape of a record."""

from __future__ import annotations

from typing import Any, Final

from connectors.formats.segment import CALLS

SNOWPLOW: Final = "Snowplow's"
POSTHOG: Final = "PostHog's"
GA4: Final = "Google Analytics 4's"
UNSUPPORTED: Final = (SNOWPLOW, POSTHOG, GA4)

_SNOWPLOW_SCHEMA: Final = "iglu:com.snowplowanalytics.snowplow/payload_data"


def shape_of(value: dict[str, Any]) -> str:
    """Return the name of the format that *value* is in, or one of `UNSUPPORTED`; "" where nobody knows.

    The order counts: the first that fits is taken.
    """
    if "specversion" in value and "id" in value and "source" in value and "type" in value:
        return "cloudevents"
    if _is_native(value):
        return "native"
    batch, kind = value.get("batch"), value.get("type")
    if isinstance(batch, list):
        return POSTHOG if "api_key" in value else "segment"
    if isinstance(kind, str) and kind in CALLS and ("userId" in value or "anonymousId" in value):
        return "segment"
    if is_of_quick_audience(value):
        return "quick_audience"
    if ("appkey" in value and "id" in value and ("umid" in value or "puid" in value)) or "ekv" in value:
        return "quick_tracking"
    schema = value.get("schema")
    if isinstance(schema, str) and schema.startswith(_SNOWPLOW_SCHEMA):
        return SNOWPLOW
    if "distinct_id" in value or ("api_key" in value and "event" in value):
        return POSTHOG
    if isinstance(value.get("events"), list) and ("client_id" in value or "app_instance_id" in value):
        return GA4
    return ""


def _is_native(value: dict[str, Any]) -> bool:
    """Tell whether *value* is a record of ours: an event or a profile update, a receipt, or one about an audience."""
    if "user_id" in value:
        if "event" in value or value.get("type") == "identify":
            return True
        if "action_id" in value and "status" in value:
            return True
        if "audience" in value and "member" in value:
            return True
    return "audience" in value and value.get("updated") is True


def is_of_quick_audience(value: Any) -> bool:
    """Tell whether *value* is an event of Quick Audience, or a form with some."""
    if not isinstance(value, dict):
        return False
    return (
        "customerIdList" in value
        or ("organizationId" in value and "customerId" in value)
        or "eventMessageModelListJson" in value
    )
