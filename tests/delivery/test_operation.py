"""What people who run delivery see of it and do with it: metrics, health, status, replays, a test message, logs."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import structlog
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connectors.ledgers.base import KEPT_MS
from dataflow.cli import main
from dataflow.deliver import config
from dataflow.deliver.channel import ChannelAtWork
from dataflow.deliver.counts import BOUNDS_S, ChannelLook, Counts
from dataflow.deliver.masking import masked
from dataflow.serve.delivery import CALL_SECONDS, METRICS, DeliveryCollector, DeliveryHealth
from dataflow.serve.http import serve_any
from state.delivery import OK, PERMANENT, Answer
from tests.delivery.actions import action
from tests.delivery.jobs import Delivery, receipts, send
from tests.delivery.pager import Pager
from tests.jobs import REPO
from tests.kafka.broker import KafkaTopics
from tests.providers.server import Response, Server
from tests.providers.webhook import SECRET, Receiver

DOCS = (REPO / "docs" / "delivery.md").read_text()
OPERATIONS = (REPO / "docs" / "operations.md").read_text()


def look(**more: object) -> ChannelLook:
    return ChannelLook("sms", partitions=3)._replace(**more)  # type: ignore[arg-type]


def asked(path: str, port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}"] = one.value
    return found


# ---- metrics and health --------------------------------------------------------------------------------------------


def test_calls_are_counted_by_their_answers_and_by_how_long_they_took() -> None:
    counts = Counts()
    for lasted_s, kind, attempt in ((0.01, "ok", 1), (0.011, "retry", 1), (0.3, "ok", 2), (99.0, "unknown", 3)):
        counts.called(kind, lasted_s, attempt)
    seen = look(
        calls=counts.calls, retries=counts.retries, answers=counts.answers, seconds=tuple(counts.seconds),
        seconds_total=counts.seconds_total, outcomes=Counter(accepted=2), open=5, oldest_s=7.5, is_stopped=True, dead=1,
    )  # fmt: skip
    server = serve_any(
        0, DeliveryCollector(lambda: [seen]), DeliveryHealth(lambda: [seen]), structlog.get_logger(),
        host="127.0.0.1", flags="--port 0",
    )  # fmt: skip
    status, text = asked("/metrics", server.port)
    server.close()
    found = samples(text)
    assert status == 200
    assert found["nudge_deliver_calls_total{channel=sms}"] == 4
    assert found["nudge_deliver_retries_total{channel=sms}"] == 2
    assert found["nudge_deliver_answers_total{channel=sms,kind=ok}"] == 2
    assert found["nudge_deliver_answers_total{channel=sms,kind=config}"] == 0
    assert found["nudge_deliver_outcomes_total{channel=sms,status=accepted}"] == 2
    assert found["nudge_deliver_outcomes_total{channel=sms,status=unknown}"] == 0
    assert found["nudge_deliver_open_actions{channel=sms}"] == 5
    assert found["nudge_deliver_oldest_open_seconds{channel=sms}"] == 7.5
    assert found["nudge_deliver_circuit_open{channel=sms}"] == 1
    assert found["nudge_deliver_dead_letters_total{channel=sms}"] == 1
    buckets = [found[f"{CALL_SECONDS}_bucket{{channel=sms,le={bound}}}"] for bound in (*BOUNDS_S, "+Inf")]
    assert buckets == [1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]
    assert found[f"{CALL_SECONDS}_sum{{channel=sms}}"] == pytest.approx(99.321)
    assert any(name.startswith("process_resident_memory_bytes") for name in found)


def test_the_docs_have_every_metric_with_its_labels_and_no_other() -> None:
    text = DOCS.partition("## Metrics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+? \|$", text, re.MULTILINE)
    told = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert told == {one.name: one.all_labels for one in METRICS} | {CALL_SECONDS: ("channel",)}


def test_the_docs_say_for_every_alert_of_delivery_what_to_do() -> None:
    (group,) = yaml.safe_load((REPO / "docs" / "prometheus-alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for rule in group["rules"] if rule["alert"].startswith("NudgeDeliver")}
    section = OPERATIONS.partition("\n## Delivery\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == alerts


def hangs() -> list[ChannelLook]:
    raise TimeoutError


@pytest.mark.parametrize(
    ("looks", "alive", "ready"),
    [
        (lambda: [look()], (True, "alive"), (True, "at work")),
        (list, (True, "alive"), (False, "starting")),
        (lambda: [look(is_ledger_away=True)], (True, "alive"), (False, "the ledger is away")),
        (lambda: [look(), look(partitions=0)], (True, "alive"), (False, "sms: it has no partition yet")),
        (lambda: [look(is_stopped=True)], (True, "alive"), (True, "at work")),
        (hangs, (False, "delivery hangs"), (False, "delivery hangs")),
    ],
)  # fmt: skip
def test_it_is_alive_while_it_answers_and_ready_when_it_can_work(
    looks: object, alive: tuple[bool, str], ready: tuple[bool, str]
) -> None:
    health = DeliveryHealth(looks)  # type: ignore[arg-type]
    assert (health.alive(), health.ready()) == (alive, ready)


# ---- logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such mail a.b+c@shop.example here", "no such mail <mail> here"),
        ("+86 138-0013-8000 is no number", "<number ..00> is no number"),
        ("13800138000", "<number ..00>"),
        ("token c3VwZXJzZWNyZXR0b2tlbnN1cGVyc2VjcmV0 has run out", "token <token> has run out"),
        (
            "isv.BUSINESS_LIMIT_CONTROL at 2026-11-23, code 40037",
            "isv.BUSINESS_LIMIT_CONTROL at 2026-11-23, code 40037",
        ),
        ("触发分钟级流控Permits:1", "触发分钟级流控Permits:1"),
    ],
)
def test_what_providers_say_is_logged_without_personal_data(text: str, shown: str) -> None:
    assert masked(text) == shown


# ---- by hand, and on a real Kafka ----------------------------------------------------------------------------------


@pytest.fixture
def pager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a folder with a workspace for `pager`, which commands in this process know."""
    monkeypatch.setitem(config.BUILT_IN, "pager", "tests.delivery.pager:Pager")
    Pager.answers.clear()
    Pager.called.clear()
    (tmp_path / "nudge.yaml").write_text("channels:\n  webhook: {deliver: {provider: pager}}\n")
    return tmp_path


