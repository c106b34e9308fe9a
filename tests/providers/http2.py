"""The server of `server.py` over HTTP/2 only, as push services have it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from tests.providers.server import HALF, HANGS, NONSENSE, Handler, Request, Server
from tests.providers.smtp import Certificate


class Http2Server(Server):
    """Serves over HTTP/2 with TLS.

    Attributes:
        connections: how many there were.
    """

    def __init__(self, handle: Handler, certificate: Certificate) -> None:
        context = certificate.context
        context.set_alpn_protocols(["h2"])
        super().__init__(handle, context)
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = defaultdict(bytes)
        try:
            writer.write(connection.data_to_send())
            while data := await reader.read(65_536):
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
                    elif isinstance(event, DataReceived):
                        bodies[event.stream_id] += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, StreamEnded):
                        head, body = heads.pop(event.stream_id), bodies.pop(event.stream_id, b"")
                        if not self._answer(connection, event.stream_id, head, body):
                            writer.write(connection.data_to_send())
                            return
                writer.write(connection.data_to_send())
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            with suppress(RuntimeError):  # The loop is gone.
                writer.close()

    def _answer(self, connection: H2Connection, stream: int, head: dict[str, str], body: bytes) -> bool:
        """Answer a request; return False where the connection is to be closed."""
        parts = urlsplit(head[":path"])
        fields = {name: value for name, value in head.items() if not name.startswith(":")}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        answer = self._handle(Request(head[":method"], parts.path, query, fields, body))
        if answer == HANGS:
            return True
        if isinstance(answer, str):
            if answer in (HALF, NONSENSE):
                connection.send_headers(stream, [(":status", "200"), ("content-length", "1000")])
                connection.send_data(stream, b"{")
            return False
        named = [(name.lower(), value) for name, value in answer.headers.items()]
        connection.send_headers(stream, [(":status", str(answer.status)), *named], end_stream=not answer.body)
        if answer.body:
            connection.send_data(stream, answer.body, end_stream=True)
        return True
