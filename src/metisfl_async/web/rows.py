"""A table that many watch: each change has a number, and whoever says the last one they saw gets what changed since."""

from __future__ import annotations

import json
import math
import secrets
from bisect import bisect_right
from collections.abc import Callable, Hashable
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["Changes", "Rows"]

Key = tuple[Hashable, ...]

BLOCK = 256  #: rows; dropping what is outdated looks at so many at a time


class _Row:
    """A row as it was made by one change; its text is made when somebody is told, and once, however many watch."""

    def __init__(self, version: int, key: Key, value: Callable[[], Any]) -> None:
        self.version, self.key, self._value = version, key, value
        self.is_current = True

    @cached_property
    def text(self) -> str:
        return json.dumps([*self.key, _plain(self._value())], separators=(",", ":"))


class _Block:
    """Rows that changed one after another. Those that have changed again are dropped once they are half of it."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self._outdated = 0

    def outdate(self) -> None:
        self._outdated += 1
        if 2 * self._outdated > len(self.rows):
            self.rows, self._outdated = [row for row in self.rows if row.is_current], 0


class Changes(NamedTuple):
    """Rows that changed, each as it is now, as JSON; with the version after them."""

    text: str
    version: int


class Rows:
    """Rows by key, in the order in which they changed last.

    Nothing is queued for anybody: who reads seldom gets fewer, newer rows.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self._block = block
        self.id = secrets.token_hex(4)  #: tells this table from one of before a restart
        self.version = 0
        self._rows: dict[Key, tuple[_Row, _Block]] = {}
        self._blocks: list[_Block] = []  # none is empty

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, *key: Hashable, value: Callable[[], Any]) -> None:
        """Set a row, or say that it has changed; its value is asked for when somebody is told."""
        self.drop(*key)
        self.version += 1
        if not self._blocks or len(self._blocks[-1].rows) >= self._block:
            self._blocks.append(_Block())
        row, block = _Row(self.version, key, value), self._blocks[-1]
        block.rows.append(row)
        self._rows[key] = row, block

    def drop(self, *key: Hashable) -> None:
        """Forget a row. Watchers are not told: they have a limit of their own."""
        if key in self._rows:
            row, block = self._rows.pop(key)
            row.is_current = False
            block.outdate()
            if not block.rows:
                self._blocks.remove(block)

    def since(self, version: int, most: int) -> Changes:
        """Give rows that changed after a version, oldest first, `most` of them; no text if there are none."""
        first = bisect_right(self._blocks, version, key=lambda block: block.rows[-1].version)
        rows = (row for block in islice(self._blocks, first, None) for row in block.rows)
        texts: list[str] = []
        for row in rows:
            if row.is_current and row.version > version:
                texts.append(row.text)
                if len(texts) == most:
                    return Changes(f"[{','.join(texts)}]", row.version)
        return Changes(f"[{','.join(texts)}]" if texts else "", self.version)


def _plain(value: Any) -> Any:
    """Make null of numbers that JSON does not have; of others nine digits are more than a picture shows."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
