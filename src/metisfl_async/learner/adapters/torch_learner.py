"""A learner around a PyTorch module."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json, Metrics, weighted_means
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.federated import Federated, chosen
from metisfl_async.learner.adapters.options import check_shapes, checked_mu, learning_rate_of, only, whole_number
from metisfl_async.learner.adapters.torch_parts import array_of, tensor_of, torch_proximal_term
from metisfl_async.learner.learner import Config, Learner

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]

__all__ = ["TorchLearner"]


class TorchLearner(Learner):
    """Trains a PyTorch module on the device that it is on. Its weights are its `state_dict`, or a part of it.

    Needs PyTorch: ``pip install "metisfl-async[torch]"``.

    Parameters
    ----------
    model : torch.nn.Module
    train_data, test_data : tuple (x, y) of tensors or arrays, or torch.utils.data.Dataset
        A data set gives (input, target) for a number, and has a length.
    loss : callable
        From the model's outputs and the targets of a batch to the mean loss, such as ``torch.nn.CrossEntropyLoss()``.
    optimizer : callable
        From parameters to an optimizer, such as ``functools.partial(torch.optim.SGD, lr=0.1)``. It is called once: what
        an optimizer remembers stays with the learner.
    metrics : dict from names to callables, optional
        What to measure besides the loss, each like `loss`: a mean over the batch.
    federated : {"all", "trainable"}, list of str, or callable
        Which tensors of the `state_dict` are the federation's: all, buffers included; those that are trained, as with
        LoRA or frozen layers; those of these names, or that match these patterns (``"body.*"``); or those for whose
        name the function gives true. The rest stays with the learner, trained or not.
    seed : int, optional
        Of the order of training examples. PyTorch's own random generator is not touched.

    Notes
    -----
    `train` takes "batch_size", "epochs", "num_local_updates", "learning_rate" (of all parameter groups) and
    "proximal_mu" (see `torch_proximal_term`), `evaluate` "batch_size"; also lists "metrics" and "metadata" of names
    that the result must have. Other keys are refused. Metrics of training are means over the batches of the last epoch,
    or of as many batches.
    """

    train_keys: ClassVar[frozenset[str]] = frozenset(
        {"batch_size", "epochs", "num_local_updates", "learning_rate", "proximal_mu", "metrics", "metadata"}
    )

    def __init__(
        self,
        model: torch.nn.Module,
        train_data: object,
        test_data: object,
        *,
        loss: Loss,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        metrics: Mapping[str, Metric] | None = None,
        federated: Federated = "all",
        seed: int | None = None,
    ) -> None:
        self.train_data, self.test_data = _checked("train_data", train_data), _checked("test_data", test_data)
        super().__init__(num_training_examples=_length(self.train_data))
        self.model, self.loss, self.metrics = model, loss, dict(metrics or {})
        self.optimizer = optimizer(model.parameters())
        self._names = chosen(federated, list(model.state_dict()), self._trained())
        self._rng = np.random.default_rng(seed)

    def weight_names(self) -> list[str]:
        return self._names

    def untrained_names(self) -> list[str]:
        trained = self._trained()
        return [name for name in self._names if name not in trained]

    def _trained(self) -> set[str]:
        import torch

        state = self.model.state_dict(keep_vars=True)
        return {name for name, value in state.items() if isinstance(value, torch.Tensor) and value.requires_grad}

    def get_weights(self) -> list[Array]:
        state = self.model.state_dict()
        return [array_of(state[name]) for name in self._names]

    def set_weights(self, parameters: list[Array]) -> None:
        state = self.model.state_dict()
        check_shapes([p.shape for p in parameters], {name: tuple(state[name].shape) for name in self._names})
        given = dict(zip(self._names, map(tensor_of, parameters), strict=True))
        self.model.load_state_dict(given, strict=False)  # what is not the federation's stays

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        only(config, self.train_keys)
        num_examples = _length(self.train_data)
        budget = BatchBudget(config, num_examples=num_examples, is_cancelled=lambda: self.is_cancelled)
        self.set_weights(parameters)
        proximal_term = torch_proximal_term(self.model, checked_mu(config.get("proximal_mu", 0)))
        measured: deque[tuple[float, Metrics]] = deque(maxlen=budget.batches_per_epoch)
        self.model.train()
        with _learning_rate(self.optimizer, learning_rate_of(config)):
            for rows in budget.shuffled_rows(self._rng):
                inputs, targets = self._batch(self.train_data, rows)
                self.optimizer.zero_grad()
                outputs = self.model(inputs)
                loss = self.loss(outputs, targets)
                (loss + proximal_term()).backward()
                self.optimizer.step()
                measured.append((len(rows), self._measured(loss.detach(), outputs.detach(), targets)))
        return self.get_weights(), weighted_means(measured), budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        import torch

        only(config, {"batch_size", "metrics"})
        size, num_examples = whole_number(config, "batch_size", 32), _length(self.test_data)
        self.set_weights(parameters)
        self.model.eval()
        measured: list[tuple[float, Metrics]] = []
        with torch.inference_mode():
            for start in range(0, num_examples, size):
                rows = np.arange(start, min(start + size, num_examples))
                inputs, targets = self._batch(self.test_data, rows)
                outputs = self.model(inputs)
                measured.append((len(rows), self._measured(self.loss(outputs, targets), outputs, targets)))
        return weighted_means(measured)

    def _batch(self, data: Any, rows: Array) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torch.utils.data import default_collate

        if isinstance(data, tuple):
            inputs, targets = (tensor[torch.from_numpy(rows)] for tensor in data)
        else:
            inputs, targets = default_collate([data[row] for row in rows.tolist()])
        device = next(self.model.parameters()).device
        return inputs.to(device), targets.to(device)

    def _measured(self, loss: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> Metrics:
        others = {name: float(metric(outputs, targets)) for name, metric in self.metrics.items()}
        return {"loss": float(loss), **others}

    def __getstate__(self) -> dict[str, bytes]:
        # Plain pickle copies tensors. multiprocessing's, as PyTorch extends it, would let processes share them.
        return {"copy": pickle.dumps(self.__dict__)}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        self.__dict__.update(pickle.loads(state["copy"]))


@contextmanager
def _learning_rate(optimizer: torch.optim.Optimizer, rate: float | None) -> Iterator[None]:
    """Set the rate that a task asks for, for that task only."""
    own = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] if rate is None else rate
    try:
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = lr


def _checked(field: str, data: Any) -> Any:
    import torch

    if isinstance(data, tuple) and len(data) == 2:
        return tuple(torch.as_tensor(part) for part in data)
    if not isinstance(data, tuple) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return data
    raise ConfigError(field, type(data).__name__, "a tuple (x, y), or a Dataset with __getitem__ and __len__")


def _length(data: Any) -> int:
    return len(data[0] if isinstance(data, tuple) else data)
