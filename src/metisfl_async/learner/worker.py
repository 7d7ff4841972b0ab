"""Where a learner's methods run: a thread, a process of their own, or the user's executor. Never the event loop."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine, iscoroutinefunction
from typing import Any, Literal, TypeAlias, TypeVar

from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.ids import TaskId, traceparent_of
from metisfl_async.core.messages import Afterwards, JoinReply, TaskOffer
from metisfl_async.core.model import Bytes, Model
from metisfl_async.learner import calls
from metisfl_async.learner.askable import askable_names, method_of, packed_answer
from metisfl_async.learner.away import (
    call_elsewhere,
    call_in_process,
    check_stateless,
    keep_learner,
    returned,
)
from metisfl_async.learner.forks import leave_to_us, pipes_of
from metisfl_async.learner.learner import Config, Learner
from metisfl_async.learner.outcome import Measured, Trained, checked_evaluation
from metisfl_async.learner.stopping import Stopping
from metisfl_async.learner.threads import DaemonThreads
from metisfl_async.transport.concurrency import call, is_being_cancelled, to_the_end

__all__ = ["Worker", "WorkerKind", "finished"]

logger = logging.getLogger(__name__)

WorkerKind: TypeAlias = Literal["thread", "process"] | Executor
METHODS = ("get_weights", "set_weights", "train", "evaluate")
THREADS = (DaemonThreads, ThreadPoolExecutor)
MOST_TOLD = 100  #: things that are left out, of which one learner's log warns
CLOSED_S = 1.0  #: for a coroutine to end after it was closed
T = TypeVar("T")


class Worker:
    """Calls one learner's methods, one at a time.

    Parameters
    ----------
    learner : Learner
    kind : {"thread", "process"} or concurrent.futures.Executor
        "process" spawns a process that gets a pickled copy of the learner and keeps it: its state lives there from
        then on, until a task is cancelled in the middle, which ends the process, or the process dies; the next task
        gets a new one. An executor of the user's is used, not closed; one of other processes gets a copy for each task,
        so it is refused unless the learner says that it keeps no state.
    name : str, optional
        What the learner is called; without it, as its class.
    stopping : Stopping, optional
        How long a cancelled method is waited for. One that goes on after that is given up: it is left alone, and
        nothing else is asked of the learner before it ends.

    Raises
    ------
    UnexpectedMessage
        If the learner is still in a method that was given up.
    """

    questions_at_once = 1

    def __init__(self, learner: Learner, kind: WorkerKind, *, name: str = "", stopping: Stopping | None = None) -> None:
        self.name = name or type(learner).__name__
        self._learner, self._stopping = learner, stopping or Stopping()
        self._seed: int | None = None  # of the task that is being done
        self._traceparent = ""  # likewise
        self._turn = asyncio.Lock()
        self._method, self._began = "", 0.0  # what has the turn, since when
        self._caller: asyncio.Task[Any] | None = None  # who has it
        self._is_closed = False
        self._process: tuple[ProcessPoolExecutor, int] | None = None  # with its process id
        self._threads: DaemonThreads | None = None
        self._executor: Executor | None = None
        self._spare: Bytes | None = None  # the last update's buffer
        self._told: set[str] = set()  # what was left out, and warned of
        if isinstance(kind, Executor):
            self._executor = kind
            if isinstance(kind, ProcessPoolExecutor):
                check_stateless(learner)
        elif kind == "thread":
            self._executor = self._threads = DaemonThreads(1, "metisfl-learner")
        elif kind == "process":
            methods = (*METHODS, *askable_names(type(learner)))
            if asynchronous := [name for name in methods if iscoroutinefunction(getattr(learner, name))]:
                allowed = f"'thread' or an Executor: {asynchronous[0]}() is async, which runs on the event loop"
                raise ConfigError("worker", kind, allowed)
        else:
            raise ConfigError("worker", kind, "'thread', 'process', or a concurrent.futures.Executor")
        self._check_free()

    @property
    def was_trained(self) -> bool:
        """Whether the learner has trained, or taken over weights, before; in a new process, it is as it was made."""
        is_new = self._executor is None and self._process is None
        return self._learner.was_trained and not is_new

    def joined(self, reply: JoinReply) -> None:
        self.name = reply.learner_id

    def begin(self, offer: TaskOffer) -> None:
        self._seed = offer.seed or None
        self._traceparent = traceparent_of(offer.model.federation_id, offer.task_id)

    async def get_weights(self) -> Model:
        async with self._alone("get_weights"):
            if iscoroutinefunction(self._learner.get_weights):
                return await self._run(calls.pack_weights, await self._finish(self._learner.get_weights()))
            return await self._run(calls.get_weights)

    async def set_weights(self, model: Model) -> None:
        async with self._alone("set_weights"):
            if iscoroutinefunction(self._learner.set_weights):
                await self._finish(self._learner.set_weights(await self._run(calls.copied, model)))
            else:
                again, self._spare = self._spare, None
                self._spare = await self._run(calls.set_weights, model, again)
            self._learner.was_trained = True

    async def take_final(self, model: Model, then: Afterwards) -> None:
        await self.set_weights(model)

    async def train(self, model: Model, config: Config) -> Trained:
        async with self._alone("train"):
            again, self._spare = self._spare, None
            if iscoroutinefunction(self._learner.train):
                self._learner.was_trained = True
                result = await self._finish(
                    self._learner.train(await self._run(calls.copied, model, again), calls.own(config))
                )
                trained = await self._run(calls.pack_result, result, model.manifest, dict(config))
            else:
                trained = await self._run(calls.train, model, config, again)
            self._tell_left_out(trained.left_out)
            return trained

    def settled(self, task_id: TaskId, refusal: str | None) -> None:
        """Do nothing: a learner is not told."""

    def recycle(self, update: Model) -> None:
        """Take back an update that nobody needs any more: the learner's next copy of a model is made there."""
        if isinstance(self._executor, THREADS):  # others have memory of their own
            self._spare = update.buffer

    async def evaluate(self, model: Model, config: Config) -> Measured:
        async with self._alone("evaluate"):
            if iscoroutinefunction(self._learner.evaluate):
                metrics = await self._finish(
                    self._learner.evaluate(await self._run(calls.copied, model), calls.own(config))
                )
                measured = checked_evaluation(metrics, config)
            else:
                again, self._spare = self._spare, None
                measured, self._spare = await self._run(calls.evaluate, model, config, again)
            self._tell_left_out(measured.left_out)
            return measured

    async def ask(self, method: str, params: Config, due_at: float) -> str | None:
        """Call an askable method once the learner is free; None if that is too late for whoever asked."""
        called = method_of(self._learner, method)
        async with self._alone(method):
            if asyncio.get_running_loop().time() >= due_at:
                return None
            if iscoroutinefunction(called):
                return packed_answer(method, await self._finish(called(calls.own(params))))
            return await self._run(calls.ask, method, params)

    def _tell_left_out(self, left_out: dict[str, str]) -> None:
        """Warn once of each thing that the learner says and nobody can use."""
        for what, why in left_out.items():
            if what not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(what)
                logger.warning("%s: %s is left out: it is %s", self.name, what, why)

    async def close(self) -> None:
        """End the thread or process, when what runs in it has ended; nothing more begins."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stopping.timeout_s), self._turn:
                pass
        if self._turn.locked() and self._caller is not None:  # whoever that is; our client has ended
            self._caller.cancel()
        async with self._turn:
            self._end_process()
            if self._threads is not None:
                self._threads.shutdown()

    @property
    def is_given_up(self) -> bool:
        """Whether the learner is still in a method that did not end when it was told to."""
        return self._learner.given_up is not None

    def _check_free(self) -> None:
        if (given_up := self._learner.given_up) is not None:
            method, began = given_up
            raise UnexpectedMessage(
                f"{self.name} is still in {method}(), which was called {_now() - began:.0f} s ago and did "
                "not end when it was told to; until it has, nothing else is asked of this learner"
            )

    @asynccontextmanager
    async def _alone(self, method: str) -> AsyncIterator[None]:
        async with self._turn:
            if self._is_closed:
                raise UnexpectedMessage("the learner has left")
            self._check_free()
            self._method, self._began, self._caller = method, _now(), asyncio.current_task()
            self._learner.task_seed, self._learner.traceparent = self._seed, self._traceparent
            yield

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        """Call ``function(learner, *args)`` in the worker.

        A thread cannot be stopped from outside: when cancelled, `Learner.is_cancelled` is set and the thread waited
        for, until it is given up. A process is ended. What has not begun never begins.
        """
        if isinstance(self._executor, THREADS):
            return await self._outcome(self._executor.submit(call, function, self._learner, *args))
        if self._executor is not None:
            there = partial(call_elsewhere, os.getpid(), function, self._learner)
            return returned(await self._outcome(self._executor.submit(there, *args)))
        if self._process is None:
            with ThreadPoolExecutor(1, "metisfl-spawn") as starter:
                await to_the_end(_result(starter.submit(self._start_process)))
        assert self._process is not None
        try:
            facts = self._seed, self._traceparent
            return returned(await self._outcome(self._process[0].submit(call_in_process, facts, function, *args)))
        except BrokenExecutor:
            self._end_process()
            raise

    def _start_process(self) -> None:
        """Start the process; in a thread, since the learner is written into a pipe that is read seconds later."""
        context = multiprocessing.get_context("spawn")  # forking after gRPC or TensorFlow ran hangs
        pool = ProcessPoolExecutor(1, context, keep_learner, (self._learner,))
        try:
            process_id = pool.submit(os.getpid).result()
            pool.submit(leave_to_us, pipes_of(pool, process_id)).result()
            self._process = pool, process_id
        except BrokenExecutor as error:
            raise RuntimeError(
                "the learner's process did not start (stderr says why); its class must be in a module that can be "
                'imported, not in a notebook cell, and a script must start under `if __name__ == "__main__":`'
            ) from error
        finally:
            if self._process is None:
                pool.shutdown()

    async def _outcome(self, work: Future[T]) -> T:
        future = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not is_being_cancelled():
                raise RuntimeError("the executor was shut down before it came to this") from None
            self._learner.is_cancelled = True
            if self._process is None:
                work.cancel()
            else:  # a pool that ends stumbles over work that was cancelled, and leaves its process behind
                self._end_process()
            if not await self._has_ended(future):
                if isinstance(self._executor, DaemonThreads):
                    self._executor.leave(work)
                self._give_up(work)
                future.cancel()
            elif not future.cancelled():
                future.exception()  # nobody else looks at it
            raise
        finally:
            if not self.is_given_up:
                self._learner.is_cancelled = False

    async def _finish(self, users: Coroutine[Any, Any, T]) -> T:
        """Await a user's coroutine. One that goes on when it is cancelled is closed in the end."""
        coroutine = finished(users)
        task = asyncio.create_task(coroutine, name=f"{self.name}-{self._method}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._learner.is_cancelled = True
            task.cancel()
            if not await self._has_ended(task):
                with suppress(RuntimeError):  # it ignores that as well
                    coroutine.close()
                task.cancel()
                await asyncio.wait([task], timeout=CLOSED_S)
            if not task.done():
                self._give_up(task)
            elif not task.cancelled():
                task.exception()
            raise
        finally:
            if iscoroutine(users) and getcoroutinestate(users) == CORO_CREATED:
                users.close()  # it never began, and never will
            if not self.is_given_up:
                self._learner.is_cancelled = False

    async def _has_ended(self, future: asyncio.Future[Any]) -> bool:
        what = f"{self.name} in {self._method}()"
        if await self._stopping.has_ended(future, what):
            return True
        logger.warning("not waiting any longer for %s, which has run for %.0f s", what, _now() - self._began)
        return False

    def _give_up(self, work: Future[Any] | asyncio.Task[Any]) -> None:
        """Leave the learner alone until it has ended what it does."""
        self._learner.given_up = self._method, self._began
        work.add_done_callback(self._ended_late)

    def _ended_late(self, work: Future[Any] | asyncio.Task[Any]) -> None:
        if not work.cancelled():
            work.exception()  # nobody else looks at it
        self._learner.given_up, self._learner.is_cancelled = None, False
        logger.info("%s has ended after all", self.name)

    def _end_process(self) -> None:
        if self._process is not None:
            (pool, process_id), self._process = self._process, None
            for child in multiprocessing.active_children():  # by now the id may be another process's
                if child.pid == process_id:
                    child.kill()
            # The pool has both ends of the pipe: half a result, of a process that was killed, would never end.
            pool._result_queue._writer.close()  # type: ignore[attr-defined]
            pool.shutdown()


async def finished(users: Coroutine[Any, Any, T]) -> T:
    """Await a user's coroutine; an exit or a cancellation that is its own is an error like any other."""
    try:
        return await users
    except (SystemExit, asyncio.CancelledError) as error:
        if is_being_cancelled():
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _result(work: Future[T]) -> T:
    return await asyncio.wrap_future(work)
