"""What all parties of a federation did, in one file that outlives them; and whether it may be so.

Each line is one thing that happened, written with one system call, so that a killed process leaves whole lines.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from metisfl_async.core.federation.records import RoundRecord

__all__ = ["History", "Log", "Pages", "Pen", "history_of", "read"]

Line = dict[str, Any]


class Pen(Protocol):
    """What a party writes with."""

    def write(self, what: str, **facts: Any) -> None: ...


class Pages:
    """A pen for parties of this process: what all write is in `lines`."""

    def __init__(self, lines: list[Line], who: str) -> None:
        self._lines, self._who = lines, who

    def write(self, what: str, **facts: Any) -> None:
        self._lines.append({"who": self._who, "what": what, **facts})


class Log:
    """A pen for parties of any process."""

    def __init__(self, path: Path, who: str) -> None:
        self._who = who
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, **facts: Any) -> None:
        os.write(self._file, (json.dumps({"who": self._who, "what": what, **facts}) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Folded:
    """An update in a model."""

    task: str
    learner: str
    version: int  #: that it was trained from
    weight: float


@dataclass
class History:
    """What is true after all, as opposed to what a process was about to do when it was killed."""

    versions: dict[int, list[Folded]] = field(default_factory=dict)  #: what is in each published model
    told: dict[str, str] = field(
        default_factory=dict
    )  #: of each update that counted, as its learner knows: how it knows
    trained: list[Line] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  #: tasks that did not count, as their learners know: why
    steps: dict[int, int] = field(default_factory=dict)  #: of the commit of each model
    starts: Counter[str] = field(default_factory=Counter)  #: of each party
    result: Line | None = None  #: that a driver has written down
    is_over: bool = False
    problems: list[str] = field(default_factory=list)

    def is_in_a_model(self, task: str) -> bool:
        return any(update.task == task for updates in self.versions.values() for update in updates)

    def times_trained(self) -> Counter[tuple[str, int]]:
        """Count for each learner and model version how often it was trained."""
        return Counter((line["who"], line["version"]) for line in self.trained)

    def lost(self) -> list[Line]:
        """Give what was trained and is in no model, unless its learner was told that its federation is over."""
        return [
            line | {"why": why}
            for line in self.trained
            if not self.is_in_a_model(line["task"])
            and "federation" not in (why := self.dropped.get(line["task"], "nothing was said"))
        ]

    def check(self, rounds: Sequence[RoundRecord] | None = None) -> list[str]:
        """Say what must not be so; `rounds` are the records that the driver has got."""
        problems, versions = [*self.problems], self.versions
        if sorted(versions) != [*range(1, len(versions) + 1)]:
            problems.append(f"the published versions have gaps: {sorted(versions)}")
        places = Counter(update.task for updates in versions.values() for update in updates)
        problems += [f"{task} is in {times} models" for task, times in places.items() if times > 1]
        problems += [
            f"{task} was told counted ({how}), and is in none" for task, how in self.told.items() if not places[task]
        ]
        often = Counter(
            (line["task"], line["start"]) for line in self.trained
        )  # a learner that was killed does it again
        problems += [f"{task} was trained {times} times" for (task, _), times in often.items() if times > 1]
        if rounds is not None:
            published = [record for record in rounds if record.is_published]
            if [record.number for record in published] != sorted(versions):
                problems.append(
                    f"the records are of {[record.number for record in published]}, not of {sorted(versions)}"
                )
            for record in published:
                learners = sorted(update.learner for update in versions.get(record.number, ()))
                if record.participants != learners:
                    problems.append(f"record {record.number} has {record.participants}; in the model are {learners}")
        return problems


def read(path: Path) -> History:
    """Take in what all have written into a file."""
    return history_of(lines_of(path))


def history_of(lines: Iterable[Line]) -> History:
    """Take in what all have written."""
    history = History()
    folded: list[Folded] = []
    commit: tuple[int, list[Folded]] | None = None

    def commits() -> None:
        assert commit is not None
        version, updates = commit
        if version in history.versions:
            history.problems.append(f"version {version} was committed twice")
        history.versions[version] = updates

    for line in lines:
        match line["what"]:
            case "folded" | "committing" | "committed" if history.is_over:
                history.problems.append(f"the federation went on after its end: {line}")
            case "concluding":
                history.is_over = True
            case "result":
                history.result = line
            case "starts":
                history.starts[line["who"]] += 1
                if line["who"] == "controller":
                    folded = []
            case "folded":
                folded.append(Folded(line["task"], line["learner"], line["version"], line["weight"]))
            case "committing":
                commit, folded = (line["version"], folded), []
            case "committed":
                commits()
                commit = None
                history.steps[line["version"]] = line.get("steps", 0)
            case "resumed":
                if commit is not None and commit[0] == line["version"]:  # it was killed right after it
                    commits()
                commit = None
                if (line["version"] or 0) != max(history.versions, default=0):
                    latest = max(history.versions, default=0)
                    history.problems.append(f"version {line['version']} was resumed after {latest}")
            case "told":
                if line["task"] not in history.told and not history.is_in_a_model(line["task"]):
                    history.problems.append(f"{line['task']} was told counted ({line['how']}) before it was so")
                history.told.setdefault(line["task"], line["how"])
            case "trained":
                history.trained.append(line | {"start": history.starts[line["who"]]})
            case "dropped":
                history.dropped[line["task"]] = line["why"]
    return history


def lines_of(path: Path) -> Iterable[Line]:
    return [json.loads(text) for text in path.read_text().splitlines()]
