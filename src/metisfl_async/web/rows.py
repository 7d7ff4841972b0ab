"""A table that many watch: each change has a number, and whoever says the last one they saw gets what changed since."""

from __future__ import annotations

import json
import math
import secrets
from bisect import bisect_right
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, NamedTuple

__all__ = ["Changes", "Rows"]

Key = tuple[Hashable, ...]


class _Row:
    """A row as it was made by one change; its text is made when somebody is told, and once, however many watch."""

    def __init__(self, version: int, key: Key, value: Callable[[], Any]) -> None:
        self.version, self.key, self._value = version, key, value

    @cached_property
    def text(self) -> str:
        return json.dumps([*self.key, _plain(self._value())], separators=(",", ":"))


class Changes(NamedTuple):
    """Rows that changed, each as it is now, as JSON; with the version after them."""

    text: str
    version: int


class Rows:
    """Rows by key, in the order in which they changed last.

    Nothing is queued for anybody: who reads seldom gets fewer, newer rows.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)  #: tells this table from one of before a restart
        self.version = 0
        self._rows: dict[Key, _Row] = {}
        self._order: list[_Row] = []  # by version; a row that has changed since, or is gone, is not the one in _rows

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, *key: Hashable, value: Callable[[], Any]) -> None:
        """Set a row, or say that it has changed; its value is asked for when somebody is told."""
        self.version += 1
        row = self._rows[key] = _Row(self.version, key, value)
        self._order.append(row)
        if len(self._order) > 2 * len(self._rows) + 1_000:
            self._order = [row for row in self._order if self._rows.get(row.key) is row]

    def drop(self, *key: Hashable) -> None:
        """Forget a row. Watchers are not told: they have a limit of their own."""
        self._rows.pop(key, None)

    def since(self, version: int, most: int) -> Changes:
        """Give rows that changed after a version, oldest first, `most` of them; no text if there are none."""
        texts: list[str] = []
        for index in range(bisect_right(self._order, version, key=lambda row: row.version), len(self._order)):
            row = self._order[index]
            if self._rows.get(row.key) is row:
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
