"""What learners are told to count is in a published model, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import random

import pytest
from federations import PATIENCE_S, Adds
from puppet import weights

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.core import messages as m
from metisfl_async.core.federation.tasks import Verdict
from metisfl_async.core.ids import TaskId
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.part import Part, Step

ROUNDS = 12


class TakesItsTime(Adds):
    def __init__(self, chance: random.Random) -> None:
        super().__init__(1)
        self.chance = chance

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        await asyncio.sleep(self.chance.uniform(0.0, 0.05))
        return super().train(parameters, config)

    async def evaluate(self, parameters: list[Array], config: Config) -> Metrics:  # type: ignore[override]
        return super().evaluate(parameters, config)


@pytest.mark.parametrize("seed", range(4))
async def test_no_update_is_said_to_count_that_is_in_no_published_model(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: set[TaskId] = set()
    told, answered = Part.told, Part.answered

    def note_told(part: Part, message: m.ControllerMessage) -> list[Step]:
        match message:
            case m.Counted(task_ids):
                said.update(task_ids)
            case m.Welcome(verdicts):
                said.update(task_id for task_id, (verdict, _) in verdicts.items() if verdict is Verdict.COUNTED)
        return told(part, message)

    def note_answered(part: Part, task_id: TaskId, reply: m.UpdateReply) -> list[Step]:
        if reply.is_counted:
            said.add(task_id)
        return answered(part, task_id, reply)

    monkeypatch.setattr(Part, "told", note_told)
    monkeypatch.setattr(Part, "answered", note_answered)
    chance = random.Random(seed)
    config = ControllerConfig(min_learners=3, heartbeat_secs=0.05, lease_secs=0.5, max_failed_rounds=10_000)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:

        async def live(name: str) -> None:
            await run_learner(TakesItsTime(chance), controller.client_params, learner_id=name)

        async def die_and_live() -> None:
            while True:
                life = asyncio.create_task(live("mortal"))
                await asyncio.wait([life], timeout=chance.uniform(0.02, 0.3))
                if life.done():
                    break
                life.cancel()  # says nothing to anybody
                await asyncio.wait([life])

        session = DriverSession(controller, 3, TerminationSignals(federation_rounds=ROUNDS), initial_weights=weights(0))
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(live(name))
            group.create_task(die_and_live())
            result = await session.run()
    published = [record for record in result.rounds if record.is_published]
    counted = {record.learners[name].train_task_id for record in published for name in record.participants}
    assert len(published) == ROUNDS
    assert said <= counted
    assert [record.participants for record in published] == [["a", "b", "mortal"]] * ROUNDS
    assert all(record.participants == [] for record in result.rounds if not record.is_published)
    assert result.final_model is not None
    assert result.final_model[0] == [float(ROUNDS)]
