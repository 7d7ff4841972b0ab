from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until
from proxy import proxy_to

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    QuorumLost,
    ServerParams,
    TerminationSignals,
    run_learner,
    testing,
)
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation.events import UpdateFolded
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.inputs import (
    Accepted,
    Admit,
    Arrived,
    Evaluated,
    Folded,
    Input,
    Joined,
    Moved,
    Published,
    Served,
    Start,
)
from metisfl_async.core.model import Array
from metisfl_async.errors import ProtocolError
from metisfl_async.events import (
    Ending,
    FederationFinished,
    FederationStarted,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    TaskMoved,
    UpdateCounted,
)
from metisfl_async.learner.learner import Config, TrainResult

overs = pytest.mark.parametrize("over_grpc", [False, True], ids=["in memory", "over gRPC"])


@overs
async def test_federation_gives_the_weighted_mean_of_every_round(over_grpc: bool) -> None:
    learners = [Adds(1), Adds(2), Adds(3)]
    async with nothing_left_behind():
        result = await session_of(learners, rounds=3, over_grpc=over_grpc).run()
    step = (1 * 1 + 2 * 2 + 3 * 3) / (1 + 2 + 3)
    assert result.final_model is not None
    np.testing.assert_allclose(result.final_model[0], [3 * step], rtol=1e-6)
    assert result.model_version == 3
    assert result.ending is Ending.FEDERATION_ROUNDS
    assert [record.number for record in result.rounds] == [1, 2, 3]
    last = result.rounds[-1]
    assert last.participants == ["learner-0", "learner-1", "learner-2"]
    assert last.evaluation_metrics["accuracy"] == pytest.approx(3 * step)
    assert last.train_metrics["loss"] == pytest.approx((1 * 1 + 2 / 2 + 3 / 3) / 6)
    assert {name: part.weight for name, part in last.learners.items()} == {
        "learner-0": 1.0,
        "learner-1": 2.0,
        "learner-2": 3.0,
    }


@overs
async def test_the_final_model_is_the_users_own(over_grpc: bool) -> None:
    controller = Controller(ServerParams() if over_grpc else None)
    async with controller:
        result = await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run()
        assert result.final_model is not None
        result.final_model[0][:] = 7  # nobody else sees that
        assert (await controller.lineage())[-1].arrays()[0].tolist() == [1.0]


@overs
async def test_learners_take_over_the_first_and_the_final_weights(over_grpc: bool) -> None:
    learners = [Adds(1), Adds(1)]
    result = await session_of(learners, rounds=2, over_grpc=over_grpc).run()
    assert result.final_model is not None
    for learner in learners:
        first, final = learner.taken_over
        assert first[0].tolist() == [0.0]
        np.testing.assert_array_equal(final[0], result.final_model[0])


@overs
async def test_a_model_moves_down_once_for_evaluating_and_training(over_grpc: bool) -> None:
    result = await session_of([Adds(1, size=100_000)], rounds=3, over_grpc=over_grpc).run()
    size = 400_000 + 64  # the int64 tensor lies at the next multiple of 64
    assert [record.bytes_received for record in result.rounds] == [pytest.approx(size, abs=64)] * 3
    # The first round fetches versions 0 and 1; then each evaluated version is there already.
    assert [record.bytes_sent for record in result.rounds] == [
        pytest.approx(2 * size, abs=128),
        pytest.approx(size, abs=64),
        pytest.approx(size, abs=64),
    ]


@overs
async def test_coroutine_learners_work_as_well(over_grpc: bool) -> None:
    async with nothing_left_behind():
        result = await session_of([AddsOnLoop(2), AddsOnLoop(2)], over_grpc=over_grpc).run()
    assert result.final_model is not None
    assert result.final_model[0].tolist() == [6.0]


