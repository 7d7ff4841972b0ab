"""Shows a federation while it runs: a live display in a terminal or notebook, log lines elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateFolded,
)
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.core.repeats import Repeats
from metisfl_async.core.texts import MAX_NAME, plain
from metisfl_async.driver.failures import Failures
from metisfl_async.driver.screens import Cell, Screen, Terminal, output_of_cell

__all__ = ["ProgressDisplay"]

logger = logging.getLogger(__name__)

DRAWING_S = 0.1  #: between two drawings, at least: they are made on the event loop, and events come by the thousand
BAR_WIDTH = 20
NOTE_AT = 60  #: columns that a row takes without its note
EVERY_MS = 2_000.0  #: without rounds, which may be over in milliseconds, a line at most so often


class ProgressDisplay:
    """Feed it events with `show`, on an event loop. What changed is drawn soon; there is no thread.

    With rounds there is a bar for them and one for the phase; without, one that counts models. What the methods of
    `logged` learners raise is in this process's log already, and has no second line there. Where there are no bars, and
    the controller is elsewhere (`joins`), a line says how many of the awaited learners are there.
    """

    def __init__(
        self,
        signals: TerminationSignals,
        num_learners: int,
        console: Console | None = None,
        *,
        logged: Collection[str] = (),
        joins: bool = False,
    ) -> None:
        show = output_of_cell() if console is None else None
        console = console or Console()
        self._is_live = show is not None or console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            auto_refresh=False,
            console=console,
        )
        self._screen: Screen = Terminal(self._bars, console) if show is None else Cell(self._bars, show)
        self._logged, self._joins, self._num_learners = logged, joins, num_learners
        self._has_rounds = signals.global_updates is None
        unit, total = ("rounds", signals.federation_rounds) if self._has_rounds else ("models", signals.global_updates)
        self._rounds = self._bars.add_task(unit, total=total, note="")
        self._phase: TaskID | None = self._bars.add_task("joining", total=num_learners, note="waiting for learners")
        self._connected = 0
        self._told_ms = -EVERY_MS  # when the model of the latest line was made
        self._untold: RoundRecord | None = None  # the latest model, if it had no line
        self._failures, self._alike = Repeats(), Failures()
        self._next_drawing: asyncio.TimerHandle | None = None
        self._is_stale = False  # whether something changed since the latest drawing

    def __enter__(self) -> Self:
        if self._is_live:
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next_drawing is not None:
            self._next_drawing.cancel()
        if self._is_live:
            self._drop_phase()
            self._screen.stop()

    def show(self, event: Event) -> None:
        """Take note of an event; what it changed is drawn within `DRAWING_S`."""
        match event:
            case LearnerJoined(_, connected) | LearnerLeft(_, connected):
                self._connected = connected
                self._bars.update(self._rounds, note=_connected(connected))
                if self._phase is not None and self._bars.tasks[-1].description == "joining":
                    self._bars.update(self._phase, completed=connected)
                    self._joined(event.learner, connected, "joined" if isinstance(event, LearnerJoined) else "left")
            case RoundStarted(number, _, cohort, in_rounds=True):
                self._begin(f"round {number}: training", len(cohort))
            case RoundStarted():
                self._count_models()
            case UpdateFolded(metrics=metrics) | LearnerEvaluated(metrics=metrics) if self._phase is not None:
                self._bars.update(self._phase, advance=1, note=self._fitting(_numbers(metrics)))
            case ModelPublished(number) if self._has_rounds:
                self._begin(f"round {number}: evaluating", int(self._bars.tasks[-1].total or 0))
            case TaskFailed(type="cancelled"):
                pass  # the federation ended while somebody was at work
            case TaskFailed():
                self._failed(event)
            case RoundFinished(record):
                self._finished(record)
            case FederationFinished() if self._untold is not None:
                self._tell(self._untold)
        self._draw()

    # --- lines -----------------------------------------------------------------------------------------------------

    def _joined(self, learner: str, connected: int, what: str) -> None:
        if self._joins and not self._is_live and connected & (connected - 1) == 0:  # 0, 1, 2, 4, 8, ...
            logger.info("%s %s; %d of %d learners are there", plain(learner), what, connected, self._num_learners)

    def _failed(self, event: TaskFailed) -> None:
        unit, times = "round", ""
        if self._has_rounds:
            if self._phase is not None and event.task != "get_weights":
                self._bars.update(self._phase, advance=1)
            if self._is_logged(event) or not self._alike.is_first(event):
                return  # how many more there were is told at the end of the round
        else:  # one that always fails does so with every model
            repeated = self._failures.count((event.learner, event.task, event.type))
            if repeated is None:
                return
            unit, times = "model", f", {repeated} times" if repeated > 1 else ""
        what = f"{event.task} of {event.learner} failed{times}"
        self._warn(f"{unit} {event.number}: {what}: {event.type}: {event.message}")

    def _is_logged(self, event: TaskFailed) -> bool:
        return not self._is_live and event.learner in self._logged and event.type not in set(TaskState)

    def _warn(self, text: str) -> None:
        text = plain(text)
        if self._is_live:
            self._screen.warn(text)
        else:
            logger.warning("%s", text)

    def _finished(self, record: RoundRecord) -> None:
        for text in self._alike.others():
            self._warn(text)
        self._bars.update(self._rounds, advance=int(record.is_published))
        if not self._has_rounds and record.evaluation_metrics:
            note = self._fitting([_connected(self._connected), *_numbers(record.evaluation_metrics)])
            self._bars.update(self._rounds, note=note)
        is_soon = record.started_ms + record.duration_ms - self._told_ms < EVERY_MS
        if not self._has_rounds and record.is_published and is_soon:
            self._untold = record
        else:
            self._tell(record)

    def _tell(self, record: RoundRecord) -> None:
        self._told_ms, self._untold = record.started_ms + record.duration_ms, None
        line = plain(f"{'round' if self._has_rounds else 'model'} {record.number}: {record.summary()}")
        if self._is_live:
            self._screen.tell(record, line)
        else:
            logger.info("%s", line)

    # --- bars ------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        """Draw now, or when the latest drawing is `DRAWING_S` old."""
        if not self._is_live:
            return
        if self._next_drawing is not None:
            self._is_stale = True
            return
        self._screen.draw()
        self._next_drawing = asyncio.get_running_loop().call_later(DRAWING_S, self._draw_again)

    def _draw_again(self) -> None:
        self._next_drawing = None
        if self._is_stale:
            self._is_stale = False
            self._draw()

    def _begin(self, description: str, total: int) -> None:
        self._drop_phase()
        self._phase = self._bars.add_task(description, total=total, note="")
        if self._is_live and self._screen.is_eager:
            self._screen.draw()  # rare, and worth seeing

    def _drop_phase(self) -> None:
        if self._phase is not None:
            self._bars.remove_task(self._phase)
            self._phase = None

    def _fitting(self, parts: list[str]) -> str:
        """Join as many as there is room for; a number that is cut would be another number."""
        note = ""
        for part in parts:
            longer = f"{note}  {part}" if note else part
            if NOTE_AT + len(longer) > self._screen.width:
                break
            note = longer
        return note

    def _count_models(self) -> None:
        """Show models instead: there are no rounds."""
        self._has_rounds = False
        self._bars.update(self._rounds, description="models")
        self._drop_phase()


def _connected(number: int) -> str:
    return f"{number} learner{'' if number == 1 else 's'} connected"


def _numbers(metrics: dict[str, float]) -> list[str]:
    return [f"{plain(name, MAX_NAME)} {value:.4g}" for name, value in list(metrics.items())[:3]]
