"""What providers report becomes receipts, by the ledger; what fits no action yet is kept and tried again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from connectors.channels.base import Callback, NotTheirs, Provider, Report
from connectors.formats.parsing import is_too_deep
from connectors.kafka_writer import KafkaWriter, Keyed
from connectors.ledgers.base import Ledger, LedgerAway, ToLook
from dataflow.gateway.config import CallbackSettings
from dataflow.gateway.http import RECORD_MAX, Answer, Came, NotTaken, unavailable
from dataflow.gateway.metrics import Metrics
from state.delivery import ACCEPTED, REJECTED, Entry
from state.iso import TIME_MS_MAX, format_ms

TEXT_MAX: Final = 500
ID_MAX: Final = 120  # An id longer than that is told by its digest.
_dump: Final = msgspec.json.Encoder().encode


class Unmatched(msgspec.Struct, frozen=True):
    """A report that fits no action yet, as the topic of these has it."""

    channel: str
    since_ms: int
    status: str
    at_ms: int
    action_id: str = ""
    provider_id: str = ""
    code: str = ""
    detail: str = ""
    event_id: str = ""

    @property
    def key(self) -> str:
        """What its records are keyed by."""
        return self.action_id or self.provider_id


_decode: Final = msgspec.json.Decoder(Unmatched).decode


def read_unmatched(raw: bytes) -> Unmatched:
    """Return an unmatched report.

    Raises:
        ValueError: it is none.
    """
    if is_too_deep(raw):
        raise ValueError("it nests too deep")
    return _decode(raw)


class Reporting(NamedTuple):
    """A channel whose provider reports to us."""

    settings: CallbackSettings
    provider: Provider
    ledger: Ledger


class Found(NamedTuple):
    """An action that a report is about, its user, and its outcome: "" while it has none."""

    action_id: str
    user_id: str
    outcome: str

    def is_contradicted_by(self, report: Unmatched) -> bool:
        """Tell whether *report* would be a second final outcome; an action has one."""
        return (self.outcome, report.status) == (REJECTED, ACCEPTED)


async def found_in(ledger: Ledger, reports: Sequence[Unmatched], now: int) -> list[Found | None]:
    """Return the actions that *reports* are about, None where the ledger has none.

    Raises:
        LedgerAway: nobody knows.
    """
    by_id: dict[str, Found] = {}
    by_provider: dict[str, Found | None] = {}
    notes = [ToLook(one) for one in dict.fromkeys(report.action_id for report in reports) if one]
    if notes:
        for note, noted in zip(notes, await ledger.note(notes, now), strict=True):
            if noted.entry is not None:
                by_id[note.action_id] = _found(note.action_id, noted.entry)
    found: list[Found | None] = []
    for report in reports:
        one = by_id.get(report.action_id)
        if one is None and report.provider_id:
            if report.provider_id not in by_provider:
                known = await ledger.find(report.provider_id)
                by_provider[report.provider_id] = None if known is None else _found(*known)
            one = by_provider[report.provider_id]
        found.append(one)
    return found


def _found(action_id: str, entry: Entry) -> Found:
    return Found(action_id, entry.user_id, "" if entry.outcome is None else entry.outcome.status)


def receipt_of(report: Unmatched, action_id: str, user_id: str) -> Keyed:
    """Return the receipt that *report* makes, as `docs/records.md` has it. Its id drops repeats."""
    event_id = report.event_id
    if len(event_id) > ID_MAX:
        event_id = hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()
    message_id = "/".join(filter(None, (action_id, report.status, event_id)))
    fields = {
        "action_id": action_id, "user_id": user_id, "status": report.status, "code": report.code,
        "detail": report.detail, "message_id": message_id, "timestamp": format_ms(report.at_ms),
    }  # fmt: skip
    return user_id, _dump(fields)


class Receipts:
    """Takes what providers report, and answers when it cannot be lost.

    Args:
        channels: those whose providers report here.
        events: the topic of receipts.
        unmatched: the topic of what fits no action yet.
        url: where providers find us, as they write it; "" to go by the request.
    """

    def __init__(
        self, channels: Mapping[str, Reporting], writer: KafkaWriter, events: str, unmatched: str, url: str,
        metrics: Metrics, now_ms: Callable[[], int], log: Any,
    ) -> None:  # fmt: skip
        self._channels, self._writer, self._events, self._unmatched = channels, writer, events, unmatched
        self._url, self._metrics, self._now_ms, self._log = url, metrics, now_ms, log

    async def handle(self, came: Came) -> Answer:
        """Answer one request."""
        name, secret = came.scope["path_params"]["channel"], came.scope["path_params"]["secret"]
        one = self._channels.get(name)
        if one is None or not one.settings.fits(secret.encode()):
            raise NotTaken(404, "not_found", "there is nothing here")
        await came.read(RECORD_MAX, None)
        try:
            reply = one.provider.callback(self._callback(came))
        except NotTheirs as error:
            raise NotTaken(401, "not_theirs", str(error)) from None
        except ValueError as error:
            raise NotTaken(400, "unreadable", str(error)[:TEXT_MAX]) from None
        now = self._now_ms()
        reports = [noted(name, report, now) for report in reply.reports if report.status]
        await self._store(name, one.ledger, reports, now)
        return Answer(reply.status, reply.body, reply.content_type)

    def _callback(self, came: Came) -> Callback:
        scope = came.scope
        query = scope["query_string"].decode("latin-1")
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        base = self._url or f"{scope['scheme']}://{headers.get('host', '')}"
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        url = base + path.partition("?")[0] + (f"?{query}" if query else "")
        return Callback(scope["method"], dict(parse_qsl(query, keep_blank_values=True)), headers, came.body, url)

    async def _store(self, name: str, ledger: Ledger, reports: Sequence[Unmatched], now: int) -> None:
        found: Sequence[Found | None]
        try:
            found = await found_in(ledger, reports, now)
        except LedgerAway as error:
            self._log.error("the ledger is away: reports are tried again later", channel=name, error=str(error))
            found = [None] * len(reports)
        receipts, others = [], []
        for report, action in zip(reports, found, strict=True):
            if action is None:
                others.append((report.key, _dump(report)))
            elif action.is_contradicted_by(report):
                self._log.warning(
                    "a provider has accepted what was rejected before: no receipt says so", channel=name,
                    action_id=action.action_id, code=report.code,
                )  # fmt: skip
            else:
                receipts.append(receipt_of(report, action.action_id, action.user_id))
        first = self._writer.begin(self._events, receipts)
        second = self._writer.begin(self._unmatched, others)
        if failures := {**await first, **await second}:
            raise unavailable(f"it could not be stored: {next(iter(failures.values()))}")
        for report, action in zip(reports, found, strict=True):
            if action is None:
                self._metrics.unmatched(name)
            else:
                self._metrics.receipt(name, report.status)


def noted(channel: str, report: Report, now: int) -> Unmatched:
    """Return *report* as it is kept, within bounds."""
    at_ms = report.at_ms if report.at_ms is not None and 0 <= report.at_ms <= TIME_MS_MAX else now
    return Unmatched(
        channel, now, report.status[:64], at_ms, report.action_id[:TEXT_MAX], report.provider_id[:TEXT_MAX],
        report.code[:TEXT_MAX], report.detail[:TEXT_MAX], report.event_id[:TEXT_MAX],
    )  # fmt: skip
