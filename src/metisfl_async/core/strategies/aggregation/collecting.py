"""What rules share that look at all updates of a model at once: they are kept, and worked on in blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import DTYPES, Array, Bytes, Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, write_rounded
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["MAX_BYTES", "CollectingRule", "by_element", "in_order", "middle"]

MAX_BYTES = 2 * 2**30  #: of updates that are kept for one model, unless users say otherwise
FEWEST = 1024  #: elements of a block, however many updates there are
MOST_SWAPPED = 16  #: rows that are put in order by swapping neighbours; NumPy's sort is faster with more
_WIDER = {"float16": np.float32, "bfloat16": np.float32, "bool": np.uint8}  #: in which values can be compared

Floats = NDArray[np.float64]  #: shape (n,)
OfElements: TypeAlias = Callable[[Array], Floats]  #: makes shape (n,) of the updates' values, shape (updates, n)


class CollectingRule(AggregationRule):
    """A rule that makes a model of all updates at once, each learner's counted once: the latest.

    The scaling factors play no part: a learner says itself how many examples it has, and one that lies would outvote
    the others with a number. The updates are kept in their own dtypes, `max_bytes` of them at most; one more is
    refused.
    """

    is_heavy = True

    def __init__(self, max_bytes: int) -> None:
        integer("max_bytes", max_bytes, 1)
        self._max_bytes = max_bytes  # a limit, and none of what must stay the same when a federation goes on

    def start(self, model: Model) -> None:
        self._latest = model
        self._updates: dict[LearnerId, Model] = {}
        self._free: list[Bytes] = []  # buffers of updates that are in a model by now

    def fold(self, update: Update) -> None:
        size = len(update.model.buffer)
        if update.learner in self._updates:
            buffer = self._updates[update.learner].buffer
        elif (len(self._updates) + 1) * size > self._max_bytes:
            room = f"at least {(len(self._updates) + 1) * size}, to keep one more update of {size} bytes"
            raise ConfigError("max_bytes", self._max_bytes, f"{room}: {type(self).__name__} needs all of them at once")
        else:
            buffer = self._free.pop() if self._free else allocate(size)
        buffer[:] = update.model.buffer
        self._updates[update.learner] = Model(update.model.manifest, buffer, update.model.version)

    def aggregate(self, version: int) -> Model:
        learners = sorted(self._updates)  # so that nothing depends on who came first
        if len(learners) < self.min_updates:
            has = f"{len(learners)} ({', '.join(learners)})" if learners else "none"
            why = f"{type(self).__name__} needs updates of {self.min_updates} learners, and has {has}"
            raise NoModel(why, keeps_updates=True)
        model = Model(self._latest.manifest, allocate(self._latest.manifest.size_bytes), version)
        self.combine(learners, [self._updates[learner] for learner in learners], model)
        model.buffer[model.manifest.padding] = 0
        self._latest = model
        self.discard()
        return model

    def discard(self) -> None:
        self._free += [update.buffer for update in self._updates.values()]
        self._updates.clear()

    @abstractmethod
    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        """Fill a model, all but its padding, from these learners' updates; `_latest` is the one before."""


def by_element(
    updates: Sequence[Model], out: Model, function: OfElements, *, floats: bool = True, others: bool = True
) -> None:
    """Fill a model, element by element, with a function of the updates' values there.

    Parameters
    ----------
    updates : sequence of Model
    out : Model
        Rounded to its dtypes, as all rules do.
    function : callable
        Gets values of shape (updates, n), in a dtype that they can be compared in, and may change them; gives float64
        of shape (n,). It is called for one block after another, in several threads.
    floats, others : bool
        Whether to fill the tensors of floats, and those of integers and booleans.
    """
    for run in out.manifest.runs:
        if others if DTYPES[run.dtype].kind in "iub" else floats:
            values, target = [run.of(update.buffer) for update in updates], run.of(out.buffer)
            spread(partial(_fill, values, target, function), len(target))


def _fill(values: Sequence[Array], out: Array, function: OfElements, part: slice) -> None:
    length = max(BLOCK // len(values), FEWEST)
    dtype = _WIDER.get(out.dtype.name, out.dtype)
    for start in range(part.start, part.stop, length):
        block = slice(start, min(start + length, part.stop))
        rows = np.empty((len(values), block.stop - block.start), dtype)
        for row, each in zip(rows, values, strict=True):
            row[...] = each[block]
        write_rounded(out[block], function(rows))


def in_order(values: Array) -> Array:
    """Put each column of values of shape (updates, n) in order, in place."""
    count = len(values)
    if count > MOST_SWAPPED:
        values.sort(axis=0)
        return values
    lower = np.empty_like(values[0])
    for turn in range(count):  # odd-even transposition: neighbours are swapped, so many times
        for row in range(turn % 2, count - 1, 2):
            np.minimum(values[row], values[row + 1], out=lower)
            np.maximum(values[row], values[row + 1], out=values[row + 1])
            values[row] = lower
    return values


def middle(values: Array) -> Floats:
    """Give the median of each column; of an even number of values, the mean of the middle two."""
    ordered, count = in_order(values), len(values)
    median: Floats = (ordered[(count - 1) // 2].astype(np.float64) + ordered[count // 2]) / 2
    return median
