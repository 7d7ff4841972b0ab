"""Inserts one model after another and says so, until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys

import numpy as np

from metisfl_async import Model, ModelStoreConfig
from metisfl_async.store.by_name import new_store


async def main() -> None:
    store = new_store(ModelStoreConfig(lineage_length=3, **json.loads(sys.argv[1])))
    await store.open()
    for version in itertools.count(1):
        await store.insert("a", Model.from_arrays([np.full(300_000, version, np.float32)], version=version))
        sys.stdout.write(f"{version}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
