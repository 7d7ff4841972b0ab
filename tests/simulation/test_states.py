"""What simulated learners remember from task to task."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
from federations import nothing_left_behind, session_of

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    Learner,
    QuorumLost,
    Simulation,
    TerminationSignals,
)
from metisfl_async.simulation.parcel import Parcel
from metisfl_async.testing import run

HALF = ControllerConfig(participation_ratio=0.5)


async def simulated_run(
    make_learner: Callable[[int], Learner], config: ControllerConfig = HALF, rounds: int = 4, **options: Any
) -> FederationResult:
    simulation = Simulation(make_learner, learners=8, **options)
    controller = Controller(controller_config=config)
    return await DriverSession(controller, simulation, TerminationSignals(federation_rounds=rounds)).run()


def bits(result: FederationResult) -> bytes:
    assert result.final_model is not None
    assert not isinstance(result.final_model, dict)
    return result.final_model[0].tobytes()


def measured(result: FederationResult) -> list[dict[str, float]]:
    return [dict(record.evaluation_metrics) for record in result.rounds]


@pytest.mark.parametrize("kind", [simulated.Remembers, simulated.RemembersMuch])
async def test_learners_that_remember_give_what_live_ones_give(kind: Callable[[int], Learner]) -> None:
    live = await session_of([kind(number) for number in range(8)], 4, config=HALF).run()
    with ThreadPoolExecutor(3) as threads:
        in_threads = await simulated_run(kind, executor=threads, keep_state=True)
        forgetful = await simulated_run(kind, executor=threads)
    async with nothing_left_behind():
        in_processes = await simulated_run(kind, workers=2, keep_state=True)
        cached = await simulated_run(kind, workers=2, keep_state=True, cached=3)
    for result in (in_threads, in_processes, cached):
        assert bits(result) == bits(live)
        assert measured(result) == measured(live)
    assert bits(forgetful) != bits(live)


async def test_states_in_a_directory_are_there_for_the_next_run(tmp_path: Path) -> None:
    everybody = ControllerConfig()
    with ThreadPoolExecutor(3) as threads:
        for _ in range(2):
            await simulated_run(
                simulated.Remembers, everybody, rounds=1, executor=threads, keep_state=tmp_path / "states"
            )
    assert sorted(os.listdir(tmp_path / "states")) == [f"learner-{number}.state" for number in range(8)]
    own = np.frombuffer((tmp_path / "states" / "learner-5.state").read_bytes(), np.float32)
    assert set(own) == {12.0}


def test_what_comes_too_late_is_not_remembered() -> None:
    """The work may be done before it is due; that it is given up then must not show."""
    config = ControllerConfig(round_timeout_secs=10)
    options: dict[str, Any] = {"sizes": [1] * 8, "speeds": [0.01] + [1.0] * 7, "keep_state": True}
    with ThreadPoolExecutor(3) as threads:
        results = [
            run(simulated_run(simulated.Remembers, config, executor=threads, **options)),
            run(simulated_run(simulated.Remembers, config, workers=1, **options)),
        ]
    for result in results:
        assert result.rounds[-1].learners["learner-0"].train_state == "expired"
        assert bits(result) == bits(results[0])
        assert measured(result) == measured(results[0])


async def test_where_states_cannot_be_written_the_tasks_fail(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("not a directory")
    with ThreadPoolExecutor(3) as threads, pytest.raises(QuorumLost, match=r"NotADirectoryError|FileExistsError"):
        await simulated_run(simulated.Remembers, executor=threads, keep_state=tmp_path / "states")


async def test_where_states_cannot_be_read_the_tasks_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> Parcel:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(Parcel, "lying_at", gone)
    with ThreadPoolExecutor(3) as threads:
        result = await simulated_run(simulated.Remembers, executor=threads, keep_state=tmp_path, rounds=2)
    parts = [part for record in result.rounds for part in record.learners.values()]
    assert {failure.type for part in parts for failure in part.failures} == {"FileNotFoundError"}


async def test_a_learner_without_a_state_is_told_so() -> None:
    with ThreadPoolExecutor(3) as threads:
        with pytest.raises(QuorumLost, match="keep_state is 'Draws'; allowed: a learner with `state` and `restore`"):
            await simulated_run(simulated.Draws, executor=threads, keep_state=True)
        with pytest.raises(ConfigError, match="keep_state is 1; allowed: True, False, or a directory"):
            await simulated_run(simulated.Draws, executor=threads, keep_state=1)
