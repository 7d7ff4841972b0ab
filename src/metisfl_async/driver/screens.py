"""Where the live display is drawn: in a terminal, or in the output of a notebook's cell."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from html import escape
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tables import html_table, shown

__all__ = ["Notebook", "Screen", "Terminal", "screen_of", "table_of_rounds"]

MOST_SHOWN = 20  #: rounds, and warnings, that a cell shows while it runs


class Screen(Protocol):
    """Shows what is over above bars that move; nothing is drawn by itself."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def draw(self) -> None:
        """Draw the bars as they are now."""

    def warn(self, text: str) -> None: ...

    def tell(self, record: RoundRecord, line: str) -> None:
        """Show that a round is over; `line` is the record in words."""


def screen_of(console: Console, bars: Progress) -> Screen | None:
    """Choose a screen; None where there is nothing to draw on."""
    if console.is_jupyter:
        return Notebook(bars)
    return Terminal(console, bars) if console.is_terminal else None


class Terminal:
    """What the program prints is its own: `sys.stdout` stays what it is."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self._console = console
        self._live = Live(bars, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def start(self) -> None:
        self._live.start(refresh=True)

    def stop(self) -> None:
        self._live.refresh()
        self._live.stop()

    def draw(self) -> None:
        self._live.refresh()

    def warn(self, text: str) -> None:
        self._console.print(text, style="red", markup=False, highlight=False)

    def tell(self, record: RoundRecord, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)


class Notebook:
    """One output that is drawn anew, with IPython alone: a table of the latest rounds, warnings, and bars below."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._ipython: Any = import_module("IPython.display")  # which every notebook has
        self._rounds: deque[RoundRecord] = deque(maxlen=MOST_SHOWN)
        self._warnings: deque[str] = deque(maxlen=MOST_SHOWN)
        self._told = 0
        self._output: Any = None

    def start(self) -> None:
        self._output = self._ipython.display(self._ipython.HTML(self._html()), display_id=True)

    def stop(self) -> None:
        self.draw()

    def draw(self) -> None:
        self._output.update(self._ipython.HTML(self._html()))

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def tell(self, record: RoundRecord, line: str) -> None:
        self._rounds.append(record)
        self._told += 1

    def _html(self) -> str:
        title = f"the last {MOST_SHOWN} of {self._told}" if self._told > MOST_SHOWN else ""
        table = table_of_rounds(title, self._rounds) if self._rounds else ""
        lines = "".join(f'<div style="color: firebrick">{escape(text)}</div>' for text in self._warnings)
        return table + lines + "".join(map(_bar, self._bars.tasks))


def _bar(task: Any) -> str:
    total = "?" if task.total is None else f"{task.total:g}"
    extent = "" if task.total is None else f' value="{task.completed:g}" max="{task.total:g}"'
    text = escape(f"{task.completed:g}/{total} {task.fields['note']}")
    return f"<div>{escape(task.description)} <progress{extent}></progress> {text}</div>"


def table_of_rounds(title: str, rounds: Collection[RoundRecord]) -> str:
    """Make an HTML table with a row for each round."""
    trained = sorted({name for record in rounds for name in record.train_metrics})
    evaluated = sorted({name for record in rounds for name in record.evaluation_metrics})
    unit = "round" if all(record.in_rounds for record in rounds) else "model"
    rows = (
        [
            *(record.number, f"{len(record.participants)} of {len(record.learners)}", shown(record.duration_ms / 1e3)),
            *(shown(record.train_metrics.get(name)) for name in trained),
            *(shown(record.evaluation_metrics.get(name)) for name in evaluated),
        ]
        for record in rounds
    )
    return html_table(title, [unit, "updates", "seconds", *(f"train {name}" for name in trained), *evaluated], rows)
