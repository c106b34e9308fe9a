"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Flows = Annotated[list[Path], typer.Argument(help="Flow files, or folders to search for them.", show_default=False)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Workspace file. Default: the nearest nudge.yaml, beside the first argument or above."
    ),
]
