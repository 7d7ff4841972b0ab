"""Learners and drivers that are killed at each of their steps, and started again."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path

import pytest
from durability import history
from durability.parties import (
    Death,
    Trains,
    controller,
    driver,
    first_weights,
    free_port,
    learner,
    started,
    take_part,
    trained_from,
)
from durability.soak import replayed
from federations import PATIENCE_S, until

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.events import Ending
from metisfl_async.transport import retry

pytestmark = pytest.mark.slow

EACH = ("before", "after")
CONFIG = ControllerConfig(heartbeat_secs=0.2, lease_secs=30.0, min_learners=2)
WITHOUT_ROUNDS = ControllerConfig(
    aggregation_rule="FedRec", scheduler="Asynchronous", heartbeat_secs=0.2, lease_secs=30.0
)

SAVE_STEPS = 5  #: write the file, flush it, move it to its place, remove what is left, flush the directory
IN_PLACE = 3  #: before this step it is not there for a learner that is started again
BEFORE_IT_IS_SAVED = [
    Death("trained", "after", 2),
    Death("saved", "before", 2),
    *(Death("step", "before", number) for number in range(1, IN_PLACE + 1)),
]
LEARNERS_DEATHS = [
    *(Death("received", when, number) for when in EACH for number in (1, 2)),
    Death("trained", "before", 2),
    *BEFORE_IT_IS_SAVED,
    *(Death("step", "before", number) for number in range(IN_PLACE + 1, SAVE_STEPS + 1)),
    Death("saved", "after", 2),
    *(Death(point, when, 2) for point in ("ready", "sent", "folded", "counted", "forgotten") for when in EACH),
]


@pytest.mark.parametrize(("config", "count"), [(CONFIG, 2), (WITHOUT_ROUNDS, 1)], ids=["in rounds", "without"])
async def test_a_learner_with_a_spool_that_is_killed_trains_again_only_what_it_had_not_saved(
    config: ControllerConfig, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_BACKOFF_S", 0.3)
    path, port, spool_dir = tmp_path / "log", free_port(), tmp_path / "spool"
    models, facts = 3 * len(LEARNERS_DEATHS), (port, "site-0", 1, 0.0, spool_dir)
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path / "store")
    in_rounds = config.new_scheduler().in_rounds
    signals = TerminationSignals(federation_rounds=models) if in_rounds else TerminationSignals(global_updates=models)
    parties = [started(controller, path, port, config, store)]
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            parties.append(started(learner, path, *facts, LEARNERS_DEATHS[0]))
            if count == 2:
                group.create_task(take_part(path, port, "site-1", Trains(2)))
            session = DriverSession(ClientParams(port=port), count, signals, initial_weights=first_weights())
            running = group.create_task(session.run())
            for death, then in itertools.pairwise([*LEARNERS_DEATHS, None]):
                await until(lambda: not parties[-1].is_alive())
                assert parties[-1].exitcode == -signal.SIGKILL, f"{death}: it was never there"
                parties.append(started(learner, path, *facts, then))
            result = await running
        await until(lambda: not any(party.is_alive() for party in parties))
    finally:
        for party in parties:
            party.kill()
    assert not list(spool_dir.glob("*.update"))
    told = history.read(path)
    assert not told.check(result.rounds)
    assert not told.lost()
    assert result.final_model is not None
    assert result.final_model[0].tolist() == replayed(told, config)
    assert {line["steps"] for line in history.lines_of(path) if line["what"] == "saved"} == {SAVE_STEPS}
    trained = _trained_in_each_life(path)
    again = [bool(before) and before[-1] in after for before, after in itertools.pairwise(trained)]
    for (death, twice), versions in zip(
        zip(LEARNERS_DEATHS, again, strict=True), itertools.pairwise(trained), strict=True
    ):
        assert twice is (death in BEFORE_IT_IS_SAVED), f"{death}: {versions}"
    assert sorted({version for life in trained for version in life}) == [*range(models)]
    assert sum(map(len, trained)) == models + len(BEFORE_IT_IS_SAVED)


def _trained_in_each_life(path: Path) -> list[list[int]]:
    """Give the versions that a learner began to train, from one start to the next."""
    lives: list[list[int]] = []
    for line in history.lines_of(path):
        if line["who"] == "site-0" and line["what"] == "starts":
            lives.append([])
        elif line["what"] == "trains":
            lives[-1].append(line["version"])
    return lives


ROUNDS = 3
DRIVERS_DEATHS = [
    *(Death("model given", when) for when in EACH),
    *(Death("started", when) for when in EACH),
    *(Death("watched", "after", number) for number in (1, 2, 5, 12)),
    Death("records fetched"),
    *(Death("model fetched", when) for when in EACH),
    Death("shut down"),
]
NOTHING_RUNS = DRIVERS_DEATHS[:3]  #: the next driver starts the federation


async def test_the_result_of_a_driver_that_is_killed_is_had_by_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_BACKOFF_S", 0.3)
    path, signals = tmp_path / "log", TerminationSignals(federation_rounds=ROUNDS)
    learners = [Trains(1, 0.02), Trains(2, 0.02)]
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), CONFIG) as controller_:
        dial = controller_.client_params
        taking_part = [
            asyncio.create_task(run_learner(each, dial, learner_id=f"site-{index}"))
            for index, each in enumerate(learners)
        ]
        before = ""
        for death in DRIVERS_DEATHS:
            process = started(driver, path, dial.port, 2, signals, False, death)
            try:
                await until(lambda: not process.is_alive())  # noqa: B023 - it is awaited here
            finally:
                process.kill()
            assert process.exitcode == -signal.SIGKILL, f"{death}: it was never there"
            is_new = controller_._open.jobs.id != before
            assert is_new is (death not in NOTHING_RUNS), f"{death}"
            if is_new:
                result = await DriverSession.attach(dial).run()
            else:
                session = DriverSession(dial, 2, signals, initial_weights=first_weights(), keep_running=True)
                result = await session.run()
            before = controller_._open.jobs.id
            assert result.ending is Ending.FEDERATION_ROUNDS, death
            assert result.first_weights == "given", death
            assert [record.number for record in result.rounds] == [*range(1, ROUNDS + 1)], death
            assert all(record.participants == ["site-0", "site-1"] for record in result.rounds), death
            assert result.final_model is not None
            assert result.final_model[0].tolist() == _after_all_rounds(), death
        await DriverSession.attach(dial).run(shut_down=True)
        await asyncio.gather(*taking_part)
        await controller_.serve()


def _after_all_rounds() -> list[float]:
    """Say what two learners, with weights 1 and 2, make of the first weights."""
    weights = first_weights()
    for _ in range(ROUNDS):
        (one, count), (two, _) = trained_from(weights, 1), trained_from(weights, 2)
        weights = [((one.astype("f8") + 2.0 * two.astype("f8")) / 3.0).astype("f4"), count]
    mean: list[float] = weights[0].tolist()
    return mean
