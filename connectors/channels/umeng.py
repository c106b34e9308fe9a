"""Umeng U-Push: push messages to apps on Android and iOS, each by itself or up to 500 of the same content together.

It sends a second message with the same content again and cannot be asked: what may have been sent is left to
`on_unknown`. There are no receipts after `accepted`; what the app tells comes as events of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Final, Literal

import httpx
import orjson
from pydantic import AfterValidator, Field

from connectors.channels.base import OneWay, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import DETAIL_MAX, Answered, HttpClient, Request, retry_after_ms
from connectors.channels.push import merged, pushed, writable
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, UNKNOWN, Answer
from state.iso import parse_iso_ms
from state.outgoing import Action

ENDPOINT: Final = "https://msgapi.umeng.com"
BATCH_MAX: Final = 500
PAYLOAD_MAX: Final = {"android": 1840, "ios": 4096}
"""Of iOS the documents say nothing; it is what Apple takes."""
CHINA: Final = timezone(timedelta(hours=8))
"""The time zone of `expire_time`. That is inferred: the documents name none."""
EXPIRES_MAX_MS: Final = 7 * 86_400_000 - 10 * 60_000  # Seven days, less what their clock may differ from ours.
MINUTE_MS: Final = 60_000
HALVING: Final = 0.5  # Of the time for a call: later no request begins, so that the last one has time to be answered.
ID_MAX: Final = 256
CODE_MAX: Final = 64

_OURS: Final = frozenset(
    {"appkey", "timestamp", "type", "device_tokens", "alias", "alias_type", "file_id", "filter", "production_mode"}
)
_TOKEN: Final = re.compile(r"[!-+\--~]{1,512}")  # A comma would be a second device.
_RESERVED: Final = ("aps", "d", "p")
_OPENED: Final = {"go_url": "url", "go_activity": "activity", "go_custom": "custom"}

_REFUSED: Final = frozenset(
    (
        *map(str, range(1000, 1029)), "2002", "2003", "2008", "2009", "2016", "2018", "2019", "2022", "2025", "2029",
        "2031", "2036", "2039", "2040", "2046", "2047", "2048", "2049", "2052", "2053", "5002",
    )
)  # fmt: skip
_OF_EACH: Final = frozenset(("1015", "2009"))
"""Of what is refused, what is wrong with a recipient. All else that is documented is wrong with the content."""
_KINDS: Final = {
    **dict.fromkeys(_REFUSED, PERMANENT),
    **dict.fromkeys(
        (
            "2000", "2004", "2007", "2021", "2027", "2032", "2033", "2034", "2035", "2054", "5001", "5007", "5008",
            "5009", "5010", "6001",
        ),
        CONFIG,
    ),
    "2050": THROTTLED,
    "2028": RETRY,  # The time of the request: the next one has another.
    **dict.fromkeys(("2023", "6002", "6003", "6004"), RETRY),
    # Only older documents have these.
    **dict.fromkeys(("2006", "4012", "4015"), CONFIG),
    "2026": THROTTLED,
    **dict.fromkeys(("2020", "3000", "3001", "3002", "3003", "3004", "4001", "4009"), RETRY),
    **dict.fromkeys(("4000", "4013"), UNKNOWN),
}  # fmt: skip


def _besides(given: dict[str, Any]) -> dict[str, Any]:
    if ours := sorted(_OURS & set(given)):
        raise ValueError(f"{', '.join(ours)} cannot be set here: see the settings of the channel")
    return writable(given)


class UmengSettings(Settings):
    """`deliver:` of a channel with `provider: umeng`."""

    provider: Literal["umeng"] = "umeng"
    app_key: Annotated[str, Field(pattern=r"^[!-~]+$", description="The Appkey: each platform has its own.")]
    secret: Annotated[Secret, Field(description="The App Master Secret.")]
    platform: Literal["android", "ios"]
    alias_type: Annotated[str | None, Field(min_length=1, description="`to` is an alias of this type.")] = None
    production: Annotated[bool, Field(description="False: to devices for tests alone.")] = True
    after_open: Literal["go_app", "go_url", "go_activity", "go_custom"] = "go_app"
    message: Annotated[
        dict[str, Any],
        AfterValidator(_besides),
        Field(description="What every request has besides, as Umeng names it."),
    ] = {}
    batch: Annotated[int, Field(ge=1, le=BATCH_MAX, description="The most actions in one call.")] = 1
    payload_max: Annotated[int | None, Field(ge=1, description="The most bytes of a payload.")] = None
    endpoint: Annotated[str, Field(pattern=r"^https?://[!-.0-~]+$")] = ENDPOINT


class Umeng(OneWay):
    """One app. What may have been sent is sent again with `on_unknown: retry`, and may then come twice."""

    settings: ClassVar[type[Settings]] = UmengSettings

    def __init__(
        self, settings: UmengSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self.together_max = settings.batch
        self._url = f"{settings.endpoint}/api/send"
        self._payload_max = settings.payload_max or PAYLOAD_MAX[settings.platform]
        self._client = HttpClient(around.timeout_s, around.concurrency, transport=transport)

    # ---- the message -------------------------------------------------------------------------------------------

    def _content(self, action: Action) -> dict[str, Any]:
        """Return all of a request that is the same for whoever gets it, and see to it that *action* can be sent."""
        self._check_address(action.to)
        title, body, data = pushed(action, self._around)
        if self._settings.batch > 1:
            del data["action_id"]  # Those who are sent to together get the same.
        is_android = self._settings.platform == "android"
        content: dict[str, Any] = {
            "payload": self._android(title, body, data) if is_android else _ios(title, body, data)
        }
        if action.expires_at is not None and (expires_ms := parse_iso_ms(action.expires_at)) is not None:
            content["policy"] = {"expire_time": self._expire_time(expires_ms)}
        content["production_mode"] = "true" if self._settings.production else "false"
        content = merged(content, self._settings.message)
        if (size := len(orjson.dumps(content["payload"]))) > self._payload_max:
            raise Unfit("too_large", f"the payload has {size} bytes, and {self._payload_max} is the most")
        return content

    def _check_address(self, to: str | None) -> None:
        kind = "alias" if self._settings.alias_type is not None else "device token"
        if not to:
            raise Unfit("no_address", f"the action has no {kind} in `to`")
        is_one = "," not in to and to.isprintable() if kind == "alias" else _TOKEN.fullmatch(to) is not None
        if not is_one:
            raise Unfit("bad_address", f"`to` is no {kind}")

    def _android(self, title: str, body: str, data: dict[str, str]) -> dict[str, Any]:
        if not title and not body:
            return {"display_type": "message", "body": {"custom": orjson.dumps(data).decode()}}
        if not title or not body:
            raise Unfit("no_body" if title else "no_title", "a notification on Android has a title and a body")
        said = {"ticker": title, "title": title, "text": body, "after_open": self._settings.after_open}
        needed = _OPENED.get(self._settings.after_open)
        if needed is not None:
            if needed in data:
                said[needed] = data.pop(needed)
            elif not _has(self._settings.message, "payload", "body", needed):
                raise Unfit("missing_variable", f"{self._settings.after_open} needs vars.{needed}")
        return {"display_type": "notification", "body": said, "extra": data}

    def _expire_time(self, expires_ms: int) -> str:
        now_ms = self._around.now_ms()
        until_ms = min(expires_ms, now_ms + EXPIRES_MAX_MS)
        if self._settings.batch > 1 and until_ms - now_ms > 2 * MINUTE_MS:
            until_ms -= until_ms % MINUTE_MS  # Otherwise hardly two actions would have it in common.
        return f"{datetime.fromtimestamp(until_ms // 1000, CHINA):%Y-%m-%d %H:%M:%S}"

    def _request(self, to: Sequence[str], content: Mapping[str, Any]) -> dict[str, Any]:
        alias_type, all_of_them = self._settings.alias_type, ",".join(to)
        whom = (
            {"type": "unicast" if len(to) == 1 else "listcast", "device_tokens": all_of_them}
            if alias_type is None
            else {"type": "customizedcast", "alias_type": alias_type, "alias": all_of_them}
        )
        timestamp = str(self._around.now_ms() // 1000)
        return {"appkey": self._settings.app_key, "timestamp": timestamp, **whom, **content}

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be posted; see `Provider`."""
        content = self._content(action)
        return {"method": "POST", "url": self._url, "body": self._request([str(action.to)], content)}

    # ---- the call ----------------------------------------------------------------------------------------------

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        return await self._send([str(action.to)], self._content(action))

    def goes_with(self, action: Action) -> Hashable:
        """Return what all have in common that are sent to together; see `Together`."""
        return orjson.dumps(self._content(action))

    async def call_together(self, actions: Sequence[Action]) -> Sequence[Answer]:
        """Send *actions*, whose content is the same; see `Together`.

        Where all are refused, and one of them may be why, nothing was sent. So each half is sent by itself, and so on,
        until who is refused is alone. Whoever is not reached within half of the time for a call is called again later.
        """
        try:
            content = self._content(min(actions, key=lambda one: one.expires_at or "~"))  # Of no use to anybody later.
        except Unfit as unfit:  # It was fit before: each is looked at again.
            return [Answer(RETRY, unfit.code, unfit.detail)] * len(actions)
        clock = asyncio.get_running_loop().time
        until_s = clock() + self._around.timeout_s
        last_ms = self._around.now_ms() + int(self._around.timeout_s * HALVING * 1000)
        parts = deque(_with_each_address_once(actions))
        found: dict[str, Answer] = {}
        instead: Answer | None = None
        is_first = True
        while parts:
            part = parts.popleft()
            if instead is None and not is_first and self._around.now_ms() > last_ms:
                instead = Answer(RETRY, "not_reached", "no time was left to find out who is refused")
            is_first = False
            answer = instead
            if answer is None:
                try:
                    async with asyncio.timeout_at(until_s):
                        answer = await self._send([str(one.to) for one in part], content)
                except TimeoutError:
                    answer = Answer(UNKNOWN, "timeout")
                if answer.kind == PERMANENT and len(part) > 1 and _may_be_of_one(answer):
                    middle = len(part) // 2
                    parts.extend((part[:middle], part[middle:]))  # The largest first: they are the most.
                    continue
                if answer.kind not in (OK, PERMANENT):  # The next ones would fare no better.
                    instead = Answer(RETRY, "not_reached", answer.detail) if answer.kind == UNKNOWN else answer
            found.update((one.action_id, answer) for one in part)
        return [found[one.action_id] for one in actions]

    async def _send(self, to: Sequence[str], content: Mapping[str, Any]) -> Answer:
        body = orjson.dumps(self._request(to, content))
        signed = b"POST" + self._url.encode() + body + self._settings.secret.reveal().encode()
        sign = hashlib.md5(signed, usedforsecurity=False).hexdigest()
        headers = {"content-type": "application/json", "accept": "application/json"}
        answered = await self._client.send(Request("POST", f"{self._url}?sign={sign}", headers, body))
        if isinstance(answered, Answer):
            return answered
        answered.body = answered.body.replace(sign.encode(), b"<hidden>")  # With the body it is good for ten minutes.
        return self._meaning(answered)

    def _meaning(self, answered: Answered) -> Answer:
        said = answered.object
        data = said["data"] if isinstance(said.get("data"), dict) else {}
        if said.get("ret") == "SUCCESS" and 200 <= answered.status < 300:
            msg_id = data.get("msg_id")
            return Answer(OK, provider_id=msg_id[:ID_MAX] if isinstance(msg_id, str) else "")
        code, kind = "", None
        if said.get("ret") == "FAIL":
            given = data.get("error_code")
            code = str(given)[:CODE_MAX] if isinstance(given, str) or type(given) is int else ""
            kind = _KINDS.get(code) or (PERMANENT if code and answered.status < 500 else None)
        kind = kind or _kind_without_code(answered.status, is_theirs=said.get("ret") == "FAIL")
        wait_ms = retry_after_ms(answered, self._around.now_ms()) if kind in (THROTTLED, RETRY) else None
        detail = data["error_msg"] if isinstance(data.get("error_msg"), str) else answered.text
        return Answer(kind, code or f"http_{answered.status}", detail[:DETAIL_MAX], wait_ms=wait_ms)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def _ios(title: str, body: str, data: dict[str, str]) -> dict[str, Any]:
    if reserved := [name for name in _RESERVED if name in data]:
        raise Unfit("bad_variable", f"vars.{reserved[0]}: the name is Umeng's own on iOS")
    alert = {name: text for name, text in (("title", title), ("body", body)) if text}
    return {"aps": {"alert": alert} if alert else {"content-available": 1}, **data}


def _has(message: Any, *names: str) -> bool:
    for name in names:
        message = message.get(name) if isinstance(message, dict) else None
    return message is not None


def _with_each_address_once(actions: Iterable[Action]) -> list[list[Action]]:
    """Return *actions* so parted that no part has an address twice: two users of one device get a message each."""
    parts: list[list[Action]] = []
    times: dict[str, int] = {}
    for one in actions:
        before = times.get(str(one.to), 0)
        times[str(one.to)] = before + 1
        if before == len(parts):
            parts.append([])
        parts[before].append(one)
    return parts


def _may_be_of_one(answer: Answer) -> bool:
    return answer.code in _OF_EACH or answer.code not in _REFUSED


def _kind_without_code(status: int, *, is_theirs: bool) -> str:
    """Return what a status says by itself: without a refusal of Umeng's it is that of something between."""
    if status == 429:
        return THROTTLED
    if status in (401, 403, 404, 407) and not is_theirs:
        return CONFIG
    if status in (502, 504):
        return UNKNOWN
    if 300 <= status < 400:
        return CONFIG  # Somebody else is there, and has sent nothing.
    return RETRY if status in (500, 503) or (status < 500 and (is_theirs or status >= 400)) else UNKNOWN
