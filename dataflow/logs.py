"""Logs: one structured line per event on standard error, without personal data."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO


def _load_structlog() -> Any:
    """Import structlog, but not rich, which it would load for coloured tracebacks: a fifth of what a process loads."""
    if "rich" in sys.modules:
        return import_module("structlog")
    sys.modules["rich"] = None  # type: ignore[assignment]  # As Python says that there is no such module.
    try:
        return import_module("structlog")
    finally:
        del sys.modules["rich"]


if TYPE_CHECKING:
    import structlog
else:
    structlog = _load_structlog()

Log = structlog.stdlib.BoundLogger
get_logger = structlog.get_logger


def is_json(format: str, stream: TextIO | None = None) -> bool:
    """Tell whether a log of *format* has JSON lines on *stream*, by default standard error."""
    return format == "json" or (format == "auto" and not (stream or sys.stderr).isatty())


def configure_logs(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Set up logging for this process.

    Args:
        level: debug, info, warning or error.
        format: text for people, json for machines; auto takes text when *stream* is a terminal.
        stream: where to; standard error, unless that is not ours.
    """
    out = stream or sys.stderr
    as_json = is_json(format, out)
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(out),  # A line at once: several processes write there.
        cache_logger_on_first_use=True,
    )
