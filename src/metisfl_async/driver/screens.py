"""Where progress is drawn: a terminal, or the output of a notebook's cell."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection
from html import escape
from io import StringIO
from typing import Any, Protocol, TypeAlias

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tables import html_table, shown

__all__ = ["Cell", "Screen", "Terminal", "output_of_cell", "table_of_rounds"]

Output: TypeAlias = Callable[[str, str], None]  #: replaces what is shown: HTML, and the same as plain text
CELL_WIDTH = 100  #: columns
MOST_SHOWN = 20  #: of rounds, and of warnings, the latest ones


class Screen(Protocol):
    """Shows lines, and below them bars that change."""

    width: int
    is_eager: bool  #: whether a new phase is drawn at once, however soon after the last drawing

    def start(self) -> None:
        """Draw for the first time."""

    def draw(self) -> None:
        """Draw the bars as they are now."""

    def warn(self, text: str) -> None:
        """Show a line that stays."""

    def tell(self, record: RoundRecord, line: str) -> None:
        """Show that a round is over; `line` is the record in words."""

    def stop(self) -> None:
        """Leave what was drawn last."""


class Terminal:
    """Bars that move in a terminal. What the program prints is its own: `sys.stdout` stays what it is."""

    is_eager = True

    def __init__(self, bars: Progress, console: Console) -> None:
        self._console, self.width = console, console.width
        self._live = Live(bars, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def start(self) -> None:
        self._live.start(refresh=True)

    def draw(self) -> None:
        self._live.refresh()

    def warn(self, text: str) -> None:
        self._console.print(text, style="red", markup=False, highlight=False)

    def tell(self, record: RoundRecord, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        self._live.refresh()
        self._live.stop()


class Cell:
    """One output of a cell, which is replaced as a whole: nothing flickers, and no widgets are needed.

    It has a table of the latest rounds, warnings, and bars below; where there is only text, lines.
    """

    is_eager = False
    width = CELL_WIDTH

    def __init__(self, bars: Progress, show: Output) -> None:
        self._bars, self._show = bars, show
        self._rounds: deque[RoundRecord] = deque(maxlen=MOST_SHOWN)
        self._warnings: deque[str] = deque(maxlen=MOST_SHOWN)
        self._lines: deque[str] = deque(maxlen=MOST_SHOWN)
        self._told = 0

    def start(self) -> None:
        self.draw()

    def draw(self) -> None:
        bars = StringIO()
        Console(file=bars, width=self.width, color_system=None, force_jupyter=False).print(self._bars)
        self._show(self._html(), "\n".join([*self._lines, bars.getvalue().rstrip()]))

    def warn(self, text: str) -> None:
        self._warnings.append(text)
        self._lines.append(text)

    def tell(self, record: RoundRecord, line: str) -> None:
        self._rounds.append(record)
        self._lines.append(line)
        self._told += 1

    def stop(self) -> None:
        self.draw()

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


def _updates(record: RoundRecord) -> str:
    num, num_learners = len(record.participants), record.num_learners
    of = f", of {num_learners} learners" if num_learners != num else ""
    return f"{num} of {len(record.learners)}{of}"


def table_of_rounds(title: str, rounds: Collection[RoundRecord]) -> str:
    """Make an HTML table with a row for each round."""
    trained = sorted({name for record in rounds for name in record.train_metrics})
    evaluated = sorted({name for record in rounds for name in record.evaluation_metrics})
    unit = "round" if all(record.in_rounds for record in rounds) else "model"
    rows = (
        [
            *(record.number, _updates(record), shown(record.duration_ms / 1e3)),
            *(shown(record.train_metrics.get(name)) for name in trained),
            *(shown(record.evaluation_metrics.get(name)) for name in evaluated),
        ]
        for record in rounds
    )
    return html_table(title, [unit, "updates", "seconds", *(f"train {name}" for name in trained), *evaluated], rows)


def output_of_cell() -> Output | None:
    """Find the output of the cell that runs, in marimo, Jupyter, VS Code, and others like them; None elsewhere."""
    if (marimo := sys.modules.get("marimo")) is not None and marimo.running_in_notebook():
        return lambda shown, _: marimo.output.replace(marimo.Html(shown))
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    display, handle = ipython.display.display, list[Any]()

    def show(shown: str, text: str) -> None:
        both = {"text/html": shown, "text/plain": text}
        if handle:
            handle[0].update(both, raw=True)
        else:
            handle.append(display(both, raw=True, display_id=True))

    return show
