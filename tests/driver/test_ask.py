"""Drivers ask learners: methods that are marked, of all that are connected, before training and during it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind, until
from listening import listening

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Failure,
    QuorumLost,
    ServerParams,
    TerminationSignals,
    askable,
    run_learner,
)
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.messages import MAX_ANSWER_BYTES, MAX_QUESTION_BYTES, Answer
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.driver.asking import _value
from metisfl_async.events import Ending
from metisfl_async.learner.learner import Config, TrainResult

TWO = TerminationSignals(federation_rounds=2)
OVER = pytest.mark.parametrize("server", [None, ServerParams()], ids=["in memory", "over gRPC"])


class Site(Adds):
    """Has a method of each kind."""

    @askable
    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        params["was"] = "changed"
        return {
            "number": self.number,
            "values": np.arange(3.0),
            "bins": params["bins"],
            "in_thread": threading.current_thread() is not threading.main_thread(),
        }

    @askable
    async def on_loop(self, params: dict[str, Any]) -> bool:
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    @askable
    def fails(self, params: dict[str, Any]) -> None:
        raise ValueError("no data\n")

    @askable
    def too_much(self, params: dict[str, Any]) -> str:
        return "x" * MAX_ANSWER_BYTES

    @askable
    def no_json(self, params: dict[str, Any]) -> object:
        return object()

    @askable
    def overridden(self, params: dict[str, Any]) -> int:
        return 1

    def private(self, params: dict[str, Any]) -> int:
        raise AssertionError


class Narrower(Site):
    def overridden(self, params: dict[str, Any]) -> int:  # without the mark
        raise AssertionError


def session_of(server: ServerParams | None, *learners: Adds) -> DriverSession:
    named = {f"site-{index}": learner for index, learner in enumerate(learners)}
    return DriverSession(Controller(server), named, TWO)


@OVER
async def test_before_it_runs_and_after_all_learners_of_a_session_answer(server: ServerParams | None) -> None:
    session, params = session_of(server, Site(1), Site(2)), dict[str, Json](bins=[0, 1])
    async with nothing_left_behind():
        for _ in range(2):
            answers = await session.ask("describe", params)
            assert answers == {
                f"site-{index}": {
                    "number": index + 1,
                    "values": [0.0, 1.0, 2.0],
                    "bins": [0, 1],
                    "in_thread": True,
                }
                for index in range(2)
            }
            assert await session.ask("on_loop") == {"site-0": True, "site-1": True}
            assert params == {"bins": [0, 1]}
            result = await session.run()
            assert result.ending is Ending.FEDERATION_ROUNDS


@OVER
async def test_what_a_learner_cannot_answer_says_why(server: ServerParams | None) -> None:
    session = session_of(server, Site(1))

    async def why(method: str) -> tuple[str, str]:
        failure = (await session.ask(method))["site-0"]
        assert isinstance(failure, Failure)
        assert failure.task == method
        return failure.type, failure.message

    assert await why("fails") == ("ValueError", "no data\\n")
    kind, message = await why("too_much")
    assert kind == "ConfigError"
    assert message.endswith(f"at most {MAX_ANSWER_BYTES} bytes")
    kind, message = await why("no_json")
    assert kind == "ConfigError"
    assert message.startswith("the answer of no_json() is <object object")


@pytest.mark.parametrize("method", ["private", "train", "set_weights", "__init__", "number", "gone", "overridden"])
async def test_no_method_is_called_that_the_class_does_not_mark(method: str) -> None:
    learner = Narrower(1)
    failure = (await session_of(None, learner).ask(method))["site-0"]
    marked = "describe, fails, no_json, on_loop, too_much"
    text = f"method is {method!r}; allowed: methods that Narrower marks with @askable: {marked}"
    assert failure == Failure(method, "ConfigError", text)
    assert learner.taken_over == []


async def test_a_mark_on_the_object_is_none() -> None:
    learner = Adds(1)
    learner.describe = askable(lambda params: 1)  # type: ignore[attr-defined]
    failure = (await session_of(None, learner).ask("describe"))["site-0"]
    assert isinstance(failure, Failure)
    assert failure.message.endswith("Adds marks with @askable: it marks none")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"method": "not a name"}, "method"),
        ({"method": 3}, "method"),
        ({"method": "describe", "params": [1]}, "params"),
        ({"method": "describe", "params": {"x": object()}}, r"params\['x'\]"),
        ({"method": "describe", "params": {"x": "x" * MAX_QUESTION_BYTES}}, "params"),
        ({"method": "describe", "timeout_secs": 0}, "timeout_secs"),
    ],
)
async def test_what_cannot_be_asked_is_refused(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} is "):
        await session_of(None, Site(1)).ask(**asked)


class Trains(Site):
    """Trains until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(1)
        self.is_training, self.may_end = threading.Event(), threading.Event()

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.is_training.set()
        self.may_end.wait(PATIENCE_S)
        return super().train(parameters, config)


