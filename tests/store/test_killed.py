"""A controller that is killed at any time, and comes back."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import redis
from stores import Place, versions

from metisfl_async.store.base import GLOBAL

pytestmark = pytest.mark.slow

TRIALS = 15


async def killed_after(place: Place, said: int, delay_s: float) -> int:
    """Let a process commit until it has said so often that it has, and a moment longer; give what it said last."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in place.options.items()}
    script = Path(__file__).with_name("killed.py")
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    lines = [int(await child.stdout.readline()) for _ in range(said)]
    await asyncio.sleep(delay_s)
    child.kill()
    lines += map(int, (await child.stdout.read()).split())
    await child.wait()
    return lines[-1]


@pytest.mark.parametrize("place", ["Disk", "Redis"], indirect=True)
async def test_after_it_was_killed_all_is_as_of_one_commit_the_last_or_the_one_after_it(place: Place) -> None:
    chance = random.Random(4)
    outcomes = set()
    for trial in range(TRIALS):
        said = await killed_after(place, 1 + trial % 3, chance.random() * 0.02)
        if (port := place.options.get("model_store_port")) is not None:
            with redis.Redis(port=port) as client:  # nobody waits here until its time is over
                client.delete(f"{place.options['key_prefix']}:lock:owner")
        async with place.open(2, None) as store:
            assert await store.unfinished() == "f"
            saved = await store.resume("f")
            last = int(saved.standing)
            outcomes.add(last - said)
            assert last in (said, said + 1)
            assert saved.version == last
            np.testing.assert_array_equal(saved.arrays["sum"], last)
            before = [last - 1, last][-last:]
            assert await versions(store) == await versions(store, "a") == before
            for owner, version in ((GLOBAL, last), ("a", last), (f"b{last % 3}", last)):
                kept = await store.latest(owner)
                assert kept is not None
                assert kept.model.version == version
                assert kept.weight == (1 if owner == GLOBAL else version)
                np.testing.assert_array_equal(kept.model.arrays()[0], version)
            assert await store.latest(f"b{(last + 1) % 3}") is None
            assert all(version < last for version in await versions(store, "late"))  # what comes after a commit
            assert [text async for text in store.rounds()] == [str(number) for number in range(1, last + 1)]
            owned = [await versions(store, owner) for owner in (GLOBAL, "a", "b0", "b1", "b2", "late")]
            assert place.count() == sum(map(len, owned)) + 1
    assert 0 in outcomes
