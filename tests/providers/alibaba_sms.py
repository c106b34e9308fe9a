"""Alibaba Cloud SMS as its documents have it: verifies the V3 signature, refuses repeated nonces, drops no repeats.

The signature is computed from the request as it came, in the way of the documentation's Java sample: form encoding with
three characters put right, and the headers that the caller says it has signed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote_plus

from tests.providers.server import Request, Response

KEY_ID, KEY_SECRET = "testid", "testsecret"
SIGN_NAMES = {"阿里云", "Acme"}
TEMPLATES = {"SMS_1": {"code"}, "SMS_2": set[str](), "SMS_3": {"name", "count", "price", "is_new"}}
BEIJING = timezone(timedelta(hours=8))

Mood = Callable[[Request], Response | str | None]


def refusal(code: str, message: str = "no", status: int = 200, **headers: str) -> Response:
    """Return an answer with a code."""
    said = {"Code": code, "Message": message, "RequestId": "5A1C7B0E-0000-0000-0000-000000000000"}
    if status != 200:
        said |= {"HostId": "dysmsapi.aliyuncs.com", "Recommend": "https://api.alibabacloud.com/troubleshoot"}
    return Response(status, json.dumps(said, ensure_ascii=False).encode(), headers)


class Dysmsapi:
    """What has come and what was sent.

    Args:
        now_ms: its clock.
        before: says what to answer instead, and nothing is sent; None for what is documented.
        after: says what to answer instead of what is documented, once that is done.
    """

    def __init__(self, now_ms: Callable[[], int], before: Mood = lambda _: None, after: Mood = lambda _: None) -> None:
        self._now_ms, self._before, self._after = now_ms, before, after
        self._nonces: set[str] = set()
        self.requests: list[Request] = []
        self.sent: list[dict[str, str]] = []
        self.status_of: dict[str, int] = {}
        """`SendStatus` by `OutId`; 3 where nothing is said."""

    def __call__(self, request: Request) -> Response | str:
        self.requests.append(request)
        wrong = self._wrong(request) or self._before(request)
        if wrong is not None:
            return wrong
        action = request.headers["x-acs-action"]
        answer = {"SendSms": self._send, "QuerySendDetails": self._details}[action](request.query)
        return self._after(request) or answer

    def _wrong(self, request: Request) -> Response | None:
        headers = request.headers
        written = re.fullmatch(
            r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})",
            headers.get("authorization", ""),
        )
        if written is None:
            return refusal("MissingAuthorization", status=400)
        for name in ("host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"):
            if name not in headers or name not in written[2].split(";"):
                return refusal(f"Missing{name}", status=400)
        try:
            at = datetime.strptime(headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            return refusal("InvalidTimeStamp.Format", status=400)
        if abs(at.timestamp() * 1000 - self._now_ms()) > 15 * 60_000:
            return refusal("InvalidTimeStamp.Expired", status=400)
        if written[1] != KEY_ID:
            return refusal("InvalidAccessKeyId.NotFound", status=404)
        if not hmac.compare_digest(signature_of(request, written[2], KEY_SECRET), written[3]):
            return refusal("SignatureDoesNotMatch", status=400)
        if headers["x-acs-signature-nonce"] in self._nonces:
            return refusal("SignatureNonceUsed", status=400)
        self._nonces.add(headers["x-acs-signature-nonce"])
        if headers["x-acs-version"] != "2017-05-25" or headers["x-acs-action"] not in ("SendSms", "QuerySendDetails"):
            return refusal("InvalidApi.NotFound", status=404)
        return None

    def _send(self, query: dict[str, str]) -> Response:
        for name in ("PhoneNumbers", "SignName", "TemplateCode"):
            if not query.get(name):
                return refusal(f"Missing{name}", status=400)
        if re.fullmatch(r"(\+86|0086|86)?1[0-9]{10}|[1-9][0-9]{6,14}", query["PhoneNumbers"]) is None:
            return refusal("isv.MOBILE_NUMBER_ILLEGAL")
        if query["SignName"] not in SIGN_NAMES:
            return refusal("isv.SMS_SIGNATURE_ILLEGAL")
        if query["TemplateCode"] not in TEMPLATES:
            return refusal("isv.SMS_TEMPLATE_ILLEGAL")
        try:
            given = json.loads(query.get("TemplateParam", "{}"))
        except ValueError:
            return refusal("isv.INVALID_JSON_PARAM")
        if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
            return refusal("isv.INVALID_JSON_PARAM")
        if not given.keys() >= TEMPLATES[query["TemplateCode"]]:
            return refusal("isv.TEMPLATE_MISSING_PARAMETERS")
        biz_id = f"{900619746936498440 + len(self.sent)}^0"
        day = datetime.fromtimestamp(self._now_ms() / 1000, BEIJING).strftime("%Y%m%d")
        self.sent.append({**query, "day": day, "biz_id": biz_id})
        return Response(200, json.dumps({"Code": "OK", "Message": "OK", "RequestId": "R", "BizId": biz_id}).encode())

    def _details(self, query: dict[str, str]) -> Response:
        size, page = int(query["PageSize"]), int(query["CurrentPage"])
        if not 1 <= size <= 50:
            return refusal("isv.INVALID_PARAMETERS")
        found = [
            one for one in self.sent if (one["PhoneNumbers"], one["day"]) == (query["PhoneNumber"], query["SendDate"])
        ]
        shown: list[dict[str, Any]] = [
            {
                "PhoneNum": one["PhoneNumbers"], "SendStatus": self.status_of.get(one.get("OutId", ""), 3),
                "ErrCode": "DELIVERED", "TemplateCode": one["TemplateCode"], "Content": "..", "OutId": one.get("OutId"),
                "SendDate": "2026-11-23 16:30:00", "ReceiveDate": "2026-11-23 16:30:04",
            }
            for one in found[(page - 1) * size : page * size]
        ]  # fmt: skip
        said = {"Code": "OK", "Message": "OK", "RequestId": "R", "TotalCount": len(found)}
        return Response(200, json.dumps({**said, "SmsSendDetailDTOs": {"SmsSendDetailDTO": shown}}).encode())


def signature_of(request: Request, names: str, secret: str) -> str:
    """Return the signature that *request* should have."""

    def encoded(text: str) -> str:
        return quote_plus(text).replace("+", "%20").replace("*", "%2A").replace("%7E", "~")

    lines = [request.method, request.path]
    lines.append("&".join([f"{encoded(key)}={encoded(request.query[key])}" for key in sorted(request.query)]))
    lines += [f"{name}:{request.headers.get(name, '').strip()}" for name in names.split(";")]
    lines += ["", names, hashlib.sha256(request.body).hexdigest()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return hmac.new(secret.encode(), f"ACS3-HMAC-SHA256\n{digest}".encode(), hashlib.sha256).hexdigest()
