"""A learner around a PyTorch module."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics, weighted_means
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.alone import alone_with
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.examples import first_leaf, mapped
from metisfl_async.learner.adapters.federated import Federated, check_federated, chosen, personal_metrics
from metisfl_async.learner.adapters.needed import needed
from metisfl_async.learner.adapters.options import (
    KEYS,
    check_schedule,
    check_shapes,
    checked_mu,
    generator_of,
    learning_rate_of,
    max_grad_norm_of,
    only,
    whole_number,
)
from metisfl_async.learner.adapters.seeds import torch_seeded
from metisfl_async.learner.adapters.torch_batches import Measure, TorchData, for_one_example
from metisfl_async.learner.adapters.torch_parts import (
    array_of,
    check_carried,
    checked_device,
    checked_factory,
    made_optimizer,
    seed_torch,
    tensor_of,
    torch_proximal_term,
    trained_names,
)
from metisfl_async.learner.adapters.torch_state import restore_torch, state_of_torch
from metisfl_async.learner.learner import Config, Learner

if TYPE_CHECKING:
    import torch

    Loss = Callable[[Any, Any], torch.Tensor]
    Metric = Callable[[Any, Any], torch.Tensor | float]
    Step = Callable[[torch.nn.Module, Any], torch.Tensor | tuple[torch.Tensor, Mapping[str, float]]]

__all__ = ["TorchLearner"]


class TorchLearner(Learner):
    """Trains a PyTorch module on the device that it is on. Its weights are its `state_dict`, or a part of it.

    Needs PyTorch: ``pip install torch``.

    Parameters
    ----------
    model : torch.nn.Module or callable
        A module, or a function that makes one; the function is called where the model is first needed, which with
        ``worker="process"`` is that process, and draws its weights with the seed.
    train_data, test_data : tuple or dict of arrays or tensors, torch.utils.data.Dataset, or DataLoader
        ``(x, y)``, ``(x, y, sample_weight)``, or a dict whose keys are the arguments of the model and "labels". x and y
        may be tuples or dicts themselves, for several inputs and outputs. A data set gives an example of such a form
        for a number, and has a length; a loader gives batches of it.
    loss : callable, optional
        From the model's outputs and the targets of a batch to the mean loss, such as ``torch.nn.CrossEntropyLoss()``;
        with sample weights, to one number for each example (``reduction="none"``). Not needed where the model's outputs
        have a ``.loss``, as Hugging Face's do with labels; of their outputs, ``.logits`` are what is measured.
    step : callable, optional
        Where nothing of this fits, in place of `loss`: from the model and a batch to the mean loss, or to a tuple of
        that and a dict of what else was measured.
    optimizer : callable
        From parameters to an optimizer, such as ``functools.partial(torch.optim.SGD, lr=0.1)``. It is called once: what
        an optimizer remembers stays with the learner.
    metrics : dict from names to callables, optional
        What to measure besides the loss, each like `loss`: a mean over the batch.
    federated : {"all", "trainable"}, list of str, or callable
        Which tensors of the `state_dict` are the federation's: all, buffers included; those that are trained, as with
        LoRA or frozen layers; those of these names, or that match these patterns (``"body.*"``); or those for whose
        name the function gives true. The rest stays with the learner, trained or not.
    learning_rate : callable, optional
        From a round's number to the rate of that round, for all parameter groups.
    device : str or torch.device, optional
        Where to move the model; without it, it stays where it is. Batches follow it.
    num_training_examples : int, optional
        For a DataLoader that draws another number of examples than its data set has.
    seed : int, optional
        Of the order of training examples, and of the model that a function makes. Without one, it follows from the
        session's seed and the learner's id. PyTorch's own random generator, with which dropout draws, is touched only
        with ``worker="process"``, where nobody else has it.

    Notes
    -----
    `train` takes "batch_size", "epochs", "num_local_updates", "learning_rate" (of all parameter groups),
    "max_grad_norm" and "proximal_mu" (see `torch_proximal_term`), `evaluate` "batch_size"; also lists "metrics" and
    "metadata" of names that the result must have. Other keys are refused. Metrics of training are means over the
    batches of the last epoch, or of as many batches. Where a tensor that is trained stays with the learner, they have
    what its own model reaches on the test data after training, too, with "personal/" before the names.
    """

    train_keys: ClassVar[frozenset[str]] = KEYS | {"proximal_mu", "max_grad_norm"}

    def __init__(
        self,
        model: torch.nn.Module | Callable[[], torch.nn.Module],
        train_data: object,
        test_data: object,
        *,
        loss: Loss | None = None,
        step: Step | None = None,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        metrics: Mapping[str, Metric] | None = None,
        federated: Federated = "all",
        learning_rate: Callable[[int], float] | None = None,
        device: str | torch.device | None = None,
        num_training_examples: int | None = None,
        seed: int | None = None,
    ) -> None:
        needed("torch", "torch")
        import torch

        check_federated(federated)
        check_schedule(learning_rate)
        self._schedule, self._device = learning_rate, checked_device(device)
        self._train_data, self._test_data = TorchData("train_data", train_data), TorchData("test_data", test_data)
        if metrics is not None and not isinstance(metrics, Mapping):
            raise ConfigError("metrics", metrics, "a dict from names to functions of outputs and targets, or None")
        for name, function in (("loss", loss), ("step", step), *(metrics or {}).items()):
            if function is not None and not callable(function):
                raise ConfigError(name, function, "a function")
        num_examples = self._train_data.count()
        super().__init__(num_training_examples=num_training_examples or num_examples)
        if loss is not None and step is not None:
            raise ConfigError("step", step, "None with a loss: it gives the loss itself")
        self._measure, self._federated = Measure(loss, step, dict(metrics or {})), federated
        self._seed, self._rng = seed, None if seed is None else np.random.default_rng(seed)
        self._make_optimizer = checked_factory(optimizer)
        self._made: tuple[torch.nn.Module, torch.optim.Optimizer, list[str]] | None = None
        self._make_model: Callable[[], torch.nn.Module] | None = None
        if isinstance(model, torch.nn.Module) or not callable(model):
            self._made = self._with(model)
        else:
            self._make_model = model

    @property
    def is_made(self) -> bool:  # type: ignore[override]
        return self._made is not None

    @property
    def model(self) -> torch.nn.Module:
        return self._parts()[0]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._parts()[1]

    def _parts(self) -> tuple[torch.nn.Module, torch.optim.Optimizer, list[str]]:
        """Give the model, its optimizer, and the names of the tensors that are the federation's."""
        if self._made is None:
            assert self._make_model is not None
            with torch_seeded(self.task_seed if self._seed is None else self._seed):
                self._made = self._with(self._make_model())
        return self._made

    def _with(self, model: torch.nn.Module) -> tuple[torch.nn.Module, torch.optim.Optimizer, list[str]]:
        import torch

        if not isinstance(model, torch.nn.Module):
            raise ConfigError("model", type(model).__name__, "a torch.nn.Module, or a function that makes one")
        self._check_dtypes(model)
        if self._device is not None:
            model.to(self._device)
        names = chosen(self._federated, list(model.state_dict()), trained_names(model))
        check_carried(model, names)
        return model, made_optimizer(self._make_optimizer, model), names

    def weight_names(self) -> list[str]:
        return self._parts()[2]

    def belongings(self) -> dict[Hashable, str]:
        import torch

        if self._made is None:  # each has its own, once the function is called
            return {}
        names = self.weight_names()
        found: dict[Hashable, str] = {id(self.model): "the model"}
        for name, value in self.model.state_dict(keep_vars=True).items():
            is_weight = isinstance(value, torch.nn.Parameter)
            may_be_shared = is_weight and not value.requires_grad and name not in names  # of a frozen base
            if isinstance(value, torch.Tensor) and value.layout == torch.strided and not may_be_shared:
                found["memory", value.data_ptr() or id(value)] = f"tensor {name!r}"
        return found

    def untrained_names(self) -> list[str]:
        trained = trained_names(self.model)
        return [name for name in self.weight_names() if name not in trained]

    def get_weights(self) -> list[Array]:
        state = self.model.state_dict()
        return [array_of(state[name]) for name in self.weight_names()]

    def set_weights(self, parameters: list[Array]) -> None:
        with alone_with(self.model, self):
            self._set_weights(parameters)

    def _set_weights(self, parameters: list[Array]) -> None:
        state, names = self.model.state_dict(), self.weight_names()
        check_shapes([p.shape for p in parameters], {name: tuple(state[name].shape) for name in names})
        given = dict(zip(names, map(tensor_of, parameters), strict=True))
        self.model.load_state_dict(given, strict=False)  # what is not the federation's stays

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        with alone_with(self.model, self):
            return self._train(parameters, config)

    def _train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        import torch

        only(config, self.train_keys)
        assert self.num_training_examples is not None
        data = self._train_data
        budget = BatchBudget(
            config,
            num_examples=self.num_training_examples,
            batches_per_epoch=data.num_batches(),
            is_cancelled=lambda: self.is_cancelled,
        )
        self._set_weights(parameters)
        proximal_term = torch_proximal_term(self.model, checked_mu(config.get("proximal_mu", 0)))
        rng = generator_of(self._rng, self.task_seed)
        data.seed(rng)
        if self.owns_process:
            seed_torch(rng)
        measured: deque[tuple[float, Metrics]] = deque(maxlen=budget.batches_per_epoch)
        self.model.train()
        max_norm = max_grad_norm_of(config)
        with _learning_rate(self.optimizer, learning_rate_of(config, self._schedule)):
            for batch in self._batches(data, budget, rng):
                self.optimizer.zero_grad()
                with for_one_example(self.model, batch):
                    loss, others = self._measure(self.model, batch)
                (loss + proximal_term()).backward()
                if max_norm is not None:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
                self.optimizer.step()
                measured.append((len(first_leaf(batch)), {"loss": float(loss.detach()), **others()}))
        metrics = weighted_means(measured)
        if not trained_names(self.model) <= set(self.weight_names()):  # it has something of its own
            metrics |= personal_metrics(self._measured({}))
        return self.get_weights(), metrics, budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        with alone_with(self.model, self):
            return self._evaluate(parameters, config)

    def _evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        only(config, {"batch_size", "metrics", "round_number"})
        self._set_weights(parameters)
        return self._measured(config)

    def _measured(self, config: Config) -> Metrics:
        """Measure the model, as it is, on the test data."""
        import torch

        if self._test_data.is_batched and "batch_size" in config:
            raise ConfigError("config['batch_size']", config["batch_size"], "no such key: the data comes in batches")
        size = whole_number(config, "batch_size", 32)
        self.model.eval()
        measured: list[tuple[float, Metrics]] = []
        with torch.no_grad():  # not inference_mode: a model may keep what it computes here, and train with it later
            for batch in map(self._moved, self._test_data.in_order(size)):
                loss, others = self._measure(self.model, batch)
                measured.append((len(first_leaf(batch)), {"loss": float(loss), **others()}))
        return weighted_means(measured) | {NUM_EXAMPLES: sum(count for count, _ in measured)}

    def state(self) -> bytes:
        """Give what stays with the learner: its own tensors, the optimizer's momentum, and what `seed` draws next."""
        model, optimizer, names = self._parts()
        with alone_with(model, self):
            return state_of_torch(model, optimizer, names, self._rng)

    def restore(self, state: bytes) -> None:
        model, optimizer, _ = self._parts()
        with alone_with(model, self):
            restore_torch(state, model, optimizer, self._rng)

    def _check_dtypes(self, model: torch.nn.Module) -> None:
        """Refuse what NumPy makes by default and no layer takes."""
        import torch

        floats = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        if self._measure.step is not None or torch.float64 in floats or not floats:
            return
        for data in (self._train_data, self._test_data):
            for tensor in data.tensors():
                if tensor.dtype == torch.float64:
                    allowed = f"{min(map(str, floats))}, as the model's weights are: x.astype(np.float32), say"
                    raise ConfigError(f"the dtype of {data.field}", "torch.float64", allowed)

    def _batches(self, data: TorchData, budget: BatchBudget, rng: np.random.Generator) -> Iterator[Any]:
        if data.is_batched:
            return map(self._moved, budget.batches(data.data))
        return (self._moved(data.rows(rows)) for rows in budget.shuffled_rows(rng))

    def _moved(self, batch: Any) -> Any:
        device = next((tensor.device for tensor in self.model.parameters()), self._device)
        return mapped(batch, lambda tensor: tensor.to(device) if hasattr(tensor, "to") else tensor)

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
