"""A controller process that is killed at each step that makes something durable, and is started again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from durability import history
from durability.parties import Death, Trains, controller, first_weights, free_port, started, take_part
from federations import until
from redis_server import RedisServer

from metisfl_async import (
    ClientParams,
    ControllerConfig,
    DriverSession,
    FedBuff,
    FederationResult,
    ModelStoreConfig,
    TerminationSignals,
)
from metisfl_async.driver import session
from metisfl_async.transport import retry

ALIVE = ControllerConfig(heartbeat_secs=0.2, lease_secs=4.0)
IN_ROUNDS = TerminationSignals(federation_rounds=3)
WITHOUT = TerminationSignals(global_updates=4)

#: For each: how it is configured, when it ends, and how many learners there are.
MODES: dict[str, tuple[ControllerConfig, TerminationSignals, int]] = {
    "FedAvg": (replace(ALIVE, min_learners=2), IN_ROUNDS, 2),
    "FedAdam": (replace(ALIVE, aggregation_rule="FedAdam", min_learners=2), IN_ROUNDS, 2),
    "FedRec": (replace(ALIVE, aggregation_rule="FedRec", scheduler="Asynchronous"), WITHOUT, 1),
    "FedAsync": (replace(ALIVE, aggregation_rule="FedAsync", scheduler="Asynchronous"), WITHOUT, 1),
    "FedBuff": (replace(ALIVE, aggregation_rule=FedBuff(2), scheduler="Asynchronous"), WITHOUT, 1),
}

DEATHS = [
    Death("begun"),
    Death("begun", "after"),
    Death("first weights"),
    Death("first weights", "after"),
    Death("offered", "after", 1),
    Death("offered", "before", 3),
    Death("offered", "after", 3),
    Death("accepted", "after", 3),
    Death("received", "after", 3),
    Death("folded", "before", 3),
    Death("folded", "after", 3),
    Death("folded", "after", 4),
    Death("written", "after", 2),
    Death("committed", "after", 2),
    Death("published", "after", 2),
    Death("told", "after", 3),
    Death("finished"),
    Death("finished", "after"),
    Death("farewell"),
    Death("concluded"),
    Death("concluded", "after"),
]
STORED = [death for death in DEATHS if death.point in ("first weights", "written", "committed", "finished")]
EVERYWHERE = [("FedAvg", "Disk"), ("FedRec", "Redis"), ("FedBuff", "Disk")]  #: in the others, where the store works
OPENED = [Death("opened"), Death("opened", "after"), Death("opened", "before", 2), Death("opened", "after", 2)]
INSERTED = [Death("inserted", "before", 2), Death("inserted", "after", 2)]
AT_ONE_TIME = 14
PATIENCE_S = 90.0


async def federation(
    path: Path, mode: str, store: ModelStoreConfig, death: Death | None
) -> tuple[FederationResult, history.History]:
    """Run one in which the controller dies; learners and the driver stay."""
    config, signals, count = MODES[mode]
    port = free_port()
    process = started(controller, path, port, config, store, death)
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for index in range(count):
                group.create_task(take_part(path, port, f"site-{index}", Trains(2**index)))
            driver = DriverSession(ClientParams(port=port), count, signals, initial_weights=first_weights())
            running = group.create_task(driver.run())
            if death is not None:
                await until(lambda: not process.is_alive())
                assert process.exitcode == -signal.SIGKILL, "it was never there"
                process = started(controller, path, port, config, store)
            result = await running
        await until(lambda: not process.is_alive())
        assert process.exitcode == 0
    finally:
        process.kill()
    return result, history.read(path)


@pytest.mark.parametrize("kind", ["Disk", "Redis"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_controller_that_is_killed_at_any_step_changes_nothing(
    mode: str, kind: str, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_BACKOFF_S", 0.3)
    monkeypatch.setattr(session, "ENDING_S", PATIENCE_S)  # many processes start at one time
    deaths: list[Death | None] = [None, *(DEATHS if (mode, kind) in EVERYWHERE else STORED)]
    deaths += OPENED if MODES[mode][0].new_scheduler().in_rounds else []
    deaths += INSERTED if mode == "FedRec" else []
    turns = asyncio.Semaphore(AT_ONE_TIME)

    async def one(number: int, death: Death | None) -> tuple[FederationResult, history.History]:
        prefix, port = f"{tmp_path.name}-{number}", redis_server.port
        of_disk = ModelStoreConfig(model_store="Disk", directory=tmp_path / f"{number}")
        of_redis = ModelStoreConfig(model_store="Redis", model_store_port=port, key_prefix=prefix)
        async with turns:
            return await federation(tmp_path / f"{number}.log", mode, of_disk if kind == "Disk" else of_redis, death)

    found = await asyncio.gather(*(one(*each) for each in enumerate(deaths)), return_exceptions=True)
    wrong: dict[str, list[str]] = {}
    assert not isinstance(found[0], BaseException), found[0]
    undisturbed, times = found[0][0], found[0][1].times_trained()
    for number, (death, outcome) in enumerate(zip(deaths, found, strict=True)):
        problems = [repr(outcome)] if isinstance(outcome, BaseException) else _problems(*outcome, undisturbed, times)
        if problems:
            wrong[f"{death}"] = [*problems, (tmp_path / f"{number}.log").read_text()]
    assert not wrong, "\n".join(f"--- {mode}, {kind}, {death}:\n" + "\n".join(x) for death, x in wrong.items())


def _problems(
    result: FederationResult, told: history.History, undisturbed: FederationResult, times: Counter[tuple[str, int]]
) -> list[str]:
    """Say what is not as in a federation that nobody disturbed."""
    problems = told.check(result.rounds)
    assert result.final_model is not None
    assert undisturbed.final_model is not None
    for array, expected in zip(result.final_model, undisturbed.final_model, strict=True):
        if array.tobytes() != expected.tobytes():
            problems.append(f"the final model is {array}, not {expected}")
    numbers, expected_numbers = [[record.number for record in of.rounds] for of in (result, undisturbed)]
    if numbers != expected_numbers:
        problems.append(f"the records are {numbers}, not {expected_numbers}")
    if (trained := told.times_trained()) != times:
        problems.append(f"trained {sorted(trained.items())}, not {sorted(times.items())}")
    return problems
