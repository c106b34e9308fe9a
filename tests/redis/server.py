"""One real Redis: to start, stop, kill and pause; with its append-only file, and if wanted with TLS and users."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.kafka.broker import free_port

START_TIMEOUT_S = 30.0


class RedisUnavailableError(RuntimeError):
    """There is no Redis here; the message says what to do."""


class RedisServer:
    """A Redis on 127.0.0.1, on a free port.

    Args:
        folder: for its file and its log.
        acl: lines of an ACL file; without them anybody may do everything.
        tls: a folder from `tests.certificates`; its port speaks TLS only.
        fsync: when its file is synced. Unless that is "always", it may answer a moment before it writes.
    """

    def __init__(
        self, folder: Path, *, acl: Sequence[str] = (), tls: Path | None = None, fsync: str = "everysec"
    ) -> None:
        self._folder, self._acl, self._tls, self._fsync = folder, acl, tls, fsync
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address, as `--ledger` takes it."""
        if self._tls is None:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self._tls / 'ca.pem'}"

    def start(self) -> None:
        """Start it, again too, and return once it answers.

        Raises:
            RedisUnavailableError: it is not installed, or does not come up.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise RedisUnavailableError(
                "`redis-server` is not on the PATH: install Redis 7 (apt-get install redis-server)"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "bind 127.0.0.1", f"dir {self._folder}", "appendonly yes", f"appendfsync {self._fsync}", 'save ""',
            "daemonize no", f"port {0 if self._tls else self.port}",
        ]  # fmt: skip
        if self._tls is not None:
            lines += [
                f"tls-port {self.port}", "tls-auth-clients no", f"tls-ca-cert-file {self._tls / 'ca.pem'}",
                f"tls-cert-file {self._tls / 'server.pem'}", f"tls-key-file {self._tls / 'server.key'}",
            ]  # fmt: skip
        if self._acl:
            (self._folder / "users.acl").write_text("\n".join(self._acl) + "\n")
            lines.append(f"aclfile {self._folder / 'users.acl'}")
        (self._folder / "redis.conf").write_text("\n".join(lines) + "\n")
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, str(self._folder / "redis.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "redis.log").read_text(errors="replace")[-2000:]
                raise RedisUnavailableError(f"redis-server did not start:\n{said}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        """Tell whether it answers, and not only listens: a file that is being loaded is no answer."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
            if self._tls is not None:
                return True
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def pause(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; its file stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
