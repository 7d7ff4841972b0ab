"""What the page shows, made of events: rows of learners, rounds, tasks and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Any

from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    FederationResumed,
    FederationStarted,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    StoreRecovered,
    StoreStalled,
    TaskFailed,
    TaskMoved,
    UpdateCounted,
    UpdateFolded,
)
from metisfl_async.core.federation.records import SPENT, Failure, LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.web.codes import NOT_ASKED, REPORTED, WORDS, code_of
from metisfl_async.web.figures import Figures
from metisfl_async.web.lanes import MOST_TASKS, Lanes, outcome_of
from metisfl_async.web.rows import Rows

__all__ = ["Board"]

MOST_ROUNDS = 5_000  #: or models, of which figures are kept: the latest ones
MOST_FAILURES = 300
MOST_CELLS = 2**21  #: in the columns of the heat map
SLICE = 100  #: parts of a record that are taken in before others have a turn


class Board:
    """Takes in what happens in one federation; `rows` are what the page draws."""

    def __init__(self, name: str = "") -> None:
        self.rows = Rows()
        self._run: dict[str, Any] = {
            "name": name or "Federation",
            "phase": "waiting",
            "reason": "",
            "unit": "round",  # or "model", without rounds
            "started_at": 0.0,  # seconds since the epoch; 0: not known
        }
        self._connected = 0
        self._learners: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        self._lanes = Lanes(self.rows)
        self._num_rounds = 0
        self._spent: dict[str, float] = {}  # of the learners' privacy
        self._latest: list[tuple[int, float]] = []  # a heap: number and start of the latest records
        self._known: set[tuple[int, float]] = set()  # the same
        self._open: dict[str, Any] = {}  # the round that is not over
        self._num_failures = 0
        self._column: dict[str, Any] = {}  # the one that is filled now
        self._num_columns = self._first_column = 0
        self._behind_ms: float | None = None  # what the caller's clock shows when the federation's shows 0
        self._told: Counter[tuple[str, str, str]] = Counter()  # failures that events told, and records will once more
        most = {"task": MOST_TASKS, "round": MOST_ROUNDS, "column": MOST_ROUNDS, "failure": MOST_FAILURES}
        self.rows.put("constants", 0, value=lambda: {"words": WORDS, "most": most})
        self._put_run()

    def take(self, event: Event, clock_ms: float = 0.0) -> Iterator[None]:
        """Take in an event; a long one is taken in slices, and between them others may have a turn.

        Parameters
        ----------
        event : Event
        clock_ms : float
            When it came, on a clock of the caller's.
        """
        match event:
            case RoundFinished(record):
                yield from self._record(record)
            case RoundStarted(number, _, cohort, in_rounds):
                self._open = {"number": number, "asked": len(cohort), "reported": 0}
                self._set(phase="running", unit=_unit(in_rounds), open=number)
                for start in range(0, len(cohort), SLICE):
                    for learner in cohort[start : start + SLICE]:
                        self._learner(learner, state=code_of("waiting"))
                    yield
            case _:
                self._take(event, clock_ms)

    def _take(self, event: Event, clock_ms: float) -> None:
        match event:
            case TaskMoved(learner=learner, at_ms=at_ms):
                behind_ms = clock_ms - at_ms
                self._behind_ms = behind_ms if self._behind_ms is None else min(behind_ms, self._behind_ms)
                self._lanes.moved(self._number(learner), event)
                self._learner(learner, state=code_of(event.state))
            case UpdateFolded(learner=learner):
                self._report(learner, TaskState.FOLDED.value, clock_ms)
            case LearnerEvaluated(learner=learner):
                self._report(learner, TaskState.COUNTED.value, clock_ms)
            case UpdateCounted(learner=learner):
                self._lanes.counted(self._number(learner))
            case TaskFailed(number, learner, task, kind, message):
                if kind != TaskState.CANCELLED.value:
                    self._told[learner, task, kind] += 1
                    self._fail(number, learner, Failure(task, kind, message), self._ms(clock_ms))
                self._report(learner, outcome_of(kind), clock_ms)
            case ModelPublished(_, version):
                self._open |= {"reported": 0}
                self._set(version=version)
            case LearnerJoined(learner, connected):
                self._connected = connected
                self._learner(learner, away="")
                self._put_run()
            case LearnerLeft(learner, connected, reason):
                self._connected = connected
                self._learner(learner, away=reason or "away")
                self._put_run()
            case FirstWeights(source):
                self._lanes.all_ended(self._ms(clock_ms))
                self._set(source=source, version=self._run.get("version", 0))
            case FederationStarted(federation_id, _, started_at):
                self._set(federation=federation_id, started_at=started_at)
            case FederationResumed(version):
                self._set(version=version, resumed=True)
            case StoreStalled(reason, seconds):
                self._set(reason=f"the model store has failed for {seconds:.0f} s: {reason}")
            case StoreRecovered():
                self._set(reason="")
            case FederationFinished(reason, is_failure):
                self._set(phase="failed" if is_failure else "finished", reason=reason, open=0)

    def load(self, records: list[RoundRecord]) -> Iterator[None]:
        """Take in records of rounds whose events are gone, in their order."""
        left = sum(2 * len(record.learners) for record in records)
        for record in records:
            yield from self._record(record, has_lanes=left <= MOST_TASKS)
            left -= 2 * len(record.learners)

    def end(self, reason: str, facts: Mapping[str, Any]) -> None:
        """Take note that it is over, where no event says so."""
        self._set(phase="finished", reason=reason, open=0, **facts)

    # --- records ---------------------------------------------------------------------------------------------------

    def _record(self, record: RoundRecord, *, has_lanes: bool = True) -> Iterator[None]:
        if not self._is_new(record):
            return
        place, self._num_rounds = self._num_rounds, self._num_rounds + 1
        phase = self._run["phase"]
        self._set(phase="running" if phase == "waiting" else phase, unit=_unit(record.in_rounds))
        end_ms = record.started_ms + record.duration_ms
        self._spent = record.privacy or self._spent
        figures, cells = Figures(record), dict[int, str]()
        for count, (learner, part) in enumerate(record.learners.items()):
            number = self._number(learner)
            if has_lanes:
                self._lanes.recorded(number, record.number, part, end_ms)
            self._part(learner, part, record, end_ms)
            figures.add(number, learner, part)
            cells[number] = figures.cell(part)
            if count % SLICE == SLICE - 1:
                yield
        value = figures.value(len(self._numbers))
        self.rows.put("round", place, value=lambda: value)
        self.rows.drop("round", place - MOST_ROUNDS)
        self._put_column(record, cells)
        if record.is_published:
            self._set(version=max(self._run.get("version") or 0, record.model_version + 1))

    def _is_new(self, record: RoundRecord) -> bool:
        """Say whether a record is not taken in yet; where many later ones are, it counts as taken in."""
        key = record.number, record.started_ms
        if key in self._known or (len(self._latest) >= MOST_ROUNDS and key < self._latest[0]):
            return False
        self._known.add(key)
        heappush(self._latest, key)
        if len(self._latest) > MOST_ROUNDS:
            self._known.remove(heappop(self._latest))
        return True

    def _part(self, learner: str, part: LearnerRecord, record: RoundRecord, end_ms: float) -> None:
        for failure in part.failures:
            key = learner, failure.task, failure.type
            if key in self._told:
                self._told[key] -= 1
                if not self._told[key]:
                    del self._told[key]
            elif failure.type != TaskState.CANCELLED.value:
                at_ms = part.ended_ms if failure.task == "train" and part.ended_ms is not None else end_ms
                self._fail(record.number, learner, failure, at_ms)
        of = self._of(learner)
        self._learner(
            learner,
            asked=of["asked"] + 1,
            counted=of["counted"] + (part.train_state == TaskState.COUNTED.value),
            bytes=of["bytes"] + part.bytes_sent + part.bytes_received,
            seconds=None if part.train_ms is None else (part.train_ms - (part.fetch_ms or 0.0)) / 1e3,
        )

    def _put_column(self, record: RoundRecord, of_record: dict[int, str]) -> None:
        """Fill the heat map: a column is a round or, without rounds, as many updates as there are learners."""
        column = self._column
        if not column or record.in_rounds or column["filled"] >= len(self._numbers):
            self._column = column = {"place": self._num_columns, "first": record.number, "filled": 0, "cells": []}
            self._num_columns += 1
        cells: list[str] = column["cells"]
        cells += [NOT_ASKED] * (len(self._numbers) - len(cells))
        for number, cell in of_record.items():
            cells[number] = cell
        column["filled"] += len(record.learners)
        end = round(record.started_ms + record.duration_ms, 1)
        self.rows.put("column", column["place"], value=lambda: [column["first"], end, "".join(cells)])
        most = min(MOST_ROUNDS, MOST_CELLS // max(len(cells), 1))
        while self._num_columns - self._first_column > most:
            self.rows.drop("column", self._first_column)
            self._first_column += 1

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _report(self, learner: str, outcome: str, clock_ms: float) -> None:
        self._lanes.ended(self._number(learner), outcome, self._ms(clock_ms))
        is_done = outcome in (TaskState.FOLDED.value, TaskState.COUNTED.value)
        self._learner(learner, state=REPORTED if is_done else code_of(outcome))
        if self._open:
            self._open["reported"] += 1
            self._put_run()

    def _fail(self, number: int, learner: str, failure: Failure, at_ms: float) -> None:
        title = f"{learner}, {failure.task} in {self._run['unit']} {number}: {failure.type}"
        value = [round(at_ms, 1), title, failure.message]
        self.rows.put("failure", self._num_failures, value=lambda: value)
        self.rows.drop("failure", self._num_failures - MOST_FAILURES)
        self._num_failures += 1
        self._learner(learner, failures=self._of(learner)["failures"] + 1)
        self._put_run()

    def _ms(self, clock_ms: float) -> float:
        """Say how long the federation had run when the caller's clock showed this."""
        return max(clock_ms - (self._behind_ms or clock_ms), 0.0)

    def _of(self, learner: str) -> dict[str, Any]:
        self._number(learner)
        return self._learners[learner]

    def _number(self, learner: str) -> int:
        number = self._numbers.get(learner)
        if number is None:
            number = self._numbers[learner] = len(self._numbers)
            zeros: dict[str, Any] = dict.fromkeys(("asked", "counted", "failures", "bytes"), 0)
            self._learners[learner] = {"id": learner, "away": "", "state": ""} | zeros
            self._learner(learner)
        return number

    def _learner(self, learner: str, **facts: Any) -> None:
        of = self._of(learner)
        of |= facts
        self.rows.put("learner", self._numbers[learner], value=lambda: of)

    def _set(self, **facts: Any) -> None:
        self._run |= facts
        self._put_run()

    def _put_run(self) -> None:
        self.rows.put("run", 0, value=lambda: self._run | {"facts": self._facts()})

    def _facts(self) -> list[tuple[str, int | str]]:
        """Say in few words how it stands now."""
        known, is_over = len(self._numbers), self._run["phase"] in ("finished", "failed")
        facts: list[tuple[str, int | str]] = [
            ("learners", known if is_over else f"{self._connected} of {known}"),
            ("failures", self._num_failures),
        ]
        if self._open and not is_over and self._run["unit"] == "round":
            asked, reported = self._open["asked"], self._open["reported"]
            facts.insert(0, (f"round {self._open['number']}", f"{min(reported, asked)} of {asked}"))
        if self._spent:
            facts.append((f"{SPENT}, delta {self._spent['delta']:g}", f"{self._spent['epsilon']:.4g}"))
        return facts


def _unit(in_rounds: bool) -> str:
    return "round" if in_rounds else "model"