@pytest.mark.slow
async def test_learners_may_run_in_processes_and_keep_their_state_there() -> None:
    async with nothing_left_behind():
        result = await session_of([Counts()], rounds=3, worker="process").run()
    assert [record.train_metrics["calls"] for record in result.rounds] == [1.0, 2.0, 3.0]
    for record in result.rounds:
        part = record.learners["learner-0"]
        assert str(part.train_metadata["traceparent"]).endswith(f"-{part.train_task_id[:16]}-01")


class Counts(Adds):
    def __init__(self) -> None:
        super().__init__(1)
        self.calls = 0

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.calls += 1
        return parameters, {"calls": self.calls}, {"traceparent": self.traceparent}


async def test_params_reach_the_learner() -> None:
    learner = Adds(1)
    config = ControllerConfig(train_params={"batch_size": 64, "nested": {"a": [1, 2.5, "x", None, True]}})
    await session_of([learner], rounds=1, config=config).run()
    assert learner.configs == [{"round_number": 1, "batch_size": 64, "nested": {"a": [1, 2.5, "x", None, True]}}]


async def test_live_learners_may_have_names() -> None:
    learners = {"oslo": Adds(1), "lima": Adds(2)}
    result = await DriverSession(Controller(), learners, TerminationSignals(federation_rounds=1)).run()
    assert sorted(result.rounds[0].learners) == ["lima", "oslo"]


@pytest.mark.parametrize("learners", [{"": Adds(1)}, {1: Adds(1)}, {"a": 3}, {"a": ServerParams(port=1)}, {}])
def test_names_without_live_learners_are_refused(learners: Any) -> None:
    with pytest.raises(ConfigError, match="learners is"):
        DriverSession(Controller(), learners, TerminationSignals(federation_rounds=1))


async def test_a_share_of_the_learners_takes_part_in_each_round() -> None:
    config = ControllerConfig(participation_ratio=0.5)
    result = await session_of([Adds(1) for _ in range(6)], rounds=8, config=config).run()
    cohorts = [record.participants for record in result.rounds]
    assert {len(cohort) for cohort in cohorts} == {3}
    assert len({learner for cohort in cohorts for learner in cohort}) == 6
    assert all(sorted(record.learners) == record.participants for record in result.rounds)  # evaluated on it as well


async def test_a_session_that_opens_its_controller_runs_already(tmp_path: Path) -> None:
    kept = ModelStoreConfig(model_store="Disk", directory=tmp_path)  # which takes a while to open
    session = DriverSession(Controller(None, None, kept), [Adds(1)], TerminationSignals(federation_rounds=1))
    running = asyncio.create_task(session.run())
    await asyncio.sleep(0)
    with pytest.raises(UnexpectedMessage, match="the session is running already"):
        await session.run()
    assert (await running).model_version == 1


async def test_events_come_in_order_and_end() -> None:
    session = session_of([Adds(1), Adds(2)], rounds=2)
    running = asyncio.create_task(session.run())
    events = [event async for event in session.events()]
    await running
    moves = [(event.task, event.state) for event in events if isinstance(event, TaskMoved) and event.number]
    for task, states in (("train", ["fetching", "working", "uploading"]), ("evaluate", ["fetching", "working"])):
        assert {state for kind, state in moves if kind == task} == set(states)
    kinds = [type(event) for event in events if not isinstance(event, TaskMoved)]
    assert kinds[:5] == [FederationStarted, LearnerJoined, LearnerJoined, FirstWeights, RoundStarted]
    for kind, count in (
        (RoundStarted, 2),
        (UpdateFolded, 4),
        (UpdateCounted, 4),
        (ModelPublished, 2),
        (LearnerEvaluated, 4),
        (RoundFinished, 2),
    ):
        assert kinds.count(kind) == count
    assert isinstance(events[-1], FederationFinished)
    assert [event async for event in session.events()] == events  # a watcher who comes late sees all of it


async def test_a_session_runs_again_and_again_in_one_process() -> None:
    async with nothing_left_behind():
        for _ in range(20):
            result = await session_of([Adds(1), Adds(2)], rounds=1).run()
            assert result.model_version == 1
        session = session_of([Adds(1)], rounds=1)
        assert (await session.run()).final_model == (await session.run()).final_model


