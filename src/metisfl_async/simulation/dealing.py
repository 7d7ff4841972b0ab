"""Cuts the tasks of a round into errands, by its learners alone: so what they are is the same for any workers."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from metisfl_async.simulation.errand import Task

__all__ = ["cut"]

ERRANDS = 32  #: into which the tasks of a round are cut, unless there are so many that `MOST_TASKS` cuts them smaller
MOST_TASKS = 8  #: of one errand, or on average where they differ in size


def cut(tasks: Sequence[Task], sizes: Sequence[float] | None, *, is_summed: bool) -> list[Sequence[Task]]:
    """Make errands, in the order in which they are to be done; of one task each, unless their updates are summed."""
    length = min(-(-len(tasks) // ERRANDS), MOST_TASKS) if is_summed else 1
    if sizes is None:
        return [tasks[start : start + length] for start in range(0, len(tasks), length)]
    return _evenly(tasks, sizes, -(-len(tasks) // length))


def _evenly(tasks: Sequence[Task], sizes: Sequence[float], count: int) -> list[Sequence[Task]]:
    """Deal greedily: the largest task first, and each to the errand that has least to do. The longest come first."""
    errands: list[tuple[float, int, list[Task]]] = [(0.0, number, []) for number in range(count)]  # a heap
    for task in sorted(tasks, key=lambda task: (-sizes[task.number], task.number)):
        size, number, dealt = heappop(errands)
        heappush(errands, (size + sizes[task.number], number, [*dealt, task]))
    return [dealt for _, _, dealt in sorted(errands, key=lambda errand: (-errand[0], errand[1]))]
