"""Learners that workers of a simulation make; in a module of their own, which the workers import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import cast

import numpy as np

from metisfl_async import Learner
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

SIZE = 1_000


class Draws(Learner):
    """Adds to the weights what its number and the task's seed say, so that all updates differ in all digits."""

    def __init__(self, number: int, size: int = SIZE) -> None:
        super().__init__(num_training_examples=10 + number % 7)
        self.number, self.size = number, size
        self.has_weights = False

    def get_weights(self) -> list[Array]:
        return [np.random.default_rng(self.number).standard_normal(self.size).astype(np.float32)]

    def set_weights(self, parameters: list[Array]) -> None:
        self.has_weights = True

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        assert self.has_weights
        change = np.random.default_rng([self.number, self.task_seed or 0]).standard_normal(self.size)
        parameters[0] += change.astype(np.float32) * np.float32(0.1)
        return parameters, {"loss": float(self.number)}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"mean": float(parameters[0].mean())}


class DrawsOnLoop(Draws):
    """The same with coroutines."""

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        return super().train(parameters, config)


class Fails(Draws):
    """One in three cannot train, each in its own way."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        match self.number:
            case 1:
                raise ValueError("no data here")
            case 4:
                raise SystemExit("leaving")
            case 7:
                parameters[0][3] = np.nan
            case 10:
                self.num_training_examples = None
        return super().train(parameters, config)


class Dies(Draws):
    """Number 2 takes its process along, always; number 1 the first time."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        before = Path(str(config["directory"])) / "died"
        if self.number == 2 or (self.number == 1 and not before.exists()):
            if self.number == 1:
                before.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(parameters, config)


class DiesBeforeItsChild(Draws):
    """Number 1 takes its process along, but not one that it has forked, and which ends much later."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if self.number == 1:
            if not os.fork():
                with (Path(str(config["directory"])) / "children").open("a") as children:
                    print(os.getpid(), file=children)
                time.sleep(600)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(parameters, config)


class Hangs(Draws):
    """Number 0 trains for ever."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        while self.number == 0:
            time.sleep(0.1)
        return super().train(parameters, config)


class Batches(Draws):
    """Trains whole epochs of ten batches, or as many batches as it is told to, and says how fast its machine is."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        began_at, batches = time.perf_counter(), cast("int", config.get("num_local_updates", 10))
        super().train(parameters, config)
        ms_per_batch = 1e3 * (time.perf_counter() - began_at) / batches
        timings = {"processing_ms_per_batch": ms_per_batch, "processing_ms_per_epoch": ms_per_batch * 10}
        return parameters, {}, {"num_completed_batches": batches, **timings}


class Counts(Draws):
    """Says in which process it is, and how many learners were alive there."""

    alive = 0

    def __init__(self, number: int) -> None:
        super().__init__(number)
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        super().train(parameters, config)
        return parameters, {"alive": self.alive, "process": os.getpid()}


def large(number: int) -> Learner:
    """Make one whose models go by file."""
    return Draws(number, 100_000)


class InFloat64(Draws):
    """All digits count."""

    def get_weights(self) -> list[Array]:
        return [np.random.default_rng(self.number).standard_normal(self.size)]

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        parameters[0] += np.random.default_rng([self.number, self.task_seed or 0]).standard_normal(self.size)
        return parameters, {}, {"num_training_examples": 1.0 + self.number / 7}


def in_float64(number: int) -> Learner:
    return InFloat64(number)


def not_one(number: int) -> Learner:
    return "a learner"  # type: ignore[return-value]


class Kept(Draws):
    """Says how many learners its process has made."""

    keeps_state = False
    made = 0

    def __init__(self, number: int) -> None:
        super().__init__(number)
        type(self).made += 1

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        super().train(parameters, config)
        return parameters, {}, {"made": self.made}


class Remembers(Draws):
    """Adds a part of its own, which grows, and is half-changed when its training fails."""

    own_size = SIZE

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.own: Array = np.zeros(self.own_size, np.float32)

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.own = self.own + np.float32(1 + self.number)
        if self.number == 3 and config["round_number"] == 2:
            self.own = self.own - np.float32(1 + self.number)
            raise ValueError("no luck")
        super().train(parameters, config)
        parameters[0] += self.own[: self.size]
        return parameters, {}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"own": float(self.own.mean())}

    def state(self) -> bytes:
        return self.own.tobytes()

    def restore(self, state: bytes) -> None:
        self.own = np.frombuffer(state, np.float32)


class RemembersMuch(Remembers):
    """Its state goes by file."""

    own_size = 50_000


class Waits(Draws):
    """Says where it trains, and goes on once it may."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        directory = Path(str(config["directory"]))
        (directory / str(os.getpid())).touch()
        while not (directory / "go").exists():
            time.sleep(0.01)
        return super().train(parameters, config)
