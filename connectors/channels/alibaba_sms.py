"""Alibaba Cloud SMS: Dysmsapi of 2017-05-25, one `SendSms` for each action.

The provider sends a second call with the same id again. It can be asked for what it has sent, so what may have been
sent is looked for by the action's id before it is sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

import httpx
import orjson
from pydantic import AfterValidator, Field

from connectors.channels.acs3 import authorization, canonical, query_of
from connectors.channels.base import Callback, OneWay, Reply, Report, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import DETAIL_MAX, Answered, HttpClient
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.iso import parse_local
from state.outgoing import DIGEST_PATTERN, Action

VERSION: Final = "2017-05-25"
BEIJING: Final = timezone(timedelta(hours=8))
CLOCKS_DIFFER_MS: Final = 15 * 60_000  # A request whose time is farther from theirs is refused.
DAYS_KEPT: Final = 30
PAGE: Final = 50
PAGES_MAX: Final = 20  # No number may get more than some 40 messages a day.
MINUTE_MS: Final = 60_000

_NUMBER: Final = re.compile(r"[0-9]{5,20}")
_MAINLAND: Final = re.compile(r"(?:0086|86)(1[0-9]{10})")
_SEPARATORS: Final = str.maketrans("", "", " -()")
_DIGEST: Final = re.compile(DIGEST_PATTERN)

_KINDS: Final = {
    **dict.fromkeys(
        (
            "isv.SMS_TEMPLATE_ILLEGAL", "isv.SMS_SIGNATURE_ILLEGAL", "isv.SMS_SIGN_ILLEGAL", "isv.SIGN_STATE_ILLEGAL",
            "isv.SMS_SIGNATURE_SCENE_ILLEGAL", "isv.DENY_IP_RANGE", "isp.RAM_PERMISSION_DENY",
            "isv.PRODUCT_UN_SUBSCRIPT", "isv.PRODUCT_UNSUBSCRIBE", "isv.ACCOUNT_NOT_EXISTS", "isv.ACCOUNT_ABNORMAL",
            "isv.OUT_OF_SERVICE", "isv.AMOUNT_NOT_ENOUGH", "InvalidAccessKeyId.NotFound", "SignatureDoesNotMatch",
            "InvalidApi.NotFound",
            # Limits that the customer has set. The day is not waited for: somebody may raise them, and nothing should
            # be given up because of them. So the channel stops, says so, and looks every 30 s whether it goes again.
            "isv.DAY_LIMIT_CONTROL", "isv.MONTH_LIMIT_CONTROL",
        ),
        CONFIG,
    ),
    **dict.fromkeys(("Throttling", "Throttling.User", "Throttling.Api"), THROTTLED),
    **dict.fromkeys(
        (
            "InvalidTimeStamp.Expired", "InvalidTimeStamp.Format", "InternalError", "ServiceUnavailable",
            "QPS_LIMIT_CONTROL", "ONLINE_BILLING_FAILED",
        ),
        RETRY,
    ),
    "SignatureNonceUsed": UNKNOWN,  # The same request came before: that one may have been sent.
}  # fmt: skip
_WINDOWS_MS: Final = {"分钟级": MINUTE_MS, "小时级": 60 * MINUTE_MS, "天级": 1440 * MINUTE_MS}
_RECIPIENT_LIMIT: Final = "isv.BUSINESS_LIMIT_CONTROL"


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{text!r} is no endpoint; write https://dysmsapi.aliyuncs.com")
    return f"{parts.scheme}://{parts.netloc}"


class AlibabaSmsSettings(Settings):
    """`deliver:` of a channel with `provider: alibaba_sms`."""

    provider: Literal["alibaba_sms"] = "alibaba_sms"
    key_id: Annotated[Secret, Field(description="The id of the access key.")]
    secret: Annotated[Secret, Field(description="The secret of the access key.")]
    sign_name: Annotated[str, Field(min_length=1, description="The approved signature.")]
    templates: Annotated[dict[str, str], Field(description="Our names of templates, and theirs.")] = {}
    endpoint: Annotated[str, AfterValidator(_endpoint)] = "https://dysmsapi.aliyuncs.com"
    region: Annotated[str | None, Field(description="RegionId, where the endpoint wants one.")] = None


class AlibabaSms(OneWay):
    """One account. What may have been sent is looked for in what was sent; only what is not there is sent again."""

    settings: ClassVar[type[Settings]] = AlibabaSmsSettings
    can_be_asked: ClassVar[bool] = True

    def __init__(
        self, settings: AlibabaSmsSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._client = HttpClient(around.timeout_s, around.concurrency, transport=transport)

    # ---- sending -----------------------------------------------------------------------------------------------

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        answered = await self._client.send(self._request("SendSms", self._message(action)))
        if isinstance(answered, Answer):
            return answered
        said = _said(answered)
        return _meaning(answered, said) if said is not None else _without_code(answered)

    def _message(self, action: Action) -> dict[str, str]:
        found = {
            "PhoneNumbers": number_of(action),
            "SignName": self._settings.sign_name,
            "TemplateCode": self._settings.templates.get(action.template, action.template),
            "OutId": action.action_id,
        }
        if action.vars:
            texts = {name: _text(name, value) for name, value in action.vars.items()}
            found["TemplateParam"] = orjson.dumps(texts).decode()
        return found

    def _request(self, name: str, parameters: Mapping[str, str]) -> httpx.Request:
        if self._settings.region is not None:
            parameters = {**parameters, "RegionId": self._settings.region}
        query = query_of(parameters)
        url = httpx.URL(f"{self._settings.endpoint}/?{query}")
        headers = {
            "host": url.netloc.decode(),
            "x-acs-action": name,
            "x-acs-version": VERSION,
            "x-acs-date": f"{datetime.fromtimestamp(self._around.now_ms() // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-signature-nonce": self._around.nonce(),
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        }
        request, names = canonical("POST", "/", query, headers)
        key_id, secret = self._settings.key_id.reveal(), self._settings.secret.reveal()
        headers["authorization"] = authorization(request, names, key_id, secret)
        return httpx.Request("POST", url, headers={**headers, "accept": "application/json"}, content=b"")

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be sent; see `Provider`."""
        return {"method": "POST", "url": self._settings.endpoint, "action": "SendSms", "query": self._message(action)}

    # ---- what has become of it ---------------------------------------------------------------------------------

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Look for *action* in what was sent to its number since then; see `Provider`."""
        now_ms = self._around.now_ms()
        days = list(_days(since_ms - CLOCKS_DIFFER_MS, now_ms + CLOCKS_DIFFER_MS))
        kept = days[-DAYS_KEPT:]
        for day in reversed(kept):
            answer = await self._ask(action, day)
            if answer is not None:
                return answer
        return Answer(RETRY, "not_sent") if kept == days else Answer(UNKNOWN, "too_long_ago")

    async def _ask(self, action: Action, day: str) -> Answer | None:
        """Return what one day shows, None where *action* was not sent on it."""
        for page in range(1, PAGES_MAX + 1):
            parameters = {
                "PhoneNumber": number_of(action), "SendDate": day, "PageSize": str(PAGE), "CurrentPage": str(page),
            }  # fmt: skip
            answered = await self._client.send(self._request("QuerySendDetails", parameters))
            if isinstance(answered, Answer):
                return Answer(UNKNOWN, answered.code, answered.detail)
            said = _said(answered)
            if said is None or said["Code"] != "OK":
                failed = _without_code(answered) if said is None else _meaning(answered, said)
                return Answer(UNKNOWN, failed.code, failed.detail)
            try:
                messages = said["SmsSendDetailDTOs"]["SmsSendDetailDTO"]
                if any(one.get("OutId") == action.action_id for one in messages):
                    return Answer(OK, "OK", "found among what was sent")
                if page * PAGE >= int(said["TotalCount"]):
                    return None
            except (AttributeError, KeyError, TypeError, ValueError):
                return Answer(UNKNOWN, "nonsense", answered.text)
        return Answer(UNKNOWN, "too_many", f"more than {PAGES_MAX * PAGE} messages on {day}")

    # ---- reports -----------------------------------------------------------------------------------------------

    def callback(self, came: Callback) -> Reply:
        """Return what `SmsReport` says, in the form of the mainland or the international one; see `Provider`.

        Nothing is signed: the address is the secret.
        """
        said: Any = orjson.loads(came.body)
        reports = [_report(one) for one in (said if isinstance(said, list) else [said])]
        return Reply(reports, 200, b'{"code":0,"msg":"ok"}', "application/json")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def number_of(action: Action) -> str:
    """Return the number as the provider has it: 11 digits in the mainland, else country code and number without +.

    Raises:
        Unfit: there is none.
    """
    if action.to is None:
        raise Unfit("no_address", "the action has no number in `to`")
    number = action.to.translate(_SEPARATORS).removeprefix("+")
    if _NUMBER.fullmatch(number) is None:  # A comma would be a second recipient.
        raise Unfit("bad_address", "`to` is no phone number")
    if (mainland := _MAINLAND.fullmatch(number)) is not None:
        return mainland[1]
    return number.removeprefix("00")


def _text(name: str, value: Any) -> str:
    """Return a variable as the text that it has to be."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (list, dict)):
        kind = "null" if value is None else "a list" if isinstance(value, list) else "an object"
        raise Unfit("bad_variable", f"vars.{name} is {kind}; a variable of an SMS is a text or a number")
    return orjson.dumps(value).decode()


