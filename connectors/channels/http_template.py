"""Any interface over HTTP, described in the settings: what is sent, and what its answers and reports mean.

Texts in the settings are Liquid over the action; those about answers and reports are Liquid over these. Values go into
addresses, forms and JSON encoded as these want it, so that no value can be more than a value.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx
import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from connectors.channels.base import (
    Callback,
    NotTheirs,
    OneWay,
    Rendering,
    Reply,
    Report,
    Secret,
    Settings,
    Surroundings,
    Unfit,
)
from connectors.channels.http import DETAIL_MAX, HEADER, NOT_SETTABLE, Answered, HttpClient, retry_after_ms
from state.delivery import OK, THROTTLED, UNKNOWN, Answer
from state.iso import format_ms, parse_time_value
from state.outgoing import Action

CODE_MAX: Final = 64
ID_MAX: Final = 256
OF_ACTION: Final = (
    "action_id", "channel", "user_id", "to", "flow", "template", "vars", "category", "at", "expires_at",
)  # fmt: skip
IN_REQUEST: Final = (*OF_ACTION, "now", "secrets", "signs")
IN_ANSWER: Final = ("answer", "headers")
IN_REPORT: Final = ("body", "query")

Meaning = Literal["ok", "permanent", "config", "throttled", "throttled_recipient", "retry", "unknown"]

_MARKUP: Final = re.compile(r"(\{\{.*?\}\})")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


def _url(text: str) -> str:
    fixed = _MARKUP.split(text)[0]
    parts = urlsplit(fixed)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(f"{text!r} is no address; write https://host/path")
    if fixed != text and not parts.path.startswith("/"):
        raise ValueError("the host cannot be a template: write it out, and a / after it")
    if "{%" in text:
        raise ValueError("only {{ .. }} can stand in an address")
    return text


def _headers(given: dict[str, str]) -> dict[str, str]:
    for name in given:
        if HEADER.fullmatch(name) is None or name.lower() in NOT_SETTABLE:
            raise ValueError(f"{name!r} is no header that can be set")
    return given


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Basic(_Part):
    """A name and a password."""

    user: str
    password: Secret


class Auth(_Part):
    """How a request says who we are."""

    basic: Basic | None = None
    bearer: Secret | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Auth:
        if (self.basic is None) == (self.bearer is None):
            raise ValueError("write either basic or bearer")
        return self


class Sign(_Part):
    """A digest that goes with the request; with `key`, an HMAC."""

    digest: Literal["md5", "sha1", "sha256", "sha512"]
    of: str
    key: Secret | None = None
    form: Literal["hex", "base64"] = "hex"


class OfAnswer(_Part):
    """What an answer means.

    A status beyond `statuses` (default: 2xx) is a failure. Where `code` is written, `means` decides what each code
    means, `http_<status>` in it what a status does, and `otherwise` the rest.
    """

    statuses: list[int] | None = None
    code: str | None = None
    id: str | None = None
    detail: str | None = None
    means: dict[str | int | bool, Meaning] = {}
    otherwise: Meaning = "permanent"

    @model_validator(mode="after")
    def _has_ok(self) -> OfAnswer:
        if self.code is not None and "ok" not in (*self.means.values(), self.otherwise):
            raise ValueError("say in means which code is ok")
        return self


class OfReport(_Part):
    """Where a report has what; `each` is the list of them where they come together."""

    each: str = "{{ body }}"
    status: str
    statuses: dict[str | int | bool, str]
    action_id: str | None = None
    id: str | None = None
    code: str | None = None
    detail: str | None = None
    at: str | None = None
    reply: str = ""

    @model_validator(mode="after")
    def _names_one(self) -> OfReport:
        if self.action_id is None and self.id is None:
            raise ValueError("say in action_id or id which message a report is about")
        return self


class HttpSettings(Settings):
    """`deliver:` of a channel with `provider: http`."""

    provider: Literal["http"] = "http"
    url: Annotated[str, AfterValidator(_url)]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    query: dict[str, str] = {}
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = {}
    as_json: Any = Field(None, alias="json")
    form: dict[str, str] | None = None
    body: str | None = None
    auth: Auth | None = None
    secrets: dict[str, Secret] = {}
    signs: dict[str, Sign] = {}
    templates: dict[str, str] = {}
    private: bool = False
    answer: OfAnswer = OfAnswer()
    report: OfReport | None = None

    @model_validator(mode="after")
    def _has_one_body(self) -> HttpSettings:
        if sum(one is not None for one in (self.as_json, self.form, self.body)) > 1:
            raise ValueError("write one of json, form and body")
        return self


class Http(OneWay):
    """One interface. What may have been sent is not sent again, unless the channel's `on_unknown` says so."""

    settings: ClassVar[type[Settings]] = HttpSettings

    def __init__(
        self, settings: HttpSettings, around: Surroundings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings, self._around = settings, around
        self._secrets = {name: secret.reveal() for name, secret in settings.secrets.items()}
        texts = _Texts(around)
        self._url = texts.of_url("url", settings.url)
        self._query = texts.of_request("query", settings.query)
        self._headers = texts.of_request("headers", settings.headers)
        self._signs = texts.of_request("signs", {name: one.of for name, one in settings.signs.items()})
        body = next((one for one in ("form", "body") if getattr(settings, one) is not None), "json")
        self._body = texts.of_request(body, settings.as_json if body == "json" else getattr(settings, body))
        answer, report = settings.answer, settings.report
        self._of_answer = texts.of_all("answer", answer, ("code", "id", "detail"), IN_ANSWER)
        self._means = {_word(code): kind for code, kind in answer.means.items()}
        if report is not None:
            self._each = texts.compile("report.each", report.each, IN_REPORT)
            names = ("status", "action_id", "id", "code", "detail", "at")
            self._of_report = texts.of_all("report", report, names, ("one", *IN_REPORT))
            self._statuses = {_word(code): status for code, status in report.statuses.items()}
        allowed = [httpx.URL(_MARKUP.split(settings.url)[0]).raw_host.decode()] if settings.private else []
        self._client = HttpClient(around.timeout_s, around.concurrency, allowed, transport=transport)

    # ---- the request -------------------------------------------------------------------------------------------

    def _request(self, action: Action, secrets: Mapping[str, str], *, is_shown: bool = False) -> httpx.Request:
        settings, now_ms = self._settings, self._around.now_ms()
        values = {name: getattr(action, name) for name in OF_ACTION}
        values["template"] = settings.templates.get(action.template, action.template)
        values |= {"now": format_ms(now_ms), "secrets": secrets}
        signs = _filled(self._signs, values, now_ms)
        values["signs"] = {
            name: f"<{name}>" if is_shown else _signed(settings.signs[name], _written(of)) for name, of in signs.items()
        }
        query = {name: _written(one) for name, one in _filled(self._query, values, now_ms).items()}
        url = "".join(_filled(self._url, values, now_ms))
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query, quote_via=quote)
        headers = {name: _written(one) for name, one in _filled(self._headers, values, now_ms).items()}
        for name, value in headers.items():
            if _HEADER_VALUE.fullmatch(value) is None:
                raise Unfit("bad_header", f"headers.{name}: it would have what a header cannot have")
        content, content_type = self._content(_filled(self._body, values, now_ms))
        head = {"user-agent": "nudge"} | ({} if content_type is None else {"content-type": content_type})
        if settings.auth is not None and not is_shown:
            head["authorization"] = _authorization(settings.auth)
        head |= {name.lower(): value for name, value in headers.items()}
        try:
            return httpx.Request(settings.method, url, headers=head, content=content)
        except httpx.InvalidURL as error:
            raise Unfit("bad_address", f"url: {error}") from None

    def _content(self, filled: Any) -> tuple[bytes | None, str | None]:
        if self._settings.form is not None:
            pairs = {name: _written(one) for name, one in filled.items()}
            return urlencode(pairs).encode(), "application/x-www-form-urlencoded"
        if self._settings.body is not None:
            return _written(filled).encode(), "text/plain; charset=utf-8"
        if self._settings.as_json is not None:
            return _json(filled).encode(), "application/json"
        return None, None

    async def call(self, action: Action) -> Answer:
        """Send *action*; see `Provider`."""
        answered = await self._client.send(self._request(action, self._secrets))
        return answered if isinstance(answered, Answer) else self._meaning(answered)

    def preview(self, action: Action) -> Mapping[str, Any]:
        """Return what would be sent; see `Provider`."""
        request = self._request(action, {name: f"<{name}>" for name in self._secrets}, is_shown=True)
        shown = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        body: Any = request.content.decode()
        if self._settings.as_json is not None:
            body = orjson.loads(body)
        return {"method": request.method, "url": str(request.url), "headers": shown, "body": body}

    # ---- the answer --------------------------------------------------------------------------------------------

    def _meaning(self, answered: Answered) -> Answer:
        settings, now_ms = self._settings.answer, self._around.now_ms()
        values = {"answer": _parsed(answered.body), "headers": dict(answered.headers)}
        found = {name: _found(rendering, values, now_ms) for name, rendering in self._of_answer.items()}
        code, status = found.get("code", ""), answered.status
        by_status = f"http_{status}"
        is_taken = status in settings.statuses if settings.statuses is not None else 200 <= status < 300
        kind = self._means.get(code)
        if kind is None or (kind == OK and not is_taken):
            kind = self._means.get(by_status)
        if kind is None and not is_taken:
            kind = _of_status(status)
        if kind is None and settings.code is None:
            kind = OK
        if kind is None:
            kind = settings.otherwise if code else UNKNOWN  # What has no code is not what was described.
        return Answer(
            THROTTLED if kind == "throttled_recipient" else kind,
            (code or by_status)[:CODE_MAX],
            (found.get("detail") or ("" if kind == OK else answered.text))[:DETAIL_MAX],
            provider_id=found.get("id", "")[:ID_MAX] if kind == OK else "",
            wait_ms=retry_after_ms(answered, now_ms) if kind.startswith(THROTTLED) else None,
            is_of_recipient=kind == "throttled_recipient",
        )

    # ---- reports -----------------------------------------------------------------------------------------------

    def callback(self, came: Callback) -> Reply:
        """Return what is reported, as `report` describes it; see `Provider`. The address is the secret."""
        settings = self._settings.report
        if settings is None:
            raise NotTheirs("the channel's settings describe no report")
        now_ms = self._around.now_ms()
        values = {"body": _callback_body(came), "query": dict(came.query)}
        try:
            each = self._each(values, now_ms)
        except Unfit as unfit:
            raise ValueError(unfit.detail) from None
        reports = [self._report({**values, "one": one}, now_ms) for one in (each if isinstance(each, list) else [each])]
        content_type = "application/json" if settings.reply[:1] in ("{", "[") else "text/plain"
        return Reply([one for one in reports if one is not None], 200, settings.reply.encode(), content_type)

    def _report(self, values: Mapping[str, Any], now_ms: int) -> Report | None:
        found = {name: _found(rendering, values, now_ms) for name, rendering in self._of_report.items()}
        if not found["status"] or not (found.get("action_id") or found.get("id")):
            raise ValueError("a report lacks its status, or what it is about")
        status = self._statuses.get(found["status"])
        if status is None:  # On its way, in some state or other.
            return None
        at = found.get("at", "")
        return Report(
            status,
            action_id=found.get("action_id", ""),
            provider_id=found.get("id", ""),
            code=found.get("code", "")[:CODE_MAX],
            detail=found.get("detail", "")[:DETAIL_MAX],
            event_id=found.get("id", ""),
            at_ms=parse_time_value(int(at) if at.isascii() and at.isdigit() else at),
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


class _Texts:
    """Makes templates of what stands in the settings, and says where one is none."""

    def __init__(self, around: Surroundings) -> None:
        self._liquid = around.liquid

    def compile(self, place: str, text: str, names: tuple[str, ...]) -> Rendering:
        try:
            rendering = self._liquid(text, names)
        except ValueError as wrong:
            raise ValueError(f"{place}: {wrong}") from None

        def render(values: Mapping[str, Any], now_ms: int) -> Any:
            try:
                return rendering(values, now_ms)
            except Unfit as unfit:
                raise Unfit(unfit.code, f"{place}: {unfit.detail}") from None

        return render

    def of_request(self, place: str, written: Any) -> Any:
        """Return *written*, a JSON value, with a template in place of each text."""
        if isinstance(written, str):
            return self.compile(place, written, IN_REQUEST)
        if isinstance(written, dict):
            return {str(name): self.of_request(f"{place}.{name}", one) for name, one in written.items()}
        if isinstance(written, list):
            return [self.of_request(f"{place}.{number}", one) for number, one in enumerate(written)]
        return written

    def of_url(self, place: str, url: str) -> list[Any]:
        """Return the pieces of an address: what is written out, and templates that give a piece, encoded."""

        def encoded(rendering: Rendering) -> Rendering:
            def render(values: Mapping[str, Any], now_ms: int) -> str:
                text = _written(rendering(values, now_ms))
                if text in ("", ".", ".."):
                    raise Unfit("bad_address", f"{place}: {text!r} would lead elsewhere")
                return quote(text, safe="")

            return render

        pieces = _MARKUP.split(url)
        if any("{{" in one for one in pieces[::2]):
            raise ValueError(f"{place}: '{{{{' is never closed")
        return [
            encoded(self.compile(place, one, IN_REQUEST)) if number % 2 else one for number, one in enumerate(pieces)
        ]

    def of_all(
        self, place: str, part: BaseModel, fields: tuple[str, ...], names: tuple[str, ...]
    ) -> dict[str, Rendering]:
        """Return the templates of those *fields* that are written."""
        written = {field: getattr(part, field) for field in fields}
        return {
            field: self.compile(f"{place}.{field}", text, names) for field, text in written.items() if text is not None
        }


def _filled(part: Any, values: Mapping[str, Any], now_ms: int) -> Any:
    if callable(part):
        return part(values, now_ms)
    if isinstance(part, dict):
        return {name: _filled(one, values, now_ms) for name, one in part.items()}
    if isinstance(part, list):
        return [_filled(one, values, now_ms) for one in part]
    return part


def _found(rendering: Rendering, values: Mapping[str, Any], now_ms: int) -> str:
    """Return what a template finds in an answer or a report, "" for nothing, and for what is no code or id."""
    try:
        value = rendering(values, now_ms)
        return "" if isinstance(value, (list, dict)) else _written(value)
    except (Unfit, ValueError):  # A number without end is no code, either.
        return ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _word(code: str | int | bool) -> str:
    return _written(code)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", errors="replace")


def _callback_body(came: Callback) -> Any:
    if came.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(came.body.decode("utf-8", errors="replace"), keep_blank_values=True))
    return _parsed(came.body)


def _of_status(status: int) -> Meaning:
    """Return what a failing status means by itself.

    An error inside may have come after the message was sent. A wrong address or key would fail every time.
    """
    if status in (429, 503):
        return "throttled"
    if status in (408, 425):
        return "retry"
    if status >= 500:
        return "unknown"
    return "config" if status < 400 or status in (401, 403, 404, 405, 407, 410, 415) else "permanent"


def _authorization(auth: Auth) -> str:
    if auth.bearer is not None:
        return f"Bearer {auth.bearer.reveal()}"
    assert auth.basic is not None, "it is one of the two"
    pair = f"{auth.basic.user}:{auth.basic.password.reveal()}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _signed(how: Sign, of: str) -> str:
    if how.key is None:
        made = hashlib.new(how.digest, of.encode()).digest()
    else:
        made = hmac.digest(how.key.reveal().encode(), of.encode(), how.digest)
    return made.hex() if how.form == "hex" else base64.b64encode(made).decode()
