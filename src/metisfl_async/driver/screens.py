"""Where progress is drawn: a terminal, or the output of a notebook's cell."""

from __future__ import annotations

import html
import sys
from collections import deque
from collections.abc import Callable
from io import StringIO
from typing import Any, Protocol, TypeAlias

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

__all__ = ["Cell", "Screen", "Terminal", "output_of_cell"]

Output: TypeAlias = Callable[[str, str], None]  #: replaces what is shown: HTML, and the same as plain text
CELL_WIDTH = 100  #: columns
CELL_LINES = 20  #: above the bars, the latest ones


class Screen(Protocol):
    """Shows lines, and below them bars that change."""

    width: int
    is_eager: bool  #: whether a new phase is drawn at once, however soon after the last drawing

    def start(self) -> None:
        """Draw for the first time."""

    def draw(self) -> None:
        """Draw the bars as they are now."""

    def say(self, text: str, *, is_bad: bool = False) -> None:
        """Show a line that stays."""

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

    def say(self, text: str, *, is_bad: bool = False) -> None:
        self._console.print(text, style="red" if is_bad else None, markup=False, highlight=False)

    def stop(self) -> None:
        self._live.refresh()
        self._live.stop()


class Cell:
    """One output of a cell, which is replaced as a whole: nothing flickers, and no widgets are needed."""

    is_eager = False
    width = CELL_WIDTH

    def __init__(self, bars: Progress, show: Output) -> None:
        self._bars, self._show = bars, show
        self._lines: deque[tuple[str, bool]] = deque(maxlen=CELL_LINES)
        self._count = 0

    def start(self) -> None:
        self.draw()

    def draw(self) -> None:
        drawn = StringIO()
        Console(file=drawn, width=self.width, color_system=None, force_jupyter=False).print(self._bars)
        left_out = self._count - len(self._lines)
        lines = [(f"({left_out} earlier lines)", False)] if left_out else []
        lines += [*self._lines, (drawn.getvalue().rstrip(), False)]
        marked = "\n".join(_marked(text, is_bad=is_bad) for text, is_bad in lines)
        self._show(f"<pre>{marked}</pre>", "\n".join(text for text, _ in lines))

    def say(self, text: str, *, is_bad: bool = False) -> None:
        self._lines.append((text, is_bad))
        self._count += 1

    def stop(self) -> None:
        self.draw()


def _marked(text: str, *, is_bad: bool) -> str:
    escaped = html.escape(text)
    return f'<span style="color: #c00">{escaped}</span>' if is_bad else escaped


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
