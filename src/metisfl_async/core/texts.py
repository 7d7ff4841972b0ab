"""Texts of peers, as they may be kept, logged and shown: short, and with nothing in them that a terminal would obey."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

__all__ = ["MAX_NAME", "MAX_TEXT", "plain", "plain_names"]

MAX_TEXT = 4_000  #: characters of a message or a reason
MAX_NAME = 100  #: characters of the type of an error, or the name of a metric
CUT = "..."

T = TypeVar("T")


def plain(text: str, most: int = MAX_TEXT) -> str:
    """Cut a text, and escape what does not print: line breaks, control characters, marks that turn the direction.

    What is plain already comes back as it is.
    """
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(map(_shown, shown))
    return shown if len(shown) <= most else shown[: most - len(CUT)] + CUT


def plain_names(values: Mapping[str, T]) -> dict[str, T]:
    """Make the keys plain names; of those that become equal, the last one counts."""
    return {plain(name, MAX_NAME): value for name, value in values.items()}


@lru_cache(4096)  # a message of a peer can have a hundred thousand
def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # spaces of all scripts
        return character
    return character.encode("unicode_escape").decode()
