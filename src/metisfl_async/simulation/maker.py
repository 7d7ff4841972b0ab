"""Makes the learners of a simulation in its worker, and keeps those that were used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from metisfl_async.core.errors import ConfigError
from metisfl_async.learner.learner import Learner

__all__ = ["MakeLearner", "Maker"]

MakeLearner: TypeAlias = Callable[[int], Learner]


class Maker:
    """Gives the learner of a number: a new one, or one that is kept.

    A kept learner must be no other than a new one, or results would depend on which worker had it before. So it
    remembers nothing between tasks, and says so with `keeps_state = False`; or its state is all that it remembers, and
    is given back to it before each task.

    Parameters
    ----------
    make_learner : callable
    cached : int
        How many learners to keep.
    """

    def __init__(self, make_learner: MakeLearner, cached: int = 0) -> None:
        self._make_learner, self._cached = make_learner, cached
        self._kept: OrderedDict[int, Learner] = OrderedDict()  # the one that was used last stands last

    def learner(self, number: int, *, keeps_state: bool, is_new: bool) -> Learner:
        """Give a learner, for one task.

        Parameters
        ----------
        keeps_state : bool
            Whether its state is kept for it, from task to task.
        is_new : bool
            Whether it has no state to be given back.
        """
        learner = self._kept.pop(number, None)
        if learner is None or (keeps_state and is_new):  # a kept one may remember what was not handed in
            learner = self._made(number, keeps_state=keeps_state)
        if self._cached:
            self._kept[number] = learner
            while len(self._kept) > self._cached:
                self._kept.popitem(last=False)
        return learner

    def _made(self, number: int, *, keeps_state: bool) -> Learner:
        learner = self._make_learner(number)
        if not isinstance(learner, Learner):
            raise ConfigError("make_learner", type(learner).__name__, "a function that gives a Learner")
        if self._cached and learner.keeps_state and not keeps_state:
            allowed = "0, or a learner with keeps_state = False: what it remembers between tasks must be nothing"
            raise ConfigError("cached", self._cached, allowed)
        if keeps_state and (type(learner).state is Learner.state or type(learner).restore is Learner.restore):
            raise ConfigError("keep_state", type(learner).__name__, "a learner with `state` and `restore`")
        return learner
