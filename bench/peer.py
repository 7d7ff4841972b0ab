"""Ours beside Flower: the stress test with both, in one run.

For each size ours, Flower, bare gRPC and ours again, so that a machine that gets slower or faster is seen by all: the
same model, work and evaluation, and as many learners in as many processes. `flower.py` says which part of Flower that
is, `bare.py` what gRPC takes for our messages alone. Ours runs on uvloop, Flower in threads. Rounds are medians of
three to five, bare ones of three times as many, without the first; RSS is what the controller with its driver, or
Flower's server, has at most. With evaluation Flower sends the global model twice in a round, and ours once; without,
both move the same.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from bare import bare_round_ms
from processes import in_fresh_process
from stress import measure
from tables import Columns, Row, Run

BENCH = Path(__file__).parent
MILLION = 1_000_000
TIMEOUT_S = 600
QUICK = [(100_000, 10, True)]
FULL = [
    *((parameters, learners, True) for parameters in (100_000, MILLION) for learners in (10, 50)),
    (MILLION, 10, False),
    *((10 * MILLION, 10, evaluate) for evaluate in (True, False)),
]
PEER: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "evaluation": ("evaluation", ""),
    "flower_ms": ("Flower's round (ms)", ".0f"),
    "ours_ms": ("our round (ms)", ".0f"),
    "times_faster": ("times faster", ".1f"),
    "bare_ms": ("bare gRPC (ms)", ".0f"),
    "most_times_faster": ("times faster at most", ".1f"),
    "flower_rss_mb": ("Flower's peak RSS (MB)", ".0f"),
    "ours_rss_mb": ("our peak RSS (MB)", ".0f"),
    "times_smaller": ("times smaller", ".1f"),
}


def flower(parameters: int, learners: int, rounds: int, *, evaluate: bool) -> Row:
    """Do it with Flower."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "flower.json")
        command = [str(BENCH / ".venv-flower" / "bin" / "python"), str(BENCH / "flower.py"), "--json", str(file)]
        command += ["--sizes", f"{parameters}x{learners}", "--rounds", str(rounds)]
        command.append("--evaluate" if evaluate else "--no-evaluate")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)
        (row,) = json.loads(file.read_text())
    return dict(row)


def ours(parameters: int, learners: int, rounds: int, *, evaluate: bool) -> Row:
    return in_fresh_process(measure, parameters, learners, rounds, int(evaluate))


def main() -> None:
    run = Run(__doc__)
    table = run.table("peer", PEER)
    for parameters, learners, evaluate in QUICK if run.is_quick else FULL:
        rounds = 2 if run.is_quick else 5 if learners == 10 and parameters <= MILLION else 3
        before, peer, after = (do(parameters, learners, rounds, evaluate=evaluate) for do in (ours, flower, ours))
        texts = [row["round_ms"] for row in (before, after) if isinstance(row["round_ms"], str)]
        if texts:  # there is too little memory
            sizes = {"parameters": parameters, "learners": learners, "evaluation": "on" if evaluate else "off"}
            table.add(**dict.fromkeys(PEER, "-") | sizes | {"ours_ms": texts[0]})
            continue
        bare_ms = in_fresh_process(partial(bare_round_ms, parameters, learners, 3 * rounds, evaluate=evaluate))
        ours_ms = statistics.mean((before["round_ms"], after["round_ms"]))
        ours_rss_mb = max(before["rss_mb"], after["rss_mb"])
        table.add(
            parameters=parameters,
            learners=learners,
            evaluation="on" if evaluate else "off",
            flower_ms=peer["round_ms"],
            ours_ms=ours_ms,
            times_faster=peer["round_ms"] / ours_ms,
            bare_ms=bare_ms,
            most_times_faster=peer["round_ms"] / bare_ms,
            flower_rss_mb=peer["rss_mb"],
            ours_rss_mb=ours_rss_mb,
            times_smaller=peer["rss_mb"] / ours_rss_mb,
        )
    run.end()


if __name__ == "__main__":
    main()
