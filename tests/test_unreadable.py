"""What cannot be read is refused in one line with status 2, whatever it is and wherever it was named."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dataflow.cli import main
from dataflow.errors import UsageError, must_be_readable

FLOW = "flow: f\ntrigger: {event: a}\nsteps: [{end: x}]\n"


def odd_places(folder: Path) -> dict[str, Path]:
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    return {name: folder / name for name in ("missing", "folder", "link", "pipe", "socket")}


@pytest.mark.parametrize("place", ["missing", "folder", "link", "pipe", "socket"])
@pytest.mark.parametrize("option", ["--source", "--events", "--config"])
def test_it_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)  # A socket's name must be short.
    path = odd_places(tmp_path)[place].relative_to(tmp_path)
    (tmp_path / "f.yaml").write_text(FLOW)
    run = ["run", "f.yaml", "--sink", "stdout:", "--stop-at-end"]
    arguments = {
        "--source": [*run, "--source", f"file:{path}"],
        "--events": ["simulate", "f.yaml", "--events", str(path)],
        "--config": ["check", "f.yaml", "--config", str(path)],
    }[option]
    assert main(arguments) == 2
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert str(path) in said


def test_a_file_that_others_may_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests as root may read everything, so the system's answer is put in its place."""
    path = tmp_path / "events.jsonl"
    path.write_text("")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UsageError, match=r"--events e: Permission denied; check who may read it"):
        must_be_readable(path, "--events e")
