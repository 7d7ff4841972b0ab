"""Learners that are simulated: so many, made when they have something to do."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.scaling import ScalingFactor
from metisfl_async.simulation.hands import Borrowed, Hands, Processes
from metisfl_async.simulation.maker import MakeLearner
from metisfl_async.simulation.speeds import OfEach, Speeds, of_each
from metisfl_async.simulation.states import States

__all__ = ["Simulation"]


class Simulation:
    """Many learners in place of a session's list of learners; each exists only while it does a task.

    ::

        def make_learner(number: int) -> Learner:  # called in a worker; data is loaded there
            return MyLearner(load_part(number))

        simulation = Simulation(make_learner, learners=1_000, workers=4)
        session = DriverSession(Controller(controller_config=config), simulation, signals)

    Rules, schedulers, selectors, events and records are the same as with any learners. Where the rule is a weighted
    mean, updates are folded by the workers. The result does not depend on how many workers there are.

    Parameters
    ----------
    make_learner : callable
        ``make_learner(number)`` makes the learner "learner-<number>" for one task, with 0 <= number < `learners`. What
        it remembers is gone after that. The function must be one that a worker can import.
    learners : int
        How many there are.
    workers : int, optional
        How many processes do the work; without it, as many as there are cores.
    executor : concurrent.futures.Executor, optional
        Does the work instead: threads, or processes on other machines. It is not closed.
    sizes : sequence of float, or callable, optional
        What a task of each learner costs, such as its number of examples; or a function of the learner's number. Work
        is dealt to the workers greedily, the largest first.
    speeds : sequence of float, or callable, optional
        How much of that each learner does in a second of the federation's time, which is that of the event loop: it
        trains for ``size / speed`` seconds, whatever the work really takes. With `metisfl_async.testing.run` in place
        of `asyncio.run`, nobody waits for that time.
    cached : int
        How many learners each process keeps, those that worked last, instead of making them for each task. They must
        have `keeps_state = False`, or `keep_state`: a result does not depend on what is kept.
    keep_state : bool or path
        Whether what a learner remembers, its `Learner.state`, is kept from task to task, in files: in a directory that
        is removed at the end, or in this one, from which another run goes on.
    """

    def __init__(
        self,
        make_learner: MakeLearner,
        *,
        learners: int,
        workers: int | None = None,
        executor: Executor | None = None,
        sizes: OfEach | None = None,
        speeds: OfEach | None = None,
        cached: int = 0,
        keep_state: bool | str | Path = False,
    ) -> None:
        if not callable(make_learner):
            raise ConfigError("make_learner", make_learner, "a function that makes the learner of a number")
        integer("learners", learners, 1)
        if workers is not None:
            integer("workers", workers, 1)
        if executor is not None and not isinstance(executor, Executor):
            raise ConfigError("executor", executor, "a concurrent.futures.Executor, or None")
        if executor is not None and workers is not None:
            raise ConfigError("workers", workers, "None with an executor, which has workers of its own")
        integer("cached", cached, 0)
        if cached and executor is not None:
            raise ConfigError("cached", cached, "0 with an executor, whose workers may come and go")
        if speeds is not None and sizes is None:
            raise ConfigError("sizes", sizes, "what a task of each learner costs, with speeds")
        self.sizes = None if sizes is None else of_each("sizes", sizes, learners)
        self.speeds = None if speeds is None else of_each("speeds", speeds, learners)
        self.make_learner, self.ids = make_learner, [LearnerId(f"learner-{number}") for number in range(learners)]
        if not isinstance(keep_state, bool | str | Path):
            raise ConfigError("keep_state", keep_state, "True, False, or a directory")
        self.cached, self.keep_state = cached, keep_state
        self.workers, self.executor = workers or _cores(), executor
        if self._is_elsewhere:
            _check_importable("make_learner", make_learner)

    def __repr__(self) -> str:
        by = f"workers={self.workers}" if self.executor is None else f"executor={type(self.executor).__name__}"
        return f"Simulation({len(self)} learners, {by})"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether workers are known to be other processes."""
        return self.executor is None or isinstance(self.executor, ProcessPoolExecutor)

    def check(self, scaling_factor: str | ScalingFactor) -> None:
        """Refuse what a worker that folds updates could not import."""
        if self._is_elsewhere:
            _check_importable("scaling_factor", scaling_factor)

    def pace(self) -> Speeds | None:
        """Make ready for a run: how long learners take, if they have speeds."""
        if self.sizes is None or self.speeds is None:
            return None
        return Speeds([size / speed for size, speed in zip(self.sizes, self.speeds, strict=True)])

    @contextmanager
    def states(self, writer: Executor) -> Iterator[States | None]:
        """Make ready for a run: what learners remember, if that is kept."""
        if self.keep_state is False:
            yield None
        elif self.keep_state is True:
            with TemporaryDirectory(prefix="metisfl-simulation-") as directory:
                yield States(Path(directory), writer)
        else:
            yield States(Path(self.keep_state), writer)

    def hands(self) -> Hands:
        """Make ready for a run: who does the work."""
        if self.executor is not None:
            return Borrowed(self.make_learner, self.executor)
        return Processes(self.make_learner, self.workers, self.cached)


def _check_importable(field: str, function: object) -> None:
    try:
        pickle.dumps(function)
    except Exception as error:  # whatever a user's object raises
        allowed = f"a function of a module, or another object that can be pickled ({error})"
        raise ConfigError(field, function, allowed) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
