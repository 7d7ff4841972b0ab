"""Runs the benchmarks, writes their figures to docs/benchmarks.json, and their tables into the pages.

Each benchmark's are written as soon as it ends, so a run that is cut off keeps what it has. Names choose some of them
(`report.py peer link`); what the others measured before stays, with its date. All are of one machine: on another one,
those of before are dropped.

A page has a block for each table that it shows; what stands around them is written by hand::

    <!-- bench: rounds -->
    <!-- end -->

With --quick, the benchmarks run fewer and smaller, and nothing is written. With --pages, nothing runs, and the pages
are written anew from what was measured last.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import growth
from tables import Table, machine, on_machine

__all__ = ["BLOCK", "FIGURES", "PAGES", "blocks", "filled", "tables_of"]

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
FIGURES, PICTURE = DOCS / "benchmarks.json", DOCS / "images" / "growth.png"
PAGES = (BENCH.parent / "README.md", DOCS / "performance.md")
BENCHMARKS = {  #: in this order, with their tables
    "rounds": {"rounds"},
    "loop_lag": {"loop_lag"},
    "uploads": {"uploads", "folding"},
    "stress": {"stress", "limit"},
    "crowd": {"idle", "dial", "push"},
    "peer": {"peer"},
    "link": {"link"},
}
LONGEST_S = 1800  #: for a benchmark; none takes half of that
BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def run(names: Sequence[str], *, quick: bool) -> None:
    """Run these benchmarks; one that fails ends the run."""
    figures = {"machine": machine(), "tables": {}}
    if FIGURES.exists() and (before := json.loads(FIGURES.read_text()))["machine"] == figures["machine"]:
        figures = before
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            print(f"\n## {name}\n", flush=True)
            file = Path(directory, f"{name}.json")
            command = [sys.executable, str(BENCH / f"{name}.py"), "--json", str(file)]
            start = time.perf_counter()
            subprocess.run([*command, "--quick"] if quick else command, check=True, timeout=LONGEST_S)
            print(f"\n{name} took {time.perf_counter() - start:.0f} s", flush=True)
            if not quick:
                figures["tables"] |= json.loads(file.read_text())
                write(figures)


def tables_of(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Give all tables by name: those that were printed, and those that follow from them."""
    tables = {name: Table(table["columns"], table["rows"]) for name, table in figures["tables"].items()}
    tables["each"] = growth.each(tables["stress"])
    tables["on_paper"] = growth.on_paper(tables["each"], tables["idle"])
    tables["headline"] = headline(tables)
    return tables


def headline(tables: Mapping[str, Table]) -> Table:
    """Choose what the README tells."""

    def cell(name: str, key: str, **wanted: object) -> str:
        return tables[name].cell(tables[name].find(**wanted), key)

    nothing = {"loop": "asyncio", "evaluation": "on"}
    large = {"parameters": 10_000_000}
    rows = {
        "a round of 10 learners with nothing to compute, real gRPC on loopback": (
            f"{cell('rounds', 'median_ms', connection='gRPC on loopback', **nothing)} ms"
        ),
        "the same in one process, in memory": f"{cell('rounds', 'median_ms', connection='in memory', **nothing)} ms",
        "a round of 10 learners and 10 million parameters (40 MB)": (
            f"{cell('stress', 'round_ms', learners=10, **large)} ms"
        ),
        "the controller's peak memory then, and with 100 learners": (
            f"{cell('stress', 'rss_mb', learners=10, **large)} and {cell('stress', 'rss_mb', learners=100, **large)} MB"
        ),
        "lag of the event loop beside three Keras learners in threads, median and 99th percentile": (
            f"{cell('loop_lag', 'median_ms', worker='thread')} and {cell('loop_lag', 'p99_ms', worker='thread')} ms"
        ),
    }
    for row in tables["peer"].rows:
        if row["learners"] == 10 and row["evaluation"] == "on":
            times = (tables["peer"].cell(row, key) for key in ("times_faster", "times_smaller"))
            rows[f"the same with Flower and {row['parameters']:,} parameters, beside ours in one run"] = (
                "{} times as long, {} times the memory".format(*times)
            )
    for row in tables["idle"].rows:
        rows[f"the controller's memory for each of {row['learners']:,} idle learners"] = f"{row['kb_each']:.0f} KB"
    for row in tables["dial"].rows:
        rows[f"{row['learners']:,} learners dial in at once"] = f"all joined in {row['joined_s']:.1f} s"
    return Table(
        {"what": ("evaluation included, learners and controller on the same cores", ""), "figure": ("measured", "")},
        [{"what": what, "figure": figure} for what, figure in rows.items()],
    )


def blocks(figures: Mapping[str, Any]) -> dict[str, str]:
    """Give the text of each block, by name."""
    texts = {name: table.markdown() for name, table in tables_of(figures).items()}
    dates = [table["date"] for table in figures["tables"].values()]
    return texts | {"machine": f"Measured on {on_machine(figures['machine'], dates)}."}


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Put them into a page."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{texts[found[2]]}\n\n{found[3]}", page)


def write(figures: Mapping[str, Any]) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    if missing := set().union(*BENCHMARKS.values()) - figures["tables"].keys():
        print(f"the pages are written when there are all tables; missing: {', '.join(sorted(missing))}", flush=True)
        return
    growth.draw(tables_of(figures)["stress"], PICTURE)
    for page in PAGES:
        page.write_text(filled(page.read_text(), blocks(figures)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see that it works")
    parser.add_argument("--pages", action="store_true", help="write the pages anew, from what was measured last")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}")
    if options.pages:
        write(json.loads(FIGURES.read_text()))
    else:
        run(options.names or list(BENCHMARKS), quick=options.quick)


if __name__ == "__main__":
    main()
