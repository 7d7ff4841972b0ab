"""A method that goes on although it is told to end is waited for, named, and in the end given up."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until
from stuck import NeverEnds, Stuck, StuckOnLoop

from metisfl_async import ClientParams, ConfigError, askable, run_learner
from metisfl_async.controller.farewell import FAREWELL_S
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.messages import Answer, Question
from metisfl_async.core.model import Array, Model
from metisfl_async.learner import stopping
from metisfl_async.learner.answering import Answering
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.stopping import STOP_TIMEOUT_S, Stopping
from metisfl_async.learner.threads import DaemonThreads
from metisfl_async.learner.worker import Worker, WorkerKind

MODEL = Model.from_arrays([np.zeros(1)])
SOON = 0.01
TIME_TO_BEGIN_S = 0.3  #: for a method, before its answer is too late


async def training(worker: Worker, learner: Stuck | StuckOnLoop) -> asyncio.Task[object]:
    task: asyncio.Task[object] = asyncio.create_task(worker.train(MODEL, {}))
    await until(learner.has_begun.is_set)
    return task


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def check_it_is_given_up_and_free_again(learner: Stuck | StuckOnLoop, kind: WorkerKind) -> None:
    worker = Worker(learner, kind, name="site-1", stopping=Stopping(SOON))
    await cancelled(await training(worker, learner))
    assert worker.is_given_up
    assert learner.is_cancelled
    refused = r"site-1 is still in train\(\), which was called \d+ s ago"
    with pytest.raises(UnexpectedMessage, match=refused):
        await worker.get_weights()
    with pytest.raises(UnexpectedMessage, match=refused):
        Worker(learner, kind, name="site-1")
    await worker.close()
    learner.may_end.set()
    await until(lambda: not worker.is_given_up)
    assert not learner.is_cancelled
    again = Worker(learner, "thread")
    await again.train(MODEL, {})  # it is as good as before
    await again.close()


async def test_a_thread_is_given_up_and_the_learner_is_free_again_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with nothing_left_behind():
        await check_it_is_given_up_and_free_again(Stuck(), "thread")
    given_up, ended = [record.getMessage() for record in caplog.records if "site-1" in record.getMessage()]
    assert re.match(r"not waiting any longer for site-1 in train\(\), which has run for \d+ s", given_up)
    assert ended == "site-1 has ended after all"


async def test_so_is_a_call_in_the_users_executor() -> None:
    async with nothing_left_behind():
        with ThreadPoolExecutor(1) as threads:
            await check_it_is_given_up_and_free_again(Stuck(), threads)


async def test_so_is_a_coroutine_that_awaits_a_task_of_its_own_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metisfl_async.learner.worker.CLOSED_S", SOON)

    class AwaitsStuck(StuckOnLoop):
        async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
            return await asyncio.create_task(super().train(parameters, config))

    async with nothing_left_behind():
        await check_it_is_given_up_and_free_again(AwaitsStuck(), "thread")


async def test_a_coroutine_that_ignores_its_cancellation_is_closed() -> None:
    learner = StuckOnLoop()
    async with nothing_left_behind():
        worker = Worker(learner, "thread", stopping=Stopping(SOON))
        await cancelled(await training(worker, learner))
        assert not worker.is_given_up
        assert not learner.is_cancelled
        await worker.evaluate(MODEL, {})
        await worker.close()


async def test_a_coroutine_that_is_cancelled_before_it_begins_never_does() -> None:
    learner = AddsOnLoop(1)
    async with nothing_left_behind():
        worker = Worker(learner, "thread")
        for turns in range(20):
            begun = asyncio.create_task(worker.evaluate(MODEL, {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            begun.cancel()
            await asyncio.wait([begun])
        await worker.close()


@pytest.mark.slow
async def test_a_process_is_ended_and_not_waited_for() -> None:
    async with nothing_left_behind():
        worker = Worker(NeverEnds(1), "process", stopping=Stopping(None))
        await worker.get_weights()
        running: asyncio.Task[object] = asyncio.create_task(worker.train(MODEL, {}))
        await asyncio.sleep(0)
        await cancelled(running)
        assert not worker.is_given_up
        await worker.close()


async def test_one_that_ends_in_time_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    learner = Stuck()
    async with nothing_left_behind():
        worker = Worker(learner, "thread")
        task = await training(worker, learner)
        task.cancel()
        await until(lambda: learner.is_cancelled)
        learner.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(learner.configs) == 1  # it came to its end
        assert not worker.is_given_up
        await worker.close()
    assert not caplog.records


async def test_a_worker_that_closes_bounds_the_wait_for_calls_of_others() -> None:
    learner = Stuck()
    async with nothing_left_behind():
        worker = Worker(learner, "thread", stopping=Stopping(SOON))
        others = await training(worker, learner)
        await worker.close()
        assert others.cancelled()
        assert worker.is_given_up
        learner.may_end.set()
        await until(lambda: not worker.is_given_up)


async def test_who_shares_threads_with_one_that_is_stuck_still_has_one() -> None:
    stuck = Stuck()
    async with nothing_left_behind():
        with DaemonThreads(1, "shared") as threads:
            workers = [Worker(learner, threads, stopping=Stopping(SOON)) for learner in (stuck, Adds(2))]
            first = await training(workers[0], stuck)
            second = asyncio.create_task(workers[1].train(MODEL, {}))  # waits behind it
            await cancelled(first)
            await second
        stuck.may_end.set()


class AsksForEver(Stuck):
    """Answers when it may end, whether it is cancelled or not."""

    @askable
    def in_thread(self, params: Config) -> bool:
        self.has_begun.set()
        return self.may_end.wait()

    @askable
    async def on_loop(self, params: Config) -> None:
        while not self.may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(SOON)


@asynccontextmanager
async def answering(worker: Worker) -> AsyncIterator[tuple[Answering, list[Answer]]]:
    said: list[Answer] = []
    answers = Answering(worker, FailureLog(), said.append)
    running = asyncio.create_task(answers.run())
    yield answers, said
    running.cancel()
    await asyncio.wait([running])
    await worker.close()


async def test_an_answer_that_comes_too_late_is_given_up_like_a_task_that_is_told_to_end() -> None:
    learner = AsksForEver()
    async with nothing_left_behind():
        worker = Worker(learner, "thread", name="site-1", stopping=Stopping(SOON))
        async with answering(worker) as (answers, said):
            answers.take(Question("first", "in_thread", {}, TIME_TO_BEGIN_S))
            await until(lambda: worker.is_given_up)
            assert learner.has_begun.is_set()
            with pytest.raises(UnexpectedMessage, match=r"site-1 is still in in_thread\(\)"):
                await worker.train(MODEL, {})
            answers.take(Question("second", "in_thread", {}, PATIENCE_S))
            await until(lambda: bool(said))
            assert [(answer.question_id, answer.error_type) for answer in said] == [("second", "UnexpectedMessage")]
            learner.may_end.set()
            await until(lambda: not worker.is_given_up)
            await worker.train(MODEL, {})
            answers.take(Question("third", "in_thread", {}, PATIENCE_S))
            await until(lambda: said[-1] == Answer("third", "true"))


async def test_a_coroutine_that_answers_too_late_is_closed_and_the_learner_trains() -> None:
    learner = AsksForEver()
    async with nothing_left_behind():
        worker = Worker(learner, "thread", stopping=Stopping(SOON))
        async with answering(worker) as (answers, said):
            answers.take(Question("first", "on_loop", {}, TIME_TO_BEGIN_S))
            await until(lambda: learner.is_cancelled)
            await worker.evaluate(MODEL, {})
            assert not said


async def test_one_line_names_all_that_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stopping, "TOLD_AFTER_S", 0.0)
    together, never = Stopping(None), asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(together.has_ended(never, f"site-{n} in train()")) for n in (2, 1)]
    await until(lambda: bool(caplog.messages))
    never.set_result(None)
    assert all([await each for each in waiting])
    assert caplog.messages == ["waiting for site-1 in train(), site-2 in train() to end, without a limit"]


async def test_run_learner_refuses_one_that_is_still_at_it() -> None:
    learner = Stuck()
    worker = Worker(learner, "thread", stopping=Stopping(SOON))
    await cancelled(await training(worker, learner))
    with pytest.raises(UnexpectedMessage, match=r"site-1 is still in train\(\)"):
        await run_learner(learner, ClientParams(), learner_id="site-1")
    learner.may_end.set()
    await until(lambda: not worker.is_given_up)
    await worker.close()


@pytest.mark.parametrize("wrong", [0, -1.0, True, "20", float("inf"), float("nan")])
def test_only_a_time_is_a_limit(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"stop_timeout_secs is .* allowed: a finite number > 0"):
        Stopping(wrong)


def test_a_learner_gives_up_before_its_controller_does() -> None:
    assert STOP_TIMEOUT_S < FAREWELL_S


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_give_results_and_errors_and_are_no_more_than_they_may_be() -> None:
    names = set()

    def fails() -> None:
        raise LookupError

    def names_itself() -> None:
        names.add(threading.current_thread().name)

    with DaemonThreads(2, "some") as threads:
        assert threads.submit(int, "11", base=2).result() == 3
        with pytest.raises(LookupError):
            threads.submit(fails).result()
        for future in [threads.submit(names_itself) for _ in range(10)]:
            future.result()
    assert names <= {"some_0", "some_1"}
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(fails)
    assert not {"some_0", "some_1"} & {thread.name for thread in threading.enumerate()}


def test_threads_that_are_shut_down_cancel_what_has_not_begun_if_asked_to() -> None:
    threads, may_end, has_begun = DaemonThreads(1, "some"), threading.Event(), threading.Event()

    def waits() -> None:
        has_begun.set()
        may_end.wait()

    first, second = threads.submit(waits), threads.submit(int)
    has_begun.wait()
    threads.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    may_end.set()
    first.result()
    threads.shutdown()


def test_a_thread_that_is_left_is_not_waited_for() -> None:
    may_end, has_begun = threading.Event(), threading.Event()

    def waits() -> threading.Thread:
        has_begun.set()
        may_end.wait()
        return threading.current_thread()

    with DaemonThreads(1, "some") as threads:
        left = threads.submit(waits)
        has_begun.wait()
        threads.leave(left)
        threads.leave(threads.submit(int))  # whether it is done or not
    may_end.set()
    left.result().join()
