from __future__ import annotations

import pytest

from metisfl_async import ConfigError, Model, ModelStoreConfig
from metisfl_async.store.memory import InMemoryStore


@pytest.mark.parametrize(("length", "kept"), [(1, [4]), (2, [3, 4]), (0, [0, 1, 2, 3, 4])])
async def test_the_lineage_keeps_exactly_so_many_oldest_first(length: int, kept: list[int]) -> None:
    store = InMemoryStore(ModelStoreConfig(lineage_length=length))
    for version in range(5):
        await store.insert(Model.from_arrays([], version=version))
    assert [model.version for model in await store.lineage()] == kept


def test_other_stores_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="model_store is 'Redis'; allowed: InMemory"):
        ModelStoreConfig(model_store="Redis")  # type: ignore[arg-type]
