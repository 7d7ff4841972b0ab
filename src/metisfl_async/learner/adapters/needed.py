"""Frameworks are imported where they are used; where one is missing, the error says how to get it."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["needed"]


def needed(module: str, package: str) -> Any:
    """Import a module of an optional package.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed; it says what `pip` calls it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install {package}", name=error.name) from error
