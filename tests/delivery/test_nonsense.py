"""Whatever a provider answers or reports, nothing breaks: one `Answer`, reports, or a refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.channels.alibaba_sms import AlibabaSms
from connectors.channels.base import Callback, Content, NotTheirs, Provider, Surroundings
from connectors.channels.http_template import Http
from connectors.channels.sendgrid import Sendgrid
from connectors.channels.twilio import Twilio
from dataflow.deliver.liquid import liquid
from state.delivery import KINDS, OK
from tests.delivery.actions import action
from tests.providers.sendgrid import posted, public_key
from tests.providers.server import Handler, Response, without_network
from tests.providers.twilio import report

NOW_MS = 1_795_420_800_123
DOCS = Path(__file__).parents[2] / "docs" / "delivery.md"
SMS = action("a", channel="sms", to="+13800138000", template="cart", vars={"name": "Lina"})
EMAIL = action("a", channel="email", to="lina@example.org", template="cart", vars={"name": "Lina"})
SECRETS = ("SMS_KEY_ID", "SMS_PASSWORD", "TWILIO_TOKEN", "TWILIO_CALLBACK", "SENDGRID_KEY")
KINDS_OF_PROVIDERS = {
    "Alibaba Cloud SMS": AlibabaSms,
    "Any interface over HTTP": Http,
    "E-mail through SendGrid": Sendgrid,
    "Twilio SMS": Twilio,
}

WORDS = [
    "Code", "OK", "BizId", "Message", "isv.NEW", "isp.NEW", "isv.BUSINESS_LIMIT_CONTROL", "TotalCount", "OutId", "sid",
    "SmsSendDetailDTOs", "SmsSendDetailDTO", "code", "message", "data", "msgid", "status", "success", "out_id",
    "biz_id", "err_code", "report_time", "2026-11-23 16:30:04", "Status", "MessageId", "1", "2", "ReceiveDate",
    "errors", "field", "from", "event", "bounce", "click", "dropped", "spamreport", "Unsubscribed Address", "reason",
    "sg_event_id", "sg_message_id", "action_id", "timestamp", "type", "blocked",
    "reports", "uid", "Mon, 23 Nov 0001 16:30:04 +0800", "state", "DELIVRD", "time", "error", "9" * 5000, "", "0",
    SMS.action_id,
]  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=20)
    | st.sampled_from([0, 200, 21211, 10**400])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner),
    max_leaves=12,
)
DEEP = [b"[" * 900 + b"]" * 900, b'{"code":' * 900 + b"0" + b"}" * 900, b"[" * 100_000]
BODIES = st.binary(max_size=60) | VALUES.map(lambda one: json.dumps(one).encode()) | st.sampled_from(DEEP)


@lru_cache
def documented(section: str) -> tuple[Any, Any]:
    """Return the class of a provider, and the settings of its example in the documentation."""
    kind: Any = KINDS_OF_PROVIDERS[section]
    text = DOCS.read_text().partition(f"\n## {section}\n")[2].partition("```yaml\n")[2].partition("```")[0]
    (channel,) = yaml.safe_load(text)["channels"].values()
    written = channel["deliver"]
    written.pop("rate", None)
    if "secret" in written:
        written["secret"] = {"env": "SMS_KEY_ID"}
    if "unsubscribe" in written:
        written["unsubscribe"]["key"] = {"env": "LINKS"}
    if "verification_key" in written:
        written["verification_key"] = public_key()
    environment = {
        **dict.fromkeys(SECRETS, "12345"), "TWILIO_CALLBACK": "https://x.example/r", "LINKS": "the key of the gateway",
    }  # fmt: skip
    return kind, kind.settings.model_validate(written, context={"environment": environment})


def provider(section: str, handle: Handler = lambda _: Response()) -> Provider:
    kind, read = documented(section)
    content = Content("hello", "hi", "")
    around = Surroundings(lambda: NOW_MS, lambda: "n", Path(), 0.5, lambda action, url: content, liquid)
    made: Provider = kind(read, around, without_network(handle))
    return made


@pytest.fixture(scope="module", params=KINDS_OF_PROVIDERS)
def section(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@settings(max_examples=60, deadline=None)
@given(body=BODIES, status=st.sampled_from([200, 201, 204, 302, 400, 404, 429, 500, 502, 503]))
def test_every_answer_means_something(section: str, body: bytes, status: int) -> None:
    headers = {"retry-after": "²", "x-acs-retry-after": "²", "x-ratelimit-reset": "²"}
    one = EMAIL if section == "E-mail through SendGrid" else SMS

    async def check(ask: Callable[[Provider], Any]) -> Any:
        return await ask(provider(section, lambda _: Response(status, body, headers)))

    found = asyncio.run(check(lambda asked: asked.call(one)))
    assert found.kind in KINDS
    assert all(isinstance(text, str) for text in (found.code, found.detail, found.provider_id, found.status))
    assert max(map(len, (found.detail, found.code))) <= 500
    if found.kind == OK:
        assert 200 <= status < 300
    if provider(section).can_be_asked:
        assert asyncio.run(check(lambda asked: asked.ask(one, NOW_MS))).kind in KINDS


@settings(max_examples=120, deadline=None)
@given(body=BODIES, is_form=st.booleans())
def test_every_report_is_understood_or_refused(section: str, body: bytes, is_form: bool) -> None:
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    headers = {"content-type": kind}
    if section == "Twilio SMS":
        fields = {name: str(one) for name, one in zip(WORDS, body, strict=False)} | {"MessageSid": str(body)}
        body, headers = report(f"https://x.example/r?action_id={SMS.action_id}", **fields)
    if section == "E-mail through SendGrid":
        headers = posted(body, NOW_MS // 1000)
    came = Callback("POST", {"action_id": SMS.action_id}, headers, body, "https://x")
    one = provider(section)
    try:
        reply = one.callback(came)
    except (ValueError, NotTheirs):
        return
    assert reply.status in (200, 204)
    for said in reply.reports:
        assert said.status in ("accepted", "delivered", "failed", "opened", "clicked", "unsubscribed")
        assert said.at_ms is None or isinstance(said.at_ms, int)
