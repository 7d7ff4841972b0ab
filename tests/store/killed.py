"""Commits one model after another and says so, until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys

import numpy as np

from metisfl_async import Model, ModelStoreConfig
from metisfl_async.store.by_name import new_store

SIZE = 30_000


async def main() -> None:
    store = new_store(ModelStoreConfig(lineage_length=2, **json.loads(sys.argv[1])))
    await store.open()
    federation = await store.unfinished()
    if federation is None:
        await store.begin("f", "0")
        begun = 0
    else:
        begun = int((await store.resume(federation)).standing)
    for number in itertools.count(begun + 1):
        model = Model.from_arrays([np.full(SIZE, number, np.float32)], version=number)
        await store.insert("a", model, number)
        await store.insert(f"b{number % 3}", model, number)
        await store.erase(f"b{(number + 1) % 3}")
        arrays = {"sum": np.full(SIZE, number, np.float64)}
        await store.commit(str(number), model=model, arrays=arrays, rounds=[str(number)])
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        await store.insert("late", model)


if __name__ == "__main__":
    asyncio.run(main())
