"""Reads the named examples in `corpus/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "corpus"
EVENT = '{"user_id":"u","event":"e",'
HEAD = "flow: f\ntrigger: {event: e}\nsteps:\n"


def examples(name: str) -> list[dict[str, Any]]:
    """Return the examples of one file."""
    return list(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def built(pieces: str | list[Any]) -> bytes:
    """Return the bytes that *pieces* stand for; see the head of `corpus/flows.yaml`."""
    return b"".join(map(_piece, [pieces] if isinstance(pieces, str) else pieces))


def _piece(piece: Any) -> bytes:
    if isinstance(piece, str):
        return {"HEAD": HEAD, "EVENT": EVENT}.get(piece, piece).encode()
    if "hex" in piece:
        return bytes.fromhex(piece["hex"])
    if "repeat" in piece:
        return built(piece["repeat"]) * int(piece["times"])
    return "".join(piece["numbered"] % number for number in range(piece["times"])).encode()