@overs
async def test_it_is_said_whether_the_first_weights_had_been_trained_before(over_grpc: bool) -> None:
    learner, sources = Adds(1), []
    for _ in range(2):
        session = session_of([learner], rounds=1, over_grpc=over_grpc)
        sources.append((await session.run()).first_weights)
    assert sources == ["of learner-0, as made", "of learner-0, trained before"]
    session = DriverSession(
        Controller(), [learner], TerminationSignals(federation_rounds=1), initial_weights=learner.get_weights()
    )
    assert (await session.run()).first_weights == "given"


async def test_while_it_runs_the_result_has_the_rounds_so_far() -> None:
    session = session_of([Adds(1)], rounds=1_000_000)
    running = asyncio.create_task(session.run())
    finished = 0
    async for event in session.events():
        finished += isinstance(event, RoundFinished)
        if finished == 2:
            break
    result = session.result
    await session.stop()
    await running
    assert result is not None
    assert [record.number for record in result.rounds][:2] == [1, 2]
    assert result.model_version is not None
    assert result.model_version >= 2
    assert result.final_model is None
    assert result.reason == "it is not over"


async def test_two_sessions_share_a_loop() -> None:
    results = await asyncio.gather(
        *(session_of([Adds(n), Adds(n)], rounds=2, over_grpc=n == 3).run() for n in (1, 2, 3))
    )
    assert [result.final_model[0].tolist() for result in results if result.final_model] == [[2.0], [4.0], [6.0]]


async def test_running_twice_at_one_time_is_refused() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    session = session_of([learner])
    running = asyncio.create_task(session.run())
    await learner.is_training.wait()
    with pytest.raises(ProtocolError, match="running already"):
        await session.run()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@overs
def test_every_event_loop_will_do(new_loop: Callable[[], asyncio.AbstractEventLoop], over_grpc: bool) -> None:
    for _ in range(2):  # one loop after another
        with asyncio.Runner(loop_factory=new_loop) as runner:
            result = runner.run(session_of([Adds(1), Adds(2)], over_grpc=over_grpc).run())
        assert result.model_version == 3


def test_asyncio_run_will_do() -> None:
    assert asyncio.run(session_of([Adds(1)], rounds=1).run()).model_version == 1


def test_run_sync_works_without_a_loop() -> None:
    assert session_of([Adds(1)], rounds=1).run_sync().model_version == 1


async def test_run_sync_works_under_a_running_loop() -> None:
    async with nothing_left_behind():
        assert session_of([Adds(1)], rounds=1, over_grpc=True).run_sync().model_version == 1


async def test_run_sync_raises_what_run_raises() -> None:
    with pytest.raises(QuorumLost, match="ValueError: no data"):
        session_of([Fails()]).run_sync()


async def test_run_sync_refuses_a_controller_of_another_loop() -> None:
    async with Controller() as controller:
        session = DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1))
        with pytest.raises(ConfigError, match="belongs to the loop"):
            session.run_sync()


class Fails(Adds):
    def __init__(self) -> None:
        super().__init__(1)

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise ValueError("no data")


@overs
async def test_a_failing_learner_does_not_hurt_the_round(over_grpc: bool, caplog: pytest.LogCaptureFixture) -> None:
    result = await session_of([Adds(1), Fails()], rounds=2, over_grpc=over_grpc).run()
    assert result.final_model is not None
    assert result.final_model[0].tolist() == [2.0]
    for record in result.rounds:
        assert record.participants == ["learner-0"]
        (failure,) = record.learners["learner-1"].failures
        assert (failure.task, failure.type, failure.message) == ("train", "ValueError", "no data")
    assert "Traceback" in caplog.text  # the learner's own log has where it came from ...
    assert 'worker.py"' not in caplog.text  # ... and nothing of ours


