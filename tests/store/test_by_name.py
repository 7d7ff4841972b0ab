"""Stores by their names."""

from __future__ import annotations

import sys

import pytest

from metisfl_async import ConfigError, ModelStoreConfig
from metisfl_async.store.by_name import new_store


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    for name in ("redis", "redis_lock", "redis_server"):
        monkeypatch.delitem(sys.modules, f"metisfl_async.store.{name}")
    with pytest.raises(ConfigError, match=r"Redis after: pip install redis"):
        new_store(ModelStoreConfig(model_store="Redis"))
