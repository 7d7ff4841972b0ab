"""A learner's process ends with its session's, and nobody waits for what it has forked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from federations import PATIENCE_S, Adds, is_alive, nothing_left_behind, until

from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.worker import Worker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")

MODEL = Model.from_arrays(Adds(1).get_weights())


class Forks(Adds):
    """Forks, or starts a program in the background, and is killed, or trains for ever."""

    def __init__(self, children: Path, how: str, dies: bool) -> None:
        super().__init__(1)
        self.children, self.how, self.dies = children, how, dies

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if self.how == "system":
            os.system(f"sleep 600 & echo $! > {self.children}.new && mv {self.children}.new {self.children}")
        elif child := os.fork():
            self.children.with_suffix(".new").write_text(str(child))
            self.children.with_suffix(".new").rename(self.children)
        else:
            time.sleep(600)
            os._exit(0)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        raise AssertionError


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("how", ["fork", "system"])
async def test_what_a_learners_process_has_forked_is_not_waited_for(tmp_path: Path, how: str, dies: bool) -> None:
    children = tmp_path / "children"
    try:
        async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
            worker = Worker(Forks(children, how, dies), "process")
            training = asyncio.create_task(worker.train(MODEL, {}))
            await until(children.exists)
            if not dies:
                training.cancel()
            await asyncio.wait([training])
            assert training.cancelled() != dies
            if dies:
                assert type(training.exception()).__name__ == "BrokenProcessPool"
            assert (await worker.get_weights()).arrays()[1] == 1  # in another process
            await worker.close()
        os.kill(int(children.read_text()), 0)  # it is still there
    finally:
        os.kill(int(children.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("how", ["process", "simulation"])
async def test_a_learners_process_ends_with_that_of_its_session_though_it_is_killed(tmp_path: Path, how: str) -> None:
    pid, program = tmp_path / "pid", Path(__file__).with_name("left_alone.py")
    async with asyncio.timeout(PATIENCE_S):
        facts = {**os.environ, "PID": str(pid)}
        session = await asyncio.create_subprocess_exec(sys.executable, program, how, env=facts)
        await until(pid.exists)
        session.kill()
        await session.wait()
        await until(lambda: not is_alive(int(pid.read_text())))
