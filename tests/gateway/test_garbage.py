"""What requests leave behind in memory: nothing that waits for the collector of cycles, which comes seldom."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dataflow.gateway.config import read_gateway
from dataflow.gateway.events import Events
from dataflow.gateway.http import Came, Held
from dataflow.gateway.keys import Keys
from dataflow.gateway.metrics import Metrics
from tests.gateway.doors import WRITE_KEY, Broker
from tests.gateway.test_connections import REQUEST, served
from tests.records import line


@pytest.mark.parametrize(("body", "status"), [(line(), 200), (b"[" + line() + b",{}]", 400), (b"{}\n1\n{", 400)])
def test_a_request_leaves_nothing_to_the_collector(body: bytes, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITE_KEY", WRITE_KEY)
    keys = Keys(read_gateway({"keys": {"web": {"key": {"env": "WRITE_KEY"}}}}, Path()).keys, "", lambda: 0.0)
    head = [(b"authorization", b"Bearer " + WRITE_KEY.encode())]

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def work() -> int:
        held, taken = Held(), Events(keys, Broker(), Metrics())  # type: ignore[arg-type]
        assert (await taken.handle(Came({"headers": head}, receive, held))).status == status
        gc.collect()
        for _ in range(100):
            await taken.handle(Came({"headers": head}, receive, held))
        return gc.collect()

    gc.disable()
    try:
        assert asyncio.run(work()) < 100
    finally:
        gc.enable()


@pytest.mark.parametrize("said", [b"", REQUEST, REQUEST * 3, REQUEST[:-2]])
def test_a_connection_that_ends_leaves_nothing_to_the_collector(said: bytes) -> None:
    def connect(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as one:
            if said:
                one.sendall(said)
            one.shutdown(socket.SHUT_WR)
            while one.recv(65_536):
                pass

    async def work(port: int) -> int:
        await asyncio.to_thread(connect, port)
        gc.collect()
        for _ in range(50):
            await asyncio.to_thread(connect, port)
        return gc.collect()

    gc.disable()
    try:
        assert served(work, uvloop.new_event_loop) < 50
    finally:
        gc.enable()
