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
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import growth
from processes import run_command
from tables import Table, machine, on_machine

__all__ = ["BLOCK", "FIGURES", "PAGES", "blocks", "filled", "tables_of"]

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
FIGURES, PICTURE = DOCS / "benchmarks.json", DOCS / "images" / "growth.png"
FOUND = ("skewed", "robustness", "smaller")  #: JSON files of what `make figures` found: of no machine
PAGES = (
    BENCH.parent / "README.md",
    *(DOCS / f"{name}.md" for name in ("guide", "performance", "strategies", "durability", "robustness", "security")),
)
BENCHMARKS = {  #: in this order, with their tables
    "rounds": {"rounds"},
    "loop_lag": {"loop_lag"},
    "uploads": {"uploads", "folding"},
    "tls": {"tls"},
    "stress": {"stress", "limit"},
    "durable": {"durability"},
    "crowd": {"idle", "dial", "push"},
    "floods": {"flooded", "flood_cpu"},
    "simulating": {"simulating"},
    "simulating_peer": {"simulating_peer"},
    "peer": {"peer"},
    "flower_deployed": {"deployed"},
    "link": {"link"},
}
NOT_QUICK = {"simulating_peer"}  #: unless asked for by name: Ray has to be installed, and takes its time to start
BY_NAME = {"floods", "flower_deployed"}  #: only: they wait for minutes
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
            run_command([*command, "--quick"] if quick else command, LONGEST_S)
            print(f"\n{name} took {time.perf_counter() - start:.0f} s", flush=True)
            if not quick:
                figures["tables"] |= json.loads(file.read_text())
                write(figures)


def tables_of(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Give all tables by name: those that were printed, and those that follow from them."""
    tables = {name: Table(table["columns"], table["rows"]) for name, table in figures["tables"].items()}
    for name in FOUND:
        found = json.loads((DOCS / f"{name}.json").read_text())
        tables |= {name: Table(table["columns"], table["rows"]) for name, table in found.items()}
    tables["each"] = growth.each(tables["stress"])
    tables["on_paper"] = growth.on_paper(tables["stress"], tables["idle"])
    tables["headline"] = headline(tables)
    return tables


def headline(tables: Mapping[str, Table]) -> Table:
    """Choose what the README tells."""

    def cells(name: str, *keys: str, **wanted: object) -> list[str]:
        """Give some values of the row that is wanted; nothing if it has no figures."""
        found = [row for row in tables[name].rows if wanted.items() <= row.items()]
        return [tables[name].cell(row, key) for row in found for key in keys if not isinstance(row[key], str)]

    nothing = {"loop": "asyncio", "evaluation": "on"}
    large = {"parameters": 10_000_000}
    lags = ("median_ms", "p99_ms", "worst_ms")
    rows: dict[str, tuple[str, Sequence[object]]] = {
        "a round of 10 learners with nothing to compute, real gRPC on loopback, asyncio's loop": (
            "{} ms",
            cells("rounds", "median_ms", connection="gRPC on loopback", **nothing),
        ),
        "the same round in one process, in memory": (
            "{} ms",
            cells("rounds", "median_ms", connection="in memory", **nothing),
        ),
        "a round of 10 learners and 10 million parameters (40 MB), uvloop": (
            "{} ms",
            cells("stress", "round_ms", learners=10, **large),
        ),
        "peak memory of the controller and its driver in that round": (
            "{} MB",
            cells("stress", "rss_mb", learners=10, **large),
        ),
        "the same memory with 100 learners": ("{} MB", cells("stress", "rss_mb", learners=100, **large)),
        "lag of asyncio's loop beside three Keras learners in threads: median, 99th percentile, worst": (
            "{}, {} and {} ms",
            cells("loop_lag", *lags, worker="thread"),
        ),
    }
    for row in tables["peer"].rows:
        if row["learners"] == 10 and row["evaluation"] == "on":
            parameters = row["parameters"]
            times = cells("peer", "times_faster", "times_smaller", learners=10, evaluation="on", parameters=parameters)
            rows[f"a round of 10 learners and {parameters:,} parameters with Flower, beside ours in the same run"] = (
                "{} times as long, {} times the memory",
                times,
            )
    for row in tables["deployed"].rows:
        if row["sleeps"] == "its defaults":
            size = f"{row['learners']} learners and {row['parameters']:,} parameters"
            what = (
                f"a round of {size} with Flower's SuperLink and SuperNodes (a process a task, with sleeps), beside ours"
            )
            rows[what] = ("{:.0f} times as long", [row["times_faster"]])
    for row in tables["simulating_peer"].rows:
        who = f"{row['learners']:,} learners, {row['cohort']} a round"
        what = f"a simulation of {who}, beside Flower's on Ray in the same run"
        rows[what] = ("{:.1f} times the rounds a second", [row["times_faster"]])
    for row in tables["idle"].rows:
        what = f"the controller's memory for each of {row['learners']:,} idle learners, uvloop"
        rows[what] = ("{:.0f} KB", [row["kb_each"]])
    for row in tables["dial"].rows:
        what = f"{row['learners']:,} learners connect at once, uvloop"
        rows[what] = ("all joined in {:.1f} s", [row["joined_s"]])
    return Table(
        {"what": ("evaluation included, learners and controller on the same cores", ""), "figure": ("measured", "")},
        [{"what": what, "figure": text.format(*figures)} for what, (text, figures) in rows.items() if figures],
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
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; default: most")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, to see that it works")
    parser.add_argument("--pages", action="store_true", help="write the pages anew, from what was measured last")
    options = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))  # and so ends what it started
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}")
    if options.pages:
        write(json.loads(FIGURES.read_text()))
    else:
        left_out = BY_NAME | NOT_QUICK if options.quick else BY_NAME
        run(options.names or [name for name in BENCHMARKS if name not in left_out], quick=options.quick)


if __name__ == "__main__":
    main()
