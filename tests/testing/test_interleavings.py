"""Some hundred orders in which the tasks of a whole federation may go on."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from testing.recorded import Recorded, Trains, wrong

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.strategies import FedBuff
from metisfl_async.testing import run

ORDERS = int(os.environ.get("MATRIX_SEEDS", "4")) * 15  # `make matrix` tries 300
NAMES = [f"site-{index}" for index in range(3)]
IN_ROUNDS = ControllerConfig(max_failed_rounds=1000, quorum_timeout_secs=None)
WITHOUT = ControllerConfig(
    scheduler="Asynchronous", aggregation_rule=FedBuff(2), max_failed_rounds=1000, quorum_timeout_secs=None
)


async def disturbed(config: ControllerConfig, directory: Path, seed: int) -> list[str]:
    """Run a federation whose learners finish at the same moments, in which one is cut off then, and somebody dies."""
    rng = random.Random(seed)
    in_rounds = config.new_scheduler().in_rounds
    signals = TerminationSignals(federation_rounds=3) if in_rounds else TerminationSignals(global_updates=6)
    killed = "controller" if seed % 4 == 0 else rng.choice(NAMES)
    store = ModelStoreConfig(model_store="Disk", directory=directory) if killed == "controller" else None
    learners = {name: Trains(2**index, takes=10.0) for index, name in enumerate(NAMES)}
    fed = Recorded(learners, signals, controller_config=config, model_store_config=store, seed=0)
    with fed.written_down():
        async with fed:
            await fed.sleep(10.0)
            fed.cut(rng.choice(NAMES))
            await fed.sleep(10.0)
            if not fed.is_over:
                await fed.restart(killed)
            result = await fed.result()
    problems = wrong(fed, result, config, steady={*NAMES} - {killed})
    return [*problems, fed.report()] if problems else []


@pytest.mark.slow
@pytest.mark.parametrize("config", [IN_ROUNDS, WITHOUT], ids=["in rounds", "without"])
def test_no_order_of_tasks_loses_doubles_or_hangs_anything(
    config: ControllerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power fails here
    for seed in range(ORDERS):
        problems = run(disturbed(config, tmp_path / str(seed), seed), seed)
        assert not problems, "\n".join([f"with the order of seed {seed}:", *problems])


PROGRAM = """
import sys
from metisfl_async import ControllerConfig, TerminationSignals
from metisfl_async.events import RoundStarted
from metisfl_async.testing import FakeLearner, Federation, run

async def main():
    learners = {name: FakeLearner(takes=10.0) for name in "abcdefgh"}
    config = ControllerConfig(participation_ratio=0.5)
    async with Federation(learners, TerminationSignals(federation_rounds=4), controller_config=config, seed=5) as fed:
        for name in "abc":
            fed.delay(name, 3.0)
            fed.drop(name, "upload", answer=True)
        await fed.event(RoundStarted, number=2)
        await fed.restart("d")
        await fed.result()
        print(fed.report())

run(main(), 9)
"""


@pytest.mark.slow
def test_a_seed_repeats_a_run_in_another_process() -> None:
    def log(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        # times of the day, and the names of federations, tasks and incarnations
        return re.sub("[0-9a-f]{6,32}", "...", re.sub(r"started_at=[0-9.]+", "", done.stdout))

    assert log("1") == log("2")
