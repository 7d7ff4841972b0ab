"""A process that does errands, one at a time.

A pool of `concurrent.futures` would wait for ever for a worker that is killed while it writes a result: it holds both
ends of the pipe itself. Here, the pipe ends with the process, whatever processes a learner has forked in it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from metisfl_async.learner.forks import end_with_ours
from metisfl_async.simulation.errand import Done, Errand
from metisfl_async.simulation.maker import MakeLearner, Maker
from metisfl_async.simulation.work import work_with

__all__ = ["Process", "WorkerDied"]


class WorkerDied(Exception):
    """What did an errand is gone, and so is what came of it."""


class Process:
    """Made when it is needed, and again after it died. `do` blocks; another thread may `end` it meanwhile."""

    def __init__(self, make_learner: MakeLearner, cached: int) -> None:
        self._make_learner, self._cached = make_learner, cached
        self._process: SpawnProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._is_ended = False

    def do(self, errand: Errand) -> Done:
        """Have an errand done.

        Raises
        ------
        WorkerDied
            If the process died, or was ended.
        """
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            if self._is_ended:  # before it was there
                raise EOFError
            self._pipe.send(errand)
            done: Done = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._bury()
            raise WorkerDied from error
        return done

    def end(self) -> None:
        """End what it does."""
        self._is_ended = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process while nothing is being done; if more is to be done, another one is made."""
        if self._process is not None:
            self._bury()
        self._is_ended = False

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # forking after gRPC or TensorFlow ran hangs
        self._pipe, theirs = context.Pipe()
        with theirs:
            process = context.Process(
                target=_serve, args=(theirs, self._make_learner, self._cached), name="metisfl-simulation"
            )
            process.start()
        self._process = process

    def _bury(self) -> None:
        assert self._process is not None
        assert self._pipe is not None
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process = self._pipe = None


def _serve(pipe: Connection[Any, Any], make_learner: MakeLearner, cached: int) -> None:
    """Do errands until the other end is gone."""
    # Ctrl-C in a terminal reaches this process too; it is ours, and we end it when the federation has heard of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_ours()  # also in the middle of an errand
    if hasattr(os, "register_at_fork"):  # else what a learner forks would keep the pipe open when we are gone
        os.register_at_fork(after_in_child=pipe.close)
    maker = Maker(make_learner, cached)
    while True:
        try:
            errand = pipe.recv()
        except EOFError:
            return
        pipe.send(work_with(maker, errand))
