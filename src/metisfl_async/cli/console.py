"""What the command shows: its log, on stderr."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

__all__ = ["show_log"]


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
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=levels.get("", logging.WARNING))
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    if verbose:
        logging.getLogger("metisfl_async").setLevel(logging.DEBUG)
