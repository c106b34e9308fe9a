"""Segment's own clients, as they are published: fetched once into `.cache`, each with what it needs beside it."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.jobs import REPO

CACHE = REPO / ".cache"
FETCH_TIMEOUT_S = 240
PYTHON_SDK = "segment-analytics-python==2.4.0"
_HERE = Path(__file__).parent


def python_sdk() -> Path:
    """Return the folder of the client for Python."""
    folder = CACHE / PYTHON_SDK.replace("==", "-")
    with _once(folder) as is_new:
        if is_new:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target"]
            _run([*command, str(folder), PYTHON_SDK], "pip could not fetch Segment's client for Python")
    return folder


def node_sdk() -> Path:
    """Return the folder of the client for Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.fail("this test wants Node 20 or newer with npm (Debian: apt-get install nodejs npm)", pytrace=False)
    wanted = _HERE / "segment.json"
    folder = CACHE / "segment-node"
    with _once(folder) as is_new:
        if is_new:
            shutil.copy(wanted, folder / "package.json")
            command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
            _run(command, "npm could not fetch Segment's client for Node")
    return folder


@contextmanager
def _once(folder: Path) -> Iterator[bool]:
    """Give whether *folder* is still to be filled; only one process fills it, and a half-filled one is filled anew."""
    CACHE.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".installed"
        is_new = not done.exists()
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield is_new
        done.touch()


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    if done.returncode:
        pytest.fail(f"{what}: {done.stderr[-2000:]}", pytrace=False)
