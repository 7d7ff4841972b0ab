"""Shows a federation while it runs: a live display in a terminal or notebook, a log line a round elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.events import (
    Event,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateCounted,
)

__all__ = ["ProgressDisplay"]

logger = logging.getLogger(__name__)


EVERY_MS = 2_000.0  #: without rounds, which may be over in milliseconds, a line at most so often


class ProgressDisplay:
    """Feed it events with `show`; nothing is drawn between events, so there is no thread.

    That a federation has no rounds shows when a model is published while others are still at work.
    """

    def __init__(self, signals: TerminationSignals, num_learners: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._is_live = self._console.is_terminal or self._console.is_jupyter
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            auto_refresh=False,
            console=self._console,
        )
        self._has_rounds = signals.global_updates is None
        unit, total = ("rounds", signals.federation_rounds) if self._has_rounds else ("models", signals.global_updates)
        self._rounds = self._bars.add_task(unit, total=total, note="")
        self._told_ms = 0.0  # when the latest line was written
        self._phase: TaskID = self._bars.add_task("joining", total=num_learners, note="waiting for learners")
        self._live = Live(self._bars, console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._bars.remove_task(self._phase)
            self._live.refresh()
            self._live.stop()

    def show(self, event: Event) -> None:
        """Draw what an event changed."""
        match event:
            case LearnerJoined(_, connected) | LearnerLeft(_, connected):
                self._bars.update(self._rounds, note=f"{connected} learners connected")
                if self._bars.tasks[-1].description == "joining":
                    self._bars.update(self._phase, completed=connected)
            case RoundStarted(number, _, cohort) if self._has_rounds:
                self._begin(f"round {number}: training", len(cohort))
            case RoundStarted() if self._bars.tasks[-1].description == "joining":
                self._begin("latest", None)
            case UpdateCounted(learner=learner, metrics=metrics) | LearnerEvaluated(learner=learner, metrics=metrics):
                numbers = _numbers(metrics)
                self._bars.update(self._phase, advance=1, note=numbers if self._has_rounds else f"{learner}  {numbers}")
            case ModelPublished(number) if self._has_rounds:
                at_work = self._bars.tasks[-1]
                if at_work.total is not None and at_work.completed < at_work.total:
                    self._drop_rounds()
                else:
                    self._begin(f"round {number}: evaluating", int(at_work.total or 0))
            case TaskFailed(type="cancelled"):
                pass  # the federation ended while somebody was at work
            case TaskFailed(number, learner, task, kind, message):
                self._bars.update(self._phase, advance=1)
                text = f"round {number}: {task} of {learner} failed: {kind}: {message}"
                if self._is_live:
                    self._console.print(text, style="red", markup=False, highlight=False)
                else:
                    logger.warning("%s", text)
            case RoundFinished(record):
                self._bars.update(self._rounds, advance=int(record.is_published))
                ended_ms = record.started_ms + record.duration_ms
                line = f"round {record.number}: {record.summary()}"
                if not self._has_rounds:
                    if record.is_published and ended_ms - self._told_ms < EVERY_MS:
                        return
                    line = f"model {record.number}: {record.summary()}"
                self._told_ms = ended_ms
                if self._is_live:
                    self._console.print(line, markup=False, highlight=False)
                else:
                    logger.info("%s", line)
        if self._is_live:
            self._live.refresh()

    def _begin(self, description: str, total: int | None) -> None:
        self._bars.remove_task(self._phase)
        self._phase = self._bars.add_task(description, total=total, note="")

    def _drop_rounds(self) -> None:
        """Show models instead: there are no rounds."""
        self._has_rounds = False
        self._bars.update(self._rounds, description="models")
        self._begin("latest", None)


def _numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:3])
