"""Clicks, unsubscribes and opens: a signed token says who did it, and a receipt tells the job."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from html import escape
from typing import Final
from urllib.parse import quote

import msgspec

from connectors.channels.base import Secret
from connectors.kafka_writer import KafkaWriter, Keyed
from connectors.tokens import OPEN, UNSUBSCRIBE, Token, read_link, read_token
from dataflow.gateway.http import RETRY_AFTER_S, Answer, Came, NotTaken
from dataflow.gateway.metrics import Metrics
from dataflow.gateway.receipts import Unmatched, receipt_of
from state.iso import format_ms

BODY_MAX: Final = 64 * 1024
AS_IT_IS: Final = "".join(map(chr, range(33, 127)))  # Of an address only what no address has is written otherwise.
PIXEL: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_HTML: Final = "text/html; charset=utf-8"
_HEAD: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title><h1>{title}</h1>{rest}</html>
"""
_dump: Final = msgspec.json.Encoder().encode

Traits = Mapping[str, tuple[str, ...]]
"""By the category of messages, the path of the attribute that says whether the user wants them."""


class Links:
    """Answers what people do with messages.

    Args:
        secrets: what tokens are signed with.
        events: the topic of receipts and profile updates.
    """

    def __init__(
        self, secrets: list[Secret], writer: KafkaWriter, events: str, consent: Traits, metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self._keys = [secret.reveal() for secret in secrets]
        self._writer, self._events, self._consent = writer, events, consent
        self._metrics, self._now_ms = metrics, now_ms

    async def click(self, came: Came) -> Answer:
        """Lead on to where the link leads."""
        code = came.scope["path_params"]["code"]
        found = read_link(self._keys, code)
        if found is None:
            raise _not_found()
        token, target = found
        head = {"location": quote(target, safe=AS_IT_IS), "cache-control": "no-store", "referrer-policy": "no-referrer"}
        if came.scope["method"] != "HEAD":  # Who only looks has not clicked.
            event_id = hashlib.blake2b(target.encode(), digest_size=8).hexdigest()
            if not await self._is_stored([self._receipt(token, "clicked", event_id, target)]):
                link = f'<p>Please go on to <a href="{escape(target)}" rel="noreferrer">{escape(target)}</a>.</p>'
                return _page(503, "We could not take you there", link)
            self._metrics.receipt(token.channel, "clicked")
        return Answer(302, headers=head)

    async def ask(self, came: Came) -> Answer:
        """Ask whether to unsubscribe: whoever follows all links in a mail must not do it."""
        self._token(came, UNSUBSCRIBE)
        return _page(200, "Unsubscribe", '<form method="post"><button>I want no more of these messages</button></form>')

    async def unsubscribe(self, came: Came) -> Answer:
        """Unsubscribe, as RFC 8058 has it, or as a person who was asked."""
        token = self._token(came, UNSUBSCRIBE)
        await came.read(BODY_MAX, None)
        records = [self._receipt(token, "unsubscribed")]
        if (path := self._consent.get(token.category)) is not None:
            records.append(self._refusal(token, path))
        if not await self._is_stored(records):
            return _page(503, "Please try again", "<p>We could not take note of it.</p>")
        self._metrics.receipt(token.channel, "unsubscribed")
        return _page(200, "Unsubscribed", "<p>You will get no more of these messages.</p>")

    async def unsubscribe_or_ask(self, came: Came) -> Answer:
        """Unsubscribe on POST, else ask."""
        return await (self.unsubscribe if came.scope["method"] == "POST" else self.ask)(came)

    async def open(self, came: Came) -> Answer:
        """Give the picture of one pixel."""
        token = self._token(came, OPEN)
        if came.scope["method"] != "HEAD":
            if not await self._is_stored([self._receipt(token, "opened")]):
                raise NotTaken(503, "unavailable", "it could not be stored", {"retry-after": str(RETRY_AFTER_S)})
            self._metrics.receipt(token.channel, "opened")
        return Answer(200, PIXEL, "image/gif", {"cache-control": "no-store"})

    def _token(self, came: Came, purpose: str) -> Token:
        token = read_token(self._keys, purpose, came.scope["path_params"]["token"])
        if token is None:
            raise _not_found()
        return token

    def _receipt(self, token: Token, status: str, event_id: str = "", detail: str = "") -> Keyed:
        now = self._now_ms()
        report = Unmatched(token.channel, now, status, now, detail=detail, event_id=event_id)
        return receipt_of(report, token.action_id, token.user_id)

    def _refusal(self, token: Token, path: tuple[str, ...]) -> Keyed:
        traits: object = False
        for name in reversed(path):
            traits = {name: traits}
        fields = {
            "type": "identify", "user_id": token.user_id, "traits": traits,
            "message_id": f"{token.action_id}/unsubscribed/consent", "timestamp": format_ms(self._now_ms()),
        }  # fmt: skip
        return token.user_id, _dump(fields)

    async def _is_stored(self, records: list[Keyed]) -> bool:
        return not await self._writer.begin(self._events, records)


def _not_found() -> NotTaken:
    return NotTaken(404, "not_found", "there is nothing here")


def _page(status: int, title: str, rest: str) -> Answer:
    head = {**_HEAD, "retry-after": str(RETRY_AFTER_S)} if status == 503 else _HEAD
    return Answer(status, _PAGE.format(title=title, rest=rest).encode(), _HTML, head)
