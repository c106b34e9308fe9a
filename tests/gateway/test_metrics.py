"""What people who run the gateway see of it, and what they are told to do."""

from __future__ import annotations

import re

import yaml
from prometheus_client.parser import text_string_to_metric_families

from dataflow.gateway.metrics import COUNTERS, GAUGES, SECONDS, Metrics
from tests.jobs import REPO

DOCS = (REPO / "docs" / "gateway.md").read_text()
OPERATIONS = (REPO / "docs" / "operations.md").read_text()


def test_the_docs_have_every_metric_with_its_labels_and_no_other() -> None:
    text = DOCS.partition("\n## Metrics\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?)\| .+? \|$", text, re.MULTILINE)
    told = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    counters = {f"{name}_total": labels for name, (_, labels) in COUNTERS.items()}
    assert told == counters | {SECONDS: ("path",)} | dict.fromkeys(GAUGES, ())


def test_the_docs_say_for_every_alert_of_the_gateway_what_to_do() -> None:
    (group,) = yaml.safe_load((REPO / "docs" / "prometheus-alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for rule in group["rules"] if rule["alert"].startswith("NudgeGateway")}
    section = OPERATIONS.partition("\n## Gateway\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == alerts
    assert len(alerts) > 5


def test_what_an_alert_looks_for_is_there_before_it_happens() -> None:
    """Prometheus sees no rise in a counter that begins with its first count."""
    metrics = Metrics()
    metrics.answered("/v1/events", 200, 0.01)
    metrics.rejected("web", "no_user")
    metrics.unmatched("sms")
    found = {
        (one.name, *sorted(one.labels.values())): one.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for one in family.samples
    }
    for status in ("401", "500", "503"):
        assert found["nudge_gateway_requests_total", "/v1/events", status] == 0
    assert found["nudge_gateway_records_total", "web"] == 0
    assert found["nudge_gateway_forgotten_total", "sms"] == 0
