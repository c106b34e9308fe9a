"""Template messages of a WeChat official account.

WeChat drops a second message with the same `client_msg_id`, the action's id, to the same user for ten minutes. For so
long what may have been sent is sent again; later it is unknown, and `on_unknown` decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from xml.etree import ElementTree

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field

from connectors.channels.base import Callback, NotTheirs, Reply, Report, Secret, Settings, Surroundings, Unfit
from connectors.channels.http import Answered, HttpClient
from state.delivery import CONFIG, OK, PERMANENT, RETRY, THROTTLED, TOKEN, UNKNOWN, Answer
from state.outgoing import Action

_CLASSES: Final = {
    TOKEN: (40001, 40014, 42001, 41001),
    RETRY: (-1,),
    THROTTLED: (45009, 45011),
    PERMANENT: (
        40003, 43004, 43019, 43101, 45015, 45047, 48002, 50002,  # This user.
        40008, 41030, 44002, 47001, 47003, 45067,  # This content.
    ),
    CONFIG: (40013, 40037, 40125, 40164, 48001, 48004, 61004, 45109),
    OK: (0, 45065),
}  # fmt: skip
KIND_OF: Final = {code: kind for kind, codes in _CLASSES.items() for code in codes}
DAILY_QUOTA: Final = 45009
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
BEIJING_MS: Final = 8 * 3_600_000
RENEWED_BEFORE_MS: Final = 200_000  # WeChat gives a new token 5 minutes before the old one ends; then it has done so.
FORCE_EVERY_MS: Final = 30_000


class Template(BaseModel):
    """A template: what WeChat calls it, and which variable is in which of its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    fields: dict[str, str] | None = None