@pytest.mark.parametrize("scheduler", ["Synchronous", "Asynchronous"])
async def test_while_it_runs_a_learner_answers_when_it_has_trained(scheduler: str) -> None:
    learner = Trains()
    rounds = {"federation_rounds" if scheduler == "Synchronous" else "global_updates": 2}
    controller = Controller(None, ControllerConfig(scheduler=scheduler))
    session = DriverSession(controller, {"a": learner}, TerminationSignals(**rounds))  # type: ignore[arg-type]
    running = asyncio.create_task(session.run())
    await until(learner.is_training.is_set)
    late = await session.ask("overridden", timeout_secs=0.2)
    assert late == {"a": Failure("overridden", "PeerTimeout", "no answer came within timeout_secs=0.2")}
    asking = asyncio.create_task(session.ask("overridden"))
    learner.may_end.set()
    assert await asking == {"a": 1}
    await running


async def test_a_run_that_begins_is_waited_for() -> None:
    session = session_of(None, Site(1))
    running = asyncio.create_task(session.run())
    assert await session.ask("overridden") == {"site-0": 1}
    assert (await running).reason == "federation_rounds=2 reached"


async def test_a_session_does_one_thing_at_a_time() -> None:
    session = session_of(None, Site(1))
    asking = asyncio.create_task(session.ask("overridden"))
    await asyncio.sleep(0)
    with pytest.raises(UnexpectedMessage, match="the session is asking already"):
        await session.run()
    with pytest.raises(UnexpectedMessage, match="the session is asking already"):
        await session.ask("overridden")
    assert await asking == {"site-0": 1}


@OVER
@pytest.mark.parametrize("turns", [0, 10, 100])
async def test_it_may_be_cancelled(server: ServerParams | None, turns: int) -> None:
    session = session_of(server, Site(1), Site(2))
    async with nothing_left_behind():
        asking = asyncio.create_task(session.ask("overridden"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        del asking  # its error knows what was open
    assert await session.ask("overridden") == {"site-0": 1, "site-1": 1}


async def test_remote_drivers_ask_remote_learners(free_port: int) -> None:
    """Before anything runs; and while it runs, a driver that came later, too."""
    dial = ClientParams(port=free_port)
    learner, signals = Trains(), TerminationSignals(federation_rounds=1)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        controller = Controller(ServerParams(port=free_port))
        await controller.__aenter__()
        session = DriverSession(dial, 2, signals)
        too_few = DriverSession(dial, 1, signals, join_timeout_secs=0.1)
        with pytest.raises(QuorumLost, match=r"0 of 1 learners are connected after 0.1 s"):
            await too_few.ask("overridden")
        group.create_task(run_learner(learner, dial, learner_id="dials"))
        group.create_task(run_learner(Site(2), dial, learner_id="other"))
        assert await session.ask("overridden") == {"dials": 1, "other": 1}
        running = group.create_task(session.run())
        await until(learner.is_training.is_set)
        attached = DriverSession.attach(dial)
        asking = group.create_task(attached.ask("overridden"))
        learner.may_end.set()
        assert await asking == {"dials": 1, "other": 1}
        await running
        await controller.close()


async def test_a_learner_that_listens_is_named_dialled_and_answers() -> None:
    async with Controller(ServerParams()) as controller, listening(controller.client_params, Site(1), "a") as listener:
        session = DriverSession(controller.client_params, [listener.params], TWO)
        assert await session.ask("describe", {"bins": 1}) == {
            "a": {"number": 1, "values": [0.0, 1.0, 2.0], "bins": 1, "in_thread": True}
        }
        assert (await session.run()).reason == "federation_rounds=2 reached"


async def test_live_learners_leave_a_remote_controller_when_they_have_answered() -> None:
    async with Controller(ServerParams()) as controller:
        session = DriverSession(controller.client_params, {"a": Site(1)}, TWO)
        for _ in range(2):
            assert await session.ask("overridden") == {"a": 1}
            assert controller.longest_silences_ms() == {}


async def test_a_learner_in_a_process_answers_there() -> None:
    session = DriverSession(Controller(), {"a": Adds(1)}, TWO, worker="process")
    failure = (await session.ask("describe"))["a"]
    assert isinstance(failure, Failure)
    with pytest.raises(ConfigError, match=r"on_loop\(\) is async"):
        await DriverSession(Controller(), {"a": Site(1)}, TWO, worker="process").ask("overridden")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_an_answer_that_is_no_json_is_its_learners_failure(text: str) -> None:
    failure = _value("describe", Answer("q", text))
    assert isinstance(failure, Failure)
    assert (failure.task, failure.type) == ("describe", "Damaged")
