"""What all benchmarks share: their arguments, and tables that are printed, written as JSON, and shown on the pages.

A benchmark says once which columns a table has and how their values look, and adds rows as it measures them::

    run = Run(__doc__)
    table = run.table("name", {"learners": ("learners", "d"), "round_ms": ("round (ms)", ".1f")})
    table.add(learners=10, round_ms=23.4)
    run.end()
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Columns", "Row", "Run", "Table", "machine", "on_machine", "today"]

Columns: TypeAlias = Mapping[str, Sequence[str]]  #: by key, in order: the title, and how Python formats a value
Row: TypeAlias = Mapping[str, Any]  #: by key; text stands as it is, also where numbers are expected


class Table:
    """Columns and rows; `markdown` is what is printed, and what the pages show."""

    def __init__(self, columns: Columns, rows: Sequence[Row] = ()) -> None:
        self.columns = columns
        self.rows: list[Row] = list(rows)

    def add(self, **row: object) -> None:
        """Add a row, and print it at once."""
        assert row.keys() == self.columns.keys(), row.keys() ^ self.columns.keys()
        if not self.rows:
            print(f"\n{self._head()}")
        self.rows.append(row)
        print(self._line(row), flush=True)

    def markdown(self) -> str:
        return "\n".join([self._head(), *(self._line(row) for row in self.rows)])

    def cell(self, row: Row, key: str) -> str:
        value, (_, spec) = row[key], self.columns[key]
        return value if isinstance(value, str) else format(value, spec)

    def find(self, **wanted: object) -> Row:
        """Give the one row with these values."""
        (row,) = (row for row in self.rows if wanted.items() <= row.items())
        return row

    def _head(self) -> str:
        titles = " | ".join(title for title, _ in self.columns.values())
        lines = " | ".join("---:" if spec else "---" for _, spec in self.columns.values())
        return f"| {titles} |\n| {lines} |"

    def _line(self, row: Row) -> str:
        return f"| {' | '.join(self.cell(row, key) for key in self.columns)} |"


class Run:
    """One run of a benchmark; it may have options of its own, given with their defaults."""

    def __init__(self, doc: str | None, **own: str | float | Path) -> None:
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see that it works")
        parser.add_argument("--json", metavar="FILE", type=Path, help="also write the tables there")
        for name, default in own.items():
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(default), default=default, help="default: %(default)s")
        options = vars(parser.parse_args())
        self.is_quick: bool = options.pop("quick")
        self._json: Path | None = options.pop("json")
        self.options: dict[str, Any] = options
        self._tables: dict[str, Table] = {}
        print(on_machine(machine(), [today()]))

    def table(self, name: str, columns: Columns) -> Table:
        """Make a table; its name is that of its block on the pages."""
        table = self._tables[name] = Table(columns)
        return table

    def end(self) -> None:
        """Write what was measured, if that was asked for."""
        if self._json is not None:
            tables = {
                name: {"date": today(), "columns": table.columns, "rows": table.rows}
                for name, table in self._tables.items()
            }
            self._json.write_text(json.dumps(tables, indent=1) + "\n")


def today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def machine() -> dict[str, str | int]:
    """Say what this is measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count() or 1,
        "processor": _processor(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "numpy": version("numpy"),
    }


def on_machine(facts: Mapping[str, str | int], dates: Sequence[str]) -> str:
    """Put that into words, with the day, or the oldest and the newest."""
    return (
        f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gib']} GiB, Python {facts['python']}, "
        f"grpcio {facts['grpcio']}, NumPy {facts['numpy']}; {' to '.join(sorted({min(dates), max(dates)}))}"
    )


def _processor() -> str:
    if (file := Path("/proc/cpuinfo")).exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