class MiniProgram(BaseModel):
    """A mini program that the message opens, and the variable with its page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app_id: str
    page: str = "page"


class WechatTemplateSettings(Settings):
    """`deliver:` of a channel with `provider: wechat_template`."""

    provider: Literal["wechat_template"] = "wechat_template"
    app_id: str
    secret: Annotated[Secret, Field(description="The AppSecret of the account.")]
    templates: Annotated[
        dict[str, str | Template], Field(description="Our names, each with WeChat's id, or with id and fields.")
    ] = {}
    link: Annotated[str, Field(description="The variable with the address that the message opens.")] = "url"
    mini_program: MiniProgram | None = None
    callback_token: Annotated[Secret | None, Field(description="The token of the account's callback.")] = None
    endpoint: str = "https://api.weixin.qq.com"


class WechatTemplate:
    """One official account. What may have been sent is sent again within nine minutes of the first attempt."""

    settings: ClassVar[type[Settings]] = WechatTemplateSettings
    drops_repeats: ClassVar[bool] = True
    repeats_dropped_for_ms: ClassVar[int] = 540_000  # Ten minutes, but a call may take a while, and clocks differ.
    can_be_asked: ClassVar[bool] = False

    def __init__(self, settings: WechatTemplateSettings, around: Surroundings) -> None:
        self._settings, self._around = settings, around
        self._client = HttpClient(around.timeout_s, around.concurrency)
        self._lock = asyncio.Lock()
        self._token, self._until_ms, self._forced_ms = "", 0, -FORCE_EVERY_MS

    # ---- the token -----------------------------------------------------------------------------------------------

    async def _valid_token(self) -> str | Answer:
        """Return the token, fetched by one call for all that wait; an answer where there is none."""
        async with self._lock:
            if self._around.now_ms() < self._until_ms:
                return self._token
            failed = await self._fetch(is_forced=False)
            return self._token if failed is None else failed

    async def _fetch(self, *, is_forced: bool) -> Answer | None:
        """Get the account's token; return what went wrong."""
        body = {
            "grant_type": "client_credential", "appid": self._settings.app_id, "secret": self._settings.secret.reveal(),
            "force_refresh": is_forced,
        }  # fmt: skip
        answered = await self._post("/cgi-bin/stable_token", {}, body)
        if isinstance(answered, Answer):
            # Whatever became of this call, nothing was sent to anybody.
            return answered if answered.kind != UNKNOWN else Answer(RETRY, answered.code, answered.detail)
        token, lasts_s = answered.get("access_token"), answered.get("expires_in")
        if not isinstance(token, str) or not isinstance(lasts_s, int):
            failed = self._meaning(answered)
            return failed if failed.kind in (RETRY, THROTTLED) else Answer(CONFIG, failed.code, failed.detail)
        self._token = token
        self._until_ms = self._around.now_ms() + max(MINUTE_MS, lasts_s * 1000 - RENEWED_BEFORE_MS)
        return None

    async def renew(self) -> bool:
        """Get another token: that of another process if there is one, else by force; see `Provider`."""
        async with self._lock:
            old, now_ms = self._token, self._around.now_ms()
            if await self._fetch(is_forced=False) is not None:
                return False
            if self._token == old and now_ms - self._forced_ms >= FORCE_EVERY_MS:
                self._forced_ms = now_ms
                await self._fetch(is_forced=True)
            return self._token != old

    # ---- messages ------------------------------------------------------------------------------------------------

    def _message(self, action: Action) -> dict[str, Any]:
        if not action.to:
            raise Unfit("no_address", "the action has no openid in `to`")
        settings, given = self._settings, dict(action.vars)
        message: dict[str, Any] = {"touser": action.to}
        template = settings.templates.get(action.template, action.template)
        message["template_id"] = template if isinstance(template, str) else template.id
        link = given.pop(settings.link, None)
        if link:
            message["url"] = str(link)
        if settings.mini_program is not None:
            page = given.pop(settings.mini_program.page, None)
            message["miniprogram"] = {
                "appid": settings.mini_program.app_id,
                **({"pagepath": str(page)} if page else {}),
            }
        message["client_msg_id"] = action.action_id
        fields = {name: name for name in given} if isinstance(template, str) else template.fields
        data = {}
        for field, name in ({name: name for name in given} if fields is None else fields).items():
            if given.get(name) is None:
                raise Unfit("missing_variable", f"the field {field} of the template wants the variable {name}")
            data[field] = {"value": str(given[name])}
        message["data"] = data
        return message

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        message = self._message(action)
        token = await self._valid_token()
        if isinstance(token, Answer):
            return token
        said = await self._post("/cgi-bin/message/template/send", {"access_token": token}, message)
        return said if isinstance(said, Answer) else self._meaning(said)

    async def _post(self, path: str, query: Mapping[str, str], body: Any) -> dict[str, Any] | Answer:
        """Return the JSON object that came back, or what it means that none did."""
        request = httpx.Request(
            "POST", self._settings.endpoint + path, params=query, content=orjson.dumps(body),
            headers={"content-type": "application/json"},
        )  # fmt: skip
        answered = await self._client.send(request)
        if isinstance(answered, Answer):
            return answered
        code = f"http_{answered.status}"
        if answered.status >= 500:
            return Answer(UNKNOWN if answered.status in (502, 504) else RETRY, code, answered.text)
        said = _json(answered)
        return Answer(UNKNOWN, code, answered.text) if said is None else said

    def _meaning(self, said: Mapping[str, Any]) -> Answer:
        errcode = said.get("errcode")
        if not isinstance(errcode, int):
            return Answer(UNKNOWN, "no_errcode")
        # A code that nobody has told us of: nothing was sent.
        kind = KIND_OF.get(errcode, RETRY)
        detail = str(said.get("errmsg", ""))[:500]
        if kind == OK:
            message = said.get("msgid", said.get("msg_id"))
            return Answer(OK, str(errcode), detail, provider_id=str(message) if message else "")
        wait_ms = None
        if kind == THROTTLED:
            now_ms = self._around.now_ms()
            is_daily = errcode == DAILY_QUOTA
            wait_ms = DAY_MS - (now_ms + BEIJING_MS) % DAY_MS if is_daily else MINUTE_MS - now_ms % MINUTE_MS
        return Answer(kind, str(errcode), detail, wait_ms=wait_ms)

    async def ask(self, action: Action, since_ms: int) -> Answer:
        """Nobody can be asked."""
        return Answer(UNKNOWN)

    # ---- receipts ------------------------------------------------------------------------------------------------

    def callback(self, came: Callback) -> Reply:
        """Return what WeChat reports, or that the address is ours; see `Provider`."""
        token = self._settings.callback_token
        query = came.query
        if token is None:
            raise NotTheirs("the channel has no callback_token")
        wanted = signature(token.reveal(), query.get("timestamp", ""), query.get("nonce", ""))
        if not hmac.compare_digest(wanted.encode(), query.get("signature", "").encode()):
            raise NotTheirs("the signature is wrong")
        if came.method == "GET":
            return Reply([], body=query.get("echostr", "").encode())
        return Reply(_reports(came.body), body=b"success")

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return the message, without the token; see `Provider`."""
        return {
            "method": "POST", "url": f"{self._settings.endpoint}/cgi-bin/message/template/send",
            "body": self._message(action),
        }  # fmt: skip

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def signature(token: str, timestamp: str, nonce: str) -> str:
    """Return the signature of a callback: of the three texts in order."""
    return hashlib.sha1("".join(sorted((token, timestamp, nonce))).encode(), usedforsecurity=False).hexdigest()


def _json(answered: Answered) -> dict[str, Any] | None:
    try:
        said = orjson.loads(answered.body)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) else None


def _reports(body: bytes) -> list[Report]:
    text = body.decode("utf-8", errors="replace")
    # In another encoding a document type would not be seen, and there would be things to expand.
    if "\0" in text or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("a callback is in UTF-8 and has no document type")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ValueError(f"a callback is no XML: {error}") from None
    if root.findtext("Event", "").strip() != "TEMPLATESENDJOBFINISH":
        return []  # Something else that people do with the account.
    said = root.findtext("Status", "")
    code = "_".join(said.lower().replace(":", " ").split())
    at_s = root.findtext("CreateTime", "").strip()
    at_ms = int(at_s) * 1000 if at_s.isdecimal() else None
    status = "delivered" if code == "success" else "failed"
    return [Report(status, "", root.findtext("MsgID", "").strip(), code, said.strip(), event_id=at_s, at_ms=at_ms)]
