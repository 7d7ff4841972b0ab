"""Plain files, to which a line is added as soon as something happens."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from metisfl_async.core.federation.events import Event, event_to_dict
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.result import FederationResult, as_json
from metisfl_async.tracking.names import by_learner, of_round
from metisfl_async.tracking.tracker import RoundTracker, Tracker

__all__ = ["CSV", "JSONLines"]


class JSONLines(Tracker):
    """Writes every event as a line of JSON, as `event_to_dict` gives it; NaN and infinity become null.

    Parameters
    ----------
    path : str or Path
        Where; directories are made, and a file that is there is written anew.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def open(self) -> None:
        self._file = _anew(self._path)

    def take(self, events: Sequence[Event]) -> None:
        self._file.writelines(json.dumps(as_json(event_to_dict(event))) + "\n" for event in events)
        self._file.flush()

    def close(self, result: FederationResult | None) -> None:
        self._file.close()


class CSV(RoundTracker):
    """Writes a row for each number of each round: step, learner, name, value. Means have no learner.

    Parameters
    ----------
    path : str or Path
        Where; directories are made, and a file that is there is written anew.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def open(self) -> None:
        self._file = _anew(self._path, newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["step", "learner", "name", "value"])

    def note(self, record: RoundRecord) -> None:
        numbers = {"": of_round(record)} | by_learner(record)
        for learner, values in numbers.items():
            self._rows.writerows([record.number, learner, name, value] for name, value in values.items())
        self._file.flush()

    def close(self, result: FederationResult | None) -> None:
        self._file.close()


def _anew(path: Path, newline: str | None = None) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", newline=newline)
