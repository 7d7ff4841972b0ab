"""Rules, schedulers, selectors, hooks and scaling factors of users that do wrong: said, never hung on."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from unittest import mock

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind

from metisfl_async import ConfigError, Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.core.errors import ConnectionLost, MetisError, Truncated
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.scheduling import Timing
from metisfl_async.strategies import FedAvg, Scheduler, Selector, Update
from metisfl_async.transport import grpc_errors

SIZES = [1, 100_000]  #: weights; the larger ones are worked on in a thread


class Mistake(Exception):
    """What the user's code raises."""


def raises(*_: object) -> object:
    raise Mistake("made by the user")


async def failure_of(config: ControllerConfig, *, over_grpc: bool = False, size: int = 1) -> str:
    """Run a federation that cannot go well, and give the traceback of what it raises."""
    rounds, updates = (None, 9) if config.new_scheduler().in_rounds is False else (3, None)
    signals = TerminationSignals(federation_rounds=rounds, global_updates=updates)
    # What is logged keeps the traceback, and with it the call that it went through, gRPC's server and its thread.
    async with nothing_left_behind():
        session = DriverSession(
            Controller(ServerParams() if over_grpc else None, config), [Adds(1, size), Adds(2, size)], signals
        )
        async with asyncio.timeout(PATIENCE_S):
            try:
                with mock.patch.object(grpc_errors.logger, "exception"):
                    await session.run()
            except Exception:  # noqa: BLE001 - the tests look at it
                return traceback.format_exc()  # the exception itself would keep gRPC's objects alive
    raise AssertionError("it went well")


class Chooses(Selector):
    """Chooses by functions."""

    needs_updates = True

    def __init__(
        self, select: Callable[..., object] | None = None, others: Callable[..., object] | None = None
    ) -> None:
        self._select, self._others = select, others

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return candidates if self._select is None else self._select(candidates, num_busy)  # type: ignore[return-value]

    def others(self, scheduled: Collection[LearnerId], active: Collection[LearnerId]) -> Collection[LearnerId]:
        return () if self._others is None else self._others(scheduled, active)  # type: ignore[return-value]


class Schedules(Scheduler):
    """Schedules by functions."""

    def __init__(
        self, is_due: Callable[..., object] | None = None, params: Callable[..., object] | None = None
    ) -> None:
        self._is_due, self._params = is_due, params

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return not awaited if self._is_due is None else self._is_due(reported, awaited)  # type: ignore[return-value]

    def train_params(
        self, cohort: Sequence[LearnerId], params: Mapping[str, Json], timings: Mapping[LearnerId, Timing]
    ) -> Mapping[LearnerId, Mapping[str, Json]]:
        default = super().train_params(cohort, params, timings)
        return default if self._params is None else self._params(cohort)  # type: ignore[return-value]


class Continuously(Schedules):
    in_rounds = False

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return True if self._is_due is None else self._is_due(reported, awaited)  # type: ignore[return-value]


class Breaks(FedAvg):
    """A mean whose rule raises in one of its methods."""

    def __init__(self, where: str, error: type[BaseException] = Mistake) -> None:
        self.where, self.error = where, error

    def _break(self, where: str) -> None:
        if where == self.where:
            raise self.error("made", "by", "the user") if self.error is ConfigError else self.error("made by the user")

    def start(self, model: Model) -> None:
        self._break("start")
        super().start(model)

    def fold(self, update: Update) -> None:
        self._break("fold")
        super().fold(update)

    def aggregate(self, version: int) -> Model:
        self._break("aggregate")
        return super().aggregate(version)


@pytest.mark.parametrize("over_grpc", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"selector": Chooses(select=raises)},
        {"selector": Chooses(others=raises)},
        {"scheduler": Schedules(is_due=raises)},
        {"scheduler": Schedules(params=raises)},
        {"scheduler": Continuously(is_due=raises)},
        {"scheduler": Continuously(params=raises), "aggregation_rule": "FedRec"},
        {"scheduler": "Asynchronous", "selector": Chooses(select=raises)},
        {"scheduler": "Asynchronous", "selector": Chooses(others=raises)},
        {"params_hook": raises},
        {"params_hook": raises, "scheduler": "Asynchronous"},
    ],
)
async def test_what_users_code_raises_is_raised_by_the_session(options: dict[str, object], over_grpc: bool) -> None:
    trace = await failure_of(ControllerConfig(**options), over_grpc=over_grpc)  # type: ignore[arg-type]
    assert "in raises\n" in trace
    assert trace.endswith("Mistake: made by the user\n")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("where", ["start", "fold", "aggregate"])
