"""The command `metisfl-async`: the only part that reads arguments, prints, logs and handles signals."""

from __future__ import annotations

import sys

__all__ = ["main"]

NEEDED = ("click", "ruamel", "cryptography")  #: what the extra "cli" brings


def main() -> None:
    """Do what the command line says; wrong configuration exits with 2, other errors of ours with 1."""
    try:
        from metisfl_async.cli.app import run_app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in NEEDED:
            raise
        sys.stderr.write(f"error: {error.name} is not installed: pip install click cryptography ruamel.yaml\n")
        sys.exit(2)
    run_app()
