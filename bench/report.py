"""Runs every benchmark, writes their figures to docs/benchmarks.json, and their tables into the pages.

A page has a block for each table that it shows; what stands around them is written by hand::

    <!-- bench: rounds -->
    <!-- end -->

With --quick, all of that is done but the writing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tables import Table, machine, on_machine

__all__ = ["FIGURES", "PAGES", "blocks", "filled"]

BENCH = Path(__file__).parent
ROOT = BENCH.parent
FIGURES = ROOT / "docs" / "benchmarks.json"
PAGES = (ROOT / "docs" / "performance.md",)
BENCHMARKS = ("rounds", "loop_lag", "uploads", "stress")
BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def blocks(figures: Mapping[str, Any]) -> dict[str, str]:
    """Give the text of each block, by name."""
    tables = {name: Table(**table) for name, table in figures["tables"].items()}
    return {name: table.markdown() for name, table in tables.items()} | {"machine": on_machine(figures["machine"])}


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Put them into a page."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{texts[found[2]]}\n\n{found[3]}", page)


def measured(*, quick: bool) -> dict[str, Any]:
    """Run every benchmark, and gather what it writes; one that fails ends the run."""
    tables: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in BENCHMARKS:
            print(f"\n## {name}\n", flush=True)
            file = Path(directory, f"{name}.json")
            command = [sys.executable, str(BENCH / f"{name}.py"), "--json", str(file)]
            subprocess.run([*command, "--quick"] if quick else command, check=True)
            tables |= json.loads(file.read_text())
    return {"machine": machine(), "tables": tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see that it works")
    options = parser.parse_args()
    figures = measured(quick=options.quick)
    pages = {page: filled(page.read_text(), blocks(figures)) for page in PAGES}
    if not options.quick:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        for page, text in pages.items():
            page.write_text(text)


if __name__ == "__main__":
    main()
