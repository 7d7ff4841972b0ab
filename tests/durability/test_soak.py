"""Federations that are disturbed at random; `make soak` does many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from durability.soak import all_soaked
from redis_server import RedisServer

pytestmark = pytest.mark.slow

RUNS = 20


async def test_nothing_is_lost_doubled_or_hung_whoever_is_killed_stopped_or_cut_off(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    wrong, done = await all_soaked(range(RUNS), tmp_path, redis_server.port)
    assert not wrong, "\n".join(f"--- seed {seed}:\n" + "\n".join(texts) for seed, texts in wrong.items())
    for what in ("kill controller", "forget controller", "on Redis", "with a spool_dir"):
        assert done[what], what
    assert any(what.startswith("stop for long") for what in done)
