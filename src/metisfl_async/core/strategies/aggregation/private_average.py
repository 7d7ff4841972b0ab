"""PrivateAverage: a mean with noise, from which little can be learned about any one learner."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer, number, positive
from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array, Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import Floats, blocks, write_rounded
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.spreading import spread
from metisfl_async.core.strategies.privacy import epsilon_of

__all__ = ["PrivateAverage"]

LEAST_DELTA = 1e-10  #: below that, rounding would show in epsilon
RELEASES = "releases"  #: the name in its state
MOST_NOISE = 1e6  #: times `clip`; more noise, and less, is a slip of the pen
LEAST_NOISE = 1e-3


class PrivateAverage(AggregationRule):
    """``G + (sum(clipped(w_k - G)) + noise) / denominator``, where noise ~ N(0, (noise_multiplier * clip)**2).

    Each learner's change is shortened to a norm of at most `clip`, and every learner weighs the same. So one learner
    moves the sum by at most `clip`, whatever its data are: that is the sensitivity, when a learner's change is there or
    is not. The denominator is fixed, so that it says nothing about who took part. Only tensors that are trained change;
    all others, such as integers and running statistics, stay as they are in the first model.

    The privacy spent counts every model that was made, as if each learner had been in all of them: drawing a part of
    the learners makes the promise no stronger here. `docs/privacy.md` says what is promised, and what is not.

    Parameters
    ----------
    clip : float
        > 0, in the units of the model: the longest change that counts whole.
    noise_multiplier : float
        In [0.001, 1e6]: the standard deviation of the noise on the sum, in units of `clip`.
    denominator : int
        >= 1: how many learners are expected in a round. When fewer report, the model takes a shorter step.
    delta : float
        In [1e-10, 1): well below one over the number of learners.
    max_epsilon : float, optional
        The federation ends before a model that would spend more.
    seed : int, optional
        >= 0, for tests only: whoever knows it can take the noise away. Without it, the noise is made of random bytes of
        the operating system, and nobody can make it again.

    References
    ----------
    McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", arXiv:1710.06963,
    algorithm 1 with flat clipping and the estimator with a fixed denominator.
    """

    in_rounds = True  # all updates of a model start from the model before
    is_heavy = True
    is_private = True

    def __init__(
        self,
        clip: float,
        noise_multiplier: float,
        denominator: int,
        delta: float,
        *,
        max_epsilon: float | None = None,
        seed: int | None = None,
    ) -> None:
        positive("clip", clip)
        number("noise_multiplier", noise_multiplier, least=LEAST_NOISE, below=MOST_NOISE)
        integer("denominator", denominator, 1)
        number("delta", delta, least=LEAST_DELTA, below=1)
        if seed is not None:
            integer("seed", seed, 0)
        self.clip, self.noise_multiplier, self.denominator = clip, noise_multiplier, denominator
        self.delta, self.max_epsilon, self.seed = delta, max_epsilon, seed
        if max_epsilon is not None:
            positive("max_epsilon", max_epsilon)
            if (least := self._epsilon(1)) > max_epsilon:
                raise ConfigError("max_epsilon", max_epsilon, f"at least {least:.6g}, which the first model spends")

    def start(self, model: Model) -> None:
        self._model, self._releases = model, 0
        self._sums: list[Floats] = []  # one for each run that is trained
        self._notes: dict[LearnerId, dict[str, Json]] = {}
        self.discard()

    def fold(self, update: Update) -> None:
        if update.learner in self._folded:  # else it could move the sum by more than `clip`
            raise ConfigError("update", f"another one of {update.learner}", "one of each learner in a round")
        norm = self._norm(update.model)
        share = min(1.0, self.clip / norm) if norm else 1.0
        if not self._folded:
            runs = self._model.manifest.trained_runs
            self._sums = self._sums or [np.empty(run.count) for run in runs]
            for total in self._sums:
                total.fill(0)
        # Before it is added: if that fails halfway, what is in the sum is no longer than `clip`, and no more comes.
        self._folded[update.learner] = {"clipped_from": norm, "clipped_to": self.clip} if norm > self.clip else {}
        for total, (before, after) in zip(self._sums, self._pairs(update.model), strict=True):
            spread(partial(_add_change, total, before, after, share), len(total))

    def aggregate(self, version: int) -> Model:
        assert self._folded, "nothing was added"
        spent = self._epsilon(self._releases + 1)
        if self.max_epsilon is not None and spent > self.max_epsilon:
            allowed = f"max_epsilon={self.max_epsilon:g} allows no other model"
            raise NoModel(f"another model would spend epsilon={spent:.6g}; {allowed}")
        model = Model(self._model.manifest, allocate(len(self._model.buffer)), version)
        model.buffer[:] = self._model.buffer
        random_bytes = self._random_bytes()
        deviation = self.noise_multiplier * self.clip
        # From here on it counts, even if nobody comes to see the model: the noise is never used for another one.
        self._releases += 1
        for total, run in zip(self._sums, model.manifest.trained_runs, strict=True):
            out = run.of(model.buffer)
            for block in blocks(len(out)):
                noise = deviation * normal(block.stop - block.start, random_bytes)
                write_rounded(out[block], out[block].astype(np.float64) + (total[block] + noise) / self.denominator)
        model.buffer[model.manifest.padding] = 0
        self._model = model
        self._notes = {learner: notes for learner, notes in self._folded.items() if notes}
        self.discard()
        return model

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self._notes

    def privacy(self) -> Mapping[str, float]:
        facts = {
            "epsilon": self._epsilon(self._releases),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "clip": self.clip,
            "releases": self._releases,
        }
        if self.max_epsilon is None:
            return facts
        return facts | {"max_epsilon": self.max_epsilon, "next_epsilon": self._epsilon(self._releases + 1)}

    def state(self) -> Mapping[str, Array]:
        return {RELEASES: np.array([self._releases], np.int64)}

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        self.start(models[-1])
        # Each version is a model that was made: that many, at least, were published.
        self._releases = max(int(state[RELEASES][0]) if RELEASES in state else 0, models[-1].version)

    def take_back(self, model: Model) -> None:
        self._model = model  # what was spent stays spent
        self.discard()

    def discard(self) -> None:
        self._folded: dict[LearnerId, dict[str, Json]] = {}

    def _epsilon(self, releases: int) -> float:
        return epsilon_of(self.noise_multiplier, releases, self.delta)

    def _pairs(self, model: Model) -> list[tuple[Array, Array]]:
        """Give what is trained in the latest global model, and in another one."""
        return [(run.of(self._model.buffer), run.of(model.buffer)) for run in self._model.manifest.trained_runs]

    def _norm(self, model: Model) -> float:
        """Measure the change; infinite where its square is too large."""
        square = 0.0
        for before, after in self._pairs(model):
            parts: dict[int, float] = {}  # by where they begin: the sum must not depend on which thread is first
            spread(partial(_add_square, parts, before, after), len(before))
            square += sum(parts[start] for start in sorted(parts))
        return float(np.sqrt(square))

    def _random_bytes(self) -> Callable[[int], bytes]:
        if self.seed is None:
            return os.urandom
        return np.random.default_rng([self.seed, self._releases]).bytes  # each model has other noise


def normal(count: int, random_bytes: Callable[[int], bytes]) -> Floats:
    """Draw standard normal numbers, shape (count,), of random bytes: eight for each.

    References
    ----------
    Box, Muller, "A Note on the Generation of Random Normal Deviates", Annals of Mathematical Statistics 29, 1958.
    """
    pairs = -(-count // 2)
    integers: NDArray[np.uint64] = np.frombuffer(random_bytes(16 * pairs), "<u8")
    uniform = ((integers >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0, whose logarithm is infinite
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _add_square(parts: dict[int, float], before: Array, after: Array, part: slice) -> None:
    total = 0.0
    with np.errstate(over="ignore"):
        for block in blocks(part.stop, part.start):
            change = after[block].astype(np.float64) - before[block].astype(np.float64)
            total += float((change * change).sum())
    parts[part.start] = total


def _add_change(total: Floats, before: Array, after: Array, share: float, part: slice) -> None:
    for block in blocks(part.stop, part.start):
        change = after[block].astype(np.float64) - before[block].astype(np.float64)
        change *= share
        total[block] += change
