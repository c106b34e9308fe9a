"""The demo: a made-up shop, its flows, and a picture of what the job does."""

from pathlib import Path
from typing import Final

FLOWS: Final = Path(__file__).parent / "flows"
"""The flows of the shop, with their workspace file."""
