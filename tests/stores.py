"""Stores that tests open, at places that they may be opened at again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis

from metisfl_async import Model, ModelStoreConfig
from metisfl_async.store.base import GLOBAL, ModelStore, Stored
from metisfl_async.store.by_name import new_store

FEDERATION = "0123456789abcdef" * 2
OWNERS = [GLOBAL, "global", "arrays", "a/b", "..", ".", "ü", "Ü", "u\u0308", "*", ":", "a:b", "%2F", "a b", "[a]", "?"]
OWNERS.append("x" * 128)
LARGE = 300_000  #: elements; more than is handled on the loop


def model_of(version: int, size: int = 3) -> Model:
    return Model.from_arrays([np.full(size, version, np.float32)], version=version)


async def keep(store: ModelStore, owner: str, model: Model, weight: float = 1.0) -> None:
    """Commit a model, whoever's it is."""
    if owner == GLOBAL:
        await store.commit("", model=model)
    else:
        await store.insert(owner, model, weight)
        await store.commit("")


async def versions(store: ModelStore, owner: str = GLOBAL) -> list[int]:
    return [kept.model.version for kept in await store.lineage(owner)]


def same(kept: Stored | None, model: Model, weight: float = 1.0) -> bool:
    return (
        kept is not None
        and kept.weight == weight
        and kept.model.manifest == model.manifest
        and kept.model.version == model.version
        and kept.model.buffer.tobytes() == model.buffer.tobytes()
    )


class Place:
    """Where a store keeps its models, which it may be opened on again and again."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @asynccontextmanager
    async def open(self, length: int, federation: str | None = FEDERATION) -> AsyncIterator[ModelStore]:
        """Open a store, and begin a federation or go on with it."""
        store = new_store(ModelStoreConfig(lineage_length=length, **self.options))
        try:
            await store.open()
            if federation is not None and await store.unfinished() == federation:
                await store.resume(federation)
            elif federation is not None:
                await store.begin(federation, "")
            yield store
        finally:
            await store.close()
            await store.close()

    def count(self) -> int | None:
        """Count the models that take room, those that nobody could read included; None if there is no telling."""
        return None

    def damage(self, *, gone: bool = False) -> None:
        """Damage what was written last, or remove it."""
        raise NotImplementedError


class Directory(Place):
    def count(self) -> int:
        return len(self._files())

    def _files(self) -> list[Path]:
        paths = Path(self.options["directory"]).rglob("*")
        return [path for path in paths if path.suffix == ".safetensors" and path.parent.name != "quarantine"]

    def damage(self, *, gone: bool = False) -> None:
        last = max(self._files(), key=lambda path: path.stat().st_mtime_ns)
        if gone:
            last.unlink()
        else:
            content = bytearray(last.read_bytes())
            content[-1] ^= 1
            last.write_bytes(content)


class Prefix(Place):
    def count(self) -> int:
        with redis.Redis(port=self.options["model_store_port"], decode_responses=True) as client:
            return len(self._models(client))

    def _models(self, client: redis.Redis) -> list[str]:
        return list(client.scan_iter(f"{self.options['key_prefix']}:model:*"))

    def damage(self, *, gone: bool = False) -> None:
        with redis.Redis(port=self.options["model_store_port"], decode_responses=True) as client:
            last = self._last(client)
            if gone:
                client.delete(last)
            else:
                client.hset(last, "digest", "0" * 32)

    def _last(self, client: redis.Redis) -> str:
        prefix = self.options["key_prefix"]
        federation = str(client.lrange(f"{prefix}:federations:ids", -1, -1)[0])
        arrays = client.hget(f"{prefix}:federation:{federation}", "arrays")
        names = [*map(str, client.lrange(f"{prefix}:index:{federation}/a", 0, -1)), *([str(arrays)] if arrays else [])]
        return [key for name in names if client.exists(key := f"{prefix}:model:{name}")][-1]