async def test_when_everybody_fails_the_error_names_them_and_the_result_is_kept() -> None:
    session = session_of([Fails(), Fails()])
    async with nothing_left_behind():
        with pytest.raises(QuorumLost, match=r"3 times in a row.*learner-0, learner-1: ValueError: no data") as caught:
            await session.run()
    assert session.result is not None
    assert (session.result.reason, session.result.ending) == (str(caught.value), Ending.QUORUM_LOST)
    assert [record.is_published for record in session.result.rounds] == [False] * 3
    assert session.result.final_model is not None  # the first weights


class Gives(Adds):
    """Returns from `train` whatever it was made with."""

    def __init__(self, result: object) -> None:
        super().__init__(1)
        self.result = result

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        return self.result  # type: ignore[return-value]


GOOD: list[Array] = [np.ones(1, np.float32), np.array(1, np.int64)]


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (GOOD, "ConfigError", r"what train\(\) returns is 'a list of 2'; allowed: \(parameters, metrics\)"),
        (([], {}), "ConfigError", "non-empty list of NumPy arrays"),
        (([1.0, 2.0], {}), "ConfigError", r"\[0\] is 'a float'; allowed: a NumPy array"),
        (
            (GOOD[:1], {}),
            "ConfigError",
            "the number of arrays that .* returns is 1; allowed: 2, as many as were passed in",
        ),
        (
            ([np.ones(2, np.float32), GOOD[1]], {}),
            "ConfigError",
            r"array 0 .* is 'float32\[2\]'; allowed: float32\[1\], as it was",
        ),
        (([np.ones(1), GOOD[1]], {}), "ConfigError", r"array 0 .* is 'float64\[1\]'; allowed: float32\[1\], as it was"),
        (([np.array([np.nan], np.float32), GOOD[1]], {}), "NotFinite", "tensor '0' holds a value that is not finite"),
        ((GOOD, {}, {"num_training_examples": 0}), "ConfigError", "num_training_examples is 0; allowed: a number >= 2"),
        ((GOOD, {}, {"num_training_examples": -1}), "ConfigError", "num_training_examples is -1"),
    ],
)
@overs
async def test_a_bad_update_is_refused_with_the_reason(
    result: object, kind: str, message: str, over_grpc: bool
) -> None:
    session = session_of([Adds(1), Gives(result)], rounds=1, over_grpc=over_grpc)
    running = asyncio.create_task(session.run())
    failed = [event async for event in session.events() if isinstance(event, TaskFailed)]
    done = await running
    assert done.final_model is not None
    assert done.final_model[0].tolist() == [1.0]
    (failure,) = done.rounds[0].learners["learner-1"].failures
    assert failure.type == kind
    assert re.search(message, failure.message)
    assert [(event.learner, event.type, event.message) for event in failed] == [("learner-1", kind, failure.message)]


async def test_who_never_says_how_many_examples_is_told_all_three_places() -> None:
    class Silent(Adds):
        def __init__(self) -> None:  # a user's class that does not call Learner.__init__
            self.number, self.size = 1, 1
            self.taken_over, self.configs = [], []

    session = session_of([Silent()])
    with pytest.raises(QuorumLost, match=r"metadata or the metrics .*Learner\(num_training_examples=\.\.\.\)"):
        await session.run()


@pytest.mark.parametrize(
    ("metrics", "metadata", "weight"),
    [
        ({}, {}, 5.0),
        ({"num_training_examples": 6}, {}, 6.0),
        ({"num_training_examples": 6}, {"num_training_examples": 7}, 7.0),
        ({"num_training_examples": np.int64(6)}, {"num_training_examples": np.float32(7)}, 7.0),
    ],
)
async def test_examples_are_read_from_metadata_then_metrics_then_the_learner(
    metrics: dict[str, float], metadata: dict[str, float], weight: float
) -> None:
    learner = Gives((GOOD, metrics, metadata))
    learner.num_training_examples = 5
    result = await session_of([learner], rounds=1).run()
    assert result.rounds[0].learners["learner-0"].weight == weight


