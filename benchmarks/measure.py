"""Runs one program as a fresh process and says what it cost, and on what machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import confluent_kafka

from tests.kafka.broker import POM, ROOT, Broker, ForeignBroker, KafkaUnavailableError, running_broker

PACKAGES = ("nudge", "bytewax", "confluent-kafka", "msgspec", "orjson", "rocksdict")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class RunError(RuntimeError):
    """The measured program failed, or printed no result."""


@dataclass(frozen=True)
class Cost:
    """What one process and all its descendants took.

    Attributes:
        wall_s: from the start of the process to its end, Python's own start included.
        cpu_s: of all its processes that were waited for, kernel time included.
        rss_max_mb: of the largest of its processes; no less than the measuring process itself, some 60 MB.
        broker_cpu_s: what Kafka took meanwhile, if it is ours to look at.
        others_cpu_s: what the machine did besides, if that can be told; with much of it the run is not to be trusted.
    """

    wall_s: float
    cpu_s: float
    rss_max_mb: float
    broker_cpu_s: float | None
    others_cpu_s: float | None


@contextmanager
def kafka(address: str | None, work: Path, heap: str) -> Iterator[Broker | ForeignBroker]:
    """Give the broker at *address*, or without one a broker of our own with its data in a new folder in *work*.

    Raises:
        KafkaUnavailableError: nothing answers there, or there is no Java.
        BrokerError: our own did not come up.
    """
    work.mkdir(parents=True, exist_ok=True)
    if address:
        foreign = ForeignBroker(address)
        if not foreign.answers(timeout_s=10):
            raise KafkaUnavailableError(f"nothing answers at {address}")
        yield foreign
        return
    folder = Path(tempfile.mkdtemp(prefix="kafka-", dir=work))
    try:
        with running_broker(folder, heap=heap, quick_start=False) as broker:
            yield broker
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_json(command: Sequence[str], *, timeout_s: float, broker_pid: int | None) -> tuple[dict[str, Any], Cost]:
    """Run *command* and return the JSON object on its last line and what it cost.

    Raises:
        RunError: it failed, took too long or printed something else; with the end of what it wrote.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        busy, broker = machine_cpu_s(), process_cpu_s(broker_pid)
        started = time.perf_counter()
        # A session of its own, so that on time-out all of it can be ended.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT, start_new_session=True
        )
        late = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            # `wait4` and not `wait`: it gives what this child and its children took, and nothing of other children's.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            late.cancel()
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime
        broker_cpu_s = _difference(process_cpu_s(broker_pid), broker)
        all_cpu_s = _difference(machine_cpu_s(), busy)
        # Without the broker's part nobody can say what is left for others.
        others_cpu_s = None
        if all_cpu_s is not None and broker_cpu_s is not None:
            others_cpu_s = max(0.0, all_cpu_s - cpu_s - broker_cpu_s)
        out.seek(0)
        err.seek(0)
        lines = out.read().decode("utf-8", "replace").strip().splitlines()
        trouble = err.read().decode("utf-8", "replace").strip()[-3000:]
    name = Path(command[0]).name
    if process.returncode != 0:
        late_note = f" after {timeout_s:.0f} s" if wall_s >= timeout_s else ""
        said = trouble or "\n".join(lines[-10:])
        raise RunError(f"{name} ended with code {process.returncode}{late_note}:\n{said}")
    try:
        result = json.loads(lines[-1])
        assert isinstance(result, dict)
    except (IndexError, ValueError, AssertionError):
        raise RunError(f"{name}: the last line is not a JSON object: {lines[-1:]}\n{trouble}") from None
    return result, Cost(wall_s, cpu_s, usage.ru_maxrss / 1024, broker_cpu_s, others_cpu_s)


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the numbers: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part, and the commit that was measured."""
    found = {"python": platform.python_version(), "librdkafka": confluent_kafka.libversion()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    found["kafka"] = POM.read_text("utf-8").partition("<kafka.version>")[2].partition("<")[0]
    found["java"] = _first_line(["java", "-version"])
    commit = _first_line(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    # Without locks: a measurement must not get in the way of somebody's commit.
    changes = _first_line(["git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain"])
    found["commit"] = f"{commit} with changes" if changes else commit
    return found


def folder_mb(folder: Path) -> float:
    """Return how much disk a folder takes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 2**20


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return next(iter((done.stdout or done.stderr).splitlines()), "")


def machine_cpu_s() -> float | None:
    """Return the CPU time that was spent on this machine since its start, by anybody."""
    if not sys.platform.startswith("linux"):
        return None
    user, nice, system, _idle, _iowait, irq, softirq = (
        int(field) for field in Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def process_cpu_s(pid: int | None) -> float | None:
    """Return the CPU time that a process, without its children, has used since its start."""
    if pid is None or not sys.platform.startswith("linux"):
        return None
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
