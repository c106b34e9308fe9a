"""What runs beside the demo's job: `nudge deliver` and `nudge gateway`, and providers for them, each a process.

The two are what anybody would start in two more terminals, with a `nudge.yaml` that is written here. They end with the
demo, however that ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from dataflow.demo.providers import SECRET
from state.errors import Failed

UNMATCHED: Final = "receipts.unmatched"
REPORTING: Final = ("sms", "email")
"""The channels whose providers report through the gateway; the others say in their answer what became of a message."""
STOP_PATIENCE_S: Final = 8.0

# The process becomes a module of ours, and is killed when the thread that started it ends.
_WITH_US: Final = (
    "import os, sys; from dataflow.job.launch import die_with_parent; die_with_parent(int(sys.argv[1])); "
    "os.execv(sys.executable, [sys.executable, '-P', '-m', *sys.argv[2:]])"
)


class DemoFailed(Failed):
    """A part of the demo has ended by itself; the message says why."""


def workspace(topics: Mapping[str, str], providers: str) -> dict[str, Any]:
    """Return the `nudge.yaml` by which channels are delivered to the demo's *providers*.

    Args:
        topics: those of the channels, by name.
        providers: their address.
    """
    channels = {
        name: {"topic": topic, "deliver": {**_how(name, providers), "private": True}} for name, topic in topics.items()
    }
    reporting = {name: {"secret": {"env": SECRET}} for name in topics if name in REPORTING}
    return {"channels": channels, "gateway": {"receipts": reporting}}


def _how(channel: str, providers: str) -> dict[str, Any]:
    if channel not in REPORTING:
        return {"provider": "webhook", "url": f"{providers}/{channel}/hook"}
    return {
        "provider": "http",
        "url": providers + "/{{ channel }}/messages",
        "json": {"id": "{{ action_id }}", "to": "{{ to }}", "template": "{{ template }}", "values": "{{ vars }}"},
        "answer": {
            "code": "{{ answer.code }}",
            "id": "{{ answer.message }}",
            "detail": "{{ answer.detail }}",
            "means": {"OK": "ok", "BUSY": "retry"},
        },
        "report": {
            "each": "{{ body.reports }}",
            "action_id": "{{ one.id }}",
            "status": "{{ one.state }}",
            "statuses": {"delivered": "delivered", "bounced": "failed", "opened": "opened"},
        },
    }


class Beside:
    """Delivery at work, for as long as the context lasts; for one thread, with which the processes end.

    Args:
        bootstrap: the broker.
        topics: those of the channels, by name.
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str]) -> None:
        self._kafka, self._topics = f"kafka://{bootstrap}", topics
        self._ending = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            self._folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="nudge-demo-")))
            ending.callback(self._end)
            providers, gateway = _free_ports(2)
            address = f"http://127.0.0.1:{providers}"
            config = self._folder / "nudge.yaml"
            written = workspace(self._topics, address)
            config.write_text(yaml.safe_dump(written, sort_keys=False))
            common = ("--config", str(config), "--ledger", f"sqlite:{self._folder / 'ledger.db'}")
            secret = secrets.token_hex()
            reports = f"http://127.0.0.1:{gateway}/receipts"
            self._start("providers", secret, "dataflow.demo.providers", "127.0.0.1", str(providers), reports)
            kafka, cli = self._kafka, "dataflow.cli"
            self._start("nudge deliver", secret, cli, "deliver", "--source", kafka, *common)
            if written["gateway"]["receipts"]:
                self._start("nudge gateway", secret, cli, "gateway", "--sink", kafka, "--port", str(gateway), *common)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.close()

    def check(self) -> None:
        """See that all are at work.

        Raises:
            DemoFailed: one has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = self._log(name).read_text(errors="replace").strip().rpartition("\n")[2]
                raise DemoFailed(f"`{name}` has ended with status {process.returncode}: {said}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _start(self, name: str, secret: str, *module: str) -> None:
        # Settings for a Kafka of the user's own are not for this one.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NUDGE_")}
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own interpreter and modules.
                [sys.executable, "-P", "-c", _WITH_US, str(os.getpid()), *module],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, SECRET: secret},
                start_new_session=True,  # Ctrl-C is for the demo, which then stops them.
            )

    def _end(self) -> None:
        """Ask all to stop, and see that they have."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        until_s = time.monotonic() + STOP_PATIENCE_S
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until_s - time.monotonic()))
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as open_together:  # So that they differ.
        found = [open_together.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]
