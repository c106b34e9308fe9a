"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

CONFIG_HELP: Final = "Workspace file. Default: the nearest nudge.yaml, beside the first argument or above."

Flows = Annotated[list[Path], typer.Argument(help="Flow files, or folders to search for them.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)]
