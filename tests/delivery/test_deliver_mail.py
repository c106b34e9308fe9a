"""`nudge deliver` with e-mail: killed while a message is under way, it is known that nobody knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from state.outgoing import Action
from tests.delivery.actions import action
from tests.delivery.jobs import Delivery, receipts, send
from tests.kafka.broker import KafkaTopics
from tests.providers.smtp import HANGS, MailServer

pytestmark = pytest.mark.kafka

MAILS = [action(f"m{number}", f"u{number}", "email", to=f"u{number}@example.org") for number in range(20)]


class Post:
    """A broker with e-mail to send, and a folder for deliver."""

    def __init__(self, broker: KafkaTopics, prefix: str, folder: Path) -> None:
        self.broker, self.prefix, self.folder = broker, prefix, folder
        for topic in ("actions.email", "events", "dead-letters"):
            broker.create_topic(prefix + topic, 3)
        (folder / "templates").mkdir()
        (folder / "templates" / "hello.subject.liquid").write_text("Hi {{ vars.name }}")
        (folder / "templates" / "hello.txt.liquid").write_text("Bye: {{ unsubscribe_url }}")

    def deliver(self, port: int, actions: Sequence[Action]) -> Delivery:
        lines = ["channels:", "  email:", "    deliver:", "      provider: smtp", "      host: 127.0.0.1"]
        lines += [f"      port: {port}", "      tls: none", "      from: news@acme.example", "      timeout: 5s"]
        lines += ["      unsubscribe: {base: https://u.acme.example, key: {env: LINKS}}"]
        (self.folder / "nudge.yaml").write_text("\n".join(lines))
        send(self.broker, f"{self.prefix}actions.email", actions)
        return self.start()

    def start(self, *more: str) -> Delivery:
        return Delivery(self.broker, self.prefix, self.folder, *more, LINKS="a key of the gateway")

    def statuses(self) -> dict[str, set[str]]:
        found = receipts(self.broker, f"{self.prefix}events")
        return {one: {str(receipt["status"]) for receipt in some} for one, some in found.items()}


@pytest.fixture
def post(broker: KafkaTopics, topic_prefix: str, tmp_path: Path) -> Post:
    return Post(broker, topic_prefix, tmp_path)


@pytest.mark.timeout(180)
def test_killed_while_a_message_is_taken_it_is_unknown_and_not_sent_again(post: Post) -> None:
    first = f"<{MAILS[0].action_id}@acme.example>"
    is_first = True

    def mood(command: str, _: str) -> str | None:
        return HANGS if command == "DATA" and is_first else None

    with MailServer(mood=mood) as server:
        one = post.deliver(server.port, MAILS[:1])
        deadline = time.monotonic() + 60
        while not server.commands["DATA"]:
            assert time.monotonic() < deadline, one.tail()
            time.sleep(0.05)
        one.kill()
        is_first = False
        send(post.broker, f"{post.prefix}actions.email", MAILS[1:])
        post.start("--stop-at-end").wait()
        assert server.commands["DATA"] == len(MAILS)
        sent = [str(mail.message["message-id"]) for mail in server.mails]
    assert len(set(sent)) == len(sent)
    assert first not in sent
    assert post.statuses() == {
        one.action_id: {"unknown" if one is MAILS[0] else "accepted"} for one in MAILS
    }  # fmt: skip
