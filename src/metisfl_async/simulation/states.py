"""What simulated learners remember from task to task: a file each, so that it takes no memory while they are away."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from metisfl_async.simulation.errand import Done, Task
from metisfl_async.simulation.parcel import Parcel

__all__ = ["States"]


class States:
    """Keeps the state of each learner: that of its latest training whose result was handed in.

    Parameters
    ----------
    directory : path
        Where the files are; it is made if it is not there.
    writer : concurrent.futures.Executor
        A thread that reads and writes them, one thing after another.
    """

    def __init__(self, directory: Path, writer: Executor) -> None:
        self._directory, self._writer = directory, writer

    async def given(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Give each task the state of its learner, if that has one."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._given, tasks)

    async def take(self, done: Done) -> None:
        """Keep what learners remember of an errand."""
        if done.states:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._take, done)

    def _given(self, tasks: Sequence[Task]) -> Sequence[Task]:
        return [replace(task, state=self._state(task)) for task in tasks]

    def _state(self, task: Task) -> Parcel | None:
        path = self._path(task)
        return Parcel.lying_at(path) if path.exists() else None

    def _take(self, done: Done) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for task, state in done.states:
            path = self._path(task)
            new = path.with_suffix(".new")
            try:
                if state.path:
                    shutil.move(state.path, new)
                else:
                    state.arrays[0].tofile(new)
                os.replace(new, path)
            except OSError:
                new.unlink(missing_ok=True)  # half of it would take the room of others
                raise

    def _path(self, task: Task) -> Path:
        return self._directory / f"{task.learner}.state"
