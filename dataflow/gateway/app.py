"""The door as one ASGI application: which path is answered by whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.kafka_writer import KafkaWriter, WriteFailed
from dataflow.gateway.events import Events
from dataflow.gateway.http import Answer, Came, Endpoint, Handle, Held, said
from dataflow.gateway.keys import Keys
from dataflow.gateway.metrics import Metrics
from dataflow.gateway.segment import PATHS, Segment

CORS_MAX_AGE_S: Final = 86_400
READY_KEPT_S: Final = 2.0
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Readiness:
    """Whether Kafka answers and has the topics; asked at most every two seconds.

    Args:
        topics: each with the command that creates it.
    """

    def __init__(self, writer: KafkaWriter, topics: Mapping[str, str], monotonic_s: Callable[[], float]) -> None:
        self._writer, self._topics, self._monotonic_s = writer, topics, monotonic_s
        self._known: tuple[bool, str] = (False, "not asked yet")
        self._until_s = float("-inf")

    async def now(self) -> tuple[bool, str]:
        """Tell, and why not."""
        if self._monotonic_s() >= self._until_s:
            self._until_s = float("inf")  # Others take what is known meanwhile.
            try:
                missing = await self._writer.missing(self._topics)
                said = [f"there is no topic {topic}; create it: {self._topics[topic]}" for topic in missing]
                self._known = (not missing, "\n".join(said) or "ready")
            except WriteFailed as failed:
                self._known = (False, f"Kafka does not answer: {failed}")
            finally:
                self._until_s = self._monotonic_s() + READY_KEPT_S
        return self._known


def application(
    writer: KafkaWriter,
    keys: Keys,
    metrics: Metrics,
    log: Any,
    *,
    now_ms: Callable[[], int],
    monotonic_s: Callable[[], float],
    more: Collection[tuple[str, str, Handle, tuple[str, ...]]] = (),
    create: Callable[[str], str] = str,
    topics: Collection[str] = (),
    cors: Collection[str] = (),
) -> ASGIApp:
    """Return the application.

    Args:
        more: further endpoints: a name for metrics, the path, who answers, and the methods.
        topics: further topics that have to be there.
        create: returns the command that creates a topic.
        cors: the origins whose pages may post.
    """
    held = Held()
    metrics.watch("nudge_gateway_held_bytes", lambda: held.bytes)
    metrics.watch("nudge_gateway_queued", lambda: writer.queued)
    readiness = Readiness(writer, {topic: create(topic) for topic in {*keys.topics, *topics}}, monotonic_s)

    def route(name: str, path: str, handle: Handle, *methods: str) -> Route:
        return Route(path, Endpoint(name, handle, held, metrics.answered, log), methods=list(methods))

    async def healthz(_: Came) -> Answer:
        return Answer(200, b"alive\n", "text/plain")

    async def readyz(_: Came) -> Answer:
        is_ready, text = await readiness.now()
        return Answer(200 if is_ready else 503, text.encode() + b"\n", "text/plain")

    async def show(_: Came) -> Answer:
        return Answer(200, metrics.text(), _METRICS_TYPE)

    routes = [route("/v1/events", "/v1/events", Events(keys, writer, metrics).handle, "POST")]
    for path, call in PATHS.items():
        one = Segment(call, keys, writer, metrics, now_ms)
        routes.append(route(f"/v1/{call}", f"/v1/{path}", one.handle, "POST"))
    routes += [route(name, path, handle, *methods) for name, path, handle, methods in more]
    for path, handle in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", show)):
        routes.append(route(path, path, handle, "GET"))

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            metrics.answered("other", 404, 0.0)
            await said(404, {"code": "not_found", "message": "there is nothing here"}).send(send)

    app: ASGIApp = Router(routes, redirect_slashes=False, default=nothing)
    if cors:
        app = CORSMiddleware(
            app, allow_origins=list(cors), allow_methods=["POST"], max_age=CORS_MAX_AGE_S,
            allow_headers=["authorization", "content-type", "content-encoding", "x-retry-count"],
            expose_headers=["retry-after"],
        )  # fmt: skip
    return app