def _said(answered: Answered) -> dict[str, Any] | None:
    """Return the JSON of an answer, None where it is not as documented."""
    try:
        said: Any = orjson.loads(answered.body)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("Code"), str) else None


def _without_code(answered: Answered) -> Answer:
    """Return what an answer means that is none of the provider's: that of something between."""
    is_refused = 400 <= answered.status < 500
    return Answer(RETRY if is_refused else UNKNOWN, f"http_{answered.status}", answered.text)


def _meaning(answered: Answered, said: Mapping[str, Any]) -> Answer:
    code, message = said["Code"], str(said.get("Message", ""))[:DETAIL_MAX]
    if code == "OK":
        return Answer(OK, code, provider_id=str(said.get("BizId", "")))
    if code == _RECIPIENT_LIMIT:
        wait_ms = next((ms for window, ms in _WINDOWS_MS.items() if window in message), MINUTE_MS)
        return Answer(THROTTLED, code, message, wait_ms=wait_ms, is_of_recipient=True)
    kind = _KINDS.get(code) or _kind_of_unknown(code, answered.status)
    wait = answered.headers.get("x-acs-retry-after", "") if kind == THROTTLED else ""
    is_said = re.fullmatch("[0-9]{1,12}", wait) is not None
    return Answer(kind, code, message, wait_ms=min(int(wait), 60 * MINUTE_MS) if is_said else None)


