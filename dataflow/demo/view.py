"""The live screen of `nudge demo`: numbers in, a picture out; it reads no clock and keeps nothing.

What it shows of a person is masked, since screens are shared and recorded. What it shows of an event is
cleaned of control characters, since events come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

HISTORY_MAX: Final = 120  # More samples than this no screen shows.

_WIDE: Final = 104  # Columns from which on there is room for addresses and flow names.
_NARROW: Final = 70  # Below that, user ids and the last counts go.
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_BLOCKS_ASCII: Final = "_.-:=+*#"
_FLOW_STYLES: Final = ("bright_blue", "bright_magenta", "yellow", "bright_cyan", "bright_green", "bright_red")
_CHANNEL_STYLES: Final = {
    "sms": "green",
    "email": "cyan",
    "push": "magenta",
    "wechat": "bright_green",
    "webhook": "yellow",
    "kafka": "yellow",
    "coupon": "bright_yellow",
}

CHANNELS_SHOWN: Final = 6
_ALWAYS: Final = ("accepted", "rejected", "unknown", "delivered", "failed")
_STATUSES: Final = (*_ALWAYS, "opened", "clicked")
_STATUSES_NARROW: Final = ("rejected", "delivered", "failed")
_STATUS_STYLES: Final = {"rejected": "red", "unknown": "yellow", "delivered": "green", "failed": "red"}


@dataclass(frozen=True, slots=True)
class FlowCounts:
    """What one flow has done so far; `inside` is now, the others are totals."""

    flow: str
    inside: int = 0
    entered: int = 0
    sent: int = 0
    converted: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """What has become of one channel's actions so far.

    `statuses` counts the receipts that the job has taken, by status; `moved` the journeys that went on because of one;
    `instead` the actions that go here because a message elsewhere has failed.
    """

    channel: str
    actions: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    moved: int = 0
    instead: int = 0


@dataclass(frozen=True, slots=True)
class ShownAction:
    """An action, as far as the screen shows it. Hand it over as it is; the view masks."""

    at: str
    user_id: str
    channel: str
    template: str
    flow: str
    to: str | None
    vars: Mapping[str, object]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ShownAction:
        """Return what is shown of an action *record* (see `docs/records.md`)."""
        return cls(
            at=record["at"],
            user_id=record["user_id"],
            channel=record["channel"],
            template=record["template"],
            flow=record["flow"],
            to=record["to"],
            vars=record["vars"],
        )


@dataclass(frozen=True, slots=True)
class DemoSnapshot:
    """The demo at one moment.

    Args:
        seconds: for how long it has been running.
        shop_at: the shop's clock, ISO 8601; "" before the first event.
        events_per_s: the speed now, by the wall clock.
        history: earlier speeds, oldest first, about one for each picture.
        events: how many records have been read.
        relevant_share: which part of them satisfied a condition of any flow, 0 to 1.
        flows: the counts, in any order; flows without counts are shown as zero.
        actions: the latest ones, in any order; some 40 fill any screen.
        dead_letters: how many records could not be read.
        channels: what became of the actions of each channel, in the order to show them.
    """

    seconds: float
    shop_at: str
    events_per_s: float
    history: Sequence[float]
    events: int
    relevant_share: float
    flows: Sequence[FlowCounts]
    actions: Sequence[ShownAction]
    dead_letters: int
    channels: Sequence[ChannelCounts]

    @property
    def sent(self) -> int:
        """How many actions there are."""
        return sum(one.actions for one in self.channels)

    @property
    def receipts(self) -> int:
        """How many receipts came back."""
        return sum(sum(one.statuses.values()) for one in self.channels)


class DemoView:
    """Draws snapshots as large as *console* is; *flows* names the flows, in the order to show them."""

    def __init__(self, console: Console, flows: list[str]) -> None:
        self._console = console
        self._flows = list(flows)

    def render(self, snapshot: DemoSnapshot, *, is_last: bool = False) -> RenderableType:
        """Return the picture of *snapshot*: as high as the console, less the line for the cursor."""
        width, height = self._console.size
        ascii_only = self._console.options.ascii_only
        height = max(height - 1, 9)
        flow_rows = max(1, min(len(self._flows), (height - 7) // 2, height - 4 - 3 - 5))
        header = self._header(snapshot, width, ascii_only, "ended" if is_last else "Ctrl-C ends it")
        flows = self._flow_table(snapshot, width, flow_rows, ascii_only)
        rest = height - 4 - (flow_rows + 3)
        if rest < 4:  # Too low a terminal for everything: the flows go.
            return Group(header, self._action_list(snapshot, width, height - 4, ascii_only))
        channel_rows = min(len(snapshot.channels), CHANNELS_SHOWN)
        if not channel_rows or rest - (channel_rows + 3) < 5:  # Then their counts stand below the actions.
            return Group(header, flows, self._action_list(snapshot, width, rest, ascii_only))
        channels = self._channel_table(snapshot, width, channel_rows)
        return Group(
            header, flows, channels, self._action_list(snapshot, width, rest - (channel_rows + 3), ascii_only, note="")
        )

    def render_line(self, snapshot: DemoSnapshot) -> str:
        """Return *snapshot* as one line, for output that is no terminal."""
        speed = f"{snapshot.events_per_s:,.0f}/s"
        channels = ", ".join(f"{one.channel} {one.actions:,}" for one in snapshot.channels if one.actions)
        parts = [
            f"{snapshot.seconds:.0f} s",
            f"shop time {_clock(snapshot.shop_at)}",
            f"{snapshot.events:,} events ({speed}, {snapshot.relevant_share:.1%} relevant)",
            f"{snapshot.sent:,} actions" + (f" ({channels})" if channels else ""),
            f"{snapshot.receipts:,} receipts",
            f"{sum(flow.inside for flow in snapshot.flows):,} inside",
            f"{sum(flow.converted for flow in snapshot.flows):,} converted",
            f"{snapshot.dead_letters:,} dead letters",
        ]
        if snapshot.actions:
            last = _in_order(snapshot.actions)[-1]
            parts.append(f"last: {_clean(last.channel)} {_clean(last.template)} to {_clean(last.user_id)}")
        return " | ".join(parts)

    def render_channels(self, snapshot: DemoSnapshot) -> str:
        """Return what has become of the actions as a table of plain text."""
        statuses = [
            one
            for one in _STATUSES
            if one in _ALWAYS or any(channel.statuses.get(one) for channel in snapshot.channels)
        ]
        rows = [["channel", "actions", *statuses, "moved on", "instead"]]
        for one in snapshot.channels:
            counts = (one.actions, *(one.statuses.get(status, 0) for status in statuses), one.moved, one.instead)
            rows.append([_clean(one.channel), *(f"{count:,}" for count in counts)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)

    # --- The four parts ---------------------------------------------------------------------------

    def _header(self, snapshot: DemoSnapshot, width: int, ascii_only: bool, note: str) -> Panel:
        speed = Text.assemble(
            (_spark(snapshot.history, max(8, width // 4), ascii_only), "bright_blue"),
            "  ",
            (f"{snapshot.events_per_s:,.0f}", "bold bright_white"),
            (" events/s", "dim"),
        )
        clock = Text.assemble(("shop time ", "dim"), (_clock(snapshot.shop_at), "bold"))
        alarm = "bold red" if snapshot.dead_letters else "bold"
        counts = _joined(
            [
                _count(snapshot.events, "events"),
                Text.assemble((f"{snapshot.relevant_share:.1%}", "bold"), (" relevant", "dim")),
                _count(snapshot.sent, "actions"),
                _count(snapshot.dead_letters, "dead letters", alarm),
            ],
            "  ",
        )
        room = width - 4
        running = Text(_running(snapshot.seconds), "dim")
        lines = Group(_spread(speed, clock, room), _spread(counts, running, room))
        return _framed(lines, "Nudge demo", note, height=4)

    def _flow_table(self, snapshot: DemoSnapshot, width: int, rows: int, ascii_only: bool) -> Panel:
        is_wide, is_narrow = width >= _WIDE, width < _NARROW
        table = Table(box=None, expand=True, padding=(0, 0, 0, 2), pad_edge=False, header_style="dim")
        table.add_column("", width=1)
        table.add_column("flow", ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        headings = ("inside", "entered", "sent", "refused", "converted")
        for heading in headings[: 3 if is_narrow else 5]:
            table.add_column(heading, justify="right", no_wrap=True)
        if is_wide:
            table.add_column("", width=14, no_wrap=True)
        counts = {flow.flow: flow for flow in snapshot.flows}
        hidden = len(self._flows) - rows
        for number, name in enumerate(self._flows[:rows]):
            flow = counts.get(name) or FlowCounts(name)
            share = flow.converted / flow.entered if flow.entered else 0.0
            cells = [
                Text(_dot(ascii_only), _flow_style(number)),
                Text(_clean(name), "bold"),
                Text(f"{flow.inside:,}", "bold bright_white"),
                Text(f"{flow.entered:,}"),
                Text(f"{flow.sent:,}"),
            ]
            if not is_narrow:
                cells.append(Text(f"{flow.refused:,}", "dim"))
                cells.append(Text.assemble((f"{flow.converted:,}", "green"), (f" {share:>4.0%}", "dim")))
            if is_wide:
                cells.append(_bar(share, 14, ascii_only))
            table.add_row(*cells)
        return _framed(table, "Flows", f"and {hidden} more" if hidden > 0 else "", height=rows + 3)

    def _channel_table(self, snapshot: DemoSnapshot, width: int, rows: int) -> Panel:
        is_wide, is_narrow = width >= _WIDE, width < _NARROW
        table = Table(box=None, expand=True, padding=(0, 0, 0, 2 if is_wide else 1), pad_edge=False, header_style="dim")
        table.add_column("channel", ratio=1, no_wrap=True, overflow="ellipsis", min_width=7)
        statuses = _STATUSES if is_wide else _STATUSES_NARROW if is_narrow else _ALWAYS
        for heading in ("actions", *statuses, *(() if is_narrow else ("moved on",)), "instead"):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in snapshot.channels[:rows]:
            cells = [Text(_clean(one.channel), _channel_style(one.channel)), Text(f"{one.actions:,}", "bold")]
            for status in statuses:
                count = one.statuses.get(status, 0)
                cells.append(Text(f"{count:,}", _STATUS_STYLES.get(status, "") if count else "dim"))
            if not is_narrow:
                cells.append(Text(f"{one.moved:,}"))
            cells.append(Text(f"{one.instead:,}", "bold" if one.instead else "dim"))
            table.add_row(*cells)
        return _framed(table, "Channels", f"{snapshot.receipts:,} receipts", height=rows + 3)

    def _action_list(
        self, snapshot: DemoSnapshot, width: int, height: int, ascii_only: bool, note: str | Text | None = None
    ) -> Panel:
        if note is None:
            note = _joined(
                [
                    Text.assemble((_clean(one.channel), _channel_style(one.channel)), (f" {one.actions:,}", "bold"))
                    for one in snapshot.channels
                    if one.actions
                ],
                "  ",
            )
        rows = height - 3  # Two for the frame, one for the headings.
        body: RenderableType
        if snapshot.actions:
            body = self._action_table(_in_order(snapshot.actions)[-rows:], width, ascii_only)
        else:
            body = Text("None yet. The first come when users have done enough to enter a flow.", "dim italic")
        return _framed(body, "Actions", note, height=height)

    def _action_table(self, actions: Iterable[ShownAction], width: int, ascii_only: bool) -> Table:
        is_wide, is_narrow = width >= _WIDE, width < _NARROW
        table = Table(box=None, expand=True, padding=(0, 2 if is_wide else 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", width=1)
        table.add_column("time", width=8, no_wrap=True, style="dim")
        table.add_column("channel", width=7, no_wrap=True)
        if not is_narrow:
            table.add_column("user", width=9, no_wrap=True, overflow="ellipsis")
        if is_wide:
            table.add_column("address", width=18, no_wrap=True, overflow="ellipsis", style="dim")
        table.add_column("template", width=16, no_wrap=True, overflow="ellipsis", style="bold")
        if is_wide:
            table.add_column("flow", width=15, no_wrap=True, overflow="ellipsis", style="dim")
        table.add_column("variables", ratio=1, no_wrap=True, overflow="ellipsis")
        numbers = {name: number for number, name in enumerate(self._flows)}
        for action in actions:
            cells = [
                Text(_dot(ascii_only), _flow_style(numbers.get(action.flow, 0))),
                Text(_time_of_day(action.at)),
                Text(_clean(action.channel), _channel_style(action.channel)),
            ]
            if not is_narrow:
                cells.append(Text(_clean(action.user_id)))
            if is_wide:
                cells.append(Text(mask_address(action.to)))
            cells.append(Text(_clean(action.template)))
            if is_wide:
                cells.append(Text(_clean(action.flow)))
            cells.append(Text(_words(action.vars)))
            table.add_row(*cells)
        return table


# --- What is personal -----------------------------------------------------------------------------

_MAIL: Final = re.compile(r"([^\s@]{1,64})@([^\s@]{1,255})")
_PHONE: Final = re.compile(
    r"\+\d[\d ()-]{4,20}\d"  # International.
    r"|(?<![\w.+-])1\d\d[ -]?\d{4}[ -]?\d{4}(?!\w)"  # A Chinese mobile, with or without gaps.
    r"|(?<![\w.+-])\d{7,15}(?![\w.])"  # Any other long number.
)
_NAME_KEYS: Final = frozenset(("name", "first_name", "last_name", "full_name", "nickname", "recipient"))
_SHOWN_MAX: Final = 200  # Characters of a value that are looked at; no screen shows more.


def mask(text: str) -> str:
    """Return *text* with the phone numbers and mail addresses in it masked, and no control characters."""
    text = _clean(text[:_SHOWN_MAX])
    text = _MAIL.sub(lambda found: f"{found[1][0]}***@{found[2]}", text)
    return _PHONE.sub(lambda found: _mask_phone(found[0]), text)


def mask_address(address: str | None) -> str:
    """Return *address*, of any channel, made useless: `+86138****0000`, `j***@example.com`, `ab12***`."""
    if not address:
        return ""
    masked = mask(address)
    return masked if masked != _clean(address[:_SHOWN_MAX]) else masked[: min(4, len(masked) // 3)] + "***"


def _mask_phone(phone: str) -> str:
    head = max(0, min(6, len(phone) - 8))
    return f"{phone[:head]}****{phone[-min(4, len(phone) // 2) :]}"


def _words(variables: Mapping[str, object]) -> str:
    """Return the variables of an action in a few words, people's names masked and last."""
    parts, names = [], []
    for key, value in islice(variables.items(), 6):
        text = value if isinstance(value, str) else str(value)
        if key.lower() in _NAME_KEYS:
            names.append(f"{_clean(key)} {_clean(text[:1])}***")
        else:
            parts.append(f"{_clean(key[:40])} {mask(text)}")
    return " · ".join(parts + names)


