"""Providers for the demo to deliver to: made up, on this machine, and no better than real ones.

Most messages arrive. Some addresses are dead, some messages get lost, now and then a service is busy, or a page of HTML
comes back and nobody knows what became of the message. All that follows from ids and addresses, so it is the same in
each run. What becomes of a message later is reported to the gateway, several reports at once.

A process of its own, as others would slow it down: `python -m dataflow.demo.providers HOST PORT REPORTS`, where REPORTS
is the gateway's address for reports.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import sys
from collections import defaultdict
from itertools import count
from typing import Any, Final
from zlib import crc32

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

DEAD_ADDRESSES: Final = 0.08
LOST: Final = 0.05
BUSY: Final = 0.02
NO_ANSWER: Final = 0.01
OPENED: Final = 0.3
ANSWER_S: Final = 0.02
REPORT_EVERY_S: Final = 0.2
REPORTS_KEPT: Final = 10_000  # While the gateway is not there.
SECRET: Final = "REPORTS_SECRET"  # noqa: S105 - the name of a variable.


def chance(of: str, key: str) -> float:
    """Return a number from 0 to 1 that *key* always has for *of*."""
    return crc32(f"{of} {key}".encode()) / 2**32


class Providers:
    """All providers.

    `/<channel>/messages` is a service with an interface of its own, which reports later. `/<channel>/hook` receives
    webhooks, and says at once whether the message has arrived.

    Args:
        reports: the address of the gateway's reports, to which channel and secret are added.
        secret: the secret.
    """

    def __init__(self, reports: str, secret: str) -> None:
        self._reports, self._secret = reports, secret
        self._later: list[tuple[float, int, str, dict[str, str]]] = []
        self._number = count()
        self._busy: set[str] = set()

    async def serve(self, host: str, port: int) -> None:
        """Answer, until the process is asked to stop."""
        routes = [
            Route("/{channel}/messages", self._message, methods=["POST"]),
            Route("/{channel}/hook", self._hook, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={ClientDisconnect: _nobody_listens})
        config = uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, lifespan="off", ws="none")
        reporting = asyncio.create_task(self._report())
        await uvicorn.Server(config).serve()
        reporting.cancel()

    # ---- what they answer --------------------------------------------------------------------------------------

    async def _message(self, request: Request) -> Response:
        said: dict[str, Any] = await request.json()
        channel, message = request.path_params["channel"], str(said["id"])
        await asyncio.sleep(ANSWER_S)
        if chance("dead", str(said["to"])) < DEAD_ADDRESSES:
            return JSONResponse({"code": "NO_SUCH_ADDRESS", "detail": "nobody has this address"})
        if chance("busy", message) < BUSY:
            self._busy ^= {message}
            if message in self._busy:  # The next time it gets through.
                return JSONResponse({"code": "BUSY"})
        is_lost = chance("lost", message) < LOST
        self._say_later(0.2, channel, message, "bounced" if is_lost else "delivered")
        if channel == "email" and not is_lost and chance("opened", message) < OPENED:
            self._say_later(1.0, channel, message, "opened")
        if chance("no answer", message) < NO_ANSWER:
            return HTMLResponse("<h1>502 Bad Gateway</h1>")  # What the proxy in front of it says; the message is sent.
        return JSONResponse({"code": "OK", "message": f"m-{next(self._number)}"})

    async def _hook(self, request: Request) -> Response:
        action: dict[str, Any] = (await request.json())["data"]
        await asyncio.sleep(ANSWER_S)
        if action["to"] is not None and chance("dead", action["to"]) < DEAD_ADDRESSES:
            return JSONResponse({"status": "failed", "code": "UNREGISTERED"})
        return JSONResponse({"status": "delivered"})

    # ---- what they report --------------------------------------------------------------------------------------

    def _say_later(self, least_s: float, channel: str, message: str, state: str) -> None:
        if len(self._later) < REPORTS_KEPT:
            due_s = asyncio.get_running_loop().time() + least_s + chance(state, message)
            heapq.heappush(self._later, (due_s, next(self._number), channel, {"id": message, "state": state}))

    async def _report(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while True:
                await asyncio.sleep(REPORT_EVERY_S)
                due: defaultdict[str, list[tuple[float, int, str, dict[str, str]]]] = defaultdict(list)
                while self._later and self._later[0][0] <= asyncio.get_running_loop().time():
                    one = heapq.heappop(self._later)
                    due[one[2]].append(one)
                for channel, some in due.items():
                    if not await self._is_taken(client, channel, [report for _, _, _, report in some]):
                        for one in some:
                            heapq.heappush(self._later, one)

    async def _is_taken(self, client: httpx.AsyncClient, channel: str, reports: list[dict[str, str]]) -> bool:
        try:
            answer = await client.post(f"{self._reports}/{channel}/{self._secret}", json={"reports": reports})
        except httpx.HTTPError:
            return False
        return answer.is_success


async def _nobody_listens(_: Request, __: Exception) -> Response:
    return Response(status_code=400)


def main(arguments: list[str]) -> None:
    """Run all providers in this process."""
    host, port, reports = arguments
    asyncio.run(Providers(reports, os.environ[SECRET]).serve(host, int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
