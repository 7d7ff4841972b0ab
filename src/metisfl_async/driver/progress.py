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


class ProgressDisplay:
    """Feed it events with `show`; nothing is drawn between events, so there is no thread."""

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
        self._rounds = self._bars.add_task("rounds", total=signals.federation_rounds, note="")
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
            case RoundStarted(number, _, cohort):
                self._begin(f"round {number}: training", len(cohort))
            case UpdateCounted(metrics=metrics):
                self._bars.update(self._phase, advance=1, note=_numbers(metrics))
            case ModelPublished(number):
                self._begin(f"round {number}: evaluating", int(self._bars.tasks[-1].total or 0))
            case LearnerEvaluated(metrics=metrics):
                self._bars.update(self._phase, advance=1, note=_numbers(metrics))
            case TaskFailed(number, learner, task, kind, message):
                text = f"round {number}: {task} of {learner} failed: {kind}: {message}"
                if self._is_live:
                    self._console.print(text, style="red", markup=False, highlight=False)
                else:
                    logger.warning("%s", text)
            case RoundFinished(record):
                self._bars.update(self._rounds, advance=int(record.is_published))
                line = f"round {record.number}: {record.summary()}"
                if self._is_live:
                    self._console.print(line, markup=False, highlight=False)
                else:
                    logger.info("%s", line)
        if self._is_live:
            self._live.refresh()

    def _begin(self, description: str, total: int) -> None:
        self._bars.remove_task(self._phase)
        self._phase = self._bars.add_task(description, total=total, note="")


def _numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:3])
