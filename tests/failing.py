"""A disk on which any write, flush, rename or statement may fail."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metisfl_async.store.journal import Journal

__all__ = ["Failing"]


class Failing:
    """Makes the n-th call fail, or all from it on; calls of the journal may fail after they have been done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self.goes_on = self.is_late = self.has_happened = False
        monkeypatch.setattr(os, "fsync", self._wrap(lambda _: None))  # it is counted, and not done: no power fails here
        monkeypatch.setattr(os, "open", self._wrap(os.open))
        for name in ("replace", "mkdir", "unlink", "open"):
            monkeypatch.setattr(Path, name, self._wrap(getattr(Path, name)))
        monkeypatch.setattr(Journal, "_execute", self._wrap(Journal._execute))

    def arm(self, number: int) -> None:
        self._left, self.has_happened = number, False

    def disarm(self) -> None:
        self._left = None

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        is_journal = call is Journal._execute

        def counted(*args: Any, **kwargs: Any) -> Any:
            if not self.fails():
                answer = call(*args, **kwargs)
                return _File(answer, self) if call is OPEN and args[1:] == ("wb",) else answer
            if is_journal:
                if self.is_late:
                    call(*args, **kwargs)
                raise sqlite3.OperationalError("disk I/O error")
            raise OSError(errno.ENOSPC, "No space left on device")

        return counted

    def fails(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        fails = self._left == 0 or (self.goes_on and self._left < 0)
        self.has_happened |= fails
        return fails


OPEN = Path.open


class _File:
    """A file that is written, each part of which may fail halfway."""

    def __init__(self, file: Any, failing: Failing) -> None:
        self._file, self._failing = file, failing

    def write(self, part: bytes) -> int:
        if self._failing.fails():
            self._file.write(part[: len(part) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(part))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
