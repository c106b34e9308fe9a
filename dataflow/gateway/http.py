"""Requests and answers of the door: bodies bounded in size and time, and what is said of those that are not taken."""

from __future__ import annotations

import asyncio
import traceback
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RECORD_MAX: Final = 1024 * 1024
BATCH_MAX: Final = 5 * RECORD_MAX
HEAD_MAX: Final = 64 * 1024
HEAD_PATIENCE_S: Final = 10.0
BODY_PATIENCE_S: Final = 10.0
LINGER_S: Final = 2.0
RETRY_AFTER_S: Final = 5
HELD_MAX: Final = 256 * 1024 * 1024

JSON: Final = "application/json"
Headers = Mapping[str, str]


class Answer:
    """What is answered."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, body: bytes = b"", content_type: str = JSON, headers: Headers | None = None
    ) -> None:
        self.status, self.body = status, body
        self.headers = [(b"content-length", b"%d" % len(body))]
        if body:
            self.headers.append((b"content-type", content_type.encode()))
        for name, value in (headers or {}).items():
            self.headers.append((name.encode(), value.encode()))

    async def send(self, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def said(status: int, content: Any, headers: Headers | None = None) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, orjson.dumps(content), headers=headers)


class NotTaken(Exception):
    """Ends a request with an answer that says why: a status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.answer = said(status, {"code": code, "message": message}, headers)


def unavailable(message: str) -> NotTaken:
    """Return that nothing can be stored now."""
    return NotTaken(503, "unavailable", message, {"retry-after": str(RETRY_AFTER_S)})


class Held:
    """What bodies of open requests hold in memory, all together."""

    def __init__(self, most: int = HELD_MAX) -> None:
        self.bytes, self._most = 0, most

    def add(self, count: int) -> None:
        """Hold more.

        Raises:
            NotTaken: that would be too much.
        """
        if self.bytes + count > self._most:
            raise unavailable("too many requests are open")
        self.bytes += count


class Came:
    """A request: what it says of itself, and its body."""

    __slots__ = ("_held", "_holds", "_receive", "body", "headers", "scope")

    def __init__(self, scope: Scope, receive: Receive, held: Held) -> None:
        self.scope, self._receive, self._held, self._holds = scope, receive, held, 0
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.body = b""

    def header(self, name: bytes) -> bytes:
        """Return the header *name*, in lower case, b"" where there is none."""
        return self.headers.get(name, b"")

    @property
    def content_type(self) -> str:
        """The type of the body, without what is said beside it."""
        return self.header(b"content-type").partition(b";")[0].strip().lower().decode("latin-1")

    async def read(self, most: int, types: Iterable[str] | None) -> None:
        """Read the body, and unpack it; at most *most* bytes, of one of *types* if they count and one is named.

        Raises:
            NotTaken: it is something else, too large, too slow, or broken.
        """
        if types is not None and (kind := self.content_type) and kind not in types:
            raise NotTaken(415, "wrong_type", f"{kind} is not taken here; there are {', '.join(types)}")
        encoding = self.header(b"content-encoding").strip().lower()
        if encoding not in (b"", b"identity", b"gzip"):
            raise NotTaken(415, "wrong_encoding", "of content encodings there is gzip", {"accept-encoding": "gzip"})
        length = self.header(b"content-length")
        if length.isdigit() and int(length) > most:
            raise too_large(most)
        message = await self._receive()
        if message.get("more_body", False):
            try:
                async with asyncio.timeout(BODY_PATIENCE_S):
                    self.body = await self._rest(message.get("body", b""), most)
            except TimeoutError:
                raise NotTaken(408, "too_slow", f"the body took more than {BODY_PATIENCE_S:.0f} s", _LAST) from None
        elif message["type"] == "http.disconnect":
            raise _gone()
        else:
            self.body = message.get("body", b"")
            self._hold(len(self.body), most)
        if encoding == b"gzip":
            self.body = self._unpacked(most)

    async def _rest(self, first: bytes, most: int) -> bytes:
        parts = [first]
        self._hold(len(first), most)
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            parts.append(part := message.get("body", b""))
            self._hold(len(part), most)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _hold(self, count: int, most: int) -> None:
        if self._holds + count > most:
            raise too_large(most)
        self._held.add(count)
        self._holds += count

    def _unpacked(self, most: int) -> bytes:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            body = unpacker.decompress(self.body, most + 1)
        except zlib.error as error:
            raise NotTaken(400, "not_gzip", f"the body cannot be unpacked: {error}") from None
        if len(body) > most:
            raise too_large(most)
        if not unpacker.eof or unpacker.unused_data:
            raise NotTaken(400, "not_gzip", "the body is not one whole gzip stream")
        self._held.add(len(body))
        self._holds += len(body)
        return body

    def free(self) -> None:
        """Hold nothing any more."""
        self._held.bytes -= self._holds
        self._holds = 0