def nudge_deliver(folder: Path, *more: str) -> int:
    return main(
        ["deliver", "--config", str(folder / "nudge.yaml"), "--ledger", f"sqlite:{folder / 'ledger.db'}", *more]
    )


def said_by(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_test_message_goes_to_one_address_and_says_what_came_of_it(
    pager: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Pager.answers["a@b.example"] = Answer(OK, "250", provider_id="m-1")
    Pager.answers["c@d.example"] = Answer(PERMANENT, "550")
    (pager / "vars.json").write_text('{"name": "Lina"}')
    arguments = ["--test", "webhook", "--template", "hello", "--vars", str(pager / "vars.json")]
    assert nudge_deliver(pager, *arguments, "--to", "a@b.example") == 0
    (said,) = said_by(capsys)
    assert (said["channel"], said["kind"], said["code"], said["provider_id"]) == ("webhook", "ok", "250", "m-1")
    (called,) = Pager.called
    assert (called.to, called.template, called.vars) == ("a@b.example", "hello", {"name": "Lina"})
    assert nudge_deliver(pager, *arguments, "--to", "c@d.example") == 1
    assert not (pager / "ledger.db").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--test", "webhook"], "write --to ADDRESS"),
        (["--test", "other", "--to", "x"], "channels.other has no deliver:"),
        (["--status", "--replay", "x"], "--status and --replay: one at a time"),
        ([], "--source is missing"),
        (["--replay", "0" * 32], "--source is missing"),
        (["--source", "kafka://127.0.0.1:1", "--replay", "0" * 32], "the ledger does not know it"),
        (["--test", "webhook", "--to", "x", "--vars", "nowhere.json"], "--vars nowhere.json"),
    ],
)
def test_wrong_use_is_told_before_anybody_is_called(
    pager: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nudge_deliver(pager, *arguments) == 2
    assert why in capsys.readouterr().err
    assert Pager.called == []


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_what_is_unknown_is_listed_and_sent_again_once_somebody_has_decided(
    pager: Path, broker: KafkaTopics, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for topic in ("actions.webhook", "events", "dead-letters"):
        broker.create_topic(topic_prefix + topic, 3)
    some = [action(f"a{number}", f"u{number}", to=f"t{number}") for number in range(4)]
    for number in (0, 1):
        Pager.answers[f"t{number}"] = Answer(OK)
    send(broker, f"{topic_prefix}actions.webhook", some)
    kafka = ["--source", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--receipts", f"{topic_prefix}events"]
    kafka += ["--group", f"{topic_prefix}deliver"]
    assert nudge_deliver(pager, *kafka, "--stop-at-end") == 0
    capsys.readouterr()
    assert nudge_deliver(pager, "--status") == 0
    *listed, summary = said_by(capsys)
    assert summary == {"channel": "webhook", "open": 0, "unknown": 2}
    assert {(one["action_id"], one["state"], one["code"]) for one in listed} == {
        (one.action_id, "unknown", "no_answer") for one in some[2:]
    }
    assert nudge_deliver(pager, *kafka, "--replay", some[0].action_id) == 2
    assert "it is accepted" in capsys.readouterr().err
    Pager.answers["t2"] = Answer(OK, "250")
    assert nudge_deliver(pager, *kafka, "--replay", some[2].action_id) == 0
    (said,) = said_by(capsys)
    assert (said["action_id"], said["status"], said["code"]) == (some[2].action_id, "accepted", "250")
    assert nudge_deliver(pager, *kafka, "--replay", some[3].action_id) == 1, "nobody knows again"
    capsys.readouterr()
    assert nudge_deliver(pager, "--status") == 0
    assert said_by(capsys)[-1] == {"channel": "webhook", "open": 0, "unknown": 1}
    assert Counter(one.action_id for one in Pager.called) == Counter(
        {one.action_id: 1 + (number >= 2) for number, one in enumerate(some)}
    )
    found = receipts(broker, f"{topic_prefix}events")
    assert [one["status"] for one in found[some[2].action_id]] in (["unknown", "accepted"], ["accepted", "unknown"])
    assert nudge_deliver(pager, *kafka, "--stop-at-end") == 0
    assert len(Pager.called) == 6, "and the group goes on behind it"


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_a_fault_of_what_is_done_beside_ends_delivery_with_its_reason(
    pager: Path, broker: KafkaTopics, topic_prefix: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for topic in ("actions.webhook", "events", "dead-letters"):
        broker.create_topic(topic_prefix + topic, 1)

    async def fails(_: ChannelAtWork) -> int:
        raise KeyError("outcome")

    monkeypatch.setattr(ChannelAtWork, "tell_untold", fails)
    kafka = ["--source", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--receipts", f"{topic_prefix}events"]
    assert nudge_deliver(pager, *kafka, "--group", f"{topic_prefix}deliver", "--stop-at-end") == 1
    assert "KeyError 'outcome'" in capsys.readouterr().err


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_a_dry_run_calls_nobody_and_tells_what_would_be_sent_and_what_has_an_outcome(
    pager: Path, broker: KafkaTopics, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for topic in ("actions.webhook", "events", "dead-letters"):
        broker.create_topic(topic_prefix + topic, 1)
    topic = f"{topic_prefix}actions.webhook"
    kafka = ["--source", f"kafka://{broker.bootstrap}?prefix={topic_prefix}", "--receipts", f"{topic_prefix}events"]
    kafka += ["--group", f"{topic_prefix}deliver"]
    sent, late, next_one = (
        action("a", to="t0"),
        action("b", expires_at="2020-01-01T00:00:00.000Z"),
        action("c", to="t1"),
    )
    send(broker, topic, [sent])
    assert nudge_deliver(pager, *kafka, "--dry-run") == 0
    (said,) = said_by(capsys)
    assert (said["action_id"], "sends" in said) == (sent.action_id, True)
    assert (Pager.called, (pager / "ledger.db").exists()) == ([], False)
    Pager.answers["t0"] = Answer(OK, "250")
    assert nudge_deliver(pager, *kafka, "--stop-at-end") == 0
    send(broker, topic, [late, next_one])
    broker.produce(topic, [(b"u", b"no action", None)])
    capsys.readouterr()
    assert nudge_deliver(pager, *kafka, "--dry-run") == 0
    had, expired, sends, dead = said_by(capsys)
    assert (had["action_id"], had["outcome"]["status"], had["outcome"]["code"]) == (sent.action_id, "accepted", "250")
    assert "sends" not in had
    assert (expired["action_id"], expired["rejected"]["code"]) == (late.action_id, "expired")
    assert (sends["action_id"], "sends" in sends) == (next_one.action_id, True)
    assert (dead["offset"], "dead" in dead) == (3, True)
    assert [one.action_id for one in Pager.called] == [sent.action_id]
    assert receipts(broker, f"{topic_prefix}events").keys() == {sent.action_id}


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_delivery_at_work_tells_what_it_does_and_its_ledger_forgets_what_is_old(
    tmp_path: Path, broker: KafkaTopics, topic_prefix: str
) -> None:
    for topic in ("actions.webhook", "events", "dead-letters"):
        broker.create_topic(topic_prefix + topic, 3)
    let_go = threading.Event()
    receiver = Receiver(lambda _: None if let_go.is_set() else Response(503, b"call +86 138 0013 8000"))
    with Server(receiver) as server:
        (tmp_path / "nudge.yaml").write_text(
            f"channels: {{webhook: {{deliver: {{provider: webhook, url: '{server.url}', private: true, "
            "secret: {env: HOOK}}}}\n"
        )
        one = Delivery(broker, topic_prefix, tmp_path, "--port", "0", HOOK=SECRET)
        one.wait_for("metrics are served")
        (line,) = [line for line in one.log.read_text().splitlines() if "metrics are served" in line]
        port = json.loads(line)["port"]
        send(broker, f"{topic_prefix}actions.webhook", [action("a"), action("b", "v")])
        broker.produce(f"{topic_prefix}actions.webhook", [(b"u", b"no action", None)])

        def until(name: str, least: float) -> dict[str, float]:
            deadline = time.monotonic() + 60
            while (found := samples(asked("/metrics", port)[1])).get(name, 0.0) < least:
                assert time.monotonic() < deadline, (name, found, one.tail())
                time.sleep(0.05)
            return found

        until("nudge_deliver_open_actions{channel=webhook}", 2)
        found = until("nudge_deliver_retries_total{channel=webhook}", 1)
        assert found["nudge_deliver_open_actions{channel=webhook}"] == 2
        assert found["nudge_deliver_answers_total{channel=webhook,kind=throttled}"] >= 2
        assert found["nudge_deliver_oldest_open_seconds{channel=webhook}"] > 0
        assert asked("/readyz", port) == (200, "at work\n")
        assert asked("/healthz", port) == (200, "alive\n")
        let_go.set()
        found = until("nudge_deliver_outcomes_total{channel=webhook,status=accepted}", 2)
        found = until("nudge_deliver_dead_letters_total{channel=webhook}", 1)
        assert found["nudge_deliver_partitions{channel=webhook}"] == 3
        assert found["nudge_deliver_open_actions{channel=webhook}"] == 0
        assert one.stop() == 0
        old_ms = time.time_ns() // 1_000_000 - KEPT_MS - 1000
        with sqlite3.connect(tmp_path / "ledger.db") as database:
            database.execute("UPDATE actions SET at_ms = ? WHERE action_id = ?", (old_ms, action("a").action_id))
        two = Delivery(broker, topic_prefix, tmp_path, HOOK=SECRET)
        two.wait_for("delivering")
        deadline = time.monotonic() + 30
        while True:
            with sqlite3.connect(tmp_path / "ledger.db") as database:
                left = {id for (id,) in database.execute("SELECT action_id FROM actions")}
            if left == {action("b", "v").action_id}:
                break
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        assert two.stop() == 0
    assert "138 0013" not in one.log.read_text()
