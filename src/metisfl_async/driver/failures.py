"""Failures of one round, of many learners for one reason, told as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from metisfl_async.core.federation.events import TaskFailed

__all__ = ["Failures"]


class Failures:
    """Counts what fails alike: the same task of the same round, for the same reason."""

    def __init__(self) -> None:
        self._first: dict[Hashable, TaskFailed] = {}
        self._others: Counter[Hashable] = Counter()  # learners beside the first one

    def is_first(self, failed: TaskFailed) -> bool:
        """Take note of a failure; say whether it is the first of its kind."""
        kind = failed.number, failed.task, failed.type, failed.message
        if kind in self._first:
            self._others[kind] += 1
            return False
        self._first[kind] = failed
        return True

    def others(self) -> list[str]:
        """Say how many more failed like the first of each kind, in a line for each; then begin anew."""
        texts = []
        for kind, count in self._others.items():
            first = self._first[kind]
            who = f"{count} more learner{'s' if count > 1 else ''}"
            texts.append(f"round {first.number}: {first.task} of {who} failed: {first.type}: {first.message}")
        self._first.clear()
        self._others.clear()
        return texts
