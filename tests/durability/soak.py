"""Federations in which any party is killed, stopped for a while, or cut off, at random; with any durable store.

Usage, in the tests' directory: python -m durability.soak RUNS [FIRST_SEED]
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeAlias

import numpy as np
from durability.history import History, read
from durability.parties import controller, driver, first_weights, free_port, learner, started, trained_from
from federations import until
from proxy import Proxy, proxy_to_port
from redis_server import RedisServer

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.rule import Update
from metisfl_async.strategies import FedBuff

__all__ = ["replayed", "soaked"]

LEARNERS = 3
LEASE_S = 4.0
LONG_S = 1.25 * LEASE_S
WAYS = [*["kill"] * 8, *["stop"] * 4, *["cut"] * 4, *["forget"] * 2, "stop for long"]
AT_ONE_TIME = 5
PATIENCE_S = 40.0
ENDS_S = 5.0  #: for learners, once the controller has ended: one that was away then does not hear of it
ALIVE = ControllerConfig(
    heartbeat_secs=0.2, lease_secs=LEASE_S, upload_idle_secs=LEASE_S, max_failed_rounds=1000, quorum_timeout_secs=None
)
CONFIGS = [
    ALIVE,
    replace(ALIVE, aggregation_rule="FedAdam"),
    replace(ALIVE, aggregation_rule="FedRec", scheduler="Asynchronous"),
    replace(ALIVE, aggregation_rule="FedAsync", scheduler="Asynchronous"),
    replace(ALIVE, aggregation_rule=FedBuff(3, max_staleness=1000), scheduler="Asynchronous"),
]


Start: TypeAlias = Callable[[], ForkServerProcess]


class Party:
    """A process that can be killed and started again; the second time, it may be started otherwise."""

    def __init__(self, name: str, start: Start, again: Start | None = None) -> None:
        self.name, self._again = name, again or start
        self.process = start()
        self.kills = 0
        self.may_be_given_up = False  #: it was away for longer than a lease

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.kills += 1

    def start(self) -> None:
        self.process = self._again()

    @property
    def has_ended(self) -> bool:
        return self.process.exitcode == 0

    @property
    def has_failed(self) -> bool:
        return self.process.exitcode not in (None, 0)


def store_of(kind: str, name: str, directory: Path, redis_port: int) -> ModelStoreConfig:
    if kind == "Disk":
        return ModelStoreConfig(model_store="Disk", directory=directory / name)
    return ModelStoreConfig(model_store="Redis", model_store_port=redis_port, key_prefix=f"{directory.name}-{name}")


async def soaked(seed: int, directory: Path, redis_port: int) -> tuple[list[str], Counter[str]]:
    """Run one federation; say what is wrong, and what was done to it."""
    rng, path, done = random.Random(seed), directory / f"{seed}.log", Counter[str]()
    config = replace(rng.choice(CONFIGS), min_learners=rng.choice([1, LEARNERS]))
    in_rounds = config.new_scheduler().in_rounds
    signals = TerminationSignals(federation_rounds=8) if in_rounds else TerminationSignals(global_updates=24)
    kind, has_spool = rng.choice(["Disk", "Disk", "Redis"]), rng.choice([False, True])
    done.update([f"on {kind}", *(["with a spool_dir"] if has_spool else [])])
    store = store_of(kind, f"{seed}", directory, redis_port)
    port, problems = free_port(), list[str]()
    parties: list[Party] = []
    try:
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(proxy_to_port(port)) for _ in range(LEARNERS + 1)]
            dialled = [proxy.params.port for proxy in proxies]
            parties.append(Party("controller", lambda: started(controller, path, port, config, store)))
            for index in range(LEARNERS):
                spool_dir = directory / f"{seed}-spool-{index}" if has_spool else None
                facts = dialled[index], f"site-{index}", 2**index, 0.03, spool_dir
                parties.append(Party(f"site-{index}", lambda facts=facts: started(learner, path, *facts)))  # type: ignore[misc]
            starts = [
                lambda again=again: started(driver, path, dialled[-1], LEARNERS, signals, again)
                for again in (False, True)
            ]
            parties.append(Party("driver", *starts))
            problems += await _disturbed(rng, parties, proxies, done)
    finally:
        for party in parties:
            party.process.kill()
            party.process.join()
    return [*problems, *_wrong(read(path), config, parties, has_spool=has_spool)], done


async def _disturbed(rng: random.Random, parties: list[Party], proxies: list[Proxy], done: Counter[str]) -> list[str]:
    """Disturb it a few times, then wait for its end; say who hangs."""
    controller_, *_, driver_ = parties
    for _ in range(rng.randint(3, 8)):
        await asyncio.sleep(rng.uniform(0.05, 0.6))
        if driver_.has_ended or controller_.has_ended:
            break
        what = rng.choice(WAYS)
        party = rng.choice([controller_, controller_, *parties])
        pause_s = rng.uniform(0.0, 0.6)
        if party.process.exitcode is not None:
            continue
        done[f"{what} {party.name.partition('-')[0]}"] += 1
        match what:
            case "kill":
                party.kill()
                await asyncio.sleep(pause_s / 2)
                party.start()
            case "stop" | "stop for long":
                pid = party.process.pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                party.may_be_given_up |= what == "stop for long"
                await asyncio.sleep(pause_s if what == "stop" else LONG_S)
                with suppress(ProcessLookupError):  # it was about to end
                    os.kill(pid, signal.SIGCONT)
            case "cut":
                rng.choice(proxies).cut()
            case _:
                rng.choice(proxies).forget()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not controller_.has_ended or (not driver_.has_ended and not driver_.kills):
                if failed := [party.name for party in parties if party.has_failed]:
                    return [f"{', '.join(failed)} failed"]
                await asyncio.sleep(0.02)
            # A driver that was killed when all was over does not come back to a controller that has ended.
            await until(lambda: driver_.has_ended or bool(driver_.kills))
    except TimeoutError:
        alive = [party.name for party in parties if party.process.is_alive()]
        if alive == [controller_.name] and controller_.kills and driver_.has_ended:
            return []  # it was started again when its driver had the result already: it waits for the next one
        return [f"hangs: {', '.join(alive)}"]
    return []


def _wrong(history: History, config: ControllerConfig, parties: list[Party], *, has_spool: bool = False) -> list[str]:
    """Check the history, and the final model that came of it."""
    result = history.result
    steady = {party.name for party in parties if (has_spool or not party.kills) and not party.may_be_given_up}
    rounds = None if result is None else [RoundRecord.from_dict(record) for record in result["rounds"]]
    problems = history.check(rounds)
    for line in history.lost():
        if line["who"] in steady:
            problems.append(f"{line['task']} of {line['who']} is lost: {line['why']}")
    if config.min_learners == LEARNERS and config.new_scheduler().in_rounds:
        few = [version for version, updates in history.versions.items() if len(updates) < LEARNERS]
        problems += [f"version {version} has fewer than min_learners updates" for version in few]
    if result is not None and config.aggregation_rule != "FedRec" and not problems:
        expected = replayed(history, config)
        if result["model"] != expected:
            problems.append(f"the final model is {result['model']}, not {expected}")
    return problems


def replayed(history: History, config: ControllerConfig) -> list[float]:
    """Make the final model of the updates that counted, in one go."""
    rule, models = config.new_rule(), [Model.from_arrays(first_weights(), version=0)]
    latest: dict[str, Update] = {}  # of each learner
    rule.start(models[0])
    for version in sorted(history.versions):
        for update in history.versions[version]:
            arrays = trained_from(models[update.version].arrays(), 2 ** int(update.learner[-1]))
            model = Model.from_arrays(arrays, version=update.version)
            facts = LearnerId(update.learner), model, update.weight, version - 1 - update.version
            rule.fold(folded := Update(*facts, latest.get(update.learner) if rule.needs_previous else None))
            latest[update.learner] = folded
        models.append(rule.aggregate(version))
    final: list[float] = np.asarray(models[-1].arrays()[0]).tolist()
    return final


async def all_soaked(seeds: range, directory: Path, redis_port: int) -> tuple[dict[int, list[str]], Counter[str]]:
    """Run many, several at a time: they mostly wait."""
    turns, total, wrong = asyncio.Semaphore(AT_ONE_TIME), Counter[str](), dict[int, list[str]]()

    async def one(seed: int) -> None:
        async with turns:
            problems, done = await soaked(seed, directory, redis_port)
        total.update(done)
        if problems:
            wrong[seed] = [*problems, (directory / f"{seed}.log").read_text()]

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one(seed))
    return wrong, total


def main() -> None:
    runs, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        (of_redis := Path(directory, "redis")).mkdir()
        redis_server = RedisServer(of_redis)
        stack.callback(redis_server.kill)
        seeds = range(first, first + runs)
        wrong, done = asyncio.run(all_soaked(seeds, Path(directory), redis_server.port))
    for seed, texts in sorted(wrong.items()):
        sys.stdout.write(f"--- seed {seed}:\n" + "\n".join(texts) + "\n")
    sys.stdout.write(f"{runs} runs, {dict(sorted(done.items()))}; {len(wrong)} went wrong: {sorted(wrong)}\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
