"""What the command shows: its log, on stderr."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from metisfl_async.core.errors import ConfigError
from metisfl_async.transport.audit import AUDIT, in_words

__all__ = ["keep_audit", "show_log"]


class _ForPeople(logging.Formatter):
    """Shows the audit in words."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        if record.name == AUDIT:
            record.message = in_words(record.message)
        return super().formatMessage(record)


class _Stderr:
    """Whatever is stderr now: a live display puts itself in its place, and prints lines above its bars."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def show_log(levels: dict[str, int], *, verbose: bool) -> None:
    """Log to stderr: in colours in a terminal, in plain lines elsewhere.

    Parameters
    ----------
    levels : dict of str to int
        The level of each logger that has one of its own; that of "" is for all others.
    verbose : bool
        Log every message of ours instead.
    """
    handler: logging.Handler
    if _Stderr().isatty():
        console = Console(file=_Stderr(), force_terminal=True)  # type: ignore[arg-type]
        handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(_ForPeople("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_ForPeople("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=levels.get("", logging.WARNING))
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    if verbose:
        logging.getLogger("metisfl_async").setLevel(logging.DEBUG)


def keep_audit(file: Path) -> None:
    """Append the audit to a file, as lines of JSON.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--audit", str(file), f"a file that can be written ({error.strerror})") from error
    logging.getLogger(AUDIT).addHandler(handler)
