"""Look at a state as of its last complete checkpoint, stopped or beside the running job, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from dataflow.errors import UsageError
from dataflow.keep.recovery import Cut, last_cut
from dataflow.keep.statedir import StateDir, StateFile, read_state_file
from operators.language.workspace import read_workspace
from operators.machine.deployment import Deployment
from operators.program.flows import FlowText, compile_texts
from state.backend import Backend, MemoryBackend
from state.errors import NewerFormatError, StoreError
from state.meta import read_meta
from state.rocks import RocksBackend
from state.shards import owner_of
from state.undo import AsOf, undo_keys

TRIES: Final = 6  # A running job drops the undo of a checkpoint three checkpoints later, and its files move meanwhile.
PAUSE_S: Final = 0.2


class StateView:
    """All shards of a state at one moment: that of its last complete checkpoint.

    They are opened together and stay as they were then, however long somebody looks and the job goes on.

    `broken` says of each shard that cannot be looked at why not.

    Args:
        pause: waits so many seconds before another try.

    Raises:
        UsageError: there is no state at *root*, or it was written by a later version of the software.
        StoreError: the last checkpoint cannot be known.
    """

    def __init__(self, root: Path, pause: Callable[[float], None] = time.sleep) -> None:
        self.directory = StateDir(root)
        file = read_state_file(self.directory.files) if root.is_dir() else None
        if file is None:
            raise UsageError(f"--state {root}: no state here: give the folder that `nudge run --state` was given")
        self.file: StateFile = file
        self._keys = file.keys.names
        if not any(self.directory.recovery.glob("*.sqlite3")):
            raise StoreError(f"{self.directory.recovery} has no checkpoints: the engine's files are gone")
        self.cut = Cut()
        self.broken: dict[int, str] = {}
        self._backends: dict[int, Backend] = {}
        for number in range(TRIES):
            if number:
                pause(PAUSE_S * number)
            try:
                cut = last_cut(self.directory.recovery)
            except StoreError:
                self.close()
                raise
            if cut.epoch != self.cut.epoch:
                self.close()
            self.cut = cut
            self._open_all()
            if not self.broken:
                break

    def commit_of(self, shard: int) -> int:
        """Return the commit of *shard* that belongs to the checkpoint, 0 for one that had none yet."""
        snapshot = self.cut.shards.get(self._keys[shard])
        return int(snapshot[0]) if snapshot else 0

    def shard(self, number: int) -> AsOf:
        """Return shard *number* as of the checkpoint; it may not be one of `broken`."""
        return AsOf(self._backends[number], self.commit_of(number))

    def latest(self, number: int) -> Backend:
        """Return shard *number* as it was when it was opened, which may be later than the checkpoint."""
        return self._backends[number]

    def deployment(self) -> Deployment:
        """Return the flows in force."""
        workspace, _ = read_workspace("nudge.yaml", self.file.workspace.encode())
        texts = [FlowText(flow.file, flow.text) for flow in self.file.flows if flow.in_force]
        checked = compile_texts(texts, workspace)
        if checked.has_errors:
            wrong = ", ".join(sorted({problem.file for problem in checked.problems}))
            raise UsageError(
                f"{self.directory.root}/nudge.json: this version of nudge cannot read the flows in force ({wrong}): "
                "use the version that runs the job"
            )
        return Deployment(checked.programs)

    def close(self) -> None:
        """Close all shards."""
        for backend in self._backends.values():
            backend.close()
        self._backends = {}

    def _open_all(self) -> None:
        self.broken = {}
        for number in range(self.file.shards):
            if number not in self._backends:
                with suppress(_Broken):
                    self._backends[number] = self._open(number)

    def _open(self, number: int) -> Backend:
        path, commit = self.directory.shard(number), self.commit_of(number)
        if commit == 0 and not (path / "CURRENT").exists():
            return MemoryBackend()  # Nothing has been kept in it so far.
        backend: Backend | None = None
        try:
            backend = RocksBackend(path, read_only=True)
            undo_keys(backend, commit)
            owner, expected = read_meta(backend).owner, owner_of(self.file.job, number, self.file.shards)
            if owner not in ("", expected):
                raise StoreError(f"this store belongs to {owner}, not to {expected}")
        except NewerFormatError as error:
            raise UsageError(f"{path}: {error}") from None
        except (StoreError, OSError, msgspec.MsgspecError) as error:
            if backend is not None:
                backend.close()
            self.broken[number] = str(error)
            raise _Broken from None
        return backend


class _Broken(Exception):
    """A shard cannot be looked at; why is noted."""