@pytest.mark.parametrize("in_rounds", [True, False])
async def test_what_users_rules_raise_is_raised_by_the_session(where: str, size: int, in_rounds: bool) -> None:
    scheduler = "Synchronous" if in_rounds else "Asynchronous"
    trace = await failure_of(ControllerConfig(aggregation_rule=Breaks(where), scheduler=scheduler), size=size)
    assert "in _break\n" in trace
    assert trace.endswith("Mistake: made by the user\n")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("where", ["start", "fold", "aggregate"])
@pytest.mark.parametrize("error", [StopIteration, SystemExit, asyncio.CancelledError])
async def test_so_is_what_would_end_or_hang_an_event_loop(where: str, size: int, error: type[BaseException]) -> None:
    trace = await failure_of(ControllerConfig(aggregation_rule=Breaks(where, error)), size=size)
    assert "in _break\n" in trace
    assert trace.endswith(f"RuntimeError: {error.__name__}: made by the user\n")


@pytest.mark.parametrize("where", ["start", "aggregate"])
async def test_a_rule_refuses_updates_by_a_config_error_and_nothing_else(where: str) -> None:
    trace = await failure_of(ControllerConfig(aggregation_rule=Breaks(where, ConfigError)))
    assert "in _break\n" in trace
    assert trace.endswith("ConfigError: made is 'by'; allowed: the user\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selector": Chooses(select=lambda *_: None)}, "NoneType"),
        ({"selector": Chooses(select=lambda *_: [])}, "the selector chose"),
        ({"selector": Chooses(select=lambda *_: ["nobody"])}, "the selector chose"),
        ({"selector": Chooses(select=lambda them, _: [*them, *them])}, "the selector chose"),
        ({"selector": Chooses(others=lambda them, _: them)}, "the selector named"),
        ({"selector": Chooses(others=lambda *_: ["nobody"])}, "the selector named"),
        ({"selector": Chooses(others=lambda *_: 3)}, "int"),
        ({"scheduler": Schedules(params=lambda cohort: {})}, "the scheduler gave"),
        ({"scheduler": Schedules(params=lambda cohort: None)}, "the scheduler gave"),
        (
            {"scheduler": Schedules(params=lambda cohort: {one: {"f": raises} for one in cohort})},
            "what the scheduler gave",
        ),
        ({"scheduler": Schedules(params=lambda cohort: dict.fromkeys(cohort, 3))}, "the scheduler gave"),
        ({"params_hook": lambda *_: None}, "params_hook gave"),
        ({"params_hook": lambda *_: {"f": raises}}, "what params_hook gave"),
    ],
)
@pytest.mark.parametrize("over_grpc", [False, True])
async def test_answers_that_are_none_are_named(options: dict[str, object], message: str, over_grpc: bool) -> None:
    trace = await failure_of(ControllerConfig(**options), over_grpc=over_grpc)  # type: ignore[arg-type]
    assert message in trace.splitlines()[-1]


@pytest.mark.parametrize("error", [Mistake, ConnectionLost, Truncated, TimeoutError])
@pytest.mark.parametrize("over_grpc", [False, True])
async def test_a_scaling_factor_that_raises_refuses_the_update(error: type[Exception], over_grpc: bool) -> None:
    def factor(*_: object) -> float:
        raise error(*("x", "no")[: 2 if issubclass(error, MetisError) else 1])

    trace = await failure_of(ControllerConfig(scaling_factor=factor), over_grpc=over_grpc)
    assert f"scaling_factor is 'factor'; allowed: one that does not raise {error.__name__}" in trace


@pytest.mark.parametrize("weight", [np.float32(2), np.int64(2), 2])
async def test_a_scaling_factor_may_give_a_number_of_numpys(weight: float) -> None:
    session = DriverSession(
        Controller(controller_config=ControllerConfig(scaling_factor=lambda *_: weight)),
        [Adds(1)],
        TerminationSignals(federation_rounds=1),
    )
    (record,) = (await session.run()).rounds
    assert record.learners["learner-0"].weight == 2.0
