"""The state directory: what is in it, who may use it, and what `nudge.json` says.

STATE/nudge.json   the job's identity, its sources, and the flows in force with their text; replaced atomically
STATE/lock         held by the running job and inherited by its processes
STATE/recovery/    the engine's: offsets, and the commit of each shard
STATE/progress/    how far each source partition came (dataflow/read/progress.py)
STATE/shards/NN/   one store per shard (state/store.py)
STATE/register.sqlite3   what no single user decides, only once a flow asks (state/registerfile.py)
STATE/differences.jsonl, STATE/accepted-actions.txt   only once needed (dataflow/keep/differences.py)
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from dataflow.errors import UsageError
from dataflow.keep.decidedby import DecidedBy
from dataflow.keep.files import DiskFolder, Folder
from operators.ids import label_of
from state.shards import ShardKeys

STATE_FORMAT: Final = 3
"""2: the engine's keys of shards are names from a table; a state of format 1 has their numbers, and keeps them."""
STATE_FILE: Final = "nudge.json"
RESTORE: Final = "restore the whole state directory from one backup"
LOCK_PATIENCE_S: Final = 3.0  # The processes of a job that was killed die a moment after it.


class DeployedFlow(msgspec.Struct):
    """A flow version that has been in force here. `content` identifies what it does, `state` is live, paused, ..."""

    flow: str
    version: int
    content: str
    state: str
    file: str
    text: str
    in_force: bool = True

    @property
    def label(self) -> str:
        """What counts call the version: `<flow> 0x1F <version>`."""
        return label_of(self.flow, self.version)


class RunNote(msgspec.Struct):
    """What the last run set out to do; `is_clean` once it has stopped by itself.

    `ends` are the offsets at which the run was to stop, for the partitions that had an end. `keeps_sent` tells whether
    it kept what it sent, for receipts.
    """

    is_clean: bool
    ends: dict[str, int] = {}
    until_ms: int | None = None
    keeps_sent: bool = False


class StateFile(msgspec.Struct):
    """`nudge.json`.

    `sink_number` counts the sinks that this state has written to: a shard's snapshot says offsets of one of them.
    `sink_starts` has, per topic of the sink that was ever written to, the offsets before which nothing is that could be
    decided again.
    `topic_ids` has, per source partition, the id that its topic got when it was made. `begins` has, per source
    partition that came after the state was made, the offset and the stream time (ms) at which it begins.
    `workspace` is what `nudge.yaml` says of channels and messages, as JSON: no settings, no secrets. `shard_keys` says
    how the engine's keys of the shards are made, see `state/shards.py`. `decided_by` is what decided first since the
    last clean stop, and so has to finish it; None: a run of format 1. `flow_begins` has, by the label of a flow
    version in force whose runs over audiences are planned, when it begins (ms); -1: with the first record. `register`
    is how often the register had been confirmed when the run began: an older one is not this state's.
    """

    format: int
    job: str
    shards: int
    sources: list[str]
    partitions: list[str]
    sink: str
    sink_number: int
    sink_starts: dict[str, list[int]]
    flows: list[DeployedFlow]
    workspace: str
    run: RunNote
    topic_ids: dict[str, str] = {}
    begins: dict[str, tuple[int, int]] = {}
    shard_keys: Literal["numbers", "even"] = "numbers"
    decided_by: DecidedBy | None = None
    flow_begins: dict[str, int] = {}
    register: int = 0

    @property
    def keys(self) -> ShardKeys:
        """The engine's keys of the shards."""
        return ShardKeys(self.shard_keys, self.shards)


class StateDir:
    """One state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = -1

    @property
    def recovery(self) -> Path:
        return self.root / "recovery"

    @property
    def files(self) -> Folder:
        """The folder that `nudge.json` is in."""
        return DiskFolder(self.root)

    @property
    def progress(self) -> Folder:
        return DiskFolder(self.root / "progress")

    @property
    def register(self) -> Path:
        return self.root / "register.sqlite3"

    def shard(self, number: int) -> Path:
        return self.root / "shards" / f"{number:02d}"

    @property
    def lock_file(self) -> int:
        """The file descriptor of the lock, for the processes that inherit it."""
        return self._lock

    def create_folders(self) -> None:
        """Make the directory and what belongs in it; only the owner may look inside.

        Raises:
            UsageError: it cannot be made or written to.
        """
        try:
            for folder in (self.root, self.recovery, self.root / "progress", self.root / "shards"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder != self.root and folder.stat().st_mode & 0o077:
                    folder.chmod(0o700)  # Copied back from a backup, for example. The root may be a mount.
            probe = self.root / ".writable"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise UsageError(f"--state {self.root}: {error.strerror}: it must be a folder we may write to") from None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UsageError: another job has it.
        """
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
                    raise UsageError(
                        f"--state {self.root}: in use by another job (process {holder or 'unknown'}); "
                        "stop that one, or choose another directory"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def read_state_file(folder: Folder) -> StateFile | None:
    """Return the `nudge.json` in *folder*, None when nothing has run there yet.

    Raises:
        UsageError: it is of a newer format or cannot be read.
    """
    try:
        data = folder.read(STATE_FILE)
    except FileNotFoundError:
        return None
    try:
        format = msgspec.json.decode(data, type=_OnlyFormat).format
        if format > STATE_FORMAT:
            raise UsageError(
                f"{folder}/{STATE_FILE}: this state has format {format}, "
                f"this version of nudge reads up to {STATE_FORMAT}: use the version that wrote it, or a newer one"
            )
        return msgspec.json.decode(data, type=StateFile)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{folder}/{STATE_FILE}: cannot be read ({error}): restore the directory from a backup"
        ) from None


def write_state_file(folder: Folder, file: StateFile) -> None:
    """Replace the `nudge.json` in *folder*: after a crash the old one or the new one is there."""
    folder.replace(STATE_FILE, msgspec.json.format(msgspec.json.encode(file), indent=1))


class _OnlyFormat(msgspec.Struct):
    format: int
