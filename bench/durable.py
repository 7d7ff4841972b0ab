"""What it costs that a federation outlives its controller: rounds with a store on disk beside the same in memory.

Learners and model are those of the stress test; the two kinds take turns, in one run. On disk, a round waits for the
disk twice: when it opens, and with its model. The run fails unless every update counted in every round.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop
from processes import in_fresh_process
from stress import MILLION, federation, rounds_of
from tables import Columns, Row, Run

from metisfl_async import ModelStoreConfig
from metisfl_async.core.model import Model
from metisfl_async.store.files import sync, write
from metisfl_async.store.record import record_of

LEARNERS, TURNS = 10, 3
COLUMNS: Columns = {
    "parameters": ("parameters", ",d"),
    "memory_ms": ("round in memory (ms)", ".1f"),
    "disk_ms": ("round on disk (ms)", ".1f"),
    "times": ("disk / memory", ".2f"),
    "write_ms": ("writing the model alone (ms)", ".1f"),
    "fsync_ms": ("an fsync alone (ms)", ".2f"),
}


def measure(parameters: int, rounds: int, directory: str) -> Row:
    """Run a federation, in a directory if one is given."""
    store = ModelStoreConfig(model_store="Disk", directory=directory) if directory else None
    return uvloop.run(federation(parameters, LEARNERS, rounds, 1, store))


def alone_ms(parameters: int) -> tuple[float, float]:
    """Time writing a model to the disk, and bringing a few bytes there; medians of some."""
    model = Model.from_arrays([np.zeros(parameters, np.float32)])
    writes_ms, syncs_ms = [], []
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for number in range(7):
            file = Path(directory, f"{number}")
            begun_at = time.perf_counter()
            write(file, "", record_of(model.manifest), model.arrays())
            writes_ms.append((time.perf_counter() - begun_at) * 1e3)
            file.write_bytes(b"a few bytes")
            begun_at = time.perf_counter()
            sync(file)
            syncs_ms.append((time.perf_counter() - begun_at) * 1e3)
    return statistics.median(writes_ms), statistics.median(syncs_ms)


def main() -> None:
    run = Run(__doc__)
    table = run.table("durability", COLUMNS)
    for parameters in (100_000,) if run.is_quick else (100_000, MILLION, 10 * MILLION):
        rounds = rounds_of(parameters, LEARNERS, run.is_quick)
        times_ms: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(1 if run.is_quick else TURNS):
            for is_durable, taken_ms in times_ms.items():
                with tempfile.TemporaryDirectory(dir=".") as directory:
                    row = in_fresh_process(measure, parameters, rounds, directory if is_durable else "")
                taken_ms.append(row["round_ms"])
        in_memory, on_disk = (statistics.median(times_ms[kind]) for kind in (False, True))
        write_ms, fsync_ms = alone_ms(parameters)
        table.add(
            parameters=parameters,
            memory_ms=in_memory,
            disk_ms=on_disk,
            times=on_disk / in_memory,
            write_ms=write_ms,
            fsync_ms=fsync_ms,
        )
    run.end()


if __name__ == "__main__":
    main()
