"""What the demo promises: its shop, its screen, and examples that speak of what the shop sells."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from rich.console import Console

from dataflow.demo import FLOWS
from dataflow.demo.shop import DAY, EVENT_NAMES, HOUR, MINUTE, START_MS, Shop, ShopRecord, Tracker
from dataflow.demo.view import ChannelCounts, DemoSnapshot, DemoView, FlowCounts, ShownAction, mask, mask_address
from dataflow.flows import find_flows
from tests.jobs import NUDGE

ROOT = Path(__file__).parents[1]
EVENTS = ROOT / "examples" / "shop_events.py"
BUSY = Tracker(duplicates=0.05, late=0.05, broken=0.02)

Record = dict[str, Any]


def shop(*, seed: int = 1, users: int = 3000, rate: float = 2.0, tracker: Tracker | None = None) -> Shop:
    return Shop(seed=seed, users=users, events_per_s=rate, tracker=tracker)


def read(records: Iterator[ShopRecord]) -> list[Record]:
    return [orjson.loads(record.value) for record in records]


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


@pytest.fixture(scope="module")
def day() -> list[Record]:
    """A day and a half of a shop without any noise."""
    return read(shop().events(until_ms=START_MS + 36 * HOUR))


# --- The same seed, the same records --------------------------------------------------------------


@pytest.mark.parametrize("tracker", [None, BUSY])
def test_the_same_seed_gives_the_same_bytes_and_a_longer_stream_begins_with_the_shorter(
    tracker: Tracker | None,
) -> None:
    one = shop(seed=7, tracker=tracker)
    first = list(one.events(limit=3000))
    assert list(one.events(limit=3000)) == first
    assert list(shop(seed=7, tracker=tracker).events(limit=4000))[:3000] == first
    assert list(shop(seed=8, tracker=tracker).events(limit=3000)) != first


def shop_events(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, EVENTS, *arguments],
        check=False,
        capture_output=True,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
    )


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    outputs = {shop_events("--events", "500", "--seed", "3", hash_seed=hash_seed).stdout for hash_seed in ("1", "2")}
    assert len(outputs) == 1
    assert outputs.pop().count(b"\n") == 500


def test_the_start_moves_every_time_and_nothing_else_of_what_people_do() -> None:
    early, late = (Shop(seed=1, start_ms=START_MS + shift, users=500) for shift in (0, 7 * DAY))
    times = [[record.at_ms for record in one.events(limit=1000)] for one in (early, late)]
    assert times[1] == [at + 7 * DAY for at in times[0]]
    ids = [{record["message_id"] for record in read(one.events(limit=1000))} for one in (early, late)]
    assert not ids[0] & ids[1]


# --- Order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", [None, Tracker(), BUSY])
def test_records_come_in_order_of_stream_time(tracker: Tracker | None) -> None:
    times = [record.at_ms for record in shop(tracker=tracker).events(limit=20_000)]
    assert times == sorted(times)
    assert times[0] >= START_MS


def test_a_start_between_two_seconds_keeps_the_order() -> None:
    one = Shop(seed=1, users=300, start_ms=START_MS + 777, events_per_s=50, tracker=BUSY)
    times = [record.at_ms for record in one.events(limit=3000)]
    assert times == sorted(times)
    assert times[0] >= START_MS + 777


def test_until_is_excluded() -> None:
    records = list(shop().events(until_ms=START_MS + HOUR))
    following = list(shop().events(limit=len(records) + 1))[-1]
    assert records[-1].at_ms < START_MS + HOUR <= following.at_ms


# --- Native records -------------------------------------------------------------------------------


def test_every_record_is_native_and_the_perfect_tracker_sends_it_once_at_its_time() -> None:
    seen: set[str] = set()
    for at_ms, user_id, value in shop().events(limit=20_000):
        record = orjson.loads(value)
        assert b"\n" not in value
        assert record["user_id"] == user_id
        assert record["message_id"] not in seen
        seen.add(record["message_id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
        assert ms(record["timestamp"]) == at_ms
        if record.get("type") == "identify":
            assert set(record) == {"type", "message_id", "user_id", "timestamp", "traits"}
            assert record["traits"]
        else:
            assert record["event"] in EVENT_NAMES
            assert isinstance(record["properties"], dict)
            assert set(record) - {"traits"} == {
                "message_id", "user_id", "event", "timestamp", "properties", "context",
            }  # fmt: skip
            assert not [key for key in record["properties"] if key.startswith("$")]


def test_every_kind_of_event_comes(day: list[Record]) -> None:
    assert {record.get("event", "identify") for record in day} == {*EVENT_NAMES, "identify"}


# --- The noise of a real tracker ------------------------------------------------------------------


def test_without_its_noise_the_tracker_s_stream_is_the_perfect_one() -> None:
    until = START_MS + 6 * HOUR
    perfect = {record["message_id"]: record for record in read(shop().events(until_ms=until - HOUR))}
    sent: dict[str, Record] = {}
    for record in shop(tracker=BUSY).events(until_ms=until):
        try:
            whole = orjson.loads(record.value)
            ms(whole["timestamp"])
        except (orjson.JSONDecodeError, TypeError, ValueError):
            continue
        if whole["user_id"] is not None:
            del whole["received_at"]
            sent[whole["message_id"]] = whole
    assert {key: sent[key] for key in perfect} == perfect


def test_the_noise_has_its_shares() -> None:
    limit = 60_000
    copies: Counter[str] = Counter()
    late = broken = 0
    noisy = shop(tracker=Tracker(duplicates=0.02, late=0.03, broken=0.01))
    for at_ms, user_id, value in noisy.events(limit=limit):
        try:
            record = orjson.loads(value)
            delay = at_ms - ms(record["timestamp"])
            assert record["user_id"] == user_id
        except (orjson.JSONDecodeError, TypeError, ValueError, AssertionError):
            broken += 1
            continue
        assert ms(record["received_at"]) == at_ms
        assert 0 < delay < 30 * MINUTE + 30_000
        copies[record["message_id"]] += 1
        late += copies[record["message_id"]] == 1 and delay > 5000
    assert set(copies.values()) == {1, 2}
    assert sum(count - 1 for count in copies.values()) / limit == pytest.approx(0.02, rel=0.2)
    assert broken / limit == pytest.approx(0.01, rel=0.2)
    assert late / limit == pytest.approx(0.025, rel=0.3)  # The rest of the late ones come within 5 s.


# --- A lifelike shop ------------------------------------------------------------------------------


def test_the_day_has_the_events_that_were_ordered() -> None:
    count = sum(1 for _ in Shop(seed=5, users=10_000, events_per_s=2).events(until_ms=START_MS + DAY))
    assert count / 86_400 == pytest.approx(2, rel=0.07)


def test_evenings_are_busy_and_nights_are_quiet(day: list[Record]) -> None:
    hours = Counter((ms(record["timestamp"]) // HOUR + 8) % 24 for record in day[: len(day) * 2 // 3])
    assert hours[21] > 5 * hours[4]


def test_most_look_some_put_in_the_cart_and_fewer_buy(day: list[Record]) -> None:
    events = Counter(record.get("event", "identify") for record in day)
    assert 0.04 < events["add_to_cart"] / events["product_view"] < 0.12
    assert 0.2 < events["purchase"] / events["add_to_cart"] < 0.5
    assert events["begin_checkout"] > 1.3 * events["purchase"]
    assert 0.03 < events["return_request"] / events["order_delivered"] < 0.1
    assert events["remove_from_cart"] > 0
    assert events["sign_up"] > events["newsletter_subscribe"] > 0


def test_people_come_back_to_what_they_liked_and_some_fill_two_carts_and_leave_them(
    day: list[Record],
) -> None:
    carts: defaultdict[str, list[int]] = defaultdict(list)
    views: Counter[tuple[str, str]] = Counter()
    bought: defaultdict[str, list[int]] = defaultdict(list)
    for record in day:
        match record.get("event"):
            case "add_to_cart":
                carts[record["user_id"]].append(ms(record["timestamp"]))
            case "product_view":
                views[record["user_id"], record["properties"]["sku"]] += 1
            case "purchase":
                bought[record["user_id"]].append(ms(record["timestamp"]))
    twice = [
        (user, second)
        for user, times in carts.items()
        for first, second in pairwise(times)
        if second - first < 30 * MINUTE
    ]
    rescued = [1 for user, at in twice if any(at < then < at + 30 * MINUTE for then in bought[user])]
    assert len(twice) > 100
    assert 0.1 < len(rescued) / len(twice) < 0.8
    assert sum(1 for count in views.values() if count >= 3) > 100


def test_few_products_get_most_of_the_views_and_prices_spread_widely(day: list[Record]) -> None:
    views = Counter(r["properties"]["sku"] for r in day if r.get("event") == "product_view")
    ranked = [count for _, count in views.most_common()]
    assert sum(ranked[: len(ranked) // 5]) > 0.5 * sum(ranked)
    prices = sorted(
        {
            r["properties"]["sku"]: r["properties"]["price"]
            for r in day
            if r.get("event") == "product_view" and r["properties"]["currency"] == "CNY"
        }.values()
    )
    assert len(prices) == 400
    assert prices[0] > 0
    # Log-normal: a long tail upwards.
    assert prices[len(prices) // 2] < sum(prices) / len(prices) < prices[-1] / 4


def test_carts_and_orders_add_up(day: list[Record]) -> None:
    orders: dict[str, Record] = {}
    for record in day:
        properties = record.get("properties", {})
        match record.get("event"):
            case "add_to_cart" | "remove_from_cart":
                assert properties["amount"] == round(properties["price"] * properties["quantity"], 2)
            case "purchase":
                assert properties["order_id"] not in orders
                assert properties["items"] == len(properties["skus"]) > 0
                orders[properties["order_id"]] = record
            case "order_delivered" | "return_request" | "review":
                order = orders[properties["order_id"]]
                assert order["user_id"] == record["user_id"]
                assert ms(order["timestamp"]) < ms(record["timestamp"])


def test_members_are_identified_with_what_channels_and_flows_need(day: list[Record]) -> None:
    profiles: defaultdict[str, Record] = defaultdict(dict)
    signed_up = 0
    for record in day:
        profiles[record["user_id"]].update(record.get("traits", {}))
        if record.get("event") == "sign_up":  # The traits have come first.
            assert profiles[record["user_id"]]["name"]
            signed_up += 1
    members = [profile for profile in profiles.values() if "tier" in profile]
    assert signed_up > 20
    assert {profile["tier"] for profile in members} == {"bronze", "silver", "gold"}
    assert {profile["country"] for profile in members} == {"CN", "GB", "DE", "US"}
    for attribute, least in (("phone", 0.8), ("email", 0.8), ("push_token", 0.4), ("marketing_consent", 1)):
        assert sum(1 for profile in members if attribute in profile) >= least * len(members)
    for profile in members:
        assert profile.get("email", "@example.com").split("@")[1] in (
            "example.com",
            "example.org",
            "example.net",
        )
        # Numbers that nobody has.
        assert re.match(r"\+(86100|447700900|493023125|1\d{3}55501)", profile.get("phone", "+86100"))


def test_tiers_rise_with_what_was_spent(day: list[Record]) -> None:
    assert any(record.get("traits") == {"tier": "silver"} for record in day)


# --- The script of the examples, and what is refused --------------------------------------------------------


def test_the_script_writes_the_same_lines_as_write_jsonl(tmp_path: Path) -> None:
    made = shop_events("--events", "700", "--seed", "4", "--users", "900", "--rate", "3", "--perfect")
    size = shop(seed=4, users=900, rate=3).write_jsonl(tmp_path / "events.jsonl", 700)
    written = (tmp_path / "events.jsonl").read_bytes()
    assert made.stdout == written
    assert len(written) == size
    assert written.count(b"\n") == 700


def test_a_bad_start_or_size_is_refused_with_what_to_write() -> None:
    for arguments, message in (
        (["--start", "soon"], "write it as 2026-11-23T12:00:00Z"),
        (["--users", "0"], "at least 1 user"),
        (["--rate", "0"], "over 0"),
    ):
        refused = shop_events(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr.decode()


# --- The examples ---------------------------------------------------------------------------------


def _asked(node: Any) -> Iterator[tuple[str, Record]]:
    """Yield each event that a flow asks for, with its `where`."""
    if isinstance(node, dict):
        if isinstance(node.get("event"), str):
            yield node["event"], node.get("where") or {}
        for value in node.values():
            yield from _asked(value)
    elif isinstance(node, list):
        for value in node:
            yield from _asked(value)


@pytest.mark.parametrize("path", find_flows([FLOWS]), ids=lambda path: path.stem)
def test_an_example_flow_speaks_of_what_the_shop_sends(path: Path, day: list[Record]) -> None:
    properties: defaultdict[str, set[str]] = defaultdict(set)
    attributes: set[str] = set()
    for record in day:
        properties[record.get("event", "")].update(record.get("properties", {}))
        attributes.update(record.get("traits", {}))
    text = path.read_text()
    flow = yaml.safe_load(text)
    asked = list(_asked(flow))
    assert asked
    for event, where in asked:
        assert event in EVENT_NAMES
        assert set(where) <= properties[event]
    trigger = flow["trigger"]["event"]
    assert set(re.findall(r"\bentry\.(\w+)", text)) <= properties[trigger]
    all_texts = "".join(one.read_text() for one in path.parent.glob("*.yaml"))
    sets = re.findall(r"\bset: \{(.*)\}", all_texts)
    written = {key for step in sets for key in re.findall(r"(\w+):", step)}
    assert set(re.findall(r"\bprofile\.(\w+)", text)) <= attributes | written


def test_the_quick_start_shows_what_its_readme_says(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from dataflow.cli import main; main()",
                "simulate",
                "examples/quickstart",
            ),
            *("--events", "examples/quickstart/events.jsonl"),
            *(f"--{kind}={tmp_path / kind}" for kind in ("actions", "journal", "dead-letters")),
        ],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    actions, journal, dead = (
        [orjson.loads(line) for line in (tmp_path / kind).read_bytes().splitlines()]
        for kind in ("actions", "journal", "dead-letters")
    )
    assert [(a["user_id"], a["at"][11:16], a["vars"]["name"]) for a in actions] == [
        ("lina", "10:36", "Li Na"),
        ("kim", "10:54", "friend"),
    ]
    assert [record["user_id"] for record in journal if record["kind"] == "converted"] == ["tom"]
    suppressed = [(one["user_id"], one["reason"]) for one in journal if one["kind"] == "suppressed"]
    assert suppressed == [("max", "no_address")]
    assert "eve" not in {record["user_id"] for record in journal}
    assert [record["reason"] for record in dead] == ["no_user"]


# --- The screen of the demo -----------------------------------------------------------------------


def snapshot(*actions: ShownAction, flows: int = 3) -> DemoSnapshot:
    return DemoSnapshot(
        seconds=75.4,
        shop_at="2026-11-23T12:31:07.000Z",
        events_per_s=12_431.4,
        history=[0.0, 5000.0, 12_431.4],
        events=284_113,
        relevant_share=0.1123,
        flows=[FlowCounts(f"flow-{number}", 4, 10, 6, 2, 1) for number in range(flows)],
        actions=actions,
        dead_letters=3,
        channels=[
            ChannelCounts("email", 2, {"accepted": 2, "delivered": 1, "opened": 1}, instead=1),
            ChannelCounts("sms", 4, {"accepted": 2, "rejected": 1, "unknown": 1, "failed": 1}, moved=1),
            ChannelCounts("webhook"),
        ],
    )


def action(**changed: Any) -> ShownAction:
    record = {
        **{"at": "2026-11-23T12:30:59.000Z", "user_id": "u-1", "channel": "sms", "template": "cart-reminder"},
        **{"flow": "flow-0", "to": "+8613812340000", "vars": {"item": "Tea Set"}, "action_id": "9f"},
    }
    return ShownAction.of({**record, **changed})


def drawn(width: int, height: int, what: DemoSnapshot, *, flows: int = 3) -> str:
    console = Console(width=width, height=height, record=True, file=StringIO())
    console.print(DemoView(console, [f"flow-{number}" for number in range(flows)]).render(what))
    return console.export_text()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (104, 30), (200, 60), (60, 16), (40, 10)])
@pytest.mark.parametrize("flows", [1, 3, 30])
@pytest.mark.parametrize("actions", [0, 100])
def test_the_picture_fits_the_screen(size: tuple[int, int], flows: int, actions: int) -> None:
    width, height = size
    what = snapshot(*[action(vars={"text": "many words " * 50})] * actions, flows=flows)
    lines = drawn(width, height, what, flows=flows).rstrip("\n").split("\n")
    assert len(lines) == height - 1
    assert {len(line) for line in lines} == {width}


def test_the_picture_says_what_happens() -> None:
    text = drawn(80, 24, snapshot(action()))
    for shown in (
        "flow-0",
        "284,113 events",
        "11.2% relevant",
        "3 dead letters",
        "12,431",
        "Mon 23 Nov 12:31:07",
    ):
        assert shown in text
    for shown in ("20%", "12:30:59", "cart-reminder", "item Tea Set", "6 actions", "1 min 15 s"):
        assert shown in text


@pytest.mark.parametrize(
    ("width", "headings", "sms"),
    [
        (60, "channel actions rejected delivered failed instead", "sms 4 1 0 1 0"),
        (
            80,
            "channel actions accepted rejected unknown delivered failed moved on instead",
            "sms 4 2 1 1 0 1 1 0",
        ),
        (
            120,
            "channel actions accepted rejected unknown delivered failed opened clicked moved on instead",
            "sms 4 2 1 1 0 1 0 0 1 0",
        ),
    ],
)
def test_the_picture_says_what_became_of_the_actions_of_each_channel(width: int, headings: str, sms: str) -> None:
    lines = [" ".join(line.strip("│ ").split()) for line in drawn(width, 30, snapshot(action())).splitlines()]
    place = lines.index(headings)
    assert lines[place + 1].startswith("email 2")
    assert lines[place + 2] == sms
    assert lines[place + 3].startswith("webhook 0")
    assert any("9 receipts" in line for line in lines)


def test_where_there_is_no_room_for_channels_their_actions_are_counted_below_the_others() -> None:
    text = drawn(80, 16, snapshot(action()))
    assert "rejected" not in text
    assert "email 2  sms 4" in text


def test_the_plain_table_says_what_became_of_the_actions_of_each_channel() -> None:
    assert DemoView(Console(), []).render_channels(snapshot()).splitlines() == [
        "channel  actions  accepted  rejected  unknown  delivered  failed  opened  moved on  instead",
        "email          2         2         0        0          1       0       1         0        1",
        "sms            4         2         1        1          0       1       0         1        0",
        "webhook        0         0         0        0          0       0       0         0        0",
    ]


def test_a_flow_has_the_same_name_in_the_whole_picture() -> None:
    assert drawn(120, 30, snapshot(action())).count("flow-0") == 2, "among the flows, and with the action"


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (60, "time     channel template         variables"),
        (80, "time     channel user      template         variables"),
        (120, "time      channel  user       address             template          flow             variables"),
    ],
)
def test_the_columns_of_actions_have_headings(width: int, headings: str) -> None:
    lines = drawn(width, 24, snapshot(action())).splitlines()
    (place,) = [number for number, line in enumerate(lines) if headings in line]
    assert lines[place].index("time") == lines[place + 1].index("12:30:59")
    assert lines[place].index("template") == lines[place + 1].index("cart-reminder")


def test_actions_are_shown_in_order_of_time_the_newest_last() -> None:
    minutes = (31, 29, 30)
    what = snapshot(*(action(at=f"2026-11-23T12:{minute}:00.000Z", template=f"t-{minute}") for minute in minutes))
    found = re.findall(r"t-\d\d", drawn(80, 24, what))
    assert found == ["t-29", "t-30", "t-31"]
    assert "last: sms t-31" in DemoView(Console(), ["flow-0"]).render_line(what)
    assert set(re.findall(r"t-\d\d", drawn(80, 16, snapshot(*what.actions * 20)))) == {"t-31"}, "the older ones go"


def test_the_last_picture_stays_on_the_terminal_after_ctrl_c(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    demo = subprocess.Popen([*NUDGE, "demo"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        shown = b""
        while b"Actions" not in shown:  # The first picture.
            shown += os.read(ours, 65_536)
        demo.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # As a terminal ends whose last writer is gone.
            while more := os.read(ours, 65_536):
                shown += more
        assert demo.wait(timeout=60) == 0
    finally:
        demo.kill()
        os.close(ours)
    *_, after = shown.decode().split("\x1b[?1049l")  # Back from the screen that is for pictures alone.
    for part in ("Nudge demo", "ended", "Flows", "abandoned-cart", "Actions"):
        assert part in after


def test_a_flow_without_counts_is_there_from_the_beginning() -> None:
    assert "flow-2" in drawn(80, 24, snapshot(flows=0), flows=3)


def test_the_plain_line_says_the_same() -> None:
    line = DemoView(Console(), ["flow-0"]).render_line(snapshot(action()))
    assert line == (
        "75 s | shop time Mon 23 Nov 12:31:07 | 284,113 events (12,431/s, 11.2% relevant) | "
        "6 actions (email 2, sms 4) | 9 receipts | 12 inside | 6 converted | 3 dead letters | "
        "last: sms cart-reminder to u-1"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("+8613812340000", "+86138****0000"),
        ("+447700900018", "+4477****0018"),
        ("13812340000", "138****0000"),
        ("jane.doe@example.com", "j***@example.com"),
        ("ab12cd34ef56ab78", "ab12***"),
        ("oX-1", "o***"),
        ("x", "***"),
        ("", ""),
        (None, ""),
    ],
)
def test_addresses_are_masked(address: str | None, shown: str) -> None:
    assert mask_address(address) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("call +86 138 1234 0000 now", "call +86 13****0000 now"),
        ("or 138 1234 0000, j@example.org", "or 138 1****0000, j***@example.org"),
        ("order o-20780-855 of 2026-11-23, 140.9 CNY", "order o-20780-855 of 2026-11-23, 140.9 CNY"),
        ("\x1b[2Jgone\u202e", " [2Jgone "),
    ],
)
def test_personal_data_in_texts_is_masked_and_the_rest_is_not(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_nothing_personal_and_no_control_character_reaches_the_screen() -> None:
    hostile = action(
        user_id="u-\x1b[31m",
        template="t\nnew line",
        vars={"name": "Li Na", "phone": "+8613812340000", "note": "mail jane@example.com\r\x1b]0;title\x07"},
    )
    for width in (80, 120, 250):
        text = drawn(width, 24, snapshot(hostile))
        for personal in ("Li Na", "13812340000", "jane@"):
            assert personal not in text
        assert "\x1b" not in text
        assert "\r" not in text
    assert "\x1b" not in DemoView(Console(), []).render_line(snapshot(hostile))
