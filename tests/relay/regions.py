"""Regions for tests: a controller at the top, relays with their learners below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from federations import PATIENCE_S

from metisfl_async import ClientParams, Controller, ControllerConfig, Learner, Relay, ServerParams, run_learner
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer

__all__ = ["contributors", "offer", "region", "top"]


@asynccontextmanager
async def region(
    parent: ClientParams, name: str, learners: Mapping[str, Learner], config: ControllerConfig | None = None
) -> AsyncIterator[Relay]:
    """Run a relay and its learners, which end by themselves."""
    config = config or ControllerConfig(min_learners=len(learners))
    async with Relay(config, ServerParams(), parent=parent, relay_id=name) as relay, asyncio.TaskGroup() as group:
        group.create_task(relay.run())
        for learner_id, learner in learners.items():
            group.create_task(run_learner(learner, relay.client_params, learner_id=learner_id))
        yield relay


@asynccontextmanager
async def top(num_relays: int, **options: Any) -> AsyncIterator[Controller]:
    config = ControllerConfig(**({"min_learners": num_relays, "max_relayed_learners": 10} | options))
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        yield controller


def contributors(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Give the weight of each who is in a sum."""
    return {name: each["weight"] for name, each in metadata["contributors"].items()}


def offer(task_id: str) -> TaskOffer:
    """Make a training task of a parent's."""
    return TaskOffer(TaskId(task_id), TaskKind.TRAIN, 1, ModelRef(FederationId("f"), 0), {}, seed=1)
