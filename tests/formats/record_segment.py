"""Records what Segment's own Python client posts, as `segment-analytics-python-<version>.jsonl` beside this file.

A batch is one line. The client cannot be among the tests' requirements: it wants an older python-dateutil than the one
that templates go by. So it has an environment of its own:

    python -m venv /tmp/segment && /tmp/segment/bin/pip install segment-analytics-python==2.4.0
    /tmp/segment/bin/python tests/formats/record_segment.py
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

AT = datetime(2026, 11, 23, 8, 0, 0, 123_000, tzinfo=UTC)


def calls(client: Any) -> None:
    """Make one call of every kind, and some that are unusual."""
    at = {"timestamp": AT}
    client.track(
        "u-17",
        "Product Added",
        {"sku": "A-1", "price": 129.9, "at": AT, "tags": ["a", "b"], "note": None},
        context={"traits": {"phone": "+4610000000"}, "timezone": "Europe/Stockholm"},
        message_id="py-1",
        **at,
    )
    client.identify("u-17", {"plan": "gold", "phone": None}, message_id="py-2", **at)
    client.page("u-17", "Shop", "Cart", {"path": "/cart"}, message_id="py-3", **at)
    client.screen("u-17", None, "Home", message_id="py-4", **at)
    client.group("u-17", "g-1", {"size": 4}, message_id="py-5", **at)
    client.alias("anon-1", "u-17", message_id="py-6", **at)
    client.track(None, "Seen", anonymous_id="anon-1", message_id="py-7", **at)
    client.track(17, "Numbered", message_id="py-8", timestamp=AT.astimezone(timezone(timedelta(hours=8))))
    client.track("u-18", "Bare")


def main() -> None:
    """Let the client post to nobody, and write down what it would have posted."""
    from segment.analytics import request
    from segment.analytics.client import Client
    from segment.analytics.version import VERSION

    posted: list[str] = []

    def post(url: str, data: str, **_: Any) -> SimpleNamespace:
        posted.append(data)
        return SimpleNamespace(status_code=200, headers={}, text="", json=dict)

    request._session.post = post  # type: ignore[method-assign]
    one_by_one = Client("wk-of-the-sample", sync_mode=True)
    calls(one_by_one)
    together = Client("wk-of-the-sample", upload_interval=2)
    calls(together)
    together.shutdown()
    target = Path(__file__).with_name(f"segment-analytics-python-{VERSION}.jsonl")
    target.write_text("".join(line + "\n" for line in posted))


if __name__ == "__main__":
    main()
