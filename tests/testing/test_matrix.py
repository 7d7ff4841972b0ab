"""Each scheduler under each fault, with many seeds: nothing is lost, doubled or hung."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from testing.recorded import Recorded, Trains, wrong

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.strategies import FedBuff
from metisfl_async.testing import run
from metisfl_async.testing.faults import CALLS, Call

SEEDS = int(os.environ.get("MATRIX_SEEDS", "4"))  # `make matrix` runs 20
NAMES = [f"site-{index}" for index in range(3)]
ALIVE = ControllerConfig(max_failed_rounds=1000, quorum_timeout_secs=None)
CONFIGS = {
    "Synchronous": [ALIVE, replace(ALIVE, aggregation_rule="FedAdam")],
    "SemiSynchronous": [replace(ALIVE, scheduler="SemiSynchronous", semi_sync_lambda=1.0)],
    "Asynchronous": [
        replace(ALIVE, scheduler="Asynchronous", aggregation_rule="FedAsync"),
        replace(ALIVE, scheduler="Asynchronous", aggregation_rule=FedBuff(3, max_staleness=1000)),
    ],
}
Fault: TypeAlias = Callable[[Recorded, random.Random], Awaitable[str | None]]


async def drop(fed: Recorded, rng: random.Random) -> None:
    what = rng.choice([None, *CALLS])
    fed.drop(rng.choice([*NAMES, "driver"]), what, times=rng.randint(1, 3), answer=rng.random() < 0.5)


async def delay(fed: Recorded, rng: random.Random) -> None:
    fed.delay(rng.choice([*NAMES, "driver"]), rng.uniform(0.0, 4.0))


async def duplicate(fed: Recorded, rng: random.Random) -> None:
    fed.duplicate(rng.choice([*NAMES, "driver"]), times=rng.randint(1, 3))


async def cut(fed: Recorded, rng: random.Random) -> None:
    during: Call | None = rng.choice([None, "upload", "download"])
    fed.cut(rng.choice([*NAMES, "driver"]), during=during, at=rng.random())


async def kill(fed: Recorded, rng: random.Random) -> str:
    who = rng.choice([*NAMES, "controller", "controller"])
    await fed.kill(who)
    await fed.sleep(rng.uniform(0.0, 40.0))
    await fed.restart(who)
    return who


async def restart(fed: Recorded, rng: random.Random) -> str:
    await fed.restart(who := rng.choice([*NAMES, "controller", "controller"]))
    return who


async def silence(fed: Recorded, rng: random.Random) -> str:
    fed.silence(who := rng.choice([*NAMES, "driver"]), rng.uniform(1.0, 100.0))
    return who  # it may be given up


async def anything(fed: Recorded, rng: random.Random) -> str | None:
    return await rng.choice([drop, delay, duplicate, cut, kill, restart, silence])(fed, rng)


FAULTS: list[Fault] = [drop, delay, duplicate, cut, kill, restart, silence, anything]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("scheduler", CONFIGS)
def test_nothing_is_lost_doubled_or_hung(
    scheduler: str, fault: Fault, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power fails here
    rng = random.Random(f"{scheduler} {fault.__name__} {seed}")
    config = rng.choice(CONFIGS[scheduler])
    in_rounds = config.new_scheduler().in_rounds
    signals = TerminationSignals(federation_rounds=5) if in_rounds else TerminationSignals(global_updates=15)
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learners = {name: Trains(2**index, takes=rng.uniform(5.0, 30.0)) for index, name in enumerate(NAMES)}

    async def main() -> list[str]:
        fed = Recorded(learners, signals, controller_config=config, model_store_config=store, seed=seed, lost_secs=None)
        disturbed = set[str | None]()
        with fed.written_down():
            async with fed:
                for _ in range(rng.randint(2, 5)):
                    await fed.sleep(rng.uniform(0.0, 30.0))
                    if not fed.is_over:
                        disturbed.add(await fault(fed, rng))
                result = await fed.result()
            problems = wrong(fed, result, config, steady=set(NAMES) - disturbed)
            return [*problems, fed.report()] if problems else []

    assert not run(main())
