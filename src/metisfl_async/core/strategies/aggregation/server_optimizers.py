"""Server optimizers: the mean of the updates is a direction, and the server takes a step of its own.

References
----------
Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
arXiv:1909.06335: FedAvgM. Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated
Optimization", arXiv:2003.00295, algorithm 2: FedAdagrad, FedYogi and FedAdam.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import number, positive
from metisfl_async.core.errors import NoModel
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import blocks, write_rounded
from metisfl_async.core.strategies.aggregation.lora_stacked import LoRAStacked
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.tree_bagging import TreeBagging
from metisfl_async.core.strategies.aggregation.wrapper import Wrapper

__all__ = ["FedAdagrad", "FedAdam", "FedAvgM", "FedYogi", "ServerOptimizer"]

Floats = NDArray[np.float64]  #: shape (n,)


class ServerOptimizer(Wrapper):
    """Wraps a rule that makes a mean; ``change = mean - G`` is what the optimizer sees.

    Tensors that are not trained (running statistics, say, and integers and booleans always) take the mean as it is. The
    state is float64, as long as what is trained.
    """

    first_states: tuple[float, ...]  #: what each array that the optimizer keeps is filled with; as long as the model

    def __init__(self, rule: AggregationRule | None, learning_rate: float) -> None:
        super().__init__(rule, "a rule that makes a mean of a round's updates, such as FedAvg()")
        positive("learning_rate", learning_rate)
        self.learning_rate = learning_rate
        self.is_mean = self.rule.is_mean and type(self).fold is Wrapper.fold

    @staticmethod
    def takes(rule: AggregationRule) -> bool:
        # A step between the factors, or the trees, of two models is none.
        return rule.starts_afresh and not isinstance(rule, LoRAStacked | TreeBagging)

    def fold_sum(self, partial: PartialSum) -> None:
        self.rule.fold_sum(partial)

    def start(self, model: Model) -> None:
        self.rule.start(model)
        self._model = model
        self._states: list[list[Floats]] = []

    def aggregate(self, version: int) -> Model:
        model = self.rule.aggregate(version)
        runs = model.manifest.trained_runs
        if not self._states:
            counts = [len(run.of(model.buffer)) for run in runs]
            self._states = [[np.full(count, first) for first in self.first_states] for count in counts]
        for run, states in zip(runs, self._states, strict=True):
            out, before = run.of(model.buffer), run.of(self._model.buffer)
            for block in blocks(len(out)):
                latest = before[block].astype(np.float64)
                change = out[block].astype(np.float64) - latest
                step = self.step(change, *(state[block] for state in states))
                write_rounded(out[block], latest + self.learning_rate * step)
                if run.dtype == "float64" and not all(np.isfinite(state[block]).all() for state in states):
                    raise NoModel(f"{type(self).__name__} cannot remember a change so large: its square is not finite")
        model.buffer[model.manifest.padding] = 0
        self._model = model
        return model

    def state(self) -> Mapping[str, Array]:
        own = {f"{run}/{index}": part for run, parts in enumerate(self._states) for index, part in enumerate(parts)}
        return own | {f"rule/{name}": values for name, values in self.rule.state().items()}

    def take_back(self, model: Model) -> None:
        super().take_back(model)
        self._model, self._states = model, []

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        self.start(models[-1])
        of_rule = {name.removeprefix("rule/"): values for name, values in state.items() if name.startswith("rule/")}
        self.rule.restore(models, of_rule)
        if own := {name: values for name, values in state.items() if not name.startswith("rule/")}:
            runs, each = len(own) // len(self.first_states), range(len(self.first_states))
            self._states = [[own[f"{run}/{index}"].copy() for index in each] for run in range(runs)]

    @abstractmethod
    def step(self, change: Floats, *states: Floats) -> Floats:
        """Give the step for a block of the model, shape (n,), and bring the states, of the same shape, up to date."""


class FedAvgM(ServerOptimizer):
    """Momentum: ``v = momentum * v + change; G += learning_rate * v``.

    Parameters
    ----------
    rule : AggregationRule, optional
        Makes the mean; FedAvg.
    learning_rate : float
        > 0.
    momentum : float
        In [0, 1).
    """

    def __init__(
        self, rule: AggregationRule | None = None, *, learning_rate: float = 1.0, momentum: float = 0.9
    ) -> None:
        super().__init__(rule, learning_rate)
        number("momentum", momentum, least=0, below=1)
        self.momentum = momentum
        self.first_states = (0.0,)

    def step(self, change: Floats, *states: Floats) -> Floats:
        (velocity,) = states
        velocity *= self.momentum
        velocity += change
        return velocity


class _Adaptive(ServerOptimizer):
    """What FedAdagrad, FedYogi and FedAdam share: all but v, the second moment."""

    def __init__(
        self,
        rule: AggregationRule | None = None,
        *,
        learning_rate: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        super().__init__(rule, learning_rate)
        number("beta_1", beta_1, least=0, below=1)
        number("beta_2", beta_2, least=0, below=1)
        positive("tau", tau)
        self.beta_1, self.beta_2, self.tau = beta_1, beta_2, tau
        self.first_states = (0.0, tau**2)

    def step(self, change: Floats, *states: Floats) -> Floats:
        direction, second = states
        direction *= self.beta_1
        direction += (1.0 - self.beta_1) * change
        self.accumulate(second, change**2)
        step: Floats = direction / (np.sqrt(second) + self.tau)
        return step

    @abstractmethod
    def accumulate(self, second: Floats, square: Floats) -> None:
        """Bring v up to date, in place."""


class FedAdagrad(_Adaptive):
    """Adagrad: ``v += change ** 2``; for the rest see `FedAdam`, whose `beta_2` it does not have."""

    def __init__(
        self,
        rule: AggregationRule | None = None,
        *,
        learning_rate: float = 0.1,
        beta_1: float = 0.0,
        tau: float = 1e-3,
    ) -> None:
        super().__init__(rule, learning_rate=learning_rate, beta_1=beta_1, tau=tau)

    def accumulate(self, second: Floats, square: Floats) -> None:
        second += square


class FedYogi(_Adaptive):
    """Yogi: ``v -= (1 - beta_2) * change ** 2 * sign(v - change ** 2)``; for the rest see `FedAdam`."""

    def accumulate(self, second: Floats, square: Floats) -> None:
        second -= (1.0 - self.beta_2) * square * np.sign(second - square)


class FedAdam(_Adaptive):
    """Adam: ``v = beta_2 * v + (1 - beta_2) * change ** 2``.

    ``m = beta_1 * m + (1 - beta_1) * change; G += learning_rate * m / (sqrt(v) + tau)``, element by element; there is
    no bias correction, as in the paper.

    Parameters
    ----------
    rule : AggregationRule, optional
        Makes the mean; FedAvg.
    learning_rate : float
        > 0.
    beta_1, beta_2 : float
        In [0, 1).
    tau : float
        > 0, how adaptive it is; v begins with ``tau ** 2``.
    """

    def accumulate(self, second: Floats, square: Floats) -> None:
        second *= self.beta_2
        second += (1.0 - self.beta_2) * square
