"""Federations in which any party is killed, stopped for a while, or cut off, at random.

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
from contextlib import AsyncExitStack
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeAlias

import numpy as np
from durability.history import History, read
from durability.parties import controller, driver, first_weights, free_port, learner, started, trained_from
from federations import until
from proxy import Proxy, proxy_to_port

from metisfl_async import ControllerConfig, FedBuff, ModelStoreConfig, TerminationSignals
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.rule import Update

__all__ = ["replayed", "soaked"]

LEARNERS = 3
AT_ONE_TIME = 5
PATIENCE_S = 40.0
ENDS_S = 5.0  #: for learners, once the controller has ended: one that was away then does not hear of it
ALIVE = ControllerConfig(
    heartbeat_secs=0.2, lease_secs=4.0, upload_idle_secs=4.0, max_failed_rounds=1000, quorum_timeout_secs=None
)
CONFIGS = [
    ALIVE,
    replace(ALIVE, aggregation_rule="FedAdam"),
    replace(ALIVE, aggregation_rule="FedRec", scheduler="Asynchronous"),
    replace(ALIVE, aggregation_rule="FedAsync", scheduler="Asynchronous"),
    replace(ALIVE, aggregation_rule=FedBuff(3), scheduler="Asynchronous"),
]


Start: TypeAlias = Callable[[], ForkServerProcess]


class Party:
    """A process that can be killed and started again; the second time, it may be started otherwise."""

    def __init__(self, name: str, start: Start, again: Start | None = None) -> None:
        self.name, self._again = name, again or start
        self.process = start()
        self.kills = 0

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


async def soaked(seed: int, directory: Path) -> tuple[list[str], Counter[str]]:
    """Run one federation; say what is wrong, and what was done to it."""
    rng, path, done = random.Random(seed), directory / f"{seed}.log", Counter[str]()
    config = replace(rng.choice(CONFIGS), min_learners=rng.choice([1, LEARNERS]))
    in_rounds = config.new_scheduler().in_rounds
    signals = TerminationSignals(federation_rounds=8) if in_rounds else TerminationSignals(global_updates=24)
    store = ModelStoreConfig(model_store="Disk", directory=directory / f"{seed}")
    port, problems = free_port(), list[str]()
    parties: list[Party] = []
    try:
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(proxy_to_port(port)) for _ in range(LEARNERS + 1)]
            dialled = [proxy.params.port for proxy in proxies]
            parties.append(Party("controller", lambda: started(controller, path, port, config, store)))
            for index in range(LEARNERS):
                facts = dialled[index], f"site-{index}", 2**index, 0.03
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
    return [*problems, *_wrong(read(path), config, parties)], done


async def _disturbed(rng: random.Random, parties: list[Party], proxies: list[Proxy], done: Counter[str]) -> list[str]:
    """Disturb it a few times, then wait for its end; say who hangs."""
    controller_, *_, driver_ = parties
    for _ in range(rng.randint(3, 8)):
        await asyncio.sleep(rng.uniform(0.05, 0.6))
        if driver_.has_ended or controller_.has_ended:
            break
        what = rng.choice(["kill", "kill", "stop", "cut"])
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
            case "stop":
                pid = party.process.pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(pause_s)
                os.kill(pid, signal.SIGCONT)
            case _:
                rng.choice(proxies).cut()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not controller_.has_ended or (not driver_.has_ended and not driver_.kills):
                if failed := [party.name for party in parties if party.has_failed]:
                    return [f"{', '.join(failed)} failed"]
                await asyncio.sleep(0.02)
            # A driver that was killed when all was over does not come back to a controller that has ended.
            await until(lambda: driver_.has_ended or bool(driver_.kills))
    except TimeoutError:
        return [f"hangs: {', '.join(party.name for party in parties if party.process.is_alive())}"]
    return []


def _wrong(history: History, config: ControllerConfig, parties: list[Party]) -> list[str]:
    """Check the history, and the final model that came of it."""
    result, steady = history.result, {party.name for party in parties if not party.kills}
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


async def all_soaked(seeds: range, directory: Path) -> tuple[dict[int, list[str]], Counter[str]]:
    """Run many, several at a time: they mostly wait."""
    turns, total, wrong = asyncio.Semaphore(AT_ONE_TIME), Counter[str](), dict[int, list[str]]()

    async def one(seed: int) -> None:
        async with turns:
            problems, done = await soaked(seed, directory)
        total.update(done)
        if problems:
            wrong[seed] = [*problems, (directory / f"{seed}.log").read_text()]

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one(seed))
    return wrong, total


def main() -> None:
    runs, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as directory:
        wrong, done = asyncio.run(all_soaked(range(first, first + runs), Path(directory)))
    for seed, texts in sorted(wrong.items()):
        sys.stdout.write(f"--- seed {seed}:\n" + "\n".join(texts) + "\n")
    sys.stdout.write(f"{runs} runs, {dict(sorted(done.items()))}; {len(wrong)} went wrong: {sorted(wrong)}\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