def _kind_of_unknown(code: str, status: int) -> str:
    """Return what a code means that is in no table: of a message, of the product, or of the gateway before it."""
    if code.startswith("isp."):
        return RETRY
    if status in (502, 504):
        return UNKNOWN
    if status >= 500:
        return RETRY
    if code.startswith("isv.") or (status < 400 and not code.startswith("Missing")):
        return PERMANENT
    return THROTTLED if code.startswith("Throttling") else CONFIG


def _days(from_ms: int, to_ms: int) -> Iterator[str]:
    """Return the days in Beijing that begin or end between two moments."""
    day, last = (datetime.fromtimestamp(ms // 1000, BEIJING).date() for ms in (from_ms, to_ms))
    while day <= last:
        yield f"{day:%Y%m%d}"
        day += timedelta(days=1)


def _report(one: Any) -> Report:
    if isinstance(one, dict) and isinstance(one.get("success"), bool):
        out_id, biz_id = one.get("out_id"), str(one.get("biz_id") or "")
        is_ours = isinstance(out_id, str) and _DIGEST.fullmatch(out_id) is not None
        return Report(
            "delivered" if one["success"] else "failed",
            action_id=str(out_id) if is_ours else "",
            provider_id=biz_id,
            code=str(one.get("err_code") or ""),
            detail=str(one.get("err_msg") or ""),
            event_id=biz_id,
            at_ms=_beijing_ms(one.get("report_time")),
        )
    status = _INTERNATIONAL.get(str(one.get("Status"))) if isinstance(one, dict) else None
    if status is None or not one.get("MessageId"):
        raise ValueError("a report has success, or Status 1, 2 or 6 and MessageId")
    message_id = str(one["MessageId"])
    return Report(
        status,
        provider_id=message_id,
        code=str(one.get("ErrorCode") or ""),
        detail=str(one.get("ErrorDescription") or ""),
        event_id=message_id,
        at_ms=_mail_ms(one.get("ReceiveDate")),
    )


_INTERNATIONAL: Final = {"1": "delivered", "2": "failed", "6": "failed"}


def _beijing_ms(written: Any) -> int | None:
    found = parse_local(written) if isinstance(written, str) else None
    if found is None:
        return None
    local_ms, offset_ms = found
    return local_ms - (480 * MINUTE_MS if offset_ms is None else offset_ms)


def _mail_ms(written: Any) -> int | None:
    try:
        return int(parsedate_to_datetime(written).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