@pytest.mark.parametrize("factor", ["NumCompletedBatches", "NumParticipants"])
async def test_the_other_scaling_factors(factor: str) -> None:
    learners = [Gives(([np.full(1, n, np.float32), GOOD[1]], {}, {"num_completed_batches": n})) for n in (1, 3)]
    config = ControllerConfig(scaling_factor=factor)
    result = await session_of(learners, rounds=1, config=config).run()
    assert result.final_model is not None
    assert result.final_model[0].tolist() == [2.5 if factor == "NumCompletedBatches" else 2.0]


async def test_first_weights_may_come_from_the_driver() -> None:
    session = DriverSession(Controller(), [Adds(1)], TerminationSignals(federation_rounds=1), initial_weights=GOOD)
    result = await session.run()
    assert result.final_model is not None
    assert result.final_model[0].tolist() == [2.0]


async def test_first_weights_come_from_the_learner_that_the_seed_draws() -> None:
    class Starts(Adds):
        def get_weights(self) -> list[Array]:
            return [np.full(1, self.number, np.float32)]

        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            return parameters, {}

    def start_of(seed: int) -> float:
        session = DriverSession(
            Controller(), [Starts(n) for n in range(1, 9)], TerminationSignals(federation_rounds=1), seed=seed
        )
        result = session.run_sync()
        assert result.final_model is not None
        return float(result.final_model[0][0])

    starts = [start_of(seed) for seed in (1, 1, 2, 3, 4)]
    assert starts[0] == starts[1]
    assert len(set(starts)) > 1


async def test_stop_ends_it_in_order() -> None:
    learner = AddsOnLoop(1)
    session = session_of([learner], rounds=1_000_000)
    async with nothing_left_behind():
        running = asyncio.create_task(session.run())
        async for event in session.events():
            if isinstance(event, RoundFinished) and event.record.number == 2:
                await session.stop("enough")
        result = await running
    assert result.reason == "enough"
    assert result.model_version is not None
    assert result.model_version >= 2
    with pytest.raises(ProtocolError, match="not running"):
        await session.stop()


async def test_it_ends_by_time_even_in_the_middle_of_a_round(federation: Callable[..., testing.Federation]) -> None:
    async with federation(
        [testing.FakeLearner(takes=7200.0)], TerminationSignals(execution_cutoff_time_mins=60)
    ) as fed:
        result = await fed.result()
        assert fed.now == pytest.approx(3600.0, abs=1.0)
    assert result.ending is Ending.CUTOFF_TIME
    assert result.rounds[0].learners["learner-0"].failures[0].type == "cancelled"


async def test_it_ends_by_score() -> None:
    signals = TerminationSignals(evaluation_metric="accuracy", evaluation_metric_cutoff_score=4.0)
    result = await DriverSession(Controller(), [Adds(2)], signals).run()
    assert [record.evaluation_metrics["accuracy"] for record in result.rounds] == [2.0, 4.0]


async def test_it_ends_when_it_gets_no_better() -> None:
    class Learns(Adds):
        def evaluate(self, parameters: list[Array], config: Config) -> dict[str, float]:
            return {"loss": max(0.5, 4.0 - float(super().evaluate(parameters, config)["accuracy"]))}

    signals = TerminationSignals(evaluation_metric="loss", patience_rounds=2, mode="min", federation_rounds=50)
    result = await DriverSession(Controller(), [Learns(1)], signals).run()
    assert [record.evaluation_metrics["loss"] for record in result.rounds] == [3.0, 2.0, 1.0, 0.5, 0.5, 0.5]
    assert result.reason == "patience_rounds=2 reached; the best was loss=0.5, after 4 models"


async def test_an_open_controller_is_used_and_left_open() -> None:
    async with Controller(ServerParams()) as controller:
        result = await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run()
        assert controller.is_open
        (model,) = await controller.lineage()
        np.testing.assert_array_equal(model.arrays()[0], result.final_model[0] if result.final_model else None)
        await controller.serve()  # returns: it was shut down
    assert not controller.is_open


