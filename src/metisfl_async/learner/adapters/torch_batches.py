"""What a PyTorch module is fed with, in batches, and what one batch's loss is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.examples import count_rows, first_leaf, leaves, mapped

if TYPE_CHECKING:
    import torch

__all__ = ["Measure", "TorchData", "for_one_example"]

TARGETS = ("labels", "label", "targets", "target", "y")  #: what a dict's targets may be called

DATA = (
    "arrays in a tuple (x, y) or (x, y, sample_weight), or in a dict; a Dataset with __getitem__ and __len__; "
    "or a DataLoader"
)


class TorchData:
    """A learner's data: arrays, a data set of examples, or a loader of batches."""

    def __init__(self, field: str, data: Any) -> None:
        import torch
        from torch.utils.data import DataLoader, RandomSampler

        self.field, self.data = field, data
        self.is_batched = isinstance(data, DataLoader)
        self.is_arrays = isinstance(data, tuple | Mapping)
        self._generator: torch.Generator | None = None  # of a loader that would draw with PyTorch's own
        if self.is_batched and data.generator is None:
            self._generator = data.generator = torch.Generator()
            if isinstance(data.sampler, RandomSampler) and data.sampler.generator is None:
                data.sampler.generator = self._generator
        if self.is_arrays:
            self.data = mapped(data, torch.as_tensor)
            if isinstance(data, tuple) and len(data) not in (2, 3):
                raise ConfigError(field, f"a tuple of {len(data)}", DATA)
        elif not self.is_batched and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise ConfigError(field, type(data).__name__, DATA)

    def count(self) -> int:
        """Count the examples."""
        if self.is_arrays:
            return count_rows(self.field, self.data)
        if self.num_batches() is not None:
            return len(self.data.dataset)
        return len(self.data)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Go through those that are here already; to ask a data set for an example may open what it reads from."""
        return leaves(self.data if self.is_arrays else getattr(self.data, "tensors", None))

    def seed(self, rng: np.random.Generator) -> None:
        """Have a loader draw its order anew, unless it has a generator of its own."""
        if self._generator is not None:
            self._generator.manual_seed(int(rng.integers(2**63)))

    def num_batches(self) -> int | None:
        """Count the batches of an epoch of a loader; None for data that is not in batches yet."""
        if not self.is_batched:
            return None
        try:
            return len(self.data)
        except TypeError as error:
            raise ConfigError(self.field, "a DataLoader without a length", "one of a data set with __len__") from error

    def rows(self, rows: Array) -> Any:
        """Make a batch of examples by their numbers."""
        import torch
        from torch.utils.data import default_collate

        if self.is_arrays:
            chosen = torch.from_numpy(rows)
            return mapped(self.data, lambda tensor: tensor[chosen])
        return default_collate([self.data[row] for row in rows.tolist()])

    def in_order(self, batch_size: int) -> Iterator[Any]:
        """Go through all batches once, in the order of the data."""
        if self.is_batched:
            yield from self.data
            return
        count = self.count()
        for start in range(0, count, batch_size):
            yield self.rows(np.arange(start, min(start + batch_size, count)))


@dataclass(frozen=True)
class Measure:
    """Makes of a module and a batch the loss, and what else is measured."""

    loss: Callable[[Any, Any], Any] | None
    step: Callable[[Any, Any], Any] | None
    metrics: Mapping[str, Callable[[Any, Any], Any]]

    def __call__(self, model: torch.nn.Module, batch: Any) -> tuple[torch.Tensor, Callable[[], Metrics]]:
        """Give the loss, with its gradient, and a function that measures the rest."""
        if self.step is not None:
            found = self.step(model, batch)
            loss, others = found if isinstance(found, tuple) else (found, {})
            return _scalar("step()", loss), lambda: {name: float(value) for name, value in others.items()}
        inputs, targets, weights = self._parts(batch)
        outputs = _called(model, inputs)
        loss = getattr(outputs, "loss", None) if self.loss is None else None
        outputs = getattr(outputs, "logits", outputs)  # of what Hugging Face's models give
        if loss is None:
            loss = self._loss(outputs, targets, weights)

        def measure() -> Metrics:
            detached = mapped(outputs, lambda tensor: tensor.detach())
            return {name: float(metric(detached, targets)) for name, metric in self.metrics.items()}

        return _scalar("the loss", loss), measure

    def _parts(self, batch: Any) -> tuple[Any, Any, Any]:
        """Tell inputs, targets and weights apart."""
        if isinstance(batch, Mapping):
            name = next((name for name in TARGETS if name in batch), None)
            if self.loss is None or name is None:
                return batch, None if name is None else batch[name], None
            return {key: value for key, value in batch.items() if key != name}, batch[name], None
        if isinstance(batch, tuple | list) and len(batch) in (2, 3):
            inputs, targets, weights = (*batch, None)[:3]
            if weights is None or (hasattr(weights, "ndim") and weights.ndim == 1):
                return inputs, targets, weights
        what = f"a {type(batch).__name__}" + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        allowed = (
            "(x, y), (x, y, sample_weight) with a weight for each example, or a dict; several inputs are ((a, b), y). "
            "For others, give step=, a function of the model and a batch that gives the loss"
        )
        raise ConfigError("a batch", what, allowed)

    def _loss(self, outputs: Any, targets: Any, weights: Any) -> Any:
        if self.loss is None:
            raise ConfigError("loss", None, "a function of outputs and targets: the model's outputs have no .loss")
        loss = self.loss(outputs, targets)
        if weights is None:
            return loss
        if getattr(loss, "shape", None) != weights.shape:
            allowed = f"{list(weights.shape)}, one for each example: a loss with reduction='none'"
            raise ConfigError("the shape of the loss", list(getattr(loss, "shape", [])), allowed)
        return (loss * weights).mean()


def _called(model: Any, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _scalar(what: str, loss: Any) -> torch.Tensor:
    import torch

    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ConfigError(what, shape, "a tensor of one number, the mean over the batch")
    return loss


@contextmanager
def for_one_example(model: torch.nn.Module, batch: Any) -> Iterator[None]:
    """Where a batch has one example, normalise it with what is known of others: BatchNorm cannot with itself."""
    import torch

    layers: Iterable[Any] = ()
    if len(first_leaf(batch)) == 1:
        norms = torch.nn.modules.batchnorm._BatchNorm
        layers = [layer for layer in model.modules() if isinstance(layer, norms) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
