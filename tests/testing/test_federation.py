"""Federations in virtual time, and what goes wrong on their lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    ModelStoreConfig,
    QuorumLost,
    RoundRecord,
    TerminationSignals,
)
from metisfl_async.core.model import Array
from metisfl_async.events import LearnerLeft, ModelPublished, RoundFinished, RoundStarted, TaskFailed, UpdateFolded
from metisfl_async.learner.learner import Config, Learner, TrainResult
from metisfl_async.testing import FakeLearner, Federation, Line, run
from metisfl_async.testing.faults import Call

New: TypeAlias = Callable[..., Federation]
TWO = TerminationSignals(federation_rounds=2)


def seconds(record: RoundRecord) -> float:
    return record.duration_ms / 1e3


async def test_a_deadline_of_an_hour(federation: New) -> None:
    learners = {"a": FakeLearner(), "b": FakeLearner(takes=7200.0)}
    async with federation(learners, TWO, controller_config=ControllerConfig(round_timeout_secs=3600.0)) as fed:
        result = await fed.result()
        assert fed.now == pytest.approx(2 * 3600.0, abs=1)
    assert [record.participants for record in result.rounds] == [["a"], ["a"]]
    assert seconds(result.rounds[0]) == pytest.approx(3600.0, abs=1)


async def test_models_come_of_what_learners_add(federation: New) -> None:
    learners = [FakeLearner(adds=1.0), FakeLearner(adds=4.0, num_training_examples=2)]
    async with federation(learners, TWO) as fed:
        result = await fed.result()
    assert result.final_model is not None
    np.testing.assert_array_equal(result.final_model[0], np.full(3, 6.0, np.float32))
    assert learners[0].trained == [1, 2]
    np.testing.assert_array_equal(learners[1].taken_over[-1][0], result.final_model[0])
    assert result.rounds[1].evaluation_metrics == {"mean": 6.0}


@pytest.mark.parametrize(
    ("fails", "failed"), [(True, [1, 2]), ({2}, [2]), (ValueError("no data"), [1, 2]), (False, [])], ids=str
)
async def test_a_fake_learner_fails_when_it_is_told_to(federation: New, fails: object, failed: list[int]) -> None:
    learners = {"a": FakeLearner(), "b": FakeLearner(fails=fails, metrics={"loss": 1.0})}  # type: ignore[arg-type]
    async with federation(learners, TWO) as fed:
        result = await fed.result()
        failures = [event for event in fed.events if isinstance(event, TaskFailed)]
    assert [failure.number for failure in failures] == failed
    assert {failure.type for failure in failures} <= {"RuntimeError", "ValueError"}
    assert result.rounds[0].learners["b"].evaluation_metrics == {"loss": 1.0}


class Plain(Learner):
    """Its methods are no coroutines."""

    def get_weights(self) -> list[Array]:
        return [np.zeros(2, np.float32)]

    def set_weights(self, parameters: list[Array]) -> None:
        pass

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if config["round_number"] == 2:
            raise ValueError("enough")
        return [parameters[0] + np.float32(1)], {}

    def evaluate(self, parameters: list[Array], config: Config) -> dict[str, float]:
        return {"first": float(parameters[0][0])}


async def test_plain_methods_take_no_time(federation: New) -> None:
    learners = [Plain(num_training_examples=1), FakeLearner([np.zeros(2, np.float32)], takes=60.0)]
    async with federation(learners, TWO, evaluate=lambda parameters, number: {"number": number}) as fed:
        result = await fed.result()
        assert fed.now == pytest.approx(120.0, abs=1)
    assert [record.participants for record in result.rounds] == [["learner-0", "learner-1"], ["learner-1"]]
    assert result.rounds[1].central == {"number": 2}


async def test_the_first_event_of_a_kind_is_waited_for(federation: New) -> None:
    async with federation([FakeLearner(takes=5.0)], TWO) as fed:
        started = await fed.event(RoundStarted, number=2)
        assert fed.now == pytest.approx(5.0, abs=1)
        assert started.cohort == ["learner-0"]
        await fed.sleep(1.0)
        assert fed.now == pytest.approx(6.0, abs=1)
        assert await fed.event(RoundStarted, number=2) is started
        with pytest.raises(LookupError, match="ended without RoundStarted of"):
            await fed.event(RoundStarted, number=3)


async def test_a_failure_is_raised_with_the_log_and_the_seed(federation: New) -> None:
    with pytest.raises(QuorumLost) as caught:
        async with federation([FakeLearner(fails=True)], TWO, seed=77) as fed:
            await fed.result()
    assert "seed=77" in caught.value.__notes__[0]
    assert "told to fail in round 1" in caught.value.__notes__[0]


async def test_a_federation_that_does_not_end_is_given_up(federation: New) -> None:
    with pytest.raises(TimeoutError, match="not over after at_most_secs=60"):
        async with federation([FakeLearner(takes=3600.0)], TWO, at_most_secs=60.0) as fed:
            await fed.result()


async def test_a_federation_that_is_left_early_ends(federation: New) -> None:
    async with federation([FakeLearner(takes=3600.0)], TWO) as fed:
        await fed.event(RoundStarted)
    assert fed.controller is None or not fed.controller.is_open


async def test_what_is_left_is_named(federation: New) -> None:
    async def leave_a_task() -> None:
        async with federation([FakeLearner()], TWO) as fed:
            kept.append(asyncio.create_task(fed.sleep(1e9), name="forgotten"))
            await fed.result()

    kept: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match="has left: 'forgotten'") as caught:
        await leave_a_task()
    assert "FederationFinished" in caught.value.__notes__[0]
    kept[0].cancel()


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_slow_line_makes_a_round_long(federation: New) -> None:
    big = [np.zeros(2_500_000, np.float32)]  # 10 MB
    lines = {"b": Line(bytes_per_s=10e6 / 8, latency_s=0.1)}  # 10 Mbit/s
    async with federation([FakeLearner(big), FakeLearner(big)], TWO, lines={"learner-1": lines["b"]}) as fed:
        result = await fed.result()
    # The model goes down once for each version and up once.
    assert seconds(result.rounds[0]) == pytest.approx(3 * 8 + 5 * 0.2, abs=1.0)
    assert seconds(result.rounds[1]) == pytest.approx(2 * 8 + 4 * 0.2, abs=1.0)


async def test_delays_are_drawn_from_the_seed(federation: New) -> None:
    async def ends_at(seed: int) -> float:
        async with federation([FakeLearner(), FakeLearner()], TWO, seed=seed) as fed:
            fed.delay("learner-1", 5.0)
            await fed.result()
            return fed.now

    assert await ends_at(1) == pytest.approx(await ends_at(1))
    assert await ends_at(1) != pytest.approx(await ends_at(2))


@pytest.mark.parametrize("what", ["join", "message", "upload", "download", "other"])
@pytest.mark.parametrize("answer", [False, True])
async def test_a_call_that_is_lost_is_made_again(federation: New, what: Call, answer: bool) -> None:
    async with federation({"a": FakeLearner(takes=10.0), "b": FakeLearner(takes=10.0)}, TWO) as fed:
        if what == "message":  # without its welcome, it would not be there when the round begins
            await fed.event(RoundStarted)
        fed.drop("b", what, answer=answer)
        result = await fed.result()
        assert any(" lost" in line for line in fed.log)
    assert [record.participants for record in result.rounds] == [["a", "b"], ["a", "b"]]


@pytest.mark.parametrize("what", ["join", "upload", "download", "other"])
async def test_a_call_that_comes_twice_counts_once(federation: New, what: Call) -> None:
    async with federation({"a": FakeLearner(), "b": FakeLearner()}, TWO) as fed:
        fed.duplicate("b", what, times=2)
        result = await fed.result()
        assert any(line.endswith(f"b: {what} comes twice") for line in fed.log)
    assert [record.participants for record in result.rounds] == [["a", "b"], ["a", "b"]]
    assert result.final_model is not None
    assert result.final_model[0][0] == 2.0


@pytest.mark.parametrize("during", ["upload", "download"])
async def test_a_connection_is_cut_in_the_middle_of_a_model(federation: New, during: Call) -> None:
    model = [np.zeros(1_000_000, np.float32)]  # four frames
    learners = {"a": FakeLearner(model), "b": FakeLearner(model)}
    async with federation(learners, TWO) as fed:
        fed.cut("b", during=during, at=0.5)
        result = await fed.result()
        left = [event.learner for event in fed.events if isinstance(event, LearnerLeft)]
        assert left[:1] == ["b"]
    assert [record.participants for record in result.rounds] == [["a", "b"], ["a", "b"]]
    assert learners["b"].trained == [1, 2]


async def test_a_cut_now_costs_nothing_but_a_connection(federation: New) -> None:
    learners = {"a": FakeLearner(takes=10.0), "b": FakeLearner(takes=10.0)}
    async with federation(learners, TWO) as fed:
        await fed.sleep(5.0)
        fed.cut("b")
        fed.cut("driver")
        result = await fed.result()
        assert fed.now == pytest.approx(20.0, abs=1)
    assert [record.participants for record in result.rounds] == [["a", "b"], ["a", "b"]]


async def test_a_learner_that_is_silent_for_a_lease_is_given_up_and_comes_back(federation: New) -> None:
    learners = {"a": FakeLearner(takes=100.0), "b": FakeLearner(takes=100.0)}
    config = ControllerConfig(lease_secs=60.0)
    async with federation(learners, TWO, controller_config=config) as fed:
        await fed.sleep(5.0)
        fed.silence("b", 80.0)
        left = await fed.event(LearnerLeft, learner="b")
        assert left.reason == "silent for lease_secs=60"
        assert fed.now == pytest.approx(65.0, abs=10.0)
        result = await fed.result()
    assert [record.participants for record in result.rounds] == [["a"], ["a", "b"]]


async def test_planned_faults_can_be_taken_back(federation: New) -> None:
    async with federation([FakeLearner()], TWO) as fed:
        fed.drop("learner-0", "upload", times=10**6)
        fed.silence("learner-0", 1e6)
        fed.mend()
        await fed.result()
        assert fed.now < 10.0


async def test_a_killed_learner_is_missed_and_a_restarted_one_is_asked_again(federation: New) -> None:
    learners = {"a": FakeLearner(takes=10.0), "b": FakeLearner(takes=10.0)}
    async with federation(learners, TerminationSignals(federation_rounds=3)) as fed:
        await fed.event(RoundStarted, number=1)
        await fed.kill("b")
        await fed.kill("b")  # it is dead
        await fed.event(RoundStarted, number=2)
        await fed.restart("b")
        result = await fed.result()
    assert [record.participants for record in result.rounds][::2] == [["a"], ["a", "b"]]


async def test_a_killed_controller_goes_on_from_its_store(federation: New, tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learners = {"a": FakeLearner(takes=10.0), "b": FakeLearner(takes=20.0)}
    async with federation(learners, TerminationSignals(federation_rounds=3), model_store_config=store) as fed:
        await fed.event(UpdateFolded, learner="a", number=2)
        await fed.kill("controller")
        assert fed.controller is None
        await fed.sleep(25.0)
        await fed.restart("controller")
        result = await fed.result()
        await fed.event(ModelPublished, model_version=3)
    assert [record.participants for record in result.rounds] == [["a", "b"]] * 3
    assert learners["a"].trained == learners["b"].trained == [1, 2, 3]


async def test_a_controller_that_is_up_may_be_restarted(federation: New, tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    async with federation([FakeLearner(takes=10.0)], TWO, model_store_config=store) as fed:
        await fed.event(RoundStarted, number=2)
        before = fed.controller
        await fed.restart("controller")
        assert fed.controller is not before
        result = await fed.result()
    assert len(result.rounds) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


def test_without_a_virtual_loop_it_is_refused() -> None:
    async def main() -> None:
        async with Federation([FakeLearner()], TWO):
            pass

    with pytest.raises(RuntimeError, match="needs a virtual loop"):
        asyncio.run(main())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lines is .*'c'.*; allowed: only a, driver"):
        Federation({"a": FakeLearner()}, TWO, lines={"c": Line()})
    with pytest.raises(ConfigError, match="learners is 3; allowed: live Learner objects"):
        Federation(3, TWO)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="bytes_per_s is 0"):
        Line(bytes_per_s=0)
    with pytest.raises(ConfigError, match="latency_s is -1"):
        Line(latency_s=-1)


async def test_wrong_faults_are_refused(federation: New) -> None:
    async with federation([FakeLearner()], TWO) as fed:
        with pytest.raises(ConfigError, match="who is 'nobody'; allowed: learner-0, driver"):
            fed.cut("nobody")
        for end in (fed.kill, fed.restart):
            with pytest.raises(ConfigError, match="who is 'driver'; allowed: controller, learner-0"):
                await end("driver")
        with pytest.raises(ConfigError, match="what is 'letter'; allowed: 'join', 'message'"):
            fed.drop("driver", "letter")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="during is 'join'; allowed: 'upload', 'download'"):
            fed.cut("driver", during="join")
        with pytest.raises(ConfigError, match="at is 50; allowed: a finite number >= 0 and < 1"):
            fed.cut("driver", during="upload", at=50)
        with pytest.raises(ConfigError, match="seconds is -1; allowed: a finite number >= 0"):
            fed.delay("driver", -1)


async def test_a_federation_that_has_not_begun_says_so(federation: New) -> None:
    fed = federation([FakeLearner()], TWO)
    with pytest.raises(RuntimeError, match="has not begun; write: async with"):
        await fed.result()
    with pytest.raises(RuntimeError, match="has not begun; write: async with"):
        await fed.event(RoundStarted)


def test_it_works_without_pytest() -> None:
    async def main() -> int:
        async with Federation([FakeLearner(takes=3600.0)], TWO) as fed:
            result = await fed.result()
            finished = await fed.event(RoundFinished, record=result.rounds[0])
            return finished.record.number

    assert run(main()) == 1


async def test_an_aborted_controller_is_not_open(federation: New) -> None:
    async with federation([FakeLearner()], TWO) as fed:
        assert fed.controller is not None
        await fed.result()
    closed = Controller()
    await closed.abort()
    assert not closed.is_open
