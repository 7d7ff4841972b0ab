"""A controller process that is killed at each step that makes something durable, and is started again."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from durability import history
from durability.parties import Death, Trains, controller, first_weights, free_port, started, take_part
from durability.soak import replayed
from federations import until
from redis_server import RedisServer

from metisfl_async import (
    ClientParams,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ModelStoreConfig,
    TerminationSignals,
)
from metisfl_async.core.ids import NO_FEDERATION
from metisfl_async.driver import following
from metisfl_async.strategies import FedBuff
from metisfl_async.transport import retry
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.retry import insisting

pytestmark = pytest.mark.slow

ALIVE = ControllerConfig(heartbeat_secs=0.2, lease_secs=4.0)
ASYNCHRONOUS = replace(ALIVE, scheduler="Asynchronous")

#: For each: how it is configured, and how many learners there are.
MODES: dict[str, tuple[ControllerConfig, int]] = {
    "FedAvg": (replace(ALIVE, min_learners=2), 2),
    "FedAdam": (replace(ALIVE, aggregation_rule="FedAdam", min_learners=2), 2),
    "FedRec": (replace(ASYNCHRONOUS, aggregation_rule="FedRec"), 1),
    "FedRec of two": (replace(ASYNCHRONOUS, aggregation_rule="FedRec"), 2),
    "FedAsync": (replace(ASYNCHRONOUS, aggregation_rule="FedAsync"), 2),
    "FedBuff": (replace(ASYNCHRONOUS, aggregation_rule=FedBuff(2)), 3),
}
EVERYWHERE = [
    ("FedAvg", "Disk"),
    ("FedAvg", "Redis"),
    ("FedRec", "Redis"),
    ("FedRec of two", "Disk"),
    ("FedBuff", "Disk"),
]
CASES = [(mode, kind) for mode in MODES for kind in ("Disk", "Redis")]
EACH = ("before", "after")
LAST = Death("concluded", "after")
CHAINS = 4  #: federations at one time
PATIENCE_S = 90.0
MODELS_A_DEATH = 3  #: that are made at the most until a controller is where it dies


def deaths_of(mode: str, kind: str, steps: int) -> list[list[Death]]:
    """Say at which points controllers die: for each federation, one after another."""
    config, count = MODES[mode]
    in_rounds, is_everywhere = config.new_scheduler().in_rounds, (mode, kind) in EVERYWHERE
    first = [Death(point, when) for point in ("begun", "first weights") for when in EACH]
    inner = [Death("step", "before", number) for number in range(1, steps + 1)]
    inner += [Death("committed", "after", 2)]
    if in_rounds:
        inner += [Death("opened", when, 2) for when in EACH]
    if mode.startswith("FedRec"):
        inner += [Death("inserted", when, count + 1) for when in EACH]
    last = [Death("finished", when) for when in EACH]
    ends = []
    if is_everywhere:
        for point in ("offered", "accepted", "received", "folded", "told"):
            inner += [Death(point, when, count + 1) for when in EACH]
        inner += [Death("offered", "after", 1), Death("folded", "after", 2 * count)]
        inner += [Death(point, when, 2) for point in ("written", "published") for when in EACH]
        inner += [Death("committed", "before", 2)]
        first += [Death("opened", when) for when in EACH] if in_rounds else []
        last += [Death("farewell", "before")]
        ends = [Death("farewell", "after"), *(Death("concluded", when) for when in EACH)]  # learners have left by then
    chains = [inner[number::CHAINS] for number in range(CHAINS)]
    chains[0] = first + chains[0]
    chains[1] += last
    for chain, end in zip(chains[1:], ends, strict=False):
        chain.append(end)
    return chains


async def federation(
    path: Path, mode: str, store: ModelStoreConfig, deaths: Sequence[Death], models: int
) -> tuple[FederationResult, history.History]:
    """Run one in which one controller after another dies; learners and the driver stay."""
    config, count = MODES[mode]
    in_rounds, port = config.new_scheduler().in_rounds, free_port()
    signals = TerminationSignals(federation_rounds=models) if in_rounds else TerminationSignals(global_updates=models)
    process = started(controller, path, port, config, store, next(iter(deaths), None))
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for index in range(count):
                group.create_task(take_part(path, port, f"site-{index}", Trains(2**index)))
            driver = DriverSession(ClientParams(port=port), count, signals, initial_weights=first_weights())
            running = group.create_task(driver.run())
            for death, then in itertools.pairwise([*deaths, None]):
                await until(lambda dying=process: not dying.is_alive())  # type: ignore[misc]
                assert process.exitcode == -signal.SIGKILL, f"{death}: it was never there"
                process = started(controller, path, port, config, store, then)
            result = await running
        if deaths and deaths[-1] == LAST:  # nothing is unfinished: the controller waits for a driver, as if it were new
            link = GrpcLink(ClientParams(port=port))
            assert not (await insisting("the test", link.address, PATIENCE_S, link.status)).federation_id
            await link.shut_down(NO_FEDERATION)
            await link.close()
        await until(lambda: not process.is_alive())
        assert process.exitcode == 0
    finally:
        process.kill()
    return result, history.read(path)


@pytest.mark.parametrize(("mode", "kind"), CASES, ids=lambda word: word.replace(" ", "-"))
async def test_a_controller_that_is_killed_at_any_step_changes_nothing(
    mode: str, kind: str, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MAX_BACKOFF_S", 0.3)
    monkeypatch.setattr(following, "ENDING_S", PATIENCE_S)  # many processes start at one time

    async def one(name: str, deaths: Sequence[Death], models: int) -> list[str]:
        of_disk = ModelStoreConfig(model_store="Disk", directory=tmp_path / name)
        prefix = f"{tmp_path.name}-{name}"
        of_redis = ModelStoreConfig(model_store="Redis", model_store_port=redis_server.port, key_prefix=prefix)
        path = tmp_path / f"{name}.log"
        try:
            result, told = await federation(path, mode, of_disk if kind == "Disk" else of_redis, deaths, models)
            problems = _problems(mode, result, told, models)
        except Exception as error:  # noqa: BLE001 - the others go on, and are looked at too
            problems = [repr(error), *map(repr, getattr(error, "exceptions", ()))]
        return (
            [f"--- {mode}, {kind}: {'; '.join(map(str, deaths))}", *problems, path.read_text() if path.exists() else ""]
            if problems
            else []
        )

    wrong = await one("undisturbed", (), 3)
    assert not wrong, "\n".join(wrong)
    steps = history.read(tmp_path / "undisturbed.log").steps[2]
    chains = deaths_of(mode, kind, steps)
    models = MODELS_A_DEATH * max(map(len, chains))
    found = await asyncio.gather(*(one(f"{number}", chain, models) for number, chain in enumerate(chains)))
    assert not any(found), "\n".join(text for texts in found for text in texts)


def _problems(mode: str, result: FederationResult, told: history.History, models: int) -> list[str]:
    """Say what is not as in a federation that nobody disturbed."""
    config, count = MODES[mode]
    problems = told.check(result.rounds)
    problems += [f"{line['task']} of {line['who']} is lost: {line['why']}" for line in told.lost()]
    numbers = [record.number for record in result.rounds if record.is_published]
    if numbers != [*range(1, models + 1)]:
        problems.append(f"the records are of {numbers}, not of 1 to {models}")
    assert result.final_model is not None
    final, expected = result.final_model[0].tolist(), replayed(told, config)
    if final != expected:
        problems.append(f"the final model is {final}, not {expected}")
    expected_times = {(f"site-{index}", version): 1 for index in range(count) for version in range(models)}
    if config.new_scheduler().in_rounds and told.times_trained() != expected_times:
        problems.append(f"trained {sorted(told.times_trained().items())}")
    return problems
