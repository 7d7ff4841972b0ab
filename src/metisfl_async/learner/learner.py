"""The learner that users implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Hashable, Mapping, Sequence, Sized
from typing import TypeAlias

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array

__all__ = ["Config", "Learner", "TrainResult", "examples_of"]

Config: TypeAlias = dict[str, Json]
TrainResult: TypeAlias = (
    "tuple[Sequence[Array], Mapping[str, object]] | tuple[Sequence[Array], Mapping[str, object], Mapping[str, object]]"
)


class Learner(ABC):
    """Holds the data and trains. Subclass it and write four methods, each ``def`` or ``async def``.

    A ``def`` method runs in a worker thread (or process, see `run_learner`), so it may block; an ``async def`` method
    runs on the event loop, so it must not. One method runs at a time. Arrays that are passed in are the learner's own,
    to change as it likes. An exception is reported to the controller as the task's failure; the learner goes on.

    Parameters
    ----------
    num_training_examples : int, optional
        How many examples this learner trains on, for ``scaling_factor="NumTrainingExamples"``. `train` may say it
        instead, as "num_training_examples" in its metadata or its metrics, and then wins. Where nobody says it, it is
        the length of the learner's attribute ``x_train``, if there is one, as in MetisFL's examples.
    """

    num_training_examples: int | None = None
    is_made: bool = True  #: whether its model is there; before, nobody asks for its names
    keeps_state: bool = True  #: whether it remembers things between tasks; if not, any pool of processes may run it
    was_trained: bool = False  #: set once it has trained or taken over weights, which stay for the next federation
    task_seed: int | None = None  #: for what the running task draws: the same in each run with the session's seed
    traceparent: str = ""  #: of the running task: the parent of spans of your own, as W3C Trace Context writes it
    owns_process: bool = False  #: whether nothing else runs here, as with ``worker="process"``
    is_cancelled: bool = False  #: set while the running task is not wanted any more; a long loop may look and return
    given_up: tuple[str, float] | None = None  #: a method that goes on all the same, and its start (loop.time())

    def __init__(self, *, num_training_examples: int | None = None) -> None:
        if num_training_examples is not None:
            if not isinstance(num_training_examples, int | np.integer) or num_training_examples < 1:
                raise ConfigError("num_training_examples", num_training_examples, "an integer >= 1, or None")
            num_training_examples = int(num_training_examples)
        self.num_training_examples = num_training_examples

    def __repr__(self) -> str:
        count = examples_of(self)
        return f"<{type(self).__name__}{'' if count is None else f': {count} training examples'}>"

    @abstractmethod
    def get_weights(self) -> Sequence[Array] | Awaitable[Sequence[Array]]:
        """Give the model's weights. One learner is asked, once, for the weights that the federation starts from."""

    def weight_names(self) -> Sequence[str] | None:
        """Name the arrays of `get_weights`, in their order, for errors and files; None calls them "0", "1", ..."""
        return None

    def untrained_names(self) -> Collection[str]:
        """Name those of them that no gradient steps: running statistics, counters, masks, frozen layers.

        Server optimizers take the mean of those. What the first weights say holds for the federation.
        """
        return ()

    def belongings(self) -> Mapping[Hashable, str]:
        """Name what no other learner of this process may have, such as its model; the keys tell things apart."""
        return {}

    @abstractmethod
    def set_weights(self, parameters: list[Array]) -> Awaitable[None] | None:
        """Take over global weights: the first ones, before any work, and the final ones at the end."""

    @abstractmethod
    def train(self, parameters: list[Array], config: Config) -> TrainResult | Awaitable[TrainResult]:
        """Train from the global weights on the learner's own data.

        Parameters
        ----------
        parameters : list of ndarray
            The global weights, in the shapes and dtypes of `get_weights`.
        config : dict
            `ControllerConfig.train_params`, and "round_number".

        Returns
        -------
        parameters : list of ndarray
            The trained weights: same number, shapes and dtypes.
        metrics : dict of str to float
            Numbers by name, 0-d arrays and tensors among them; of a list with a value for each epoch, such as Keras'
            `history`, the last one counts. A vector becomes "name_0", "name_1", and so on. What is no number is left
            out with a warning; None and strings go to the metadata.
        metadata : dict, optional
            JSON-like; "num_training_examples" and "num_completed_batches" are read by the scaling factors.
        """

    @abstractmethod
    def evaluate(
        self, parameters: list[Array], config: Config
    ) -> Mapping[str, object] | Awaitable[Mapping[str, object]]:
        """Measure the global weights on the learner's own data; `config` is `ControllerConfig.eval_params`.

        "num_examples" among the metrics says on how many examples; where all say it, it weighs the means over learners.
        """

    def state(self) -> bytes | None:
        """Say what it remembers from one training to the next, such as layers of its own and an optimizer's momentum.

        A `Simulation` with `keep_state` asks for it after each training, and gives it back before the next task of this
        learner. None if there is nothing.
        """
        return None

    def restore(self, state: bytes) -> None:  # noqa: B027 - most remember nothing
        """Take up what `state` gave, before `set_weights`."""


def examples_of(learner: Learner) -> int | None:
    """Say how many examples a learner trains on, as far as is known without asking `train`."""
    if learner.num_training_examples is not None:
        return learner.num_training_examples
    x_train: object = getattr(learner, "x_train", None)
    if shape := getattr(x_train, "shape", ()):
        return int(shape[0]) or None
    return len(x_train) or None if isinstance(x_train, Sized) and not hasattr(x_train, "shape") else None