async def test_progress_logs_a_line_a_round_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "metisfl_async.driver")
    await session_of([Adds(1)], rounds=2).run(progress=True)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("metisfl_async.driver")]
    assert len(lines) == 2
    assert lines[0].startswith("round 1: 1 of 1 updates in")
    assert "evaluation accuracy 1" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("localhost:50051", [Adds(1)], TerminationSignals(federation_rounds=1)), "controller"),
        ((Controller(), [], TerminationSignals(federation_rounds=1)), "learners"),
        ((Controller(), 0, TerminationSignals(federation_rounds=1)), "learners"),
        ((Controller(), [object()], TerminationSignals(federation_rounds=1)), "learners"),
        ((Controller(), [Adds(1)], 5), "termination_signals"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[object, ...], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DriverSession(*arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_an_impossible_worker_is_named() -> None:
    with pytest.raises(ConfigError, match=r"train.* is async"):
        await session_of([AddsOnLoop(1)], worker="process").run()
    with pytest.raises(ConfigError, match="'thread', 'process', or a concurrent"):
        await session_of([Adds(1)], worker="fork").run()


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_cancelled_at_any_await_in_memory_nothing_is_left() -> None:
    """Cancel after every possible number of loop steps, until one run gets through."""
    async with nothing_left_behind():
        for steps in range(10_000):
            session = session_of([AddsOnLoop(1), AddsOnLoop(2)], rounds=1)
            running = asyncio.create_task(session.run())
            for _ in range(steps):
                await asyncio.sleep(0)
            if running.done():
                break
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert steps > 20


@pytest.mark.slow
async def test_cancelled_at_many_points_over_grpc_nothing_is_left() -> None:
    async with nothing_left_behind():
        for events in range(0, 30, 2):
            session = session_of([Adds(1), AddsOnLoop(2)], rounds=3, over_grpc=True)
            running = asyncio.create_task(session.run())
            seen = 0
            async for _ in session.events():
                if (seen := seen + 1) >= events:
                    break
            if running.done():
                break
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_cancelled_while_a_thread_trains_it_tells_the_learner_and_waits() -> None:
    class Polls(Adds):
        was_cancelled = started = False

        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            self.started = True
            while not self.is_cancelled:
                pass
            self.was_cancelled = True
            return parameters, {}

    learner = Polls(1)
    async with nothing_left_behind():
        running = asyncio.create_task(session_of([learner]).run())
        await until(lambda: learner.started)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert learner.was_cancelled


@pytest.mark.slow
async def test_cancelled_while_a_process_trains_it_ends_the_process() -> None:
    async with nothing_left_behind():
        session = session_of([Sleeps(1)], worker="process")
        running = asyncio.create_task(session.run())
        async for event in session.events():
            if isinstance(event, RoundStarted):
                break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


class Sleeps(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        import time

        time.sleep(3600)
        return parameters, {}


# --- remote controllers ----------------------------------------------------------------------------------------------


async def test_a_driver_follows_its_federation_through_a_broken_connection() -> None:
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        session = DriverSession(proxy.params, [Adds(1)], TerminationSignals(federation_rounds=3))
        running = asyncio.create_task(session.run())
        kinds = []
        async for event in session.events():
            kinds.append(type(event))
            if kinds.count(RoundFinished) == 1 and isinstance(event, RoundFinished):
                proxy.cut()
        result = await running
    assert kinds.count(RoundFinished) == 3  # each event once
    assert result.model_version == 3


async def test_a_driver_does_not_wait_for_a_controller_that_was_started_again() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        session = DriverSession(proxy.params, 1, TerminationSignals(federation_rounds=1))
        running = asyncio.create_task(session.run())
        learning = asyncio.create_task(run_learner(learner, controller.client_params))
        await learner.is_training.wait()
        async with Controller(ServerParams()) as again:  # what a driver finds on the port after a kill and a restart
            proxy.target = again.client_params.port
            proxy.cut()
            with pytest.raises(ProtocolError, match="was it started again meanwhile"):
                await running
        learning.cancel()
        await asyncio.wait([learning])


# --- mistakes that would wait for ever -------------------------------------------------------------------------------


def test_learners_that_cannot_come_are_not_waited_for() -> None:
    signals = TerminationSignals(federation_rounds=1)
    with pytest.raises(ConfigError, match="learners is 3; allowed: live Learner objects; to wait for others"):
        DriverSession(Controller(), 3, signals)
    with pytest.raises(ConfigError, match="min_learners is 3; allowed: at most the 1 learners of this session"):
        DriverSession(Controller(controller_config=ControllerConfig(min_learners=3)), [Adds(1)], signals)


async def test_a_metric_that_nobody_reports_is_named(caplog: pytest.LogCaptureFixture) -> None:
    signals = TerminationSignals(federation_rounds=9, evaluation_metric="acuracy", evaluation_metric_cutoff_score=0.9)
    await DriverSession(Controller(), [Adds(1)], signals).run()
    said = "no learner reports the evaluation_metric 'acuracy'; they report accuracy"
    assert caplog.text.count(said) == 4  # at the 1st, 2nd, 4th and 8th round


def test_parameters_of_another_kind_are_named() -> None:
    signals, learner = TerminationSignals(federation_rounds=1), Adds(1)
    with pytest.raises(ConfigError, match="server_params is ControllerConfig"):
        Controller(ControllerConfig())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a list of live Learner objects"):
        DriverSession(Controller(), learner, signals)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no Learner object stands twice"):
        DriverSession(Controller(), [learner, learner], signals)
    with pytest.raises(ConfigError, match="initial_weights"):
        DriverSession(Controller(), [learner], signals, initial_weights=np.zeros(2))
    for wrong in (0, "5", 2.5):
        with pytest.raises(ConfigError, match="num_training_examples"):
            Adds(wrong)  # type: ignore[arg-type]


async def test_parameters_of_a_learner_of_another_kind_are_named() -> None:
    with pytest.raises(ConfigError, match="client_params is 'host:50051'"):
        await run_learner(Adds(1), "host:50051")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="learner_id is 3; allowed: a string"):
        await run_learner(Adds(1), ServerParams().client_params(1), learner_id=3)  # type: ignore[arg-type]


async def test_numpy_integers_count_examples() -> None:
    learner = Adds(1)
    learner.num_training_examples = np.int64(6)  # type: ignore[assignment]
    result = await session_of([learner, Adds(np.int64(7))], rounds=1).run()  # type: ignore[arg-type]
    assert {part.weight for part in result.rounds[0].learners.values()} == {6.0, 7.0}


@pytest.mark.slow
def test_a_program_may_end_at_any_await_while_a_session_runs() -> None:
    """asyncio cancels all tasks then, also those that the session would have ended one after another."""

    async def program(steps: int) -> bool:
        running = asyncio.create_task(session_of([Adds(1), Adds(2)], 1000).run())
        for _ in range(steps):
            await asyncio.sleep(0)
        return running.done()

    def run_all() -> None:
        for steps in [*range(60), *range(60)]:
            assert not asyncio.run(program(steps))
            ended.append(steps)

    ended: list[int] = []
    thread = threading.Thread(target=run_all, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert len(ended) == 120


DOORS = [Start, Joined, Accepted, Served, Moved, Admit, Arrived, Folded, Published, Evaluated]


@overs
@pytest.mark.parametrize("door", DOORS, ids=lambda kind: str(kind.__name__))
async def test_a_bug_in_any_decision_ends_the_session_and_says_so(
    door: type[Input], over_grpc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = Federation._on

    def with_bug(self: Federation, happened: Input) -> None:
        if isinstance(happened, door):
            raise AssertionError(f"a bug in {door.__name__}")
        decide(self, happened)

    monkeypatch.setattr(Federation, "_on", with_bug)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(AssertionError, match=f"a bug in {door.__name__}"):
            await session_of([Adds(1), Adds(2)], rounds=2, over_grpc=over_grpc).run()
