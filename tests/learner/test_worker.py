"""Whatever a user's method does, its task has an outcome and the learner lives on."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import math
import multiprocessing
import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until

from metisfl_async.core.federation.records import Failure
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.worker import Worker


class Raises(Adds):
    def __init__(self, error: BaseException) -> None:
        super().__init__(1)
        self.error = error

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise self.error


class RaisesOnLoop(Raises):
    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        raise self.error


async def failure_of(learner: Adds, *, over_grpc: bool = False) -> Failure:
    """Run a round in which another learner does well."""
    async with asyncio.timeout(PATIENCE_S):
        result = await session_of([Adds(1), learner], rounds=1, over_grpc=over_grpc).run()
    assert result.rounds[0].participants[0] == "learner-0"
    (failure,) = result.rounds[0].learners["learner-1"].failures
    return failure


@pytest.mark.parametrize("kind", [Raises, RaisesOnLoop])
@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), asyncio.CancelledError()], ids=repr)
async def test_what_would_end_or_hang_an_event_loop_is_a_failure_like_any_other(
    kind: type[Raises], error: BaseException
) -> None:
    failure = await failure_of(kind(error))
    assert failure.type == "RuntimeError"
    assert type(error).__name__ in failure.message


async def test_an_interrupt_raised_in_a_thread_does_not_end_the_event_loop() -> None:
    assert (await failure_of(Raises(KeyboardInterrupt()))).message == "KeyboardInterrupt: "


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NoText(), "its text cannot be had: str() raises ValueError"),
        (ValueError("\ud800.jpg"), "\\ud800.jpg"),
        (ValueError("x" * 5_000_000), "x" * 3_997 + "..."),
    ],
    ids=["no text", "a lone surrogate", "5 MB"],
)
async def test_an_error_of_any_text_reaches_the_controller(
    error: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # a surrogate in a captured log does not go from one pytest process to another
    assert (await failure_of(Raises(error), over_grpc=True)).message == text


@pytest.mark.parametrize(
    ("metrics", "kept", "text"),
    [
        ({f"of class {n}": 1.0 for n in range(20_000)}, 3_700, "room for 122880 bytes"),
        ({str(n).ljust(100, "n"): 1.0 for n in range(20_000)}, 900, "room for 122880 bytes"),
        ({"\ud800": 1.0, "loss": 0.5}, 1, r"a key of evaluate() is left out: it is '\ud800'"),
    ],
    ids=["too many", "too long", "a lone surrogate"],
)
async def test_what_fits_no_message_of_an_evaluation_is_left_out_with_a_warning(
    metrics: Metrics, kept: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Measures(Adds):
        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            return metrics

    result = await session_of([Measures(1)], rounds=2, over_grpc=True).run()
    assert len(result.rounds[-1].evaluation_metrics) >= kept
    assert text in caplog.text
    assert len([record for record in caplog.records if "left out" in record.message]) <= 2


class DiesOnce(Adds):
    def __init__(self, mark: Path) -> None:
        super().__init__(1)
        self.mark = mark

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if not self.mark.exists():
            self.mark.touch()
            os._exit(3)
        return super().train(parameters, config)


@pytest.mark.slow
async def test_a_process_that_died_is_replaced_for_the_next_task(tmp_path: Path) -> None:
    async with nothing_left_behind():
        session = session_of([DiesOnce(tmp_path / "died")], rounds=1, worker="process")
        result = await session.run()
    assert [record.is_published for record in result.rounds] == [False, True]
    assert result.rounds[0].learners["learner-0"].failures[0].type == "BrokenProcessPool"


async def test_a_process_that_is_killed_while_it_writes_a_result_is_not_waited_for() -> None:
    worker = Worker(Adds(1), "process")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
        await worker.get_weights()
        assert worker._process is not None
        results = worker._process[0]._result_queue._writer  # type: ignore[attr-defined]
        os.write(results.fileno(), struct.pack("!i", 2**20))  # what is left to be seen of it: how long it would be
        await worker.close()


async def test_work_that_waits_for_a_thread_never_begins_once_it_is_cancelled() -> None:
    class Counts(Adds):
        begun = 0

        def get_weights(self) -> list[Array]:
            self.begun += 1
            return super().get_weights()

    learner, may_end = Counts(1), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(may_end.wait)
        waiting = asyncio.create_task(Worker(learner, executor).get_weights())
        await until(lambda: executor._work_queue.qsize() == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # at once
        may_end.set()
    assert learner.begun == 0


async def test_an_executor_that_is_shut_down_fails_its_tasks_and_hangs_nobody() -> None:
    executor = ThreadPoolExecutor(1)

    class ShutsDown(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            executor.shutdown(wait=False, cancel_futures=True)
            return super().train(parameters, config)

    async with asyncio.timeout(PATIENCE_S):
        session = session_of([ShutsDown(1), ShutsDown(2)], rounds=1, worker=executor)  # type: ignore[arg-type]
        result = await session.run()
    assert len(result.rounds[0].participants) == 1
    kinds = {failure.type for part in result.rounds[0].learners.values() for failure in part.failures}
    assert kinds == {"RuntimeError"}


async def test_a_coroutine_that_is_cancelled_by_us_is_still_cancelled() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with nothing_left_behind():
        running = asyncio.create_task(session_of([learner]).run())
        await learner.is_training.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def _not_here() -> Adds:
    raise ModuleNotFoundError("no module named 'notebook_cell'")


class CannotBeImported(Adds):
    def __reduce__(self) -> tuple[object, ...]:
        return _not_here, ()


@pytest.mark.slow
async def test_a_process_that_cannot_get_the_learner_says_what_it_needs() -> None:
    worker = Worker(CannotBeImported(1), "process")
    async with nothing_left_behind():
        with pytest.raises(RuntimeError, match=r"did not start .* its class must be in a module that can be imported"):
            await worker.get_weights()
        await worker.close()


class Keeps(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.taken_over.append(parameters)
        return super().train(parameters, config)


class KeepsOnLoop(Keeps):
    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        return super().train(parameters, config)


@pytest.mark.parametrize("kind", [Keeps, KeepsOnLoop])
async def test_training_is_given_its_copy_where_the_last_update_was_and_keeps_it(kind: type[Keeps]) -> None:
    learner = kind(1)
    worker = Worker(learner, "thread")
    model = Model.from_arrays([np.zeros(1000, np.float32)])
    update = (await worker.train(model, {})).model
    worker.recycle(update)
    for _ in range(2):
        await worker.train(model, {})
    await worker.close()
    shares = [np.shares_memory(parameters[0], update.buffer) for parameters in learner.taken_over]
    assert shares == [False, True, False]
    assert [float(parameters[0][0]) for parameters in learner.taken_over] == [1, 1, 1]
    assert (model.arrays()[0] == 0).all()


async def test_an_update_that_does_not_fit_is_not_used_again() -> None:
    learner = Keeps(1)
    worker = Worker(learner, "thread")
    worker.recycle(Model.from_arrays([np.zeros(999, np.float32)]))
    update = await worker.train(Model.from_arrays([np.zeros(1000, np.float32)]), {})
    await worker.close()
    assert (update.model.arrays()[0] == 1).all()


class TakesTwo(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class SaysMoreEachTime(Exception):
    def __init__(self, what: object) -> None:
        super().__init__(f"failed with {what}")


def two() -> Exception:
    return TakesTwo(1, 2)


def more() -> Exception:
    return SaysMoreEachTime(3)


def holds_a_lock() -> Exception:
    error = ValueError("it holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def of_a_local_class() -> Exception:
    class Local(Exception):
        def __str__(self) -> str:
            class Text(str):
                pass

            return Text("local")

    return Local()


def without_text() -> Exception:
    return NoText()


def looks_like_a_dead_process() -> Exception:
    return BrokenProcessPool("not this one")


class RaisesInProcess(Adds):
    """Tells in its text in which process it is, and for the how-manieth time it trains there."""

    def __init__(self, error: Callable[[], Exception] = two) -> None:
        super().__init__(1)
        self.error = error
        self.trained = 0

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.trained += 1
        raise self.error()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"pid": os.getpid(), "trained": self.trained}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (two, "TakesTwo", "1 and 2"),
        (more, "SaysMoreEachTime", "failed with 3"),
        (holds_a_lock, "ValueError", "it holds a lock"),
        (of_a_local_class, "Local", "local"),
        (without_text, "NoText", "its text cannot be had: str() raises ValueError"),
        (looks_like_a_dead_process, "BrokenProcessPool", "not this one"),
    ],
)
async def test_an_error_that_does_not_pickle_is_told_by_name_and_text_and_the_process_keeps_its_state(
    error: Callable[[], Exception], name: str, text: str
) -> None:
    worker = Worker(RaisesInProcess(error), "process")
    model = Model.from_arrays([np.zeros(1)])
    async with nothing_left_behind():
        before = (await worker.evaluate(model, {})).metrics
        for _ in range(2):
            with pytest.raises(RuntimeError) as raised:
                await worker.train(model, {})
            assert (type(raised.value).__name__, str(raised.value)) == (name, text)
            assert "in train" in raised.value.__notes__[0]  # where it happened
        assert (await worker.evaluate(model, {})).metrics == {**before, "trained": 2}
        await worker.close()


@pytest.mark.slow
async def test_an_error_that_does_not_pickle_is_a_learners_failure_by_its_name() -> None:
    async with asyncio.timeout(PATIENCE_S):
        session = session_of([Adds(1), RaisesInProcess()], rounds=1, worker="process")
        result = await session.run()
    (failure,) = result.rounds[0].learners["learner-1"].failures
    assert (failure.type, failure.message) == ("TakesTwo", "1 and 2")


@pytest.mark.slow
async def test_an_error_that_does_not_pickle_leaves_the_users_pool_of_processes_whole() -> None:
    model = Model.from_arrays([np.zeros(1)])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        learner = RaisesInProcess()
        learner.keeps_state = False
        worker = Worker(learner, pool)
        pid = (await worker.evaluate(model, {})).metrics["pid"]
        with pytest.raises(RuntimeError, match="1 and 2"):
            await worker.train(model, {})
        assert (await worker.evaluate(model, {})).metrics["pid"] == pid


class ReportsWhatDoesNotPickle(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        class Kind(enum.IntEnum):
            LOCAL = 3

        class Name(str):
            pass

        def numbers() -> Iterator[float]:
            yield 1.0

        self.number += 1
        metrics: dict[str, float] = {Name("number"): self.number}
        if config:
            metrics["loss"] = numbers()  # type: ignore[assignment]
        return parameters, metrics, {Name("kinds"): [Kind.LOCAL, Name("nan"), math.nan, 0.1]}


async def test_results_that_do_not_pickle_are_left_out_or_made_plain_and_the_process_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(ReportsWhatDoesNotPickle(1), "process")
    model = Model.from_arrays([np.zeros(1)])
    async with nothing_left_behind():
        await worker.train(model, {"generator": True})
        assert "the metrics of train()['loss'] is left out: it is <generator" in caplog.text
        outcome = await worker.train(model, {})
        await worker.close()
    assert outcome.metrics == {"number": 3.0}
    assert json.dumps(outcome.metadata["kinds"]) == '[3, "nan", NaN, 0.1]'
