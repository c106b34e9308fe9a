"""Who cannot connect to Kafka is told why, and what to check."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors import kafka
from connectors.kafka import KafkaTopics, KafkaUnavailable
from connectors.kafka_reasons import FRESH_S, Heard, reason_of
from tests.certificates import certificates
from tests.kafka.broker import Broker
from tests.providers.server import Response, Server

SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "nudge"}

LINES = {
    "[thrd:k:9092/bootstrap]: k:9092/bootstrap: Failed to resolve 'k:9092': Name or service not known "
    "(after 1ms in state CONNECT)": "this machine does not know the host",
    "[thrd:k:9092/1]: k:9092/1: Failed to resolve 'k:9092': Name or service not known "
    "(after 1ms in state CONNECT, 1 identical error(s) suppressed)": "gives k:9092 as the address of a broker",
    "[thrd:k:1/bootstrap]: k:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused "
    "(after 0ms in state CONNECT)": "nothing listens there",
    "[thrd:k:9/bootstrap]: k:9/bootstrap: Connection setup timed out in state CONNECT "
    "(after 8021ms in state CONNECT)": "nothing answers there",
    "[thrd:ssl://k:9/bootstrap]: ssl://k:9/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by "
    "peer: connecting to a PLAINTEXT broker listener? (after 2ms in state SSL_HANDSHAKE)": "to PLAINTEXT",
    "[thrd:sasl_ssl://k:9/bootstrap]: sasl_ssl://k:9/bootstrap: Disconnected: SSL connection closed by peer "
    "(after 16ms in state SSL_HANDSHAKE)": "to SASL_PLAINTEXT",
    "[thrd:k:9/bootstrap]: k:9/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN "
    "(after 1ms in state APIVERSION_QUERY)": "seems to have TLS: check the port, or set security.protocol under kafka: "
    "to SSL",
    "[thrd:sasl_plaintext://k:9/bootstrap]: sasl_plaintext://k:9/bootstrap: Disconnected: connection closed by peer: "
    "receive 0 after POLLIN (after 1ms in state APIVERSION_QUERY)": "to SASL_SSL",
    "[thrd:k:9/bootstrap]: k:9/bootstrap: Send failed: Broken pipe (after 2ms in state UP)": "to SASL_PLAINTEXT, with",
    "[thrd:ssl://k:9/bootstrap]: ssl://k:9/bootstrap: Disconnected: SSL connection closed by peer "
    "(after 5ms in state UP)": "to SASL_SSL, with",
    "[thrd:k:9/bootstrap]: k:9/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN "
    "(after 600000ms in state UP)": "check the address and that it is up",
    "[thrd:sasl_ssl://k:9/bootstrap]: sasl_ssl://k:9/bootstrap: SSL handshake failed: error:0A000086:SSL "
    "routines::certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is "
    "correctly configured or root CA certificates are installed (install ca-certificates package) "
    "(after 33ms in state SSL_HANDSHAKE)": "check ssl.ca.location",
    "[thrd:sasl_plaintext://k:9/bootstrap]: sasl_plaintext://k:9/bootstrap: SASL PLAIN mechanism handshake failed: "
    "Broker: Request not valid in current SASL state: broker's supported mechanisms:  "
    "(after 0ms in state AUTH_HANDSHAKE)": "this listener has no SASL",
    "[thrd:sasl_plaintext://k:9/bootstrap]: sasl_plaintext://k:9/bootstrap: SASL SCRAM-SHA-256 mechanism handshake "
    "failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN,SCRAM-SHA-512 "
    "(after 1ms in state AUTH_HANDSHAKE)": "set sasl.mechanism under kafka: to one of PLAIN,SCRAM-SHA-512",
    "[thrd:sasl_ssl://k:9/bootstrap]: sasl_ssl://k:9/bootstrap: SASL authentication error: Authentication failed "
    "during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 "
    "(after 307ms in state AUTH_REQ)": "check sasl.username, sasl.password",
    "[thrd:k:80/bootstrap]: k:80/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase "
    "receive.message.max.bytes (after 1ms in state APIVERSION_QUERY)": "this is no Kafka",
}
"""What librdkafka 2.16 has logged, and what the hint has to say."""


@pytest.mark.parametrize(("line", "said"), LINES.items(), ids=range(len(LINES)))
def test_each_failure_of_a_connection_has_a_hint_of_what_to_check(line: str, said: str) -> None:
    reason = reason_of(line)
    assert reason is not None
    assert said in reason.hint
    assert reason.what in line
    assert "(after" not in reason.what
    assert "://" not in reason.what


def test_a_reason_counts_for_a_while_and_other_lines_change_nothing() -> None:
    clock_s = [0.0]
    heard = Heard(lambda: clock_s[0])
    assert heard.reason is None
    heard.log(40, "%s [%s] %s", "FAIL", "rdkafka#consumer-1", next(iter(LINES)))
    heard.log(40, "%s [%s] %s", "FAIL", "rdkafka#consumer-1", "[thrd:GroupCoordinator]: GroupCoordinator: k:9: no")
    heard.log(40, "%s [%s] %s", "MAXPOLL", "rdkafka#consumer-1", list(LINES)[-1])
    reason = heard.reason
    assert reason is not None
    assert reason.what == "Failed to resolve 'k:9092': Name or service not known"
    clock_s[0] = FRESH_S
    assert heard.reason is None, "it may be another one by now"


def test_a_certificate_of_another_host_is_told_from_one_that_nobody_trusts(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ours / "server.pem", ours / "server.key")

    def told(host: str, ca: Path) -> str:
        line = (
            f"[thrd:ssl://{host}/bootstrap]: ssl://{host}/bootstrap: SSL handshake failed: error:0A000086:SSL "
            "routines::certificate verify failed: broker certificate could not be verified "
            "(after 33ms in state SSL_HANDSHAKE)"
        )
        reason = reason_of(line)
        assert reason is not None
        return reason.told(str(ca / "ca.pem"))

    with Server(lambda _: Response(), context) as server:
        assert "Hostname mismatch" in told(f"localhost:{server.port}", ours)
        assert "the certificate is for another host" in told(f"localhost:{server.port}", ours)
        untrusted = told(f"127.0.0.1:{server.port}", others)
        assert untrusted.endswith("; check ssl.ca.location under kafka:")
        assert "mismatch" not in untrusted
        assert "broker certificate could not be verified" in told(f"127.0.0.1:{server.port}", ours), (
            "it is right by now"
        )
    assert "broker certificate could not be verified" in told("127.0.0.1:1", ours), "nobody there can be asked"


def refusal(
    bootstrap: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, has_rested: bool = False
) -> str:
    monkeypatch.setattr(kafka, "ANSWER_TIMEOUT_S", 2.0)
    log: list[str] = []
    topics = KafkaTopics(bootstrap, options, log.append, patience_s=7 if has_rested else 4)
    if has_rested:
        topics.rest()
    with pytest.raises(KafkaUnavailable) as refused:
        topics.ends({"events": [0]})
    topics.close()
    assert len(log) == 1, "the same reason is told once"
    hint = str(refused.value).rpartition("; ")[2]
    assert hint in log[0], "the client may say it in other words the next time, the advice is the same"
    return str(refused.value)


def test_a_closed_port_is_told_from_a_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refusal("127.0.0.1:1", {}, monkeypatch)
    assert "Connection refused; nothing listens there" in refused
    unknown = refusal("nobody.invalid:9092", {}, monkeypatch)
    assert "Failed to resolve 'nobody.invalid:9092'" in unknown
    assert "this machine does not know the host" in unknown


def test_a_job_that_has_run_for_long_is_told_why_kafka_is_away_too(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refusal("127.0.0.1:1", {}, monkeypatch, has_rested=True)
    assert "Connection refused; nothing listens there" in refused


class Recorded:
    """A client that only knows with which options it was made."""

    def __init__(self, options: dict[str, Any]) -> None:
        made.append(options)

    def poll(self, timeout: float) -> None:
        pass

    def list_topics(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(topics={}, brokers={1: "there"})

    def close(self) -> None:
        pass


made: list[dict[str, Any]] = []


def test_while_nobody_asks_no_client_logs_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    monkeypatch.setattr(kafka, "Consumer", Recorded)
    topics = KafkaTopics("k:9092", {})
    topics.partitions_of_all(["events"])
    assert "logger" in made[-1]
    topics.rest()
    topics.partitions_of_all(["events"])
    topics.rest()
    topics.partitions_of_all(["events"])
    assert len(made) == 2, "and it stays the same client"
    assert "logger" not in made[-1]


@pytest.mark.kafka
def test_a_client_with_tls_or_sasl_is_told_that_the_listener_has_none(
    breakable_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = breakable_broker.bootstrap
    assert "this listener seems to have no TLS" in refusal(there, {"security.protocol": "SSL"}, monkeypatch)
    assert "this listener has no SASL" in refusal(there, {**SASL, "sasl.password": "secret"}, monkeypatch)


@pytest.mark.kafka
def test_a_wrong_password_is_told_from_none(breakable_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    there = breakable_broker.guarded
    assert "this listener seems to want SASL" in refusal(there, {}, monkeypatch)
    wrong = refusal(there, {**SASL, "sasl.password": "wrong"}, monkeypatch)
    assert "Invalid username or password; check sasl.username, sasl.password" in wrong
    assert "wrong" not in wrong
    topics = KafkaTopics(there, {**SASL, "sasl.password": "secret"})
    assert topics.partitions("no-such-topic") == []
    topics.close()
