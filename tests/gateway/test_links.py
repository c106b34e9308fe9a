"""Clicks, unsubscribes and opens: only what we have signed counts, and what it says goes to the job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.channels.base import Secret
from connectors.formats import native
from connectors.kafka_writer import WriteFailed
from connectors.tokens import LINK, OPEN, UNSUBSCRIBE, Token, make_link, make_token, read_link
from dataflow.deliver.config import delivered
from dataflow.deliver.links import Links as Linked
from dataflow.deliver.links import is_target
from dataflow.errors import UsageError
from dataflow.gateway.links import PIXEL, Links
from state.iso import format_ms
from state.records import IDENTIFY, RECEIPT, Record
from tests.delivery.actions import action
from tests.gateway.doors import NOW_MS, Door, Gateway
from tests.kafka.broker import KafkaTopics

KEY = "the-key-of-the-links"
OLD = "an-older-key-of-them"
LINA = Token(action("a").action_id, "lina", "email", "marketing")
SHOP = "https://shop.example.com/cart?id=7&x=%C3%A4#top"


class World:
    def __init__(self, door: Door) -> None:
        self.door = door
        consent = {"marketing": ("marketing_consent",)}

        def more() -> Any:
            secrets = [Secret(key, "from a test") for key in (KEY, OLD)]
            links = Links(secrets, door.broker, "events", consent, door.metrics, lambda: NOW_MS)  # type: ignore[arg-type]
            return [
                ("/l", "/l/{code}", links.click, ("GET",)),
                ("/u", "/u/{token}", links.unsubscribe_or_ask, ("GET", "POST")),
                ("/o", "/o/{token}", links.open, ("GET",)),
            ]

        door.more_of = more

    def asked(self, method: str, path: str, **more: Any) -> httpx.Response:
        found: httpx.Response = self.door.ask(lambda client: client.request(method, path, **more))
        return found

    def stored(self) -> list[dict[str, Any]]:
        for topic, key, value in self.door.broker.stored:
            read = native.decode(value)
            assert isinstance(read, Record)
            assert (topic, key, read.kind in (RECEIPT, IDENTIFY)) == ("events", read.user_id, True)
        return [json.loads(value) for _, _, value in self.door.broker.stored]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(Door(monkeypatch, tmp_path))


def receipt(status: str, **more: str) -> dict[str, str]:
    found = {"action_id": LINA.action_id, "user_id": "lina", "status": status, "code": "", "detail": ""}
    return {**found, "message_id": f"{LINA.action_id}/{status}", "timestamp": format_ms(NOW_MS), **more}


def test_an_address_that_is_not_all_ascii_is_written_as_browsers_do(world: World) -> None:
    target = "HTTPS://shop.example.com/k\u00e4se?a=1&b=%C3%BC|\u00fc#x"
    answer = world.asked("GET", f"/l/{make_link(KEY, LINA, target)}")
    assert answer.headers["location"] == "HTTPS://shop.example.com/k%C3%A4se?a=1&b=%C3%BC|%C3%BC#x"
    assert is_target("HTTPS://shop.example.com/")


@pytest.mark.parametrize("key", [KEY, OLD])
def test_a_click_leads_on_and_is_a_receipt(world: World, key: str) -> None:
    answer = world.asked("GET", f"/l/{make_link(key, LINA, SHOP)}")
    assert (answer.status_code, answer.headers["location"]) == (302, SHOP)
    (one,) = world.stored()
    assert one.pop("message_id").startswith(f"{LINA.action_id}/clicked/")
    wanted = receipt("clicked", detail=SHOP)
    wanted.pop("message_id")
    assert one == wanted


def test_clicks_on_one_link_are_one_receipt_and_on_two_are_two(world: World) -> None:
    for target in (SHOP, SHOP, "https://shop.example.com/other"):
        world.asked("GET", f"/l/{make_link(KEY, LINA, target)}")
    assert len({one["message_id"] for one in world.stored()}) == 2


def test_who_only_looks_at_a_link_or_a_pixel_has_done_nothing(world: World) -> None:
    assert world.asked("HEAD", f"/l/{make_link(KEY, LINA, SHOP)}").status_code == 302
    assert world.asked("HEAD", f"/o/{make_token(KEY, OPEN, LINA)}").status_code == 200
    assert world.stored() == []


def test_following_the_link_asks_and_only_a_post_unsubscribes(world: World) -> None:
    path = f"/u/{make_token(KEY, UNSUBSCRIBE, LINA)}"
    asked = world.asked("GET", path)
    assert (asked.status_code, world.stored()) == (200, [])
    assert re.search(r'<form method="post"><button>', asked.text)
    assert "form-action 'self'" in asked.headers["content-security-policy"]
    head = {"content-type": "application/x-www-form-urlencoded"}
    done = world.asked("POST", path, content=b"List-Unsubscribe=One-Click", headers=head)
    assert done.status_code == 200
    consent = {
        "type": "identify", "user_id": "lina", "traits": {"marketing_consent": False},
        "message_id": f"{LINA.action_id}/unsubscribed/consent", "timestamp": format_ms(NOW_MS),
    }  # fmt: skip
    assert world.stored() == [receipt("unsubscribed"), consent]


def test_where_no_attribute_says_it_unsubscribing_is_a_receipt_alone(world: World) -> None:
    token = make_token(KEY, UNSUBSCRIBE, LINA._replace(category="notification"))
    assert world.asked("POST", f"/u/{token}").status_code == 200
    assert world.stored() == [receipt("unsubscribed")]


def test_the_pixel_is_a_picture_and_a_receipt(world: World) -> None:
    answer = world.asked("GET", f"/o/{make_token(KEY, OPEN, LINA)}")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/gif", PIXEL)
    assert answer.headers["cache-control"] == "no-store"
    assert world.stored() == [receipt("opened")]


def test_what_we_have_not_signed_for_this_is_nothing(world: World) -> None:
    wrong = [
        f"/l/{make_link('somebody elses key', LINA, 'https://evil.example.com')}", "/l/https:%2F%2Fevil.example.com",
        f"/l/{make_token(KEY, OPEN, LINA)}", f"/u/{make_token(KEY, OPEN, LINA)}", f"/o/{make_token(KEY, LINK, LINA)}",
        f"/u/{make_token(KEY, UNSUBSCRIBE, LINA)}x", "/u/x", "/o/", f"/o/{'A' * 5000}",
    ]  # fmt: skip
    for path in wrong:
        for method in ("GET", "POST") if path.startswith("/u/") else ("GET",):
            assert world.asked(method, path).status_code == 404, path
    assert world.stored() == []


def test_what_could_not_be_stored_is_no_success_but_nobody_is_left_alone(world: World) -> None:
    world.door.broker.fails = lambda place, value: WriteFailed("away")
    clicked = world.asked("GET", f"/l/{make_link(KEY, LINA, SHOP)}")
    assert clicked.status_code == 503
    assert '<a href="https://shop.example.com/cart?id=7&amp;x=%C3%A4#top"' in clicked.text
    assert world.asked("POST", f"/u/{make_token(KEY, UNSUBSCRIBE, LINA)}").status_code == 503
    assert world.asked("GET", f"/o/{make_token(KEY, OPEN, LINA)}").status_code == 503


def linked(*names: str) -> Linked:
    given = {"base": "https://s.example.com/", "key": {"env": "K"}, "vars": list(names)}
    return Linked.model_validate(given, context={"environment": {"K": KEY}})


def test_deliver_puts_links_where_addresses_were_the_same_on_each_attempt() -> None:
    one = action("a", "lina", "sms", vars={"url": SHOP, "name": "Lina", "n": 3, "old": "ftp://x", "bad": "https://a b"})
    found = linked("url", "name", "n", "old", "bad", "missing").put_into(one)
    assert found.vars == {**one.vars, "url": found.vars["url"]}
    base, code = found.vars["url"].rsplit("/l/", 1)
    assert (base, read_link([KEY], code)) == (
        "https://s.example.com", (Token(one.action_id, "lina", "sms", "marketing"), SHOP),
    )  # fmt: skip
    assert linked("url").put_into(one).vars["url"] == found.vars["url"]
    assert one.vars["url"] == SHOP
    assert linked("missing").put_into(one) is one


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"base": "s.example.com", "key": {"env": "K"}, "vars": ["url"]}, r"deliver.links.base: .* is no address"),
        ({"base": "https://s.example.com", "vars": ["url"]}, r"deliver.links.key: it is missing"),
        ({"base": "https://s.example.com", "key": {"env": "SHORT"}, "vars": ["url"]}, r"links.key: .* 16 characters"),
        ({"base": "https://s.example.com", "key": {"env": "K"}, "vars": []}, r"deliver.links.vars"),
    ],
)  # fmt: skip
def test_links_that_mean_nothing_are_refused_at_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, links: Any, said: str
) -> None:
    monkeypatch.setenv("K", KEY)
    monkeypatch.setenv("SHORT", "short")
    written = {"provider": "webhook", "url": "https://x.example.com", "links": links}
    with pytest.raises(UsageError, match=said):
        delivered("sms", "actions.sms", written, tmp_path, lambda: 0, lambda: "")


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_a_gateway_with_a_key_for_links_answers_them(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> None:
    broker.create_topic(f"{topic_prefix}events", 1)
    workspace = {"consent": {"marketing": "profile.wants.mails"}, "gateway": {"link_key": {"env": "LINKS"}}}
    (tmp_path / "nudge.yaml").write_text(json.dumps(workspace))
    one = Gateway(broker, topic_prefix, tmp_path, LINKS=KEY)
    clicked = httpx.get(f"{one.url}/l/{make_link(KEY, LINA, SHOP)}")
    assert (clicked.status_code, clicked.headers["location"]) == (302, SHOP)
    assert httpx.post(f"{one.url}/u/{make_token(KEY, UNSUBSCRIBE, LINA)}").status_code == 200
    assert one.stop() == 0, one.tail()
    found = [json.loads(record.value or b"") for record in broker.read_all(f"{topic_prefix}events")]
    assert [one.get("status") for one in found] == ["clicked", "unsubscribed", None]
    assert found[2]["traits"] == {"wants": {"mails": False}}