_LAST: Final = {"connection": "close"}


def too_large(most: int) -> NotTaken:
    """Return that a body is larger than may be."""
    return NotTaken(413, "too_large", f"the body has more than {most} bytes", _LAST)


def _gone() -> NotTaken:
    return NotTaken(400, "not_whole", "the body ended early", _LAST)


Handle = Callable[[Came], Awaitable[Answer]]


class Endpoint:
    """One path as an ASGI application.

    Args:
        handle: answers a request, or raises `NotTaken`.
        seen: told the name, the status and the seconds of each answer.
    """

    def __init__(
        self, name: str, handle: Handle, held: Held, seen: Callable[[str, int, float], None], log: Any
    ) -> None:
        self._name, self._handle, self._held, self._seen, self._log = name, handle, held, seen, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        time = asyncio.get_running_loop().time
        began_s = time()
        came = Came(scope, receive, self._held)
        try:
            answer = await self._handle(came)
        except NotTaken as not_taken:
            answer = not_taken.answer
        except Exception as error:
            # Not with its message, which may have the request's data.
            where = "".join(traceback.format_tb(error.__traceback__)[-3:])
            self._log.error("a request could not be answered", path=self._name, error=type(error).__name__, where=where)
            answer = said(500, {"code": "internal", "message": "this is a mistake of ours"})
        finally:
            came.free()
        self._seen(self._name, answer.status, time() - began_s)
        await answer.send(send)


def _never() -> bool:
    return False


class _InOne:
    """A transport that writes the head of an answer together with its body: one packet, and one call of the system.

    The server writes the two one after the other, in the same step of the loop. A head without a body goes in the next.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, is_amid: Callable[[], bool]) -> None:
        self._transport, self._loop, self._is_amid = transport, loop, is_amid
        self._head = b""
        self.is_lingering = False
        self.get_extra_info = transport.get_extra_info

    def is_closing(self) -> bool:
        """Tell whether nothing more is said."""
        return self.is_lingering or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write *data*, or keep it for a moment where it is a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def forget(self) -> None:
        """Ask nobody any more: the connection has ended."""
        self._is_amid = _never

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Write what was kept, and close.

        Whoever is amid a request is heard out for a moment: a connection that is closed with something unread is
        reset, and many a client then loses the answer that says why.
        """
        if self.is_closing():
            return
        self._flush()
        if self._is_amid() and self._transport.can_write_eof():
            self.is_lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()


class Protocol(HttpToolsProtocol):
    """HTTP whose heads are bounded in size and time, which the parser does not do by itself."""

    _head = 0
    _is_in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody has connected, and has to say something soon."""
        super().connection_made(_InOne(transport, self.loop, lambda: not self._is_in_head))  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        super().connection_lost(exc)
        # What points back to this goes with it, and does not wait for the collector of cycles.
        self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()
        self.transport.forget()  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head += len(data)
        super().data_received(data)
        if self._is_in_head and self._head and not self.transport.is_closing():
            if self._head > HEAD_MAX:
                self.transport.close()
            else:
                self._await_head()

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._is_in_head, self._head = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._is_in_head = True
        super().on_message_complete()

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_PATIENCE_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
