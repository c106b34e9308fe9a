"""A provider of a user's own, as the documentation has it, is found and works."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.channels.base import Unfit
from dataflow.deliver.config import Delivered, delivered
from dataflow.errors import UsageError
from state.delivery import CONFIG, OK, PERMANENT, THROTTLED, UNKNOWN, Answer
from state.outgoing import Action
from tests.delivery.actions import action
from tests.providers.server import HANGS_UP, Request, Response, Server

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text().partition("\n## A channel of your own\n")[2]


def block(language: str) -> str:
    """Return the only block of *language* in the section."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return str(found)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the documentation, installed."""
    package, metadata = tmp_path / "acme", tmp_path / "acme-1.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pager.py").write_text(block("python"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    points = tomllib.loads(block("toml"))["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in some.items())
        for group, some in points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("acme", "acme.pager"):
        sys.modules.pop(name, None)


def pager(monkeypatch: pytest.MonkeyPatch, **more: Any) -> Delivered:
    monkeypatch.setenv("PAGER_KEY", "s3cret")
    written = yaml.safe_load(block("yaml"))["channels"]["pager"]["deliver"]
    return delivered("pager", "actions.pager", {**written, **more}, Path(), lambda: 0, lambda: "n")


PAGE_HIM = action("a", channel="pager", to="p-7", vars={"text": "dock 4"})


@pytest.mark.usefixtures("installed")
def test_it_is_found_by_its_entry_point_and_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Response | str] = [Response(201), Response(422), Response(410), Response(429), HANGS_UP]
    came: list[Request] = []

    def handle(request: Request) -> Response | str:
        came.append(request)
        return answers[len(came) - 1]

    async def call(how: Delivered, actions: list[Action]) -> list[Answer]:
        found = [await how.provider.call(one) for one in actions]
        await how.provider.close()
        return found

    with Server(handle) as server:
        how = pager(monkeypatch, url=f"{server.url}/messages")
        found = asyncio.run(call(how, [PAGE_HIM] * len(answers)))
    assert [one.kind for one in found] == [OK, PERMANENT, CONFIG, THROTTLED, UNKNOWN]
    assert (came[0].path, came[0].headers["authorization"]) == ("/messages", "Bearer s3cret")
    assert json.loads(came[0].body) == {"id": PAGE_HIM.action_id, "pager": "p-7", "text": "dock 4"}
    assert (how.policy.drops_repeats, how.policy.can_be_asked, how.rate) == (True, False, 20)


@pytest.mark.usefixtures("installed")
def test_what_it_need_not_have_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = pager(monkeypatch).provider
    assert provider.preview(PAGE_HIM) == {"id": PAGE_HIM.action_id, "pager": "p-7", "text": "dock 4"}
    with pytest.raises(Unfit, match="no_address"):
        provider.preview(action("b"))
    assert asyncio.run(provider.ask(PAGE_HIM, 0)).kind == UNKNOWN
    assert asyncio.run(provider.renew()) is False


@pytest.mark.usefixtures("installed")
def test_its_settings_are_checked_as_those_of_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^channels\.pager\.deliver\.key: .*a secret stands elsewhere"):
        pager(monkeypatch, key="s3cret")
    with pytest.raises(UsageError, match=r"^channels\.pager\.deliver\.urll: "):
        pager(monkeypatch, urll="x")


def test_without_its_package_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^channels\.pager\.deliver\.provider: 'pager' is not known"):
        pager(monkeypatch)


@pytest.mark.usefixtures("installed")
def test_a_package_that_is_broken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme" / "pager.py").write_text("import pigeons\n")
    with pytest.raises(UsageError, match=r"provider: 'pager' is acme.pager:Pager, which is not there: .*'pigeons'"):
        pager(monkeypatch)


def test_it_is_thirty_lines() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 30, len(lines)