def _clean(text: str) -> str:
    """Return *text* without what could move the cursor or turn the writing round."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


# --- Small pieces ---------------------------------------------------------------------------------


def _framed(body: RenderableType, title: str, note: str | Text, *, height: int) -> Panel:
    """Return *body* in a frame, with *note* at the right of the lower edge."""
    return Panel(
        body,
        title=Text(title, "bold"),
        title_align="left",
        subtitle=note or None,
        subtitle_align="right",
        border_style="bright_black",
        box=ROUNDED,
        height=height,
        padding=(0, 1),
    )


def _spread(left: Text, right: Text, width: int) -> Text:
    """Return a line of *width* with *left* and *right* at its ends; if it is too short, *left* is cut."""
    room = width - right.cell_len - 2
    if room < 12:
        room, right = width, Text("")
    left = left.copy()
    left.truncate(room, overflow="ellipsis", pad=True)
    gap = " " * (width - room - right.cell_len)
    return Text.assemble(left, gap, right, no_wrap=True, overflow="ellipsis")


def _spark(history: Sequence[float], width: int, ascii_only: bool) -> str:
    """Return the last *width* samples as little columns over zero, with some room above the highest."""
    blocks = _BLOCKS_ASCII if ascii_only else _BLOCKS
    samples = list(history[-min(width, HISTORY_MAX) :])
    top = max(samples, default=0.0) * 1.15
    if top <= 0:
        return blocks[0] * width
    columns = "".join(blocks[min(len(blocks) - 1, int(max(0.0, one) / top * len(blocks)))] for one in samples)
    return blocks[0] * (width - len(columns)) + columns


def _bar(share: float, width: int, ascii_only: bool) -> Text:
    full = round(min(max(share, 0.0), 1.0) * width)
    return Text.assemble(
        (("#" if ascii_only else "━") * full, "green"),
        (("." if ascii_only else "─") * (width - full), "bright_black"),
    )


def _count(count: int, what: str, style: str = "bold") -> Text:
    return Text.assemble((f"{count:,}", style), (f" {what}", "dim"))


def _joined(parts: Sequence[Text], between: str) -> Text:
    return Text(between).join(parts)


def _in_order(actions: Sequence[ShownAction]) -> list[ShownAction]:
    """Return *actions* in order of time: they come from topics of several channels, each in an order of its own."""
    return sorted(actions, key=lambda action: action.at)


def _dot(ascii_only: bool) -> str:
    return "*" if ascii_only else "●"


def _flow_style(number: int) -> str:
    return _FLOW_STYLES[number % len(_FLOW_STYLES)]


def _channel_style(channel: str) -> str:
    return _CHANNEL_STYLES.get(channel, "white")


def _clock(at: str) -> str:
    """Return an ISO time as people read it."""
    try:
        return datetime.fromisoformat(at).strftime("%a %d %b %H:%M:%S")
    except ValueError:
        return _clean(at) or "--:--:--"


def _time_of_day(at: str) -> str:
    return _clean(at[11:19])


def _running(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
